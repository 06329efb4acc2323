"""Ranges of metrics: equal to textbook ones where those exist, and true as often as they say."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from scipy import stats

from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.coverage_law import DesignEffects, design_effects
from ml_core.lab.measuring.evaluation import evaluate
from ml_core.lab.measuring.metric_ranges import MetricRange, mean_interval, metric_ranges
from tests.toy_scores import ScoredRows, binary_rows, many_class_rows, repeated_patients
from tests.verdicts import beta_binomial_band

NINETY = Decimal("0.9")


def ranges(rows: ScoredRows, calibration_rows: ScoredRows, classes=(0, 1)) -> dict[str, MetricRange]:
    calibration = calibrate(calibration_rows.proba, calibration_rows.y, len(classes))
    effects = design_effects(calibration, calibration_rows.proba, calibration_rows.y, calibration_rows.groups, NINETY)
    found = metric_ranges(rows.proba, rows.y, rows.groups, calibration, NINETY, classes, effects)
    return {r.metric: r for r in found}


def test_rows_of_their_own_give_students_interval():
    values = np.array([0.1, 0.4, 0.2, 0.9, 0.5, 0.3])
    expected = stats.t.interval(0.95, values.size - 1, values.mean(), stats.sem(values))
    assert mean_interval(values, None) == pytest.approx(expected)
    assert mean_interval(values, np.arange(6)) == pytest.approx(expected)


def test_a_row_repeated_adds_no_certainty():
    values = np.random.default_rng(1).random(40)
    thrice = mean_interval(np.repeat(values, 3), np.repeat(np.arange(40), 3))
    assert thrice == pytest.approx(mean_interval(values, None))


@pytest.mark.parametrize(
    ("values", "groups"), [([], None), ([0.5], None), ([0.5, 0.7], [1, 1]), ([0.25, 0.25, 0.25], None)]
)
def test_what_cannot_vary_has_no_interval(values, groups):
    assert mean_interval(np.array(values), None if groups is None else np.array(groups)) is None


def test_every_range_is_of_a_metric_of_the_evaluation_and_holds_it():
    rows, calibration_rows = repeated_patients(600, seed=1), binary_rows(2_000, seed=2)
    found = ranges(rows, calibration_rows)
    metrics = evaluate(
        rows.proba, rows.y, calibrate(calibration_rows.proba, calibration_rows.y, 2), NINETY, rows.groups, (0, 1)
    ).metrics
    assert set(found) <= set(metrics)
    assert set(found) >= {"roc_auc", "brier", "log_loss", "coverage", "coverage_class_1", "mean_set_size_class_0"}
    for name, r in found.items():
        assert r.value == pytest.approx(metrics[name], abs=1e-12), name
        if r.kind == "interval" and name != "empty_share":  # of which there is none here, so none varies
            assert r.lower <= r.value <= r.upper, name


def test_coverage_has_the_band_of_its_calibration_whatever_was_found():
    rows, calibration_rows = binary_rows(900, seed=3), binary_rows(500, seed=4)
    found = ranges(rows, calibration_rows)["coverage_class_1"]
    n_calibration, n_test = int(calibration_rows.y.sum()), int(rows.y.sum())
    band = beta_binomial_band(n_calibration, n_test, NINETY, 0.025)
    assert (found.kind, found.lower, found.upper) == ("band", band.lower, band.upper)
    p1 = rows.proba[:, 1] / 50  # as after a change that the model cannot see
    uncovered = ranges(ScoredRows(np.column_stack([1 - p1, p1]), rows.y, rows.groups), calibration_rows)
    assert uncovered["coverage_class_1"].lower == band.lower > uncovered["coverage_class_1"].value


def test_more_than_two_classes_have_an_area_each():
    found = ranges(many_class_rows(600, 3, seed=1), many_class_rows(900, 3, seed=2), ("a", "b", "c"))
    assert {f"roc_auc_class_{label}" for label in "abc"} <= set(found)
    assert "roc_auc" not in found


def test_a_perfect_separation_claims_no_certainty():
    y = np.repeat([0, 1], 20)
    rows = ScoredRows(np.column_stack([1.0 - y, y]).astype(float), y, np.arange(40))
    found = ranges(rows, binary_rows(500, seed=1))
    assert (found["roc_auc"].value, found["roc_auc"].lower, found["roc_auc"].upper) == (1.0, None, None)
    assert found["brier"].lower is None


def test_a_class_of_one_patient_has_no_area_and_no_interval():
    rows = binary_rows(60, seed=5)
    y = np.zeros(60, dtype=np.int64)
    y[7] = 1
    found = ranges(ScoredRows(rows.proba, y, rows.groups), binary_rows(500, seed=6))
    assert "roc_auc" not in found
    assert found["mean_set_size_class_1"].lower is None


def test_intervals_hold_the_truth_as_often_as_they_say_even_when_patients_repeat():
    """600 draws at 95 %, every encounter three times: at most 55 misses by Binomial(600, 0.05), tail 1e-5.

    Taken as rows of their own, the same rows miss the truth in more than 100 draws.
    """
    draws = 600
    truth = repeated_patients(60_000, seed=999)
    calibration = calibrate(truth.proba, truth.y, 2)
    effects = DesignEffects(1.0, (1.0, 1.0))
    true = evaluate(truth.proba, truth.y, calibration, NINETY, truth.groups, (0, 1)).metrics
    missed = dict.fromkeys(("roc_auc", "brier", "mean_set_size"), 0)
    for seed in range(draws):
        rows = repeated_patients(250, seed=seed)
        rows = rows[np.tile(np.arange(rows.y.size), 3)]
        found = metric_ranges(rows.proba, rows.y, rows.groups, calibration, NINETY, (0, 1), effects)
        for r in found:
            if r.metric in missed:
                missed[r.metric] += not r.lower <= true[r.metric] <= r.upper
    most = int(stats.binom.isf(1e-5, draws, 0.05))
    assert max(missed.values()) <= most, missed
