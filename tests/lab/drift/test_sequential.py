from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from ml_core.lab.drift.block_means import BlockStatistics
from ml_core.lab.drift.detect import detect_drift
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.lab.drift.sequential import _SAFE, DriftState, update_drift, window_p

STATISTICS = BlockStatistics.of(ReferenceWindow.of({"x": np.random.default_rng(0).normal(size=20_000)}, ["x"]))
MEANS = np.array([s.mean for s in STATISTICS.statistics])
BLOCKS = 10
MOST = st.lists(st.floats(0.0, 1.0), min_size=len(MEANS), max_size=len(MEANS))


def windows_of(n, seed=0, shift=0.0, like=1):
    """Windows of ten blocks of 100 rows, of which ``like`` at a time are one and the same."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        x = np.repeat(rng.normal(size=BLOCKS * 100 // like), like) + shift
        yield STATISTICS.block_means({"x": x}, np.arange(BLOCKS * 100) // 100)


def after(windows, state=None):
    state = DriftState(1_000.0) if state is None else state
    for means in windows:
        state = update_drift(state, STATISTICS, means, BLOCKS * 100)
    return state


def test_windows_like_the_reference_do_not_alarm():
    state = after(windows_of(60))
    assert (state.is_alarmed, state.windows, state.blocks, state.block_rows) == (False, 60, 600, 100)
    assert state.evidence < 60


def test_rows_that_come_in_batches_do_not_alarm():
    assert not any(after(windows_of(39, seed, like=50)).is_alarmed for seed in range(5))


def test_a_unit_error_alarms_in_the_first_window_and_names_its_column():
    state = after(windows_of(1, shift=8.0))
    assert (state.alarm_at, state.leading) == (1, ("x",))


def test_a_late_drift_is_found_as_fast_as_an_early_one_or_faster():
    early = after(windows_of(30, shift=0.6)).alarm_at
    late = after(windows_of(30, 1, shift=0.6), after(windows_of(100))).alarm_at
    assert early is not None
    assert late is not None
    assert late - 100 <= early


def test_no_safe_stake_can_lose_all_or_gain_on_average_while_the_means_are_within_tolerance():
    """Blocks that are all 0 or all 1 are the widest there are, and the edges of the tolerance the worst means."""
    safe = 2 * len(_SAFE)  # bets of safe stakes come first, in either direction
    for s in STATISTICS.statistics:
        alone = BlockStatistics(STATISTICS.window, (s,))
        none, full = (
            np.array(update_drift(DriftState(1e9), alone, np.array([[block]]), 100).bets[:safe]) for block in (0.0, 1.0)
        )
        assert min(none.min(), full.min()) >= 1.0 - 0.9 - 1e-12
        for share in np.clip([s.mean - s.tolerance, s.mean, s.mean + s.tolerance], 0.0, 1.0):  # of full blocks
            assert ((1.0 - share) * none + share * full).max() <= 1.0 + 1e-12


@given(st.lists(st.lists(MOST, min_size=1, max_size=4), max_size=4))
def test_a_state_survives_json_to_the_bit_and_goes_on_the_same(windows):
    state = again = DriftState(1e6)
    for blocks in windows:
        state = update_drift(state, STATISTICS, np.array(blocks), 100)
        again = DriftState(**json.loads(json.dumps(asdict(again), allow_nan=False)))
        again = update_drift(again, STATISTICS, np.array(blocks), 100)
        assert again == state


def test_an_alarm_stays_and_the_evidence_rests():
    state = after(windows_of(1, shift=8.0))
    later = after(windows_of(2), state)
    assert (later.alarm_at, later.evidence, later.windows) == (1, state.evidence, 3)


def test_a_state_of_an_earlier_version_keeps_its_alarm_and_else_begins_to_bet():
    told = {"threshold": 1_000.0, "evidence": 5_000.0, "windows": 7, "alarm_at": 7}
    assert after(windows_of(1), DriftState(**told)).alarm_at == 7
    calm = after(windows_of(1), DriftState(1_000.0, evidence=900.0, windows=7))
    assert (calm.windows, calm.is_alarmed, calm.evidence < 2) == (8, False, True)


def test_bets_on_other_statistics_begin_anew():
    state = replace(after(windows_of(3, shift=0.4)), key="another")
    assert after(windows_of(1), state).blocks == BLOCKS


def test_a_window_that_cannot_be_judged_is_no_evidence():
    nothing = BlockStatistics.of(ReferenceWindow.of({}, []))
    state = update_drift(DriftState(10.0), nothing, nothing.block_means({}, np.zeros(5, dtype=np.int64)), 5)
    assert (state.windows, state.evidence, state.is_alarmed) == (1, 0.0, False)


def test_false_alarms_within_a_tenth_of_the_stated_time_are_at_most_a_tenth_whatever_a_block_holds():
    """Blocks that are all alike inside: each mean is 0 or 1, which no test on rows survives."""
    rng, threshold, streams, alarms = np.random.default_rng(3), 20.0, 400, 0
    for _ in range(streams):
        state = DriftState(threshold)
        for _ in range(2):
            blocks = (rng.random((BLOCKS, len(MEANS))) < MEANS).astype(np.float64)
            state = update_drift(state, STATISTICS, blocks, 1_000)
        alarms += state.is_alarmed
    assert alarms <= binom.ppf(1 - 1e-6, streams, 2 / threshold)


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
