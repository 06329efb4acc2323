from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from ml_core.lab.drift.detect import detect_drift
from ml_core.lab.drift.sequential import DriftState, e_value, update_drift, window_p

P = st.floats(0.0, 1.0)


def after(p_values, threshold=1_000.0):
    state = DriftState(threshold)
    for p in p_values:
        state = update_drift(state, p)
    return state


def test_the_mean_e_value_of_a_uniform_p_value_is_at_most_one():
    edges = np.geomspace(1e-30, 1.0, 400)  # 1 / (p log(p)^2) falls too steeply for one step
    mean = sum(quad(e_value, low, high)[0] for low, high in pairwise(edges))
    assert 0.95 < mean <= 1.0


@given(P, P)
def test_a_smaller_p_value_is_never_worth_less(first, second):
    low, high = sorted((first, second))
    assert e_value(low) >= e_value(high) * (1 - 1e-9)


@pytest.mark.parametrize("p", [1.0 - 1e-3, 1.0 - 0.999e-3, 1.0 - 1.001e-3])
def test_the_series_near_one_meets_the_formula(p):
    assert e_value(p) == pytest.approx(0.5 + (1 - p) / 6, rel=1e-6)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ValueError, match="p-value"):
        update_drift(DriftState(100.0), p)


@given(st.lists(P, max_size=40))
def test_a_state_survives_json_to_the_bit(p_values):
    state = after(p_values)
    assert DriftState(**json.loads(json.dumps(asdict(state), allow_nan=False))) == state


def test_windows_without_evidence_never_alarm():
    state = after([1.0] * 5_000)
    assert (state.is_alarmed, state.evidence) == (False, pytest.approx(1.0))


def test_windows_with_a_tiny_p_value_alarm_at_once_and_late_drift_as_fast_as_early():
    assert after([1e-9]).alarm_at == 1
    assert after([1.0] * 500 + [1e-9]).alarm_at == 501


def test_evidence_that_just_reaches_the_threshold_raises_the_alarm():
    assert update_drift(DriftState(e_value(0.001)), 0.001).alarm_at == 1
    assert update_drift(DriftState(e_value(0.001) * 1.000001), 0.001).alarm_at is None


def test_weak_evidence_adds_up():
    assert after([0.01] * 20).is_alarmed
    assert not after([0.01] * 2).is_alarmed


def test_an_alarm_stays_and_the_evidence_rests():
    state = after([0.0])
    later = update_drift(update_drift(state, 1.0), 0.0)
    assert (later.alarm_at, later.evidence, later.windows) == (1, state.evidence, 3)


@pytest.mark.parametrize("threshold", [1.0, 0.0, float("inf"), float("nan")])
def test_a_threshold_that_promises_nothing_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        DriftState(threshold)


@pytest.mark.parametrize("state", [{"evidence": -1.0}, {"evidence": float("nan")}, {"alarm_at": 3, "windows": 2}])
def test_a_state_that_cannot_be_is_refused(state):
    with pytest.raises(ValueError, match=r"expected|alarm"):
        DriftState(100.0, **state)


# --- the p-value of a window --------------------------------------------------------------------------------------


def findings(*p_and_large):
    """A report whose tests have these p-values and effects."""
    sample = np.random.default_rng(0).normal(size=100)
    (report,) = detect_drift({"x": sample}, {"x": sample}, ["x"])
    finding = report.findings[0]
    return replace(report, findings=tuple(replace(finding, p_value=p, large=large) for p, large in p_and_large))


def test_a_windows_p_value_is_the_smallest_times_the_number_of_tests():
    assert window_p([findings((0.01, True), (0.5, True)), findings((0.02, True))]) == pytest.approx(0.03)


def test_a_small_effect_is_no_evidence_but_its_test_is_counted():
    assert window_p([findings((1e-9, False), (0.01, True))]) == pytest.approx(0.02)
    assert window_p([findings((1e-9, False))]) == 1.0


def test_a_window_in_which_nothing_was_tested_is_no_evidence():
    assert window_p([]) == 1.0
    assert window_p([findings()]) == 1.0


def test_a_window_that_drifted_has_a_tiny_p_value_by_either_rule():
    rng = np.random.default_rng(1)
    before, now = {"x": rng.normal(size=5_000)}, {"x": rng.normal(1.0, size=500)}
    for rule in ("ks_mean_shift", "extended"):
        assert window_p(detect_drift(before, now, rule=rule)) < 1e-12
