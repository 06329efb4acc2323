from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from ml_core.base.errors import BadModelOutput, InvalidCalibration
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.evaluation import (
    brier_score,
    evaluate,
    log_losses,
    roc_auc,
)
from ml_core.lab.measuring.reliability import calibration_fit
from ml_core.serve.model.groupings import GroupedRows, Groupings
from ml_core.serve.model.manifest import GroupFacts, GroupingFacts
from ml_core.serve.model.prediction_sets import ConformalCalibration
from tests.toy_scores import ScoredRows, binary_rows, many_class_rows, repeated_patients

NINETY = Decimal("0.9")
METRICS = {
    "roc_auc", "brier", "brier_skill", "log_loss", "coverage", "mean_set_size", "singleton_share", "empty_share",
    "n_test", "n_groups", "coverage_class_0", "coverage_class_1", "mean_set_size_class_0", "mean_set_size_class_1",
    "n_class_0", "n_class_1",
}  # fmt: skip


def evaluated(rows: ScoredRows, calibration_rows: ScoredRows, classes=(0, 1)):
    calibration = calibrate(calibration_rows.proba, calibration_rows.y, len(classes))
    return evaluate(rows.proba, rows.y, calibration, NINETY, rows.groups, classes)


def test_binary_metrics_equal_scikit_learns():
    rows = binary_rows(3_000, seed=1, grid=100)

    metrics = evaluated(rows, binary_rows(3_000, seed=2)).metrics

    assert set(metrics) == METRICS
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(rows.y, rows.proba[:, 1]), abs=1e-12)
    assert metrics["brier"] == pytest.approx(brier_score_loss(rows.y, rows.proba[:, 1]), abs=1e-12)
    assert metrics["log_loss"] == pytest.approx(log_loss(rows.y, rows.proba), abs=1e-12)


def test_metrics_of_many_classes_equal_scikit_learns():
    rows = many_class_rows(3_000, 4, seed=1)

    metrics = evaluated(rows, many_class_rows(3_000, 4, seed=2), tuple("abcd")).metrics

    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(rows.y, rows.proba, multi_class="ovr"), abs=1e-12)
    assert metrics["brier"] == pytest.approx(brier_score_loss(rows.y, rows.proba, scale_by_half=False), abs=1e-12)
    assert metrics["log_loss"] == pytest.approx(log_loss(rows.y, rows.proba), abs=1e-9)
    assert {f"coverage_class_{c}" for c in "abcd"} <= set(metrics)


def test_coverage_and_set_sizes_by_hand():
    # Thresholds at 0.5: .5 for class 0, .25 for class 1 (largest of one score each, by rank). Sets: {0}, {}, {1}, {0}.
    calibration = ConformalCalibration("class_conditional", (np.array([0.5]), np.array([0.25])))
    proba = [[0.75, 0.25], [0.4375, 0.5625], [0.125, 0.875], [0.5, 0.5]]

    metrics = evaluate(proba, [0, 1, 1, 1], calibration, Decimal("0.5"), None, ["no", "yes"]).metrics

    assert metrics["coverage"] == 0.5
    assert (metrics["coverage_class_no"], metrics["coverage_class_yes"]) == (1.0, 1 / 3)
    assert metrics["mean_set_size"] == 0.75
    assert (metrics["mean_set_size_class_no"], metrics["mean_set_size_class_yes"]) == (1.0, 2 / 3)
    assert (metrics["singleton_share"], metrics["empty_share"]) == (0.75, 0.25)
    assert (metrics["n_test"], metrics["n_groups"], metrics["n_class_no"], metrics["n_class_yes"]) == (4, 4, 1, 3)


def test_brier_skill_is_the_gain_over_predicting_the_base_rate():
    y = np.array([0, 0, 0, 1])
    calibration = ConformalCalibration("class_conditional", (np.array([0.5]), np.array([0.5])))

    def skill(p1):
        proba = np.column_stack([1 - np.array(p1), p1])
        return evaluate(proba, y, calibration, NINETY, None, [0, 1]).metrics["brier_skill"]

    assert skill([0.25] * 4) == 0.0
    assert skill([0.0, 0.0, 0.0, 1.0]) == 1.0
    assert skill([1.0, 1.0, 1.0, 0.0]) < 0.0


def test_repeated_patients_are_counted():
    rows = repeated_patients(500, seed=1)

    metrics = evaluated(rows, repeated_patients(500, seed=2)).metrics

    assert (metrics["n_test"], metrics["n_groups"]) == (rows.y.size, 500)


# --- metrics the rows cannot give ---------------------------------------------------------------------------------


def test_a_metric_the_rows_cannot_give_is_missing_and_never_nan():
    rows = binary_rows(500, seed=1)

    metrics = evaluated(rows[rows.y == 0], binary_rows(500, seed=2)).metrics

    assert METRICS - set(metrics) == {"roc_auc", "brier_skill", "coverage_class_1", "mean_set_size_class_1"}
    assert metrics["n_class_1"] == 0
    assert all(np.isfinite(list(metrics.values())))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_metrics_are_always_finite_and_in_range(rows):
    p1, y = np.array([p for p, _ in rows]), np.array([label for _, label in rows])
    calibration = ConformalCalibration("class_conditional", (np.array([0.2, 0.5]), np.array([0.5])))

    metrics = evaluate(np.column_stack([1 - p1, p1]), y, calibration, NINETY, None, [0, 1]).metrics

    assert all(np.isfinite(list(metrics.values())))
    assert all(0 <= v <= 1 for name, v in metrics.items() if "coverage" in name or "share" in name)
    assert 0 <= metrics.get("roc_auc", 0) <= 1
    assert 0 <= metrics["brier"] <= 1


def test_a_certain_and_wrong_probability_costs_a_finite_loss():
    assert log_losses([[1.0, 0.0]], [1])[0] == pytest.approx(36.04, abs=0.01)


# --- pieces -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p1", "area"),
    [([0.1, 0.2, 0.8, 0.9], 1.0), ([0.9, 0.8, 0.2, 0.1], 0.0), ([0.5] * 4, 0.5), ([0.1, 0.6, 0.4, 0.9], 0.75)],
)
def test_area_under_the_curve_by_hand(p1, area):
    assert roc_auc(np.column_stack([1 - np.array(p1), p1]), [0, 0, 1, 1]) == area


def test_brier_score_of_three_classes_sums_over_the_classes():
    assert brier_score([[0.5, 0.25, 0.25]], [0]) == 0.25 + 0.0625 + 0.0625


def test_the_calibration_curve_of_a_calibrated_model_lies_on_the_diagonal():
    rows = binary_rows(40_000, seed=3)

    (points,) = evaluated(rows, binary_rows(1_000, seed=2)).calibration_curve.values()

    assert len(points) == 10
    assert sum(p.n for p in points) == 40_000
    for point in points:
        noise = np.sqrt(point.predicted * (1 - point.predicted) / point.n)
        assert abs(point.observed - point.predicted) < 4.5 * noise
    assert [p.predicted for p in points] == sorted(p.predicted for p in points)


def test_the_curve_shows_every_class_of_many_and_the_second_of_two():
    assert list(evaluated(binary_rows(300, seed=1), binary_rows(300, seed=2)).calibration_curve) == ["1"]
    many = evaluated(many_class_rows(300, 3, seed=1), many_class_rows(300, 3, seed=2), ("a", "b", "c"))
    assert list(many.calibration_curve) == ["a", "b", "c"]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_probabilities_or_labels_that_do_not_fit_are_refused():
    calibration = ConformalCalibration("class_conditional", (np.array([0.5]), np.array([0.5])))

    with pytest.raises(BadModelOutput):
        evaluate([[0.5, np.nan]], [0], calibration, NINETY, None, [0, 1])
    with pytest.raises(InvalidCalibration):
        evaluate([[0.5, 0.5]], [0, 1], calibration, NINETY, None, [0, 1])
    with pytest.raises(InvalidCalibration):
        evaluate(np.empty((0, 2)), np.empty(0, dtype=int), calibration, NINETY, None, [0, 1])


def test_patients_seen_before_are_measured_by_themselves_where_there_are_any():
    rows, calibration = binary_rows(3_000, seed=1), binary_rows(2_000, seed=2)
    of = calibrate(calibration.proba, calibration.y, 2)
    returning = np.random.default_rng(3).random(3_000) < 0.2
    plain = evaluate(rows.proba, rows.y, of, NINETY, None, (0, 1)).metrics
    found = evaluate(rows.proba, rows.y, of, NINETY, None, (0, 1), returning).metrics

    for k in (0, 1):
        own = returning & (rows.y == k)
        alone = evaluate(rows.proba[own], rows.y[own], of, NINETY, None, (0, 1)).metrics
        assert found.pop(f"n_returning_class_{k}") == own.sum()
        assert found.pop(f"coverage_returning_class_{k}") == alone["coverage"]
    assert found == plain
    nobody = np.zeros(3_000, dtype=np.bool_)
    assert evaluate(rows.proba, rows.y, of, NINETY, None, (0, 1), nobody).metrics == plain


def test_metrics_by_group_are_the_metrics_of_the_groups_rows():
    rows, rng = binary_rows(3_000, seed=41), np.random.default_rng(42)
    facts = GroupFacts(
        declared=(
            GroupingFacts(
                name="w", column="w", is_feature=False, cells=("a", "b"), levels=("a", "b"), level_cells=(0, 1)
            ),
            GroupingFacts(name="n", column="n", is_feature=False, cells=("low", "high"), cuts=(0.5,)),
        )
    )
    positions = rng.integers(0, 2, (3_000, 2))
    calibration = calibrate(rows.proba, rows.y, 2)
    by = GroupedRows(Groupings(facts), positions)
    found = evaluate(rows.proba, rows.y, calibration, Decimal("0.9"), None, (0, 1), by=by).by_group
    assert [(one.grouping, one.cell) for one in found] == [("w", "a"), ("w", "b"), ("n", "low"), ("n", "high")]
    for one in found:
        g = ["w", "n"].index(one.grouping)
        inside = positions[:, g] == by.groupings.declared[g].cells.index(one.cell)
        alone = evaluate(rows.proba[inside], rows.y[inside], calibration, Decimal("0.9"), None, (0, 1)).metrics
        assert one.n == inside.sum()
        assert {name: one.metrics[name] for name in alone if name in one.metrics} == {
            name: value for name, value in alone.items() if name not in ("n_test", "n_groups")
        }
        assert one.metrics["calibration_slope"] == calibration_fit(rows.proba[inside], rows.y[inside]).slope.value
