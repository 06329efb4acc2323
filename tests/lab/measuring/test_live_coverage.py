from __future__ import annotations

import json
from dataclasses import asdict, replace
from decimal import Decimal
from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from ml_core.base.documents import Document, read_document, write_document
from ml_core.base.errors import ArtefactError, DataError
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.coverage_law import CoverageLaw, DesignEffects, band_of, design_effect
from ml_core.lab.measuring.live_coverage import (
    BETS,
    THRESHOLD,
    CoverageTarget,
    DetectorState,
    _factors,
    class_indices,
    coverage_bands,
    group_ids,
    highest_miss_rate,
    misses_of,
    sets_of,
    update,
)
from ml_core.serve.model.prediction_sets import MOST_CALIBRATION_ROWS, ConformalCalibration, misses_allowed
from tests.toy_scores import many_class_rows, repeated_patients
from tests.verdicts import above_band, below_band, beta_binomial_band

NINETY = Decimal("0.9")

rates = st.floats(1e-6, 1 - 1e-6)
streams = st.lists(st.booleans(), max_size=60)
levels = st.decimals("0.5", "0.999", places=3)


class Kept(Document):
    """As the monitor keeps detectors between two looks."""

    detectors: dict[str, DetectorState]


# --- the detector -------------------------------------------------------------------------------------------------


def test_two_labels_by_hand():
    state = update(DetectorState(0.1), [True, False])

    after_miss = [0.2 * w for w in (1.225, 1.45, 1.9, 2.8, 4.6)]  # 1 + 0.9 stake
    by_hand = [(s + 0.2) * w for s, w in zip(after_miss, (0.975, 0.95, 0.9, 0.8, 0.6), strict=True)]  # 1 - 0.1 stake
    assert state.evidence == pytest.approx(by_hand, rel=1e-14)
    assert (state.labels, state.misses, state.alarm_at) == (2, 1, None)
    assert state.total_evidence == pytest.approx(sum(by_hand))


@settings(deadline=None)
@given(streams, st.fractions(Fraction(1, 100), Fraction(1, 5), max_denominator=1_000))
def test_evidence_is_its_definition_in_exact_arithmetic(stream, mu0):
    state = update(DetectorState(float(mu0), 1e200), stream)

    for bet, found in zip(BETS, state.evidence, strict=True):
        exact = Fraction(0)
        for missed in stream:
            exact = (exact + Fraction(1, 5)) * (1 + Fraction(bet) * (missed - mu0))
        assert found == pytest.approx(float(exact), rel=1e-11)


@given(rates)
def test_no_bet_can_lose_everything_and_none_gains_on_average_at_the_miss_rate_it_bets_against(mu0):
    won, lost = _factors(mu0)

    assert min(lost) > 0.05
    assert min(won) > 1.0 > max(lost)
    for w, x in zip(won, lost, strict=True):
        assert mu0 * w + (1 - mu0) * x == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("mu0", [0.001, 0.01, 0.1, 0.2, 0.225])
def test_stakes_are_cut_only_where_they_could_lose_nearly_all(mu0):
    assert _factors(mu0)[1] == tuple(1 - bet * mu0 for bet in BETS)


@given(streams, rates)
def test_a_miss_speaks_against_the_model_more_than_a_covered_label(stream, mu0):
    state = update(DetectorState(mu0, 1e200), stream)

    assert update(state, [True]).total_evidence > update(state, [False]).total_evidence


def test_evidence_that_just_reaches_the_threshold_raises_the_alarm():
    evidence = update(DetectorState(0.1, 1e6), [True]).total_evidence

    assert update(DetectorState(0.1, evidence), [True]).alarm_at == 1
    assert update(DetectorState(0.1, evidence * 1.000001), [True]).alarm_at is None


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
    before = update(DetectorState(0.1), [True] * 7)
    at = update(before, [True])
    later = update(at, [False] * 500 + [True])

    assert not before.is_alarmed
    assert before.total_evidence < THRESHOLD <= at.total_evidence
    assert (at.alarm_at, at.is_alarmed) == (8, True)
    assert (later.alarm_at, later.labels, later.misses) == (8, 509, 9)
    assert later.evidence == at.evidence


def test_misses_without_end_leave_every_number_finite():
    state = update(DetectorState(0.001), np.ones(20_000, dtype=np.bool_))

    assert state.is_alarmed
    assert np.isfinite(state.evidence).all()
    assert Kept.model_validate_json(Kept(detectors={"1": state}).model_dump_json()).detectors["1"] == state


def test_covered_labels_without_end_leave_some_evidence():
    state = update(DetectorState(0.3), np.zeros(20_000, dtype=np.bool_))

    assert min(state.evidence) > 0.0
    assert state.total_evidence < 5.0


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


# --- stored answers -----------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(0, 120), levels, st.sampled_from([None, 8, 50]))
def test_sets_and_misses_from_stored_p_values_are_those_of_the_calibration(seed, n_classes, n, level, grid):
    cal, live = many_class_rows(n, n_classes, seed, grid), many_class_rows(40, n_classes, seed + 1, grid)
    calibration = calibrate(cal.proba, cal.y, n_classes)
    stored = json.loads(json.dumps(calibration.p_values(live.proba).tolist()))
    names = [f"class {k}" for k in range(n_classes)]

    sets = sets_of(stored, calibration.sizes, level)
    misses = misses_of(stored, [names[k] for k in live.y], names, calibration.sizes, level)

    assert np.array_equal(sets, calibration.sets(live.proba, level))
    assert np.array_equal(misses, ~calibration.sets(live.proba, level)[np.arange(40), live.y])


@given(st.data(), st.integers(1, 400), levels)
def test_every_rank_is_on_the_side_that_exact_arithmetic_puts_it(data, n, level):
    rank = data.draw(st.integers(1, n + 1))

    covered = bool(sets_of([[rank / (n + 1)] * 2], [n, n], level)[0, 0])

    assert covered == (Fraction(rank, n + 1) > 1 - Fraction(level))


@pytest.mark.parametrize("level", ["0.9", "0.95", "0.999"])
def test_ranks_of_the_largest_calibration_come_back_whole(level):
    line = misses_allowed(MOST_CALIBRATION_ROWS, Decimal(level))
    p = [
        [rank / (MOST_CALIBRATION_ROWS + 1)] * 2
        for rank in (1, line, line + 1, MOST_CALIBRATION_ROWS, MOST_CALIBRATION_ROWS + 1)
    ]

    assert sets_of(p, [MOST_CALIBRATION_ROWS, MOST_CALIBRATION_ROWS], Decimal(level))[:, 0].tolist() == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_p_value_of_exactly_alpha_is_a_miss():
    assert misses_of([[0.1, 0.5], [0.2, 0.5]], ["a", "a"], ["a", "b"], [9, 9], NINETY).tolist() == [True, False]


def test_the_level_a_caller_asked_for_changes_no_miss():
    cal, live = many_class_rows(300, 2, 1), many_class_rows(200, 2, 2)
    calibration = calibrate(cal.proba, cal.y, 2)

    misses = []
    for asked in ("0.5", "0.9", "0.99"):
        answers = [calibration.row(row.tolist(), Decimal(asked)).p_values for row in live.proba]
        misses.append(misses_of(answers, live.y, [0, 1], calibration.sizes, NINETY))

    assert np.array_equal(misses[0], misses[1])
    assert np.array_equal(misses[1], misses[2])
    assert 0 < misses[0].sum() < 60


def test_an_answer_of_every_label_is_never_a_miss():
    assert not misses_of(np.ones((3, 2)), ["a", "b", "a"], ["a", "b"], [500, 40], NINETY).any()


def test_no_answers_have_no_misses():
    assert misses_of(np.empty((0, 2)), [], ["a", "b"], [9, 9], NINETY).size == 0


@pytest.mark.parametrize("p", [0.0, 0.05, 0.50001, 1.1, -0.1, nan, inf])
def test_a_p_value_of_another_calibration_is_refused(p):
    with pytest.raises(DataError, match="row 1 is no rank among 9 calibration rows of class 1"):
        sets_of([[0.5, 0.5], [0.5, p]], [9, 9], NINETY)


def test_p_values_that_lost_digits_are_refused():
    p = ConformalCalibration("class_conditional", (np.linspace(0, 1, 500),) * 2).p_values([[0.3, 0.7]])

    sets_of(p, [500, 500], NINETY)
    with pytest.raises(DataError, match="no rank"):
        sets_of(p.astype(np.float32), [500, 500], NINETY)


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="one column for each of 2 classes"):
        sets_of([[0.5, 0.5, 0.5]], [9, 9], NINETY)
    with pytest.raises(DataError, match="2 for 1 answers"):
        misses_of([[0.5, 0.5]], [0, 1], [0, 1], [9, 9], NINETY)
    with pytest.raises(DataError, match="'1' is none of the classes"):
        class_indices([0, "1"], [0, 1])


def test_labels_are_found_by_their_place_in_class_order():
    assert class_indices(["yes", "no", "yes"], ["yes", "no"]).tolist() == [0, 1, 0]
    assert class_indices(np.array([2, 0]), [0, 2]).tolist() == [1, 0]


def test_patients_are_numbered_and_unknown_ones_are_each_their_own():
    assert group_ids(None) is None
    assert group_ids([b"x", None, b"y", b"x", None]).tolist() == [0, 1, 2, 0, 3]


# --- windows ------------------------------------------------------------------------------------------------------


def window(hits, counts):
    """(covered, class index) of a window with so many hits of so many rows per class."""
    covered = np.concatenate([np.arange(n) < h for h, n in zip(hits, counts, strict=True)])
    return covered, np.repeat(np.arange(len(counts)), counts)


def promise(sizes, guarantee="class_conditional", effects=None):
    return CoverageTarget(tuple(f"c{k}" for k in range(len(sizes))), tuple(sizes), NINETY, guarantee, effects)


def test_a_class_is_held_against_the_exact_band_of_its_own_sizes():
    _, rare, common = coverage_bands(*window((174, 1_830), (200, 2_000)), promise((500, 5_000)))

    law = beta_binomial_band(500, 200, NINETY, 0.01)
    assert (rare.label, rare.n, rare.covered, rare.observed) == ("c0", 200, 174, 0.87)
    assert (rare.promised, rare.lower, rare.upper) == (law.promised, law.lower, law.upper)
    assert rare.inside
    assert common.lower == beta_binomial_band(5_000, 2_000, NINETY, 0.01).lower
    assert common.inside


@pytest.mark.parametrize(
    ("hits", "below", "inside", "above"),
    [(425, True, False, False), (426, False, True, False), (470, False, True, False), (471, False, False, True)],
)
def test_the_limits_themselves_are_inside(hits, below, inside, above):
    # 1 % line of 500 calibrated on 500: .852; the upper one is read off the same law.
    band = coverage_bands(*window((hits, 0), (500, 0)), promise((500, 500)))[1]

    assert (band.lower, band.upper) == (0.852, 0.94)
    assert (below_band(band), band.inside, above_band(band)) == (below, inside, above)


def test_all_rows_follow_the_sum_of_their_classes_laws():
    overall = coverage_bands(*window((9, 26), (10, 30)), promise((40, 90)))[0]

    pmf = np.convolve(CoverageLaw.of(40, NINETY).pmf(10), CoverageLaw.of(90, NINETY).pmf(30))
    law = band_of((37 / 41 * 10 + 82 / 91 * 30) / 40, pmf, 0.01)
    assert (overall.label, overall.n, overall.covered, overall.observed) == (None, 40, 35, 35 / 40)
    assert overall.promised == pytest.approx(law.promised)
    assert (overall.lower, overall.upper) == (law.lower, law.upper)


def test_a_marginal_guarantee_promises_nothing_to_a_class():
    overall, rare, common = coverage_bands(*window((2, 1_900), (100, 2_000)), promise((3_000, 3_000), "marginal"))

    law = beta_binomial_band(3_000, 2_100, NINETY, 0.01)
    assert (overall.lower, overall.upper, overall.inside) == (law.lower, law.upper, True)
    assert (rare.observed, rare.promised, rare.lower, rare.upper, rare.inside) == (0.02, None, 0.0, 1.0, None)
    assert (common.observed, below_band(common), above_band(common)) == (0.95, False, False)


def test_repeated_patients_widen_the_band_by_what_they_repeat():
    rows = repeated_patients(1_000, seed=1)
    covered = np.random.default_rng(2).random(rows.y.size) < 0.9
    covered = covered[np.unique(rows.groups, return_index=True)[1]][rows.groups]  # a patient is covered, or is not

    all_alone, alone, _ = coverage_bands(covered, rows.y, promise((500, 500)))
    all_together, together, _ = coverage_bands(covered, rows.y, promise((500, 500)), rows.groups)

    own = rows.y == 0
    effect = design_effect(covered[own], rows.groups[own])
    law = beta_binomial_band(500, int(own.sum()), NINETY, 0.01, test_effect=effect)
    assert effect > 1.2
    assert (together.lower, together.upper) == (law.lower, law.upper)
    assert together.lower < alone.lower
    assert together.upper > alone.upper
    assert all_together.lower < all_alone.lower
    assert all_together.upper > all_alone.upper


def test_repeated_patients_of_the_calibration_widen_the_band_too():
    effects = DesignEffects(1.3, (1.5, 1.0))
    rows = window((1_800, 90), (2_000, 100))

    overall, first, second = coverage_bands(*rows, promise((600, 600), effects=effects))
    plain = coverage_bands(*rows, promise((600, 600)))

    assert first.lower == beta_binomial_band(600, 2_000, NINETY, 0.01, calibration_effect=1.5).lower < plain[1].lower
    assert overall.lower < plain[0].lower
    assert second == plain[2]


def test_patients_that_never_repeat_are_independent_rows():
    rows = window((170, 1_900), (200, 2_000))

    assert coverage_bands(*rows, promise((500, 500)), [None] * 2_200) == coverage_bands(*rows, promise((500, 500)))


@pytest.mark.parametrize("guarantee", ["class_conditional", "marginal"])
def test_a_window_without_rows_says_nothing(guarantee):
    for band in coverage_bands(*window((0, 0), (0, 0)), promise((500, 500), guarantee)):
        assert (band.n, band.observed, band.lower, band.upper, band.inside) == (0, None, 0.0, 1.0, None)
        assert not below_band(band)
        assert not above_band(band)


def test_a_calibration_too_small_for_the_level_promises_every_label():
    band = coverage_bands(*window((20, 49), (20, 50)), promise((5, 500)))[1]

    assert (band.promised, band.lower, band.inside) == (1.0, 1.0, True)


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(DataError, match="3 flags for 2 labels"):
        coverage_bands([True] * 3, [0, 1], promise((9, 9)))
    with pytest.raises(DataError, match="2 labels and 1 patients"):
        coverage_bands([True] * 2, [0, 1], promise((9, 9)), ["x"])


def test_a_detector_of_a_promise_with_a_confidence_accuses_from_what_is_promised():
    for n in (200, 1_000, 20_000):
        assert highest_miss_rate(n, NINETY, confidence=Decimal("0.95")) == pytest.approx(0.1)
        assert highest_miss_rate(n, NINETY) > 0.1


def test_sets_of_stored_answers_are_those_of_a_calibration_with_a_confidence():
    rows = many_class_rows(900, 3, seed=3)
    sure = calibrate(rows.proba, rows.y, 3, confidence=NINETY)
    new = many_class_rows(400, 3, seed=4).proba
    found = sets_of(sure.p_values(new), sure.sizes, NINETY, NINETY)
    assert (found == sure.sets(new, NINETY)).all()
    assert (found != sets_of(sure.p_values(new), sure.sizes, NINETY)).any()
