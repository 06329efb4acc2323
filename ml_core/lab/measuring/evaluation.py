"""Evaluates a model on rows it never saw: discrimination, calibration, coverage and set sizes, in one flat table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from ml_core.base.arrays import BoolArray, FloatArray, IntArray
from ml_core.base.errors import InvalidCalibration
from ml_core.lab.measuring.coverage_law import Groups, holds_label
from ml_core.lab.measuring.reliability import CurvePoint, calibration_curve, calibration_fit
from ml_core.serve.model.conformity_scores import checked_probabilities
from ml_core.serve.model.groupings import GroupedRows
from ml_core.serve.model.prediction_sets import ConformalCalibration

__all__ = [
    "SHARED_BY",
    "Evaluation",
    "GroupMetrics",
    "brier_score",
    "evaluate",
    "group_metrics",
    "log_losses",
    "roc_auc",
    "score_metrics",
    "set_metrics",
    "squared_errors",
    "weight_below",
]

SHARED_BY = 10
"""Fewest patients behind whatever is published: the usual limit for small cells in health statistics."""


@dataclass(frozen=True, slots=True)
class GroupMetrics:
    """Metrics of the rows of one group of patients.

    Attributes
    ----------
    grouping, cell : names of both
    n : rows
    metrics : as those of all rows, and ``calibration_slope``; one that the rows cannot give is missing
    """

    grouping: str
    cell: str
    n: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of a model on a test split.

    Attributes
    ----------
    metrics : flat, finite numbers only; a metric that the rows cannot give (one class only, no rows of a class) is
        missing rather than NaN, so that a gate which needs it refuses
    calibration_curve : per label, bins of equal size in ascending order; for two classes only the second label's
    by_group : metrics of each cell of each grouping of patients that has rows, in the order of the configuration
    """

    metrics: dict[str, float]
    calibration_curve: dict[str, tuple[CurvePoint, ...]]
    by_group: tuple[GroupMetrics, ...] = ()


def evaluate(
    proba: npt.ArrayLike,
    y_index: npt.ArrayLike,
    calibration: ConformalCalibration,
    level: Decimal,
    groups: Groups,
    classes: Sequence[object],
    returning: BoolArray | None = None,
    *,
    sets: BoolArray | None = None,
    by: GroupedRows | None = None,
    weights: FloatArray | None = None,
) -> Evaluation:
    """Metrics on test rows.

    ``roc_auc`` (K > 2: mean over classes of one against the rest), ``brier`` (two classes: mean squared error of
    P(second label), in [0, 1]; K > 2: summed over classes, in [0, 2]), ``brier_skill`` (share of the base rate's Brier
    score that is gained), ``log_loss`` (nats), ``coverage`` and ``coverage_class_<label>``, ``mean_set_size`` and
    ``mean_set_size_class_<label>``, ``singleton_share``, ``empty_share``, ``n_test``, ``n_groups``,
    ``n_class_<label>``. Where rows are returning: ``n_returning_class_<label>``, ``coverage_returning_class_<label>``.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1], by the scorer that will serve
    y_index : shape (n,), class indices
    calibration, level : what the sets are made of
    groups : shape (n,), or None where every row is its own; only counted here
    classes : labels in class order
    returning : shape (n,), rows of patients seen before (a split in time); None where nobody was
    sets : shape (n, K), where they are not made of one calibration alone
    by : the groups of patients of these rows, for a table by group
    weights : shape (n,), how much each row counts in means, areas and shares; numbers of rows stay what they are. None
        where all count alike

    Raises
    ------
    BadModelOutput
        ``proba`` has another shape, or a value that is NaN or outside [0, 1].
    InvalidCalibration
        ``y_index`` does not fit ``proba``, or there are no rows.
    """
    checked = checked_probabilities(proba, len(classes))
    labels = np.asarray(y_index, dtype=np.int64)
    if labels.shape != (checked.shape[0],) or not labels.size:
        raise InvalidCalibration(f"{labels.shape} labels for {checked.shape[0]} test rows")
    found = calibration.sets(checked, level) if sets is None else sets
    metrics = score_metrics(checked, labels, weights) | _coverage_metrics(found, labels, classes, weights)
    if returning is not None:
        metrics |= _returning_metrics(holds_label(found, labels), labels, returning, classes)
    metrics["n_test"] = float(labels.size)
    metrics["n_groups"] = float(labels.size if groups is None else np.unique(np.asarray(groups)).size)
    for k, label in enumerate(classes):
        metrics[f"n_class_{label}"] = float((labels == k).sum())
    shown = range(1, 2) if len(classes) == 2 else range(len(classes))
    curve = {str(classes[k]): calibration_curve(checked[:, k], labels == k) for k in shown}
    return Evaluation(metrics, curve, () if by is None else group_metrics(checked, labels, found, by, classes, weights))


def group_metrics(
    proba: FloatArray,
    labels: IntArray,
    sets: BoolArray,
    by: GroupedRows,
    classes: Sequence[object],
    weights: FloatArray | None = None,
) -> tuple[GroupMetrics, ...]:
    """Metrics of each cell of each grouping that has rows: those of :func:`evaluate`, and the calibration slope.

    Parameters
    ----------
    proba : shape (n, K)
    labels : shape (n,), class indices
    sets : shape (n, K)
    by : the groups of these n rows
    weights : shape (n,), as in :func:`evaluate`; the slope looks at every row alike
    """
    found = []
    for g, grouping in enumerate(by.groupings.declared):
        for at, cell in enumerate(grouping.cells):
            inside = by.positions[:, g] == at
            if not inside.any():
                continue
            own, own_labels, own_weights = proba[inside], labels[inside], None if weights is None else weights[inside]
            metrics = score_metrics(own, own_labels, own_weights)
            metrics |= _coverage_metrics(sets[inside], own_labels, classes, own_weights)
            metrics |= {f"n_class_{label}": float((own_labels == k).sum()) for k, label in enumerate(classes)}
            fit = calibration_fit(own, own_labels)
            metrics |= {} if fit is None else {"calibration_slope": fit.slope.value}
            found.append(GroupMetrics(grouping.name, cell, int(inside.sum()), metrics))
    return tuple(found)


def roc_auc(proba: npt.ArrayLike, y_index: npt.ArrayLike, weights: FloatArray | None = None) -> float | None:
    """Area under the ROC curve; K > 2: mean of one class against the rest. None unless every class has rows.

    Equals the chance that a row of the class scores above a row of another, ties counting half (Mann-Whitney).

    Parameters
    ----------
    proba : shape (n, K)
    y_index : shape (n,), class indices
    weights : shape (n,), how often each row is drawn; None where all are alike
    """
    scores = np.asarray(proba, dtype=np.float64)
    labels = np.asarray(y_index, dtype=np.int64)
    n_classes = scores.shape[1]
    counts = np.bincount(labels, minlength=n_classes)
    if (counts == 0).any():
        return None
    areas = []
    for k in range(n_classes) if n_classes > 2 else (1,):
        positive, n, m = labels == k, int(counts[k]), int(labels.size - counts[k])
        if weights is not None:
            below = weight_below(scores[:, k], np.where(positive, 0.0, weights))
            areas.append(float(np.average(below[positive], weights=weights[positive]) / weights[~positive].sum()))
            continue
        above = rankdata(scores[:, k])[positive].sum() - n * (n + 1) / 2
        areas.append(float(above / (n * m)))
    return float(np.mean(areas))


def weight_below(scores: FloatArray, weights: FloatArray) -> FloatArray:
    """Weight of all rows that score below each row, and half of the weight of those that score alike, shape (n,)."""
    _, at = np.unique(scores, return_inverse=True)
    of_value = np.bincount(at, weights=weights)
    found: FloatArray = (np.cumsum(of_value) - of_value / 2)[at]
    return found


def brier_score(proba: npt.ArrayLike, y_index: npt.ArrayLike) -> float:
    """Mean squared error of the probabilities: of P(second label) for two classes, summed over classes for more."""
    return float(squared_errors(proba, y_index).mean())


def squared_errors(proba: npt.ArrayLike, y_index: npt.ArrayLike) -> FloatArray:
    """Squared error of each row's probabilities, shape (n,): what :func:`brier_score` is the mean of."""
    scores, labels = np.asarray(proba, dtype=np.float64), np.asarray(y_index, dtype=np.int64)
    n_classes = scores.shape[1]
    if n_classes == 2:
        squared: FloatArray = (scores[:, 1] - labels) ** 2
        return squared
    happened = np.eye(n_classes)[labels]
    summed: FloatArray = ((scores - happened) ** 2).sum(axis=1)
    return summed


def log_losses(proba: npt.ArrayLike, y_index: npt.ArrayLike) -> FloatArray:
    """-log of the true label's probability per row, in nats, shape (n,); probabilities below 2e-16 count as that."""
    scores = np.asarray(proba, dtype=np.float64)
    true = np.take_along_axis(scores, np.asarray(y_index, dtype=np.int64)[:, None], axis=1)[:, 0]
    losses: FloatArray = -np.log(np.maximum(true, np.finfo(np.float64).eps))
    return losses


def score_metrics(proba: FloatArray, labels: IntArray, weights: FloatArray | None = None) -> dict[str, float]:
    """``brier``, ``log_loss``, ``brier_skill`` and ``roc_auc``; the last two where the rows can give them.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1]; n > 0
    labels : shape (n,), class indices
    weights : shape (n,), how much each row counts; None where all count alike
    """
    squares = squared_errors(proba, labels)
    metrics = {"brier": _mean(squares, weights), "log_loss": _mean(log_losses(proba, labels), weights)}
    mass = np.bincount(labels, weights=weights, minlength=proba.shape[1])
    shares = mass / (labels.size if weights is None else weights.sum())
    base = _mean(squared_errors(np.broadcast_to(shares, proba.shape), labels), weights)
    if base > 0:
        metrics["brier_skill"] = 1.0 - metrics["brier"] / base
    area = roc_auc(proba, labels, weights)
    if area is not None:
        metrics["roc_auc"] = area
    return metrics


def set_metrics(sets: BoolArray, weights: FloatArray | None = None) -> dict[str, float]:
    """``mean_set_size``, ``singleton_share`` and ``empty_share`` of prediction sets, shape (n, K); n > 0."""
    sizes = sets.sum(axis=1)
    return {
        "mean_set_size": _mean(sizes, weights),
        "singleton_share": _mean(sizes == 1, weights),
        "empty_share": _mean(sizes == 0, weights),
    }


def _mean(values: npt.NDArray[Any], weights: FloatArray | None) -> float:
    return float(values.mean() if weights is None else np.average(values, weights=weights))


def _coverage_metrics(
    sets: BoolArray, labels: IntArray, classes: Sequence[object], weights: FloatArray | None
) -> dict[str, float]:
    """Coverage and set sizes, over all rows and per class."""
    covered = holds_label(sets, labels)
    metrics = {"coverage": _mean(covered, weights), **set_metrics(sets, weights)}
    for k, label in enumerate(classes):
        own = labels == k
        if own.any():
            of_class = None if weights is None else weights[own]
            metrics[f"coverage_class_{label}"] = _mean(covered[own], of_class)
            metrics[f"mean_set_size_class_{label}"] = _mean(sets[own].sum(axis=1), of_class)
    return metrics


def _returning_metrics(
    covered: BoolArray, labels: IntArray, returning: BoolArray, classes: Sequence[object]
) -> dict[str, float]:
    """Rows of patients seen before, and their coverage, per class; nothing of a class without such rows."""
    metrics = {}
    for k, label in enumerate(classes):
        own = returning & (labels == k)
        if own.any():
            metrics[f"n_returning_class_{label}"] = float(own.sum())
            metrics[f"coverage_returning_class_{label}"] = float(covered[own].mean())
    return metrics
