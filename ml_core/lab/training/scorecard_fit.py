"""The scorecard: a logistic regression on the standardised matrix, small enough to be read by people."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.lab.measuring.evaluation import SHARED_BY
from ml_core.lab.training.labelled_rows import LabelledRows

__all__ = ["common_columns", "fit_scorecard"]

_DIGITS = 10
"""Significant digits of the scorecard: the last bits of a solver differ between processors, and mean nothing."""


def fit_scorecard(
    features: npt.NDArray[np.float32],
    y_index: npt.NDArray[np.int64],
    n_classes: int,
    weights: npt.NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """``scorecard`` of ``fallback.json``, for :class:`ml_core.serve.model.scorer.Scorecard`.

    Parameters
    ----------
    features : shape (n, d), NaN where missing; a missing value counts as the column's mean
    y_index : shape (n,), class indices; every class has rows
    n_classes : K
    weights : shape (n,), how much each row counts; None where all count alike

    Returns
    -------
    dict
        ``center``, ``scale`` (d,): mean and standard deviation of the values present (scale 1 for a constant column);
        ``coefficients`` (K, d) and ``intercept`` (K,), of a soft-max over the standardised columns. With two classes
        those of the first are zero.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

    wide = features.astype(np.float64)
    center, scale = _center_and_scale(wide)
    standardised = np.where(np.isnan(wide), 0.0, wide - center) / scale
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the scorecard need not have converged to the last digit
        model = LogisticRegression(C=1.0, max_iter=500).fit(standardised, y_index, sample_weight=weights)
    coefficients, intercept = model.coef_, model.intercept_
    if n_classes == 2:
        coefficients = np.vstack([np.zeros_like(coefficients), coefficients])
        intercept = np.concatenate([[0.0], intercept])
    return {
        "center": _rounded(center),
        "scale": _rounded(scale),
        "coefficients": _rounded(coefficients),
        "intercept": _rounded(intercept),
    }


def common_columns(rows: LabelledRows) -> npt.NDArray[np.float32]:
    """The matrix without columns of which too few patients have a value, or another than nearly everybody's.

    The mean of such a column would be these patients' values, and its coefficient would tell their labels.
    """
    matrix, (_, who) = rows.matrix.copy(), np.unique(rows.groups, return_inverse=True)
    for column in matrix.T:
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        usual = values[counts.argmax()] if values.size else np.nan
        unusual = ~np.isnan(column) & (column != usual)
        # a column that is the same for all says nothing of anybody
        few = _patients(who, unusual) < SHARED_BY if unusual.any() else _patients(who, column == usual) < SHARED_BY
        if few:
            column[:] = np.nan
    return matrix


def _patients(who: npt.NDArray[np.intp], chosen: npt.NDArray[np.bool_]) -> int:
    return int(np.unique(who[chosen]).size)


def _center_and_scale(wide: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation per column without its missing values; 0 and 1 where nothing is known."""
    present = ~np.isnan(wide)
    count = np.maximum(present.sum(axis=0), 1)
    center = np.where(present, wide, 0.0).sum(axis=0) / count
    variance = np.where(present, (wide - center) ** 2, 0.0).sum(axis=0) / count
    return center, np.where(variance > 0.0, np.sqrt(variance), 1.0)


def _rounded(array: npt.NDArray[np.float64]) -> Any:
    """Nested lists of numbers rounded to ``_DIGITS`` significant digits."""
    return np.array([float(f"{value:.{_DIGITS}g}") for value in array.ravel()]).reshape(array.shape).tolist()
