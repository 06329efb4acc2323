"""Sampling error of the metrics of a test split: intervals clustered by patient, and the band of coverage."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from math import sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from ml_core.base.arrays import BoolArray, FloatArray, IntArray
from ml_core.base.errors import CannotJudge
from ml_core.lab.measuring.comparison import paired_auc_difference
from ml_core.lab.measuring.coverage_law import DesignEffects, Groups, row_groups
from ml_core.lab.measuring.coverage_verdicts import coverage_verdict
from ml_core.lab.measuring.evaluation import log_losses, squared_errors
from ml_core.lab.measuring.group_coverage import CellRows, cells_verdict
from ml_core.serve.model.prediction_sets import ConformalCalibration

__all__ = ["MetricRange", "mean_interval", "metric_ranges", "skill_half_width"]

_TAIL = 0.025  # beyond either end of a range


@dataclass(frozen=True, slots=True)
class MetricRange:
    """One metric and its 95 % range.

    Attributes
    ----------
    metric : named as in the manifest's metrics; ``roc_auc_class_<label>`` where there are more than two classes
    value : on the test rows
    lower, upper : ends of the range; None where the rows cannot give one (a single patient, or no variation at all)
    kind : ``interval``: where the metric may lie on many more patients of this kind; ``band``: where the coverage of
        a valid calibration lies on test splits of this size, whatever was found
    """

    metric: str
    value: float
    lower: float | None
    upper: float | None
    kind: Literal["interval", "band"]


def metric_ranges(
    proba: npt.ArrayLike,
    y_index: npt.ArrayLike,
    groups: Groups,
    calibration: ConformalCalibration,
    level: Decimal,
    classes: tuple[object, ...],
    calibration_effects: DesignEffects,
    cells: CellRows | None = None,
) -> tuple[MetricRange, ...]:
    """Ranges of the AUC, Brier score, log loss, coverage and set sizes of a test split.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1], by the scorer that will serve
    y_index : shape (n,), class indices
    groups : shape (n,), or None where every row is its own
    calibration, level : what the sets are made of
    classes : labels in class order
    calibration_effects : of the calibration split
    cells : the calibrations behind these rows, where sets are calibrated by group

    References
    ----------
    DeLong et al. (1988), Biometrics 44:837, and Obuchowski (1997), Biometrics 53:567, for the AUC; Kish (1965), Survey
    Sampling, chapter 6, for means of clustered rows; Vovk (2012), arXiv:1209.2673, for coverage.
    """
    scores, labels = np.asarray(proba, dtype=np.float64), np.asarray(y_index, dtype=np.int64)
    sizes = (calibration if cells is None else cells).sets(scores, level).sum(axis=1).astype(np.float64)
    rows = np.ones(labels.size, dtype=np.bool_)
    means: list[tuple[str, FloatArray, BoolArray]] = [
        ("brier", squared_errors(scores, labels), rows),
        ("log_loss", log_losses(scores, labels), rows),
        ("mean_set_size", sizes, rows),
        *((f"mean_set_size_class_{label}", sizes, labels == k) for k, label in enumerate(classes)),
        ("singleton_share", (sizes == 1).astype(np.float64), rows),
        ("empty_share", (sizes == 0).astype(np.float64), rows),
    ]
    found = [_mean_range(name, values, chosen, groups) for name, values, chosen in means if chosen.any()]
    bands = _coverage_bands(scores, labels, groups, calibration, level, classes, calibration_effects, cells)
    return (*_auc_ranges(scores, labels, groups, classes), *found, *bands)


def mean_interval(values: FloatArray, groups: Groups) -> tuple[float, float] | None:
    """95 % interval for the mean of rows that come in groups, by Student's t with a group less as degrees of freedom.

    Parameters
    ----------
    values : shape (n,)
    groups : shape (n,), or None where every row is its own

    Returns
    -------
    tuple or None
        None for fewer than two groups, or values without any variation, which say nothing of how they would vary.
    """
    group = row_groups(groups, values.size)
    n_groups = int(group.max(initial=-1)) + 1
    mean = float(values.mean()) if values.size else 0.0
    sums = np.bincount(group, weights=values - mean)
    squares = float((sums**2).sum())
    if n_groups < 2 or squares <= 1e-18 * values.size:
        return None
    error = sqrt(n_groups / (n_groups - 1) * squares) / values.size
    half = float(t.ppf(1 - _TAIL, n_groups - 1)) * error
    return mean - half, mean + half


def skill_half_width(proba: FloatArray, y_index: IntArray, groups: Groups, weights: FloatArray | None = None) -> float:
    """Half width of the 95 % interval of the Brier skill, subjects as clusters; 0 where the rows cannot give one.

    The skill is 1 - L / B of two means, and its error to first order that of the mean of (L / B) b - l, over B.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1]; y_index, groups : shape (n,)
    weights : shape (n,), how much each row counts; None where all count alike
    """
    w = np.ones(y_index.size) if weights is None else weights / weights.mean()
    shares = np.bincount(y_index, weights=w, minlength=proba.shape[1]) / y_index.size
    losses = squared_errors(proba, y_index)
    base = squared_errors(np.broadcast_to(shares, proba.shape), y_index)
    lost, most = float((w * losses).mean()), float((w * base).mean())
    if most <= 0.0:
        return 0.0
    interval = mean_interval(w * (lost / most * base - losses) / most, groups)
    return 0.0 if interval is None else (interval[1] - interval[0]) / 2


def _mean_range(name: str, values: FloatArray, chosen: BoolArray, groups: Groups) -> MetricRange:
    of_these = values[chosen]
    interval = mean_interval(of_these, None if groups is None else np.asarray(groups)[chosen])
    most = 1.0 if name.endswith("_share") else np.inf
    lower, upper = (None, None) if interval is None else (max(interval[0], 0.0), min(interval[1], most))
    return MetricRange(name, float(of_these.mean()), lower, upper, "interval")


def _coverage_bands(
    scores: FloatArray,
    labels: IntArray,
    groups: Groups,
    calibration: ConformalCalibration,
    level: Decimal,
    classes: tuple[object, ...],
    calibration_effects: DesignEffects,
    cells: CellRows | None,
) -> list[MetricRange]:
    budget = 2 * (len(classes) + 1) * _TAIL
    about = (
        scores,
        labels,
        groups,
        level,
        0.0,
        classes,
        calibration_effects,
        budget,
    )  # 0: the band of the promise itself
    verdict = coverage_verdict(calibration, *about) if cells is None else cells_verdict(cells, *about)
    return [
        MetricRange(f"coverage{_suffix(row.label)}", row.coverage, row.lower, row.upper, "band")
        for row in verdict
        if row.coverage is not None
    ]


def _suffix(label: object | None) -> str:
    return "" if label is None else f"_class_{label}"


def _auc_ranges(scores: FloatArray, labels: IntArray, groups: Groups, classes: tuple[object, ...]) -> list[MetricRange]:
    """The area under the curve of each class against the rest; with two classes of the second alone."""
    found = []
    for k in range(1, 2) if len(classes) == 2 else range(len(classes)):
        try:  # compared with a score that says nothing, whose area is one half for certain
            against = paired_auc_difference(labels == k, scores[:, k], np.zeros(labels.size), groups)
        except CannotJudge:
            continue
        area, half = against.difference + 0.5, against.difference - against.lower_bound_95
        varies = against.standard_error > 0  # a perfect separation does not, which is no certainty
        lower, upper = (max(area - half, 0.0), min(area + half, 1.0)) if varies else (None, None)
        name = "roc_auc" if len(classes) == 2 else f"roc_auc_class_{classes[k]}"
        found.append(MetricRange(name, area, lower, upper, "interval"))
    return found
