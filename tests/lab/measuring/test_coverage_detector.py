from __future__ import annotations

import json
from dataclasses import asdict, replace
from decimal import Decimal
from itertools import pairwise
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from ml_core.base.documents import Document, read_document, write_document
from ml_core.base.errors import ArtefactError
from ml_core.lab.measuring.coverage_detector import (
    BETS,
    BLOCK,
    THRESHOLD,
    DetectorState,
    _factors,
    block_for,
    highest_miss_rate,
    update,
)
from ml_core.serve.model.prediction_sets import misses_allowed

NINETY = Decimal("0.9")

rates = st.floats(1e-6, 1 - 1e-6)
streams = st.lists(st.booleans(), max_size=300)
levels = st.decimals("0.5", "0.999", places=3)


class Kept(Document):
    """As the monitor keeps detectors between two looks."""

    detectors: dict[str, DetectorState]


# --- the detector -------------------------------------------------------------------------------------------------


def test_labels_count_at_once_and_speak_with_their_block():
    open_block = update(DetectorState(0.1), [True] * (BLOCK - 1))

    assert (open_block.labels, open_block.misses, open_block.evidence) == (11, 11, (0.0,) * 5)
    assert update(open_block, [False]).total_evidence > 0.0


def test_two_blocks_by_hand():
    state = update(DetectorState(0.1), [True] * 3 + [False] * 9 + [True] + [False] * 11)

    first = [2.4 * w for w in (1.075, 1.15, 1.3, 1.6, 2.2)]  # 1 + 0.15 stake
    by_hand = [(s + 2.4) * (1 - stake / 60) for s, stake in zip(first, (0.5, 1, 2, 4, 8), strict=True)]  # 1/12 - 0.1
    assert state.evidence == pytest.approx(by_hand, rel=1e-14)
    assert (state.labels, state.misses, state.alarm_at) == (24, 4, None)
    assert state.total_evidence == pytest.approx(sum(by_hand))
    # one pair of blocks, 3 and 1 misses: (3 - 1)^2 / 2 by 12 * 0.09, weighed with four that say 1
    assert state.variances == pytest.approx((1 + (2 / 1.08 - 1) / 5, 1.0, 1.0, 1.0))


def by_definition(stream, mu0, size):
    """Evidence, variances and the ratios of these after each block, from all blocks of the stream anew."""
    blocks = [sum(stream[i : i + size]) for i in range(0, len(stream) - size + 1, size)]
    evidence, variances, ratios = [0.0] * len(BETS), [1.0] * 4, [1.0]
    for end in range(1, len(blocks) + 1):
        runs = (end - 1) // 8  # complete runs of 8 blocks before this block
        ratio = max(min(ratios[-1], 2.0), ratios[8 * max(1, runs - 1)]) if runs else ratios[-1]
        for n, bet in enumerate(BETS):
            stake = min(bet, 0.9 / mu0)
            evidence[n] = (evidence[n] + size / 5) * (1 + stake * (blocks[end - 1] / size - mu0)) ** (1 / ratio)
        for n, length in enumerate((1, 2, 4, 8)):
            runs = [sum(blocks[i : i + length]) for i in range(0, end - length + 1, length)]
            value = 1.0
            for pair, (a, b) in enumerate(pairwise(runs), start=1):
                found = (b - a) ** 2 / 2 / (length * size * mu0 * (1 - mu0))
                value += (found - value) * max(1 / (4 + pair), 1 / 64)
            variances[n] = value
        ratios.append(min(4.0, max(1.0, max(variances[1:]) / max(1.0, variances[0]))))
    return evidence, variances, ratios


@settings(deadline=None)
@given(streams, st.floats(0.01, 0.6), st.sampled_from([1, 6, BLOCK]))
def test_the_state_is_its_definition(stream, mu0, size):
    state = update(DetectorState(mu0, 1e200, block=size), stream)

    evidence, variances, ratios = by_definition(stream, mu0, size)
    assert state.evidence == pytest.approx(evidence, rel=1e-9)
    assert state.variances == pytest.approx(variances, rel=1e-9)
    assert state.earlier_ratios == pytest.approx(ratios[8::8][-2:], rel=1e-9)


@given(rates, st.lists(st.integers(0, 1_000), min_size=BLOCK + 1, max_size=BLOCK + 1), st.floats(1.0, 50.0))
def test_no_bet_can_lose_everything_and_none_gains_on_average_however_a_block_hangs_together(mu0, weights, ratio):
    factors = np.array([_factors(mu0, m / BLOCK, ratio) for m in range(BLOCK + 1)])
    chances = np.array(weights, dtype=float) + np.eye(BLOCK + 1)[0]
    chances /= chances.sum()
    mean = float(chances @ np.arange(BLOCK + 1) / BLOCK)
    # mixed with a block of all or no misses, so that the mean is mu0
    other, share = (1.0, (mu0 - mean) / (1.0 - mean)) if mean < mu0 else (0.0, (mean - mu0) / mean)
    chances = chances * (1.0 - share) + share * (np.arange(BLOCK + 1) == other * BLOCK)

    assert factors.min() > 0.05
    assert factors[-1].min() > 1.0 > factors[0].max()
    assert (chances @ factors).max() <= 1.0 + 1e-9


@pytest.mark.parametrize("mu0", [0.001, 0.01, 0.1, 0.1124])
def test_stakes_are_cut_only_where_they_could_lose_nearly_all(mu0):
    assert _factors(mu0, 0.0) == pytest.approx([1 - bet * mu0 for bet in BETS], rel=1e-14)


@given(streams, rates)
def test_a_miss_speaks_against_the_model_more_than_a_covered_label(stream, mu0):
    state = update(DetectorState(mu0, 1e200), stream)
    left = [False] * (BLOCK - 1 - state.in_blocks % BLOCK)

    assert update(state, [True, *left]).total_evidence > update(state, [False, *left]).total_evidence


def test_evidence_that_just_reaches_the_threshold_raises_the_alarm():
    evidence = update(DetectorState(0.1, 1e6), [True] * BLOCK).total_evidence

    assert update(DetectorState(0.1, evidence), [True] * BLOCK).alarm_at == BLOCK
    assert update(DetectorState(0.1, evidence * 1.000001), [True] * BLOCK).alarm_at is None


# --- wards and patients that come together ------------------------------------------------------------------------


def runs_of(length: int, seed: int, labels: int = 12_000) -> np.ndarray:
    """Misses at rate 0.1 on average: 0.05 in nine runs of ten, 0.55 in the tenth."""
    rng = np.random.default_rng(seed)
    likely = np.repeat(rng.choice([0.05, 0.55], p=[0.9, 0.1], size=labels // length), length)
    return rng.random(likely.size) < likely


def test_the_variance_ratio_is_about_1_in_random_order_and_larger_the_longer_like_labels_follow_one_another():
    alone, wards, floors = (update(DetectorState(0.1, 1e200), runs_of(n, seed=1)) for n in (1, 18, 48))

    # independent: the largest of three estimates of 1, each with a standard deviation of about sqrt(3 / 128)
    assert 1.0 <= alone.variance_ratio <= 1.0 + 5 * (3 / 128) ** 0.5
    assert alone.variance_ratio < wards.variance_ratio < floors.variance_ratio == 4.0


def test_patients_whose_labels_fit_into_a_block_leave_the_variance_ratio_at_1():
    state = update(DetectorState(0.1, 1e200), runs_of(6, seed=2))

    assert state.variances[0] > 1.5
    assert state.variance_ratio <= 1.0 + 5 * (3 / 128) ** 0.5


def test_wards_of_48_labels_raise_no_alarm_that_the_same_misses_would_raise_label_by_label():
    alarms = [update(DetectorState(0.103), runs_of(48, seed=n, labels=3_000)).is_alarmed for n in range(40)]

    assert sum(alarms) <= 4  # as many as 1 in 10
    assert all(
        update(DetectorState(0.103), runs_of(1, n, 3_000) | runs_of(1, 99 + n, 3_000)).is_alarmed for n in range(9)
    )


def test_one_ward_of_36_misses_is_no_alarm_and_misses_that_go_on_are():
    calm = update(DetectorState(0.103), np.random.default_rng(3).random(1_200) < 0.1)

    assert not update(calm, [True] * 36 + [False] * 100).is_alarmed
    assert update(calm, [True] * 200).is_alarmed


def test_a_sudden_loss_does_not_hide_itself_and_wards_known_before_it_still_count():
    rng = np.random.default_rng(4)
    calm, warded = (
        update(DetectorState(0.103), rng.random(1_200) < 0.1),
        update(DetectorState(0.103, 1e200), runs_of(48, 1)),
    )
    lost = rng.random(240) < 0.6

    after = update(replace(calm, threshold=1e200), lost)

    assert max(after.variances[1:]) / max(1.0, after.variances[0]) > 3.0  # what the change alone makes of it
    assert calm.variance_ratio <= update(replace(calm, threshold=1e200), lost[:96]).variance_ratio <= 2.0
    assert update(calm, lost).alarm_at <= calm.labels + 96
    assert update(warded, lost[:96]).variance_ratio > 3.0


# --- one detector, over time --------------------------------------------------------------------------------------


@given(st.data(), streams, rates, st.sampled_from([5.0, 200.0, THRESHOLD]))
def test_a_stream_cut_and_kept_as_json_anywhere_ends_in_the_same_bits(data, stream, mu0, threshold):
    whole = update(DetectorState(mu0, threshold), stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))

    state = DetectorState(mu0, threshold)
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        state = update(state, stream[start:end])
        as_json = DetectorState(**json.loads(json.dumps(asdict(state))))
        state = Kept.model_validate_json(Kept(detectors={"1": state}).model_dump_json()).detectors["1"]
        assert state == as_json

    assert [e.hex() for e in state.evidence] == [e.hex() for e in whole.evidence]
    assert state == whole


def test_a_restart_between_any_two_labels_changes_nothing(tmp_path):
    stream = np.random.default_rng(0).random(400) < 0.13
    path = tmp_path / "monitor.json"
    write_document(path, Kept(detectors={"1": DetectorState(0.1034, 40.0)}), durable=False)

    for missed in stream:
        state = read_document(path, Kept).detectors["1"]
        write_document(path, Kept(detectors={"1": update(state, [bool(missed)])}), durable=False)

    assert read_document(path, Kept).detectors["1"] == update(DetectorState(0.1034, 40.0), stream)


@given(streams, rates)
def test_lists_and_arrays_are_read_alike(stream, mu0):
    state = DetectorState(mu0, 20.0)

    assert update(state, stream) == update(state, tuple(stream)) == update(state, np.array(stream, dtype=np.bool_))


def test_an_alarm_tells_its_label_and_stays():
    before = update(DetectorState(0.1), [True] * 59)
    at = update(before, [True])
    later = update(at, [False] * 500 + [True])

    assert not before.is_alarmed
    assert before.total_evidence < THRESHOLD <= at.total_evidence
    assert (at.alarm_at, at.is_alarmed) == (60, True)
    assert (later.alarm_at, later.labels, later.misses) == (60, 561, 61)
    assert later.evidence == at.evidence


def test_a_state_from_before_there_were_blocks_goes_on_with_what_it_has_seen():
    old = {"mu0": 0.1034, "threshold": 50_000.0, "evidence": [1.5, 2.0, 3.0, 9.0, 40.0], "labels": 31, "misses": 4}

    state = update(DetectorState(**json.loads(json.dumps({**old, "alarm_at": None}))), [True] * BLOCK)

    assert (state.labels, state.misses, state.in_blocks) == (31 + BLOCK, 4 + BLOCK, BLOCK)
    assert state.evidence == pytest.approx(
        [(e + 2.4) * f for e, f in zip(old["evidence"], _factors(0.1034, 1.0), strict=True)]
    )
    assert DetectorState(**{**old, "alarm_at": 30}).is_alarmed


def test_misses_without_end_leave_every_number_finite():
    state = update(DetectorState(0.001), np.ones(20_000, dtype=np.bool_))

    assert state.is_alarmed
    assert np.isfinite(state.evidence).all()
    assert Kept.model_validate_json(Kept(detectors={"1": state}).model_dump_json()).detectors["1"] == state


def test_covered_labels_without_end_leave_some_evidence():
    state = update(DetectorState(0.3), np.zeros(20_000, dtype=np.bool_))

    assert min(state.evidence) > 0.0
    assert state.total_evidence < 30.0


@pytest.mark.parametrize("mu0", [0.0, 1.0, -0.1, nan, inf])
def test_a_miss_rate_outside_0_to_1_is_refused(mu0):
    with pytest.raises(ValueError, match="miss rate"):
        DetectorState(mu0)


@pytest.mark.parametrize("threshold", [1.0, 0.0, nan, inf])
def test_a_threshold_that_means_nothing_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        DetectorState(0.1, threshold)


@pytest.mark.parametrize("flags", [[0.5], [1, 0], [[True]], ["True"], [None], np.array([nan])])
def test_flags_that_are_not_true_or_false_are_refused(flags):
    with pytest.raises(ValueError, match="True and False"):
        update(DetectorState(0.1), flags)


@pytest.mark.parametrize(
    "change",
    [
        {"misses": 3},
        {"misses": -1},
        {"alarm_at": 3},
        {"alarm_at": 0},
        {"evidence": (0.0,) * 4},
        {"evidence": (-1.0, 0.0, 0.0, 0.0, 0.0)},
        {"evidence": (nan, 0.0, 0.0, 0.0, 0.0)},
        {"mu0": 2.0},
        {"variances": (1.0,) * 3},
        {"variances": (nan, 1.0, 1.0, 1.0)},
        {"earlier_ratios": (1.0, 1.0, 1.0)},
        {"earlier_ratios": (0.5,)},
        {"open_misses": (-1, 0, 0, 0)},
        {"open_misses": (3, 3, 3, 3)},
        {"in_blocks": 3},
        {"block": 0},
    ],
)
def test_a_state_that_cannot_have_come_about_is_refused_also_from_a_file(change, tmp_path):
    state = update(DetectorState(0.1), [True, False])
    path = tmp_path / "monitor.json"
    path.write_text(json.dumps({"detectors": {"1": {**asdict(state), **change}}}))

    with pytest.raises(ValueError):
        replace(state, **change)
    with pytest.raises(ArtefactError):
        read_document(path, Kept)


@pytest.mark.parametrize(("share", "labels"), [(1.0, 12), (0.24, 12), (0.2, 10), (0.115, 8), (0.001, 8)])
def test_blocks_of_a_rare_class_are_smaller(share, labels):
    assert block_for(share) == labels


# --- the miss rate it bets against --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "tail", "rounded"), [(200, 200**0.5 / 130, 0.126), (1_000, 1_000**0.5 / 130, 0.106), (20_000, 0.32, 0.101)]
)
def test_the_miss_rate_is_the_upper_quantile_of_the_law_of_its_calibration(n, tail, rounded):
    misses = misses_allowed(n, NINETY)

    found = highest_miss_rate(n, NINETY)

    assert beta(misses, n + 1 - misses).sf(found) == pytest.approx(tail)
    assert found == pytest.approx(rounded, abs=5e-4)


@given(st.integers(0, 30_000), levels, st.floats(1.0, 4.0))
def test_the_miss_rate_is_never_below_alpha_and_a_detector_can_always_be_made_of_it(n, level, effect):
    found = highest_miss_rate(n, level, effect)

    assert float(1 - level) <= found < 1.0
    DetectorState(found)


def test_more_calibration_rows_and_fewer_repeated_patients_bring_it_nearer_to_alpha():
    by_size = [highest_miss_rate(n, NINETY) for n in (20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 20_000, 1_000_000)]
    by_effect = [highest_miss_rate(2_000, NINETY, effect) for effect in (1.0, 1.2, 2.0, 4.0)]

    assert by_size == sorted(by_size, reverse=True)
    assert by_size[-1] == pytest.approx(0.1, abs=2e-4)
    assert by_effect == sorted(by_effect)
    assert by_effect[2] == pytest.approx(highest_miss_rate(1_000, NINETY), abs=2e-4)


@pytest.mark.parametrize("n", [0, 5, 8])
def test_with_too_few_rows_for_the_level_it_is_alpha(n):
    assert highest_miss_rate(n, NINETY) == pytest.approx(0.1)


def test_a_detector_of_a_promise_with_a_confidence_accuses_from_what_is_promised():
    for n in (200, 1_000, 20_000):
        assert highest_miss_rate(n, NINETY, confidence=Decimal("0.95")) == pytest.approx(0.1)
        assert highest_miss_rate(n, NINETY) > 0.1
