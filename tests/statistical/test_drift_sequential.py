"""The drift alarm that runs for ever: false alarms against one and the same reference, and delay after a drift."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from ml_core.features.columns import Column
from ml_core.lab.drift.detect import detect_drift
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.lab.drift.sequential import DriftState, update_drift, window_p
from ml_core.lab.training.training_reference import reference_bytes

pytestmark = pytest.mark.slow

NOISE = 1e-6  # chance that a limit of this file fails without cause
COLUMNS = tuple(Column(f"x{i}", "float", "X.") for i in range(5))
REFERENCE_ROWS, WINDOW_ROWS = 12_000, 1_000
THRESHOLD = 500.0


def rows(rng, n, shift=0.0):
    """Five features of three laws; the first may be shifted."""
    draw = (rng.standard_normal, rng.standard_normal, rng.standard_exponential, rng.standard_exponential, rng.random)
    found = {column.name: law(n) for column, law in zip(COLUMNS, draw, strict=True)}
    found["x0"] += shift
    return found


def published(rng):
    """A reference as it travels with a model."""
    patients = np.arange(REFERENCE_ROWS)
    raw = reference_bytes(COLUMNS, rows(rng, REFERENCE_ROWS), patients, np.full((50, 1), 0.5), np.arange(50), (0,))
    return ReferenceWindow.read(raw, COLUMNS)


def alarms(streams, windows, seed, *, shift_from=None, **limits):
    """The window at which each stream alarmed, or None; every stream has one reference for all its windows."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(streams):
        reference, state = published(rng), DriftState(THRESHOLD)
        for number in range(1, windows + 1):
            drifted = shift_from is not None and number >= shift_from
            now = rows(rng, WINDOW_ROWS, 0.3 if drifted else 0.0)
            state = update_drift(state, window_p(detect_drift(reference, now, rule="extended", **limits)))
            if state.is_alarmed:
                break
        found.append(state.alarm_at)
    return found


@pytest.mark.parametrize(
    ("limits", "streams"), [({}, 100), ({"min_shift_fraction": 0.0}, 100)], ids=["as served", "every effect counts"]
)
def test_false_alarms_within_a_tenth_of_the_stated_time_are_at_most_a_tenth(limits, streams):
    windows = int(THRESHOLD / 10)
    found = sum(alarm is not None for alarm in alarms(streams, windows, seed=41, **limits))
    assert found <= binom.ppf(1 - NOISE, streams, windows / THRESHOLD)


def test_a_drift_of_one_feature_in_five_is_found_within_two_windows():
    streams, first = 60, 12
    found = alarms(streams, first + 1, seed=42, shift_from=first)
    assert sum(alarm in (first, first + 1) for alarm in found) >= binom.ppf(NOISE, streams, 0.95)
