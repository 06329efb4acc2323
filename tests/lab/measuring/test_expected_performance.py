"""Expected performance against sums over all pairs, against simulated labels, and where there is too little to say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.errors import DataError
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.evaluation import roc_auc
from ml_core.lab.measuring.expected_performance import (
    ProbabilityMap,
    ScoreSums,
    expected_performance,
    recalibration_of,
    score_sums,
)
from ml_core.serve.model.prediction_sets import ConformalCalibration
from tests.toy_scores import ScoredRows, binary_rows, many_class_rows


def fitted(rows: ScoredRows, distributions: list[np.ndarray] | None = None) -> ProbabilityMap:
    found = recalibration_of(calibrate(rows.proba, rows.y, rows.proba.shape[1]), distributions)
    assert found is not None
    return found


def certain(recalibration: ProbabilityMap) -> ProbabilityMap:
    """The same as if infinitely many rows had been there to fit it."""
    nothing = np.zeros_like(recalibration.covariance)
    return ProbabilityMap(recalibration.coefficients, nothing, recalibration.edges)


def two(p1: np.ndarray) -> np.ndarray:
    return np.column_stack([1.0 - p1, p1])


def some_sets(p1: np.ndarray) -> np.ndarray:
    return np.column_stack([p1 < 0.2, p1 > 0.08])


# --- recalibration ------------------------------------------------------------------------------------------------


def test_probabilities_that_are_right_stay_as_they_are():
    found = fitted(binary_rows(20_000, seed=1))
    p = np.array([0.03, 0.1, 0.3])
    terms = np.stack([np.ones(3), np.log(p), -np.log1p(-p)], axis=1)
    errors = np.sqrt(np.einsum("ij,jk,ik->i", terms, found.covariance[1], terms)) * p * (1 - p)
    assert (np.abs(found.share(1, p) - p) < 4 * errors).all()
    assert (errors < 0.03).all()


def test_probabilities_that_are_too_bold_are_drawn_back():
    rows = binary_rows(20_000, seed=2)
    odds = np.log(rows.proba[:, 1] / rows.proba[:, 0])
    bold = 1 / (1 + np.exp(-(2 * odds + 1)))
    found = fitted(ScoredRows(two(bold), rows.y, rows.groups))
    true = np.array([0.05, 0.1, 0.3])
    said = 1 / (1 + np.exp(-(2 * np.log(true / (1 - true)) + 1)))
    assert found.share(1, said) == pytest.approx(true, abs=0.02)


def test_the_shares_of_two_classes_add_up_to_one():
    found = fitted(binary_rows(2_000, seed=3))
    p = np.linspace(0.01, 0.99, 50)
    assert found.share(0, 1 - p) + found.share(1, p) == pytest.approx(np.ones(50), abs=1e-8)


def test_many_classes_need_only_the_distribution_of_each_ones_probability():
    rows = many_class_rows(6_000, 3, seed=4)
    found = fitted(rows, [rows.proba[:, k] for k in range(3)])
    for k in range(3):
        told = found.share(k, rows.proba[:, k])
        assert told.sum() == pytest.approx((rows.y == k).sum(), abs=2.0)  # what maximum likelihood gives
        for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 1.0)):
            inside = (rows.proba[:, k] >= low) & (rows.proba[:, k] < high)
            spread = np.sqrt((told[inside] * (1 - told[inside])).sum())
            assert abs((rows.y[inside] == k).sum() - told[inside].sum()) < 4 * spread


def test_order_statistics_stand_for_the_rows_between_them():
    rows = many_class_rows(6_000, 3, seed=5)
    every = fitted(rows, [rows.proba[:, k] for k in range(3)])
    some = fitted(rows, [np.sort(rows.proba[:, k])[5::10] for k in range(3)])
    p = np.array([0.1, 0.4, 0.8])
    for k in range(3):
        assert some.share(k, p) == pytest.approx(every.share(k, p), abs=0.02)


def test_scores_that_point_the_wrong_way_tell_nothing():
    rows = binary_rows(3_000, seed=6)
    found = fitted(ScoredRows(rows.proba[:, ::-1], rows.y, rows.groups))
    assert (found.coefficients[:, 1:] >= 0).all()
    assert found.share(1, np.array([0.1, 0.9])) == pytest.approx(np.full(2, rows.y.mean()), abs=0.01)


def test_classes_that_are_separated_leave_all_finite():
    p1 = np.concatenate([np.zeros(30), np.ones(30)])
    found = fitted(ScoredRows(two(p1), np.repeat([0, 1], 30), np.arange(60)))
    assert np.isfinite(found.coefficients).all()
    low, high = found.share(1, np.array([0.0, 1.0]))
    assert 0.0 <= low < 0.05
    assert 0.95 < high <= 1.0


def test_pooled_scores_tell_no_labels_apart():
    rows = binary_rows(200, seed=7)
    assert recalibration_of(calibrate(rows.proba, rows.y, 2, "marginal")) is None


def test_a_class_without_rows_and_many_classes_without_distributions_are_refused():
    empty = ConformalCalibration("class_conditional", (np.array([0.1, 0.2]), np.array([])))
    with pytest.raises(DataError, match="no calibration rows"):
        recalibration_of(empty)
    rows = many_class_rows(100, 3, seed=8)
    with pytest.raises(DataError, match="distribution"):
        recalibration_of(calibrate(rows.proba, rows.y, 3))


# --- sums ---------------------------------------------------------------------------------------------------------


@given(cut=st.integers(0, 60), seed=st.integers(0, 99))
def test_days_can_be_added_and_kept(cut, seed):
    rows = binary_rows(60, seed)
    recalibration = fitted(binary_rows(500, seed=9))
    sets = some_sets(rows.proba[:, 1])
    whole = score_sums(recalibration, rows.proba, sets)
    parts = [score_sums(recalibration, rows.proba[s], sets[s]) for s in (slice(cut), slice(cut, None))]
    kept = [ScoreSums.from_json(json.loads(json.dumps(part.as_json()))) for part in parts]
    together = kept[0] + kept[1]
    assert together.answers == whole.answers == 60
    for part in ("counts", "totals", "squares", "held"):
        assert getattr(together, part) == pytest.approx(getattr(whole, part), abs=1e-12)


def test_a_recalibration_is_kept_to_the_bit():
    found = fitted(binary_rows(500, seed=10))
    again = ProbabilityMap.from_json(json.loads(json.dumps(found.as_json())))
    for part in ("coefficients", "covariance", "edges"):
        assert np.array_equal(getattr(again, part), getattr(found, part))


def test_sets_of_another_shape_are_refused():
    rows = binary_rows(30, seed=11)
    with pytest.raises(DataError, match="stored sets"):
        score_sums(fitted(binary_rows(500, seed=9)), rows.proba, np.ones((30, 3)))


# --- expected numbers ---------------------------------------------------------------------------------------------


def test_numbers_are_those_of_all_pairs_where_each_cell_holds_one_probability():
    recalibration = fitted(binary_rows(4_000, seed=12))
    p1 = np.random.default_rng(0).choice(np.concatenate([recalibration.edges[1][5:60:6], [0.9]]), 400)
    sets = some_sets(p1)
    q = recalibration.share(1, p1)
    found = expected_performance(recalibration, score_sums(recalibration, two(p1), sets))

    pairs = q[:, None] * (1 - q)[None, :] * ~np.eye(400, dtype=bool)
    ahead = (p1[:, None] > p1[None, :]) + 0.5 * (p1[:, None] == p1[None, :])
    assert found.auc is not None
    assert found.auc.value == pytest.approx((pairs * ahead).sum() / pairs.sum(), abs=1e-12)
    assert found.brier is not None
    assert found.brier.value == pytest.approx((q * (1 - p1) ** 2 + (1 - q) * p1**2).mean(), abs=1e-12)
    of_zero, of_one = found.coverage
    assert of_zero is not None
    assert of_one is not None
    assert of_zero.value == pytest.approx(((1 - q) * sets[:, 0]).sum() / (1 - q).sum(), abs=1e-12)
    assert of_one.value == pytest.approx((q * sets[:, 1]).sum() / q.sum(), abs=1e-12)


def test_cells_cost_next_to_nothing():
    recalibration, rows = fitted(binary_rows(4_000, seed=13)), binary_rows(1_500, seed=14)
    p1 = rows.proba[:, 1]
    q, sets = recalibration.share(1, p1), some_sets(p1)
    pairs = q[:, None] * (1 - q)[None, :]
    exact = (pairs * (p1[:, None] > p1[None, :])).sum() / (pairs.sum() - np.trace(pairs))
    found = expected_performance(recalibration, score_sums(recalibration, rows.proba, sets))
    assert found.auc is not None
    assert found.auc.value == pytest.approx(exact, abs=5e-4)
    assert found.coverage[1] is not None
    assert found.coverage[1].value == pytest.approx((q * sets[:, 1]).sum() / q.sum(), abs=5e-4)


def test_errors_are_those_of_labels_drawn_by_the_shares():
    recalibration, rows = certain(fitted(binary_rows(4_000, seed=15))), binary_rows(800, seed=16)
    p1 = rows.proba[:, 1]
    q, sets, rng, draws = recalibration.share(1, p1), some_sets(p1), np.random.default_rng(1), 2_000
    seen = []
    for _ in range(draws):
        y = (rng.random(p1.size) < q).astype(np.int64)
        seen.append((roc_auc(rows.proba, y), ((p1 - y) ** 2).mean(), sets[y == 0, 0].mean(), sets[y == 1, 1].mean()))
    found = expected_performance(recalibration, score_sums(recalibration, rows.proba, sets))
    for each, column in zip((found.auc, found.brier, *found.coverage), np.array(seen, dtype=float).T, strict=True):
        assert each is not None
        noise = 5 * column.std() / np.sqrt(draws)
        assert each.value == pytest.approx(column.mean(), abs=noise + 0.002)  # a ratio's mean is not the ratio of means
        assert each.standard_error == pytest.approx(column.std(), rel=5 / np.sqrt(2 * draws) + 0.03)


def test_few_calibration_rows_make_the_interval_wider():
    rows = binary_rows(5_000, seed=17)
    sets = some_sets(rows.proba[:, 1])
    few, many = (fitted(binary_rows(n, seed=18)) for n in (300, 30_000))
    errors = []
    for recalibration in (few, many, certain(many)):
        auc = expected_performance(recalibration, score_sums(recalibration, rows.proba, sets)).auc
        assert auc is not None
        errors.append(auc.standard_error)
    assert errors[0] > 2 * errors[1]
    assert errors[1] > errors[2]


def test_many_classes_have_brier_and_coverage_and_no_area():
    before, now = many_class_rows(6_000, 3, seed=19), many_class_rows(4_000, 3, seed=20)
    recalibration = fitted(before, [before.proba[:, k] for k in range(3)])
    sets = now.proba > 0.3
    found = expected_performance(recalibration, score_sums(recalibration, now.proba, sets))
    assert found.auc is None
    assert found.brier is not None
    realised = ((np.eye(3)[now.y] - now.proba) ** 2).sum(axis=1).mean()
    assert abs(found.brier.value - realised) < 4 * found.brier.standard_error
    for k, each in enumerate(found.coverage):
        assert each is not None
        assert abs(each.value - sets[now.y == k, k].mean()) < 4 * each.standard_error


def test_too_few_answers_or_answers_of_a_class_leave_numbers_out():
    recalibration, rows = fitted(binary_rows(2_000, seed=21)), binary_rows(60, seed=22)
    sets = some_sets(rows.proba[:, 1])
    few = expected_performance(recalibration, score_sums(recalibration, rows.proba[:19], sets[:19]))
    assert (few.answers, few.auc, few.brier, few.coverage) == (19, None, None, (None, None))
    more = expected_performance(recalibration, score_sums(recalibration, rows.proba, sets))
    assert (more.auc, more.coverage[1]) == (None, None)
    assert more.brier is not None
    assert more.coverage[0] is not None


def test_no_interval_leaves_what_can_be():
    recalibration = fitted(binary_rows(2_000, seed=23))
    proba = two(np.full(200, 0.5))
    for members in (np.zeros((200, 2)), np.ones((200, 2))):
        found = expected_performance(recalibration, score_sums(recalibration, proba, members))
        for each in found.coverage:
            assert each is not None
            assert each.lower == each.value == each.upper == members[0, 0]
