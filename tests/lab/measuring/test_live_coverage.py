from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from ml_core.base.errors import DataError
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.coverage_law import CoverageLaw, DesignEffects, band_of, design_effect
from ml_core.lab.measuring.live_coverage import (
    BAND_TAIL,
    CoverageTarget,
    RowTargets,
    class_indices,
    coverage_bands,
    group_ids,
    misses_of,
    sets_of,
)
from ml_core.serve.model.prediction_sets import MOST_CALIBRATION_ROWS, ConformalCalibration, misses_allowed
from tests.toy_scores import many_class_rows, repeated_patients
from tests.verdicts import above_band, below_band, beta_binomial_band

NINETY = Decimal("0.9")

rates = st.floats(1e-6, 1 - 1e-6)
streams = st.lists(st.booleans(), max_size=60)
levels = st.decimals("0.5", "0.999", places=3)


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
    with pytest.raises(DataError, match="2 labels and 1 subjects"):
        coverage_bands([True] * 2, [0, 1], promise((9, 9)), ["x"])


def test_sets_of_stored_answers_are_those_of_a_calibration_with_a_confidence():
    rows = many_class_rows(900, 3, seed=3)
    sure = calibrate(rows.proba, rows.y, 3, confidence=NINETY)
    new = many_class_rows(400, 3, seed=4).proba
    found = sets_of(sure.p_values(new), sure.sizes, NINETY, NINETY)
    assert (found == sure.sets(new, NINETY)).all()
    assert (found != sets_of(sure.p_values(new), sure.sizes, NINETY)).any()


# --- targets by row -------------------------------------------------------------------------------------------------


def test_one_target_for_each_row_is_the_same_as_one_for_all():
    rows = window((174, 1_830), (200, 2_000))
    target = promise((500, 5_000))
    by_row = RowTargets((target, target), np.arange(2_200) % 2)
    for plain, split in zip(
        coverage_bands(*rows, target), coverage_bands(*rows, RowTargets.of(target, 2_200)), strict=True
    ):
        assert plain == split
    # two calibrations of the same size have errors of their own, so their sum varies less than one has it
    for plain, split in zip(coverage_bands(*rows, target), coverage_bands(*rows, by_row), strict=True):
        assert split.promised == pytest.approx(plain.promised)
        assert plain.lower <= split.lower <= split.upper <= plain.upper


def test_the_band_of_several_calibrations_is_that_of_their_sum():
    """Ten thousand draws of both calibrations' true coverage, and of who is covered."""
    rng = np.random.default_rng(8)
    sizes, counts = (60, 400), (150, 350)
    targets = RowTargets(tuple(promise((n, n)) for n in sizes), np.repeat([0, 1], counts))
    band = coverage_bands(np.ones(500, dtype=bool), np.zeros(500, dtype=int), targets)[1]
    misses = [int((n + 1) * 0.1 + 1e-9) for n in sizes]
    true = [rng.beta(n + 1 - m, m, 10_000) for n, m in zip(sizes, misses, strict=True)]
    share = sum(rng.binomial(m, p) for m, p in zip(counts, true, strict=True)) / 500
    for outside in (share < band.lower, share > band.upper):
        assert outside.sum() <= binom.ppf(1 - 1e-6, 10_000, BAND_TAIL)
    # and not wider than it need be
    assert (share <= band.lower).sum() >= binom.ppf(1e-6, 10_000, BAND_TAIL)
    assert (share >= band.upper).sum() >= binom.ppf(1e-6, 10_000, BAND_TAIL)


def test_sets_come_from_each_rows_own_calibration():
    fine, coarse = promise((99, 99)), promise((9, 9))
    p_values = np.array([[0.1, 0.5], [0.1, 0.5], [0.2, 0.5]])
    found = RowTargets((fine, coarse), np.array([0, 1, 1])).sets(p_values)
    assert found.tolist() == [[False, True], [False, True], [True, True]]
    with pytest.raises(DataError, match="no rank among 9"):
        RowTargets((fine, coarse), np.array([0, 1])).sets([[0.5, 0.5], [0.55, 0.5]])
    with pytest.raises(DataError, match="2 rows for 3"):
        RowTargets((fine,), np.zeros(3, dtype=int)).sets(p_values[:2])


def test_some_rows_keep_their_targets():
    targets = (promise((99, 99)), promise((9, 9)))
    every = RowTargets(targets, np.array([0, 1, 0, 1]))
    assert every.only(np.array([True, True, False, False])).which.tolist() == [0, 1]
    assert RowTargets(targets, np.zeros(0, dtype=int)).sets(np.empty((0, 2))).shape == (0, 2)
