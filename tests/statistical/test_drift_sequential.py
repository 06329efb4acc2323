"""The drift alarm that runs for ever: false alarms against one and the same reference, and delay after a drift."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from ml_core.features.columns import Column
from ml_core.lab.drift.block_means import BlockStatistics, blocks_of
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.lab.drift.sequential import DriftState, update_drift
from ml_core.lab.training.training_reference import reference_bytes

pytestmark = pytest.mark.slow

NOISE = 1e-6  # chance that a limit of this file fails without cause
COLUMNS = tuple(Column(f"x{i}", "float", "X.") for i in range(5))
REFERENCE_ROWS, WINDOW_ROWS, BLOCK_ROWS = 12_000, 1_000, 100
THRESHOLD = 500.0
SEEDS = (41, 42)


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
    return BlockStatistics.of(ReferenceWindow.read(raw, COLUMNS))


def alarms(streams, windows, seed, *, shift=0.0, shift_from=1, each=1, together=False, known=True):
    """The window at which each stream alarmed, or None; every stream has one reference for all its windows.

    Every patient has ``each`` rows in a window, which are alike; they come together, or by chance.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(streams):
        statistics, state = published(rng), DriftState(THRESHOLD)
        for number in range(1, windows + 1):
            now = rows(rng, WINDOW_ROWS // each, shift if number >= shift_from else 0.0)
            order = np.repeat(np.arange(WINDOW_ROWS // each), each)
            order = order if together else rng.permutation(order)
            blocks = blocks_of(order.tolist() if known else [None] * WINDOW_ROWS, BLOCK_ROWS)
            means = statistics.block_means({name: cells[order] for name, cells in now.items()}, blocks)
            state = update_drift(state, statistics, means, WINDOW_ROWS)
            if state.is_alarmed:
                break
        found.append(state.alarm_at)
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "rows_of_a_patient",
    [{}, {"each": 2}, {"each": 2, "known": False}, {"each": 50, "together": True}],
    ids=["one row each", "two rows each", "two rows each, of whom nobody says", "batches of 50"],
)
def test_false_alarms_within_a_tenth_of_the_stated_time_are_at_most_a_tenth(rows_of_a_patient, seed):
    streams, windows = 25, int(THRESHOLD / 10)
    found = sum(alarm is not None for alarm in alarms(streams, windows, seed, **rows_of_a_patient))
    assert found <= binom.ppf(1 - NOISE, streams, windows / THRESHOLD)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("shift", "within"), [(0.3, 6), (0.5, 3)])
def test_a_shift_of_one_feature_in_five_is_found(shift, within, seed):
    streams, first = 20, 12
    found = alarms(streams, first + within - 1, seed, shift=shift, shift_from=first)
    on_time = [alarm for alarm in found if alarm is not None and alarm >= first]
    assert len(on_time) >= binom.ppf(NOISE, streams, 0.95), found
