from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal
from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import binom, norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from ml_core.base.errors import BadModelOutput, DataError
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.comparison import paired_auc_difference
from ml_core.lab.measuring.evaluation import evaluate
from ml_core.lab.measuring.live_coverage import CoverageTarget, coverage_bands
from ml_core.lab.measuring.performance import MINIMUM, MaturedArrays, MaturedPerformance, performance
from tests.toy_scores import ScoredRows, binary_rows, many_class_rows, repeated_patients

NINETY = Decimal("0.9")
MEANS = {"brier", "log_loss", "mean_set_size", "singleton_share", "empty_share"}


def answered(rows: ScoredRows, calibration_rows: ScoredRows, n_classes=2, level=NINETY, groups=None):
    """(matured answers, promise) as a model calibrated on those rows leaves them, and its calibration."""
    calibration = calibrate(calibration_rows.proba, calibration_rows.y, n_classes)
    names = tuple("abcdef"[:n_classes])
    matured = MaturedArrays(rows.proba, calibration.p_values(rows.proba), [names[k] for k in rows.y], groups)
    return matured, CoverageTarget(names, calibration.sizes, level), calibration


def scored(scores, y, groups=None):
    """MaturedArrays answers of a binary model with these P(second label); its sets hold both labels."""
    p1 = np.asarray(scores, dtype=np.float64)
    return MaturedArrays(np.column_stack([1 - p1, p1]), np.ones((p1.size, 2)), list(y), groups)


BOTH = CoverageTarget((0, 1), (99, 99), NINETY)


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [None, 20])
def test_binary_numbers_are_those_of_scikit_learn_and_of_the_gate(grid):
    rows = binary_rows(3_000, seed=1, grid=grid)
    matured, promise, calibration = answered(rows, binary_rows(3_000, seed=2, grid=grid))

    found = performance(matured, promise)

    gate = evaluate(rows.proba, rows.y, calibration, NINETY, None, promise.classes).metrics
    assert found.auc.value == pytest.approx(roc_auc_score(rows.y, rows.proba[:, 1]), abs=1e-12)
    assert found.brier == pytest.approx(brier_score_loss(rows.y, rows.proba[:, 1]), abs=1e-12)
    assert found.log_loss == pytest.approx(log_loss(rows.y, rows.proba), abs=1e-12)
    for name in ("brier", "brier_skill", "log_loss", "mean_set_size", "singleton_share", "empty_share"):
        assert getattr(found, name) == pytest.approx(gate[name], abs=1e-12)
    assert [band.observed for band in found.coverage] == [gate[f"coverage{c}"] for c in ("", "_class_a", "_class_b")]
    assert (found.n, found.n_per_class) == (gate["n_test"], (gate["n_class_a"], gate["n_class_b"]))
    assert found.unjudged == {}


@pytest.mark.parametrize("k", [3, 4])
def test_more_classes_have_every_number_but_a_slope(k):
    rows = many_class_rows(3_000, k, seed=1)
    matured, promise, calibration = answered(rows, many_class_rows(3_000, k, seed=2), k)

    found = performance(matured, promise)

    gate = evaluate(rows.proba, rows.y, calibration, NINETY, None, promise.classes).metrics
    assert (found.calibration_slope, found.reliability) == (None, ())
    assert found.unjudged == {"calibration_slope": "not_binary"}
    assert found.auc.value == pytest.approx(gate["roc_auc"], abs=1e-12)
    assert found.auc.lower < found.auc.value < found.auc.upper
    for name in ("brier", "brier_skill", "log_loss", "mean_set_size", "singleton_share", "empty_share"):
        assert getattr(found, name) == pytest.approx(gate[name], abs=1e-12)
    assert [band.label for band in found.coverage] == [None, *"abcd"[:k]]
    assert [band.observed for band in found.coverage[1:]] == [gate[f"coverage_class_{c}"] for c in "abcd"[:k]]


def test_sets_are_those_of_the_configured_level():
    rows, cal = binary_rows(500, seed=1), binary_rows(2_000, seed=2)

    sizes = [performance(*answered(rows, cal, level=Decimal(x))[:2]).mean_set_size for x in ("0.8", "0.9", "0.99")]

    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_coverage_comes_with_its_band_and_knows_patients():
    rows = repeated_patients(1_000, seed=1)
    matured, promise, calibration = answered(rows, binary_rows(2_000, seed=2), groups=rows.groups)
    covered = calibration.sets(rows.proba, NINETY)[np.arange(rows.y.size), rows.y]

    found = performance(matured, promise)

    assert found.coverage == coverage_bands(covered, rows.y, promise, rows.groups)
    assert found.coverage != coverage_bands(covered, rows.y, promise)


def test_all_that_comes_out_is_plain_and_fits_json():
    matured, promise, _ = answered(binary_rows(300, seed=1), binary_rows(300, seed=2))

    found = asdict(performance(matured, promise))

    assert json.loads(json.dumps(found))["auc"] == found["auc"]
    for name in MEANS | {"brier_skill"}:
        assert type(found[name]) is float
    assert {type(v) for v in found["auc"].values()} == {float}


def test_a_sure_and_wrong_answer_costs_much_but_not_infinity():
    found = performance(scored([1.0] + [0.5] * 30, [0] + [0, 1] * 15), BOTH, minimum=2)

    assert found.log_loss == pytest.approx((-np.log(np.finfo(float).eps) + 30 * np.log(2)) / 31)


# --- the area under the curve and its error -----------------------------------------------------------------------


def test_auc_and_its_error_by_hand():
    # Positives .8 .5 .5, negatives .5 .2. Shares of negatives below each positive: 1, .75, .75, so the area is 5/6.
    # Shares of positives above each negative: (1 + .5 + .5) / 3 = 2/3 and 1.
    # DeLong: var = S10/3 + S01/2, S10 = (1/36 + 2 * 1/144) / 2 = 1/48, S01 = 1/36 + 1/36 = 1/18.
    found = performance(scored([0.8, 0.5, 0.5, 0.5, 0.2], [1, 1, 1, 0, 0]), BOTH, minimum=2).auc

    assert found.value == pytest.approx(5 / 6)
    assert found.standard_error == pytest.approx((1 / 48 / 3 + 1 / 18 / 2) ** 0.5)
    # 95 % of Student's t with 1 degree of freedom lies within 12.706; odds of 5 and their log's error se / (5/36).
    half = 12.7062 * found.standard_error * 36 / 5
    assert (found.lower, found.upper) == pytest.approx((1 / (1 + exp(half) / 5), 1 / (1 + exp(-half) / 5)), rel=1e-4)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 20, None]), st.booleans())
def test_the_error_is_that_of_the_gates_comparison_with_a_model_that_knows_nothing(seed, grid, patients):
    rows = repeated_patients(150, seed, grid=grid)
    groups = rows.groups if patients else None
    if np.unique(rows.groups[rows.y == 1]).size < 2:
        return

    found = performance(scored(rows.proba[:, 1], rows.y, groups), BOTH, minimum=2).auc
    other = paired_auc_difference(rows.y, rows.proba[:, 1], np.full(rows.y.size, 0.5), groups)

    assert found.value == pytest.approx(0.5 + other.difference, abs=1e-12)
    assert found.standard_error == pytest.approx(other.standard_error, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(2, 60), st.sampled_from([2, 5, 1_000]))
def test_the_interval_holds_the_area_within_0_and_1(seed, positives, negatives, grid):
    scores = np.random.default_rng(seed).integers(0, grid + 1, positives + negatives) / grid

    found = performance(scored(scores, [1] * positives + [0] * negatives), BOTH, minimum=2).auc

    assert 0.0 <= found.lower <= found.value <= found.upper <= 1.0
    assert found.standard_error >= 0.0


def test_swapping_the_outcomes_mirrors_area_and_interval():
    rows = binary_rows(400, seed=3)

    found = performance(scored(rows.proba[:, 1], rows.y), BOTH).auc
    mirrored = performance(scored(rows.proba[:, 1], 1 - rows.y), BOTH).auc

    assert mirrored.value == pytest.approx(1 - found.value)
    assert (mirrored.lower, mirrored.upper) == pytest.approx((1 - found.upper, 1 - found.lower))
    assert mirrored.standard_error == pytest.approx(found.standard_error)


@pytest.mark.parametrize(
    ("y", "ends"),
    [([0] * 50 + [1] * 25, (0.025 ** (1 / 25), 1.0)), ([1] * 50 + [0] * 25, (0.0, 1 - 0.025 ** (1 / 25)))],
)
def test_classes_fully_apart_leave_room_for_what_25_pairs_cannot_tell(y, ends):
    found = performance(scored(np.linspace(0.1, 0.9, 75), y), BOTH).auc

    assert found.value == y[-1]
    assert (found.lower, found.upper) == pytest.approx(ends)


def test_equal_scores_tell_nothing():
    found = performance(scored([0.3] * 60, [0, 1] * 30), BOTH)

    assert (found.auc.value, found.auc.lower, found.auc.upper) == pytest.approx((0.5, 0.5, 0.5))
    assert found.brier_skill < 0


@pytest.mark.parametrize("area", [0.6, 0.78])
def test_the_interval_holds_the_true_area_in_about_95_of_100_draws(area):
    rng = np.random.default_rng(1)
    y, shift, draws = [1] * MINIMUM + [0] * 200, np.sqrt(2) * norm.ppf(area), 1_000

    outside = 0
    for _ in range(draws):
        scores = norm.cdf(np.concatenate([rng.normal(shift, 1, MINIMUM), rng.normal(size=200)]))
        found = performance(scored(scores, y), BOTH).auc
        outside += not found.lower <= area <= found.upper

    assert outside <= binom(draws, 0.05).ppf(1 - 1e-6)


# --- too few rows -------------------------------------------------------------------------------------------------


def of_each(negatives, positives):
    y = [0] * negatives + [1] * positives
    return scored(np.linspace(0.1, 0.9, len(y)), y)


@pytest.mark.parametrize(("negatives", "positives"), [(500, MINIMUM - 1), (MINIMUM - 1, 500), (500, 0)])
def test_with_too_few_of_a_class_auc_and_skill_are_not_judged_and_the_rest_is(negatives, positives):
    found = performance(of_each(negatives, positives), BOTH)

    assert (found.auc, found.brier_skill) == (None, None)
    assert found.unjudged == dict.fromkeys(("auc", "brier_skill", "calibration_slope"), "too_few_of_a_class")
    assert None not in {getattr(found, name) for name in MEANS}


def test_with_just_enough_all_is_judged():
    assert performance(of_each(MINIMUM, MINIMUM), BOTH).unjudged == {}
    assert performance(of_each(MINIMUM, 0), BOTH).brier is not None


def test_patients_are_counted_and_not_their_rows():
    y = [0] * 100 + [1] * 40
    patients = [None] * 100 + [f"p{i % (MINIMUM - 1)}" for i in range(40)]

    found = performance(scored(np.linspace(0.1, 0.9, 140), y, patients), BOTH)

    assert found.unjudged["auc"] == "too_few_of_a_class"


@pytest.mark.parametrize("n", [0, 1, MINIMUM - 1])
def test_with_too_few_rows_only_counts_and_coverage_are_given(n):
    found = performance(of_each(n // 2, n - n // 2), BOTH)

    assert found.unjudged == dict.fromkeys(MEANS | {"auc", "brier_skill", "calibration_slope"}, "too_few_rows")
    assert {getattr(found, name) for name in found.unjudged} == {None}
    assert (found.n, found.n_per_class) == (n, (n // 2, n - n // 2))
    assert found.coverage[0].observed == (1.0 if n else None)


def test_a_minimum_without_meaning_is_refused():
    with pytest.raises(ValueError, match="minimum of 1"):
        performance(of_each(30, 30), BOTH, minimum=1)


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"columns of \[1, 2\] rows"):
        performance(MaturedArrays([[0.5, 0.5]] * 2, np.ones((2, 2)), [1]), BOTH)
    with pytest.raises(DataError, match=r"columns of \[2, 3\] rows"):
        performance(MaturedArrays([[0.5, 0.5]] * 2, np.ones((2, 2)), [1, 0], ["x"] * 3), BOTH)
    with pytest.raises(DataError, match="none of the classes"):
        performance(MaturedArrays([[0.5, 0.5]], np.ones((1, 2)), [2]), BOTH)
    with pytest.raises(DataError, match="no rank"):
        performance(MaturedArrays([[0.5, 0.5]], [[0.123, 1.0]], [1]), BOTH)
    with pytest.raises(BadModelOutput):
        performance(MaturedArrays([[0.5, float("nan")]], np.ones((1, 2)), [1]), BOTH)


# --- calibration ----------------------------------------------------------------------------------------------------


def judged_rows(rows: ScoredRows, groups: np.ndarray | None = None) -> MaturedPerformance:
    target = CoverageTarget((0, 1), (9, 9), Decimal("0.9"))
    return performance(MaturedArrays(rows.proba, np.full((len(rows.y), 2), 0.5), rows.y, groups), target)


def stretched(rows: ScoredRows, by: float) -> ScoredRows:
    p1 = expit(by * logit(rows.proba[:, 1]))
    return ScoredRows(np.column_stack([1 - p1, p1]), rows.y, rows.groups)


def test_the_slope_is_one_over_what_the_log_odds_were_stretched_by():
    rows = binary_rows(5_000, seed=1)
    plain, bold = (judged_rows(each).calibration_slope for each in (rows, stretched(rows, 2.0)))
    assert plain.lower < 1.0 < plain.upper
    assert (2 * bold.value, 2 * bold.standard_error) == pytest.approx((plain.value, plain.standard_error), rel=1e-6)
    fitted = LogisticRegression(C=1e9, tol=1e-10).fit(logit(rows.proba[:, [1]]), rows.y)
    assert plain.value == pytest.approx(fitted.coef_[0, 0], rel=1e-4)


def test_reliability_has_every_row_once():
    rows = binary_rows(1_000, seed=3)
    points = judged_rows(rows).reliability
    assert sum(p.n for p in points) == 1_000
    assert sum(p.n * p.observed for p in points) == pytest.approx(rows.y.sum())
    assert sum(p.n * p.predicted for p in points) == pytest.approx(rows.proba[:, 1].sum())


@pytest.mark.parametrize("p1", [np.full(60, 0.3), np.repeat([0.2, 0.8], 30)])
def test_scores_that_are_alike_or_separate_the_classes_have_no_slope(p1):
    rows = ScoredRows(np.column_stack([1 - p1, p1]), np.repeat([0, 1], 30), np.arange(60))
    assert judged_rows(rows).calibration_slope is None
