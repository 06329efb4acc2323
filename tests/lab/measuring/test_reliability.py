from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression

from ml_core.base.arrays import FloatArray
from ml_core.lab.measuring.reliability import calibration_curve, calibration_fit
from tests.toy_scores import binary_rows


def two_columns(p1: FloatArray | list[float]) -> FloatArray:
    """P of both labels from that of the second."""
    return np.column_stack([1 - np.array(p1), p1])


def moved(p1: FloatArray, by: float) -> FloatArray:
    """The same with the log odds moved."""
    return two_columns(expit(logit(p1) + by))


def test_the_slope_is_that_of_an_unpenalised_logistic_regression():
    rows = binary_rows(4_000, seed=43)
    for power in (0.5, 1.0, 2.0):
        odds = power * logit(rows.proba[:, 1]) + 0.3
        fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(odds[:, None], rows.y)
        assert calibration_fit(two_columns(expit(odds)), rows.y).slope.value == pytest.approx(
            fitted.coef_[0, 0], rel=1e-4
        )


@pytest.mark.parametrize(
    ("p1", "y"),
    [
        ([0.2, 0.4, 0.6], [1, 1, 1]),  # one class only
        ([0.3, 0.3, 0.3], [0, 1, 0]),  # no variation
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),  # separated: no finite slope
    ],
)
def test_a_slope_without_a_finite_value_is_missing(p1, y):
    assert calibration_fit(two_columns(p1), y) is None


def test_more_than_two_classes_have_no_slope():
    assert calibration_fit(np.full((3, 3), 1 / 3), [0, 1, 2]) is None


def test_the_intercept_makes_the_mean_fit():
    rows = binary_rows(3_000, seed=5)
    off = moved(rows.proba[:, 1], -0.7)
    found = calibration_fit(off, rows.y)
    assert expit(logit(off[:, 1]) + found.intercept.value).mean() == pytest.approx(rows.y.mean(), abs=1e-9)
    right = calibration_fit(rows.proba, rows.y)
    assert found.intercept.value == pytest.approx(right.intercept.value + 0.7, abs=1e-6)
    assert found.slope.value == pytest.approx(right.slope.value, abs=1e-6)  # moved odds spread as before


def test_the_intervals_hold_the_true_numbers_as_often_as_they_say():
    inside = np.zeros(2, dtype=int)
    for seed in range(1_000):
        rows = binary_rows(600, seed=1_000 + seed)
        found = calibration_fit(moved(rows.proba[:, 1], 0.4), rows.y)
        true = ((found.slope, 1.0), (found.intercept, -0.4))
        inside += [each.lower <= number <= each.upper for each, number in true]
    for held in inside:
        assert binom.ppf(1e-3, 1_000, 0.93) <= held <= binom.ppf(1 - 1e-3, 1_000, 0.97)


def test_copies_of_a_patient_make_neither_number_surer():
    rows = binary_rows(500, seed=2)
    thrice, y, ids = np.repeat(rows.proba, 3, axis=0), np.repeat(rows.y, 3), np.repeat(np.arange(500), 3)
    once, together = calibration_fit(rows.proba, rows.y), calibration_fit(thrice, y, ids)
    for name in ("slope", "intercept"):
        assert getattr(together, name).standard_error == pytest.approx(getattr(once, name).standard_error, rel=1e-6)
    assert calibration_fit(thrice, y).intercept.standard_error < 0.6 * once.intercept.standard_error


def test_equal_predictions_share_a_bin_of_the_calibration_curve():
    points = calibration_curve(np.array([0.1] * 70 + [0.2] * 20 + [0.7] * 10), np.array([False] * 90 + [True] * 10))

    assert [(round(p.predicted, 9), p.observed, p.n) for p in points] == [
        (0.1, 0.0, 70),
        (0.2, 0.0, 20),
        (0.7, 1.0, 10),
    ]
