"""Realised performance of answers whose labels have come: for one window, and bucket by bucket for history plots."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import rankdata, t

from ml_core.base.errors import DataError
from ml_core.lab.measuring.live_coverage import (
    BoolArray,
    CoverageBand,
    Label,
    Promise,
    class_indices,
    coverage_bands,
    group_ids,
    sets_of,
)
from ml_core.serve.model.conformity_scores import FloatArray, IntArray, checked_probabilities

__all__ = [
    "INTERVAL_LEVEL",
    "MINIMUM",
    "AucEstimate",
    "Bucket",
    "Matured",
    "Performance",
    "Reason",
    "history",
    "performance",
]

INTERVAL_LEVEL = 0.95
"""Level of the interval around an AUC."""

MINIMUM = 20
"""Fewest rows that means are given for, and fewest patients of each class for AUC and Brier skill.

From 20 patients of a class on, the AUC's 95 % interval holds the truth in 95 of 100 draws of normal scores for areas up
to 0.8, in 92 to 94 at 0.9, and in 88 to 92 at 0.97: with few patients be careful with a near-perfect area.
"""

Reason = Literal["too_few_rows", "too_few_of_a_class", "not_binary"]


@dataclass(frozen=True, slots=True, eq=False)
class Matured:
    """Answers of one model, by one calibration, whose labels are known.

    Every answer of the window must be in it, or none of its day: labels that come early (readmitted on day 5) are not
    like those that come late (not readmitted by day 30), and alone would show another model.

    Attributes
    ----------
    proba : shape (n, K), in [0, 1], class probabilities as answered
    p_values : shape (n, K), as answered
    labels : shape (n,), what turned out to be true, each one of the model's classes
    groups : shape (n,), patient of every row (None: its own); None where every row is its own
    """

    proba: npt.ArrayLike
    p_values: npt.ArrayLike
    labels: Sequence[Label] | npt.NDArray[np.generic]
    groups: Sequence[Hashable] | npt.NDArray[np.generic] | None = None


@dataclass(frozen=True, slots=True)
class AucEstimate:
    """Area under the ROC curve, in [0, 1], with its standard error (by patient) and its 95 % interval."""

    value: float
    standard_error: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Performance:
    """What matured labels say about a model; a number they cannot give is None, and ``unjudged`` says why.

    Attributes
    ----------
    n : rows
    n_per_class : rows of each class, in class order
    auc : of two classes, the second being the positive one
    brier : mean squared error of P(second label) for two classes, in [0, 1]; summed over classes for more, in [0, 2]
    brier_skill : share of the Brier score of these rows' own class shares that is gained; at most 1
    log_loss : mean, nats
    coverage : of all rows, then of each class, at the model's configured level
    mean_set_size : labels per set
    singleton_share, empty_share : share of sets with one label, and with none
    unjudged : reason by name of what is None: ``too_few_rows``, ``too_few_of_a_class`` or ``not_binary``
    """

    n: int
    n_per_class: tuple[int, ...]
    auc: AucEstimate | None
    brier: float | None
    brier_skill: float | None
    log_loss: float | None
    coverage: tuple[CoverageBand, ...]
    mean_set_size: float | None
    singleton_share: float | None
    empty_share: float | None
    unjudged: dict[str, Reason]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Performance on the answers given in one day or week that begins at ``start`` (midnight UTC; weeks on Monday)."""

    start: datetime
    performance: Performance


@dataclass(frozen=True, slots=True)
class _Rows:
    """Matured rows, checked: ``proba`` and ``sets`` (n, K), ``index`` (n,) of the labels, ``ids`` (n,) of patients."""

    proba: FloatArray
    sets: BoolArray
    index: IntArray
    ids: IntArray

    def __getitem__(self, chosen: BoolArray) -> _Rows:
        return _Rows(self.proba[chosen], self.sets[chosen], self.index[chosen], self.ids[chosen])


def performance(matured: Matured, promise: Promise, *, minimum: int = MINIMUM) -> Performance:
    """Performance on these rows.

    Coverage is judged at any number of rows, because its band widens as they get fewer.

    Parameters
    ----------
    minimum : fewest rows for means, and fewest patients of each class for AUC and Brier skill; >= 2

    Raises
    ------
    DataError
        Columns of different lengths, an unknown label, or p-values of another calibration.
    BadModelOutput
        Probabilities of another shape, or not in [0, 1].

    References
    ----------
    DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44:837; Obuchowski (1997), Biometrics 53:567.
    """
    return _performance(_checked(matured, promise), promise, minimum)


def history(
    at: Sequence[datetime],
    matured: Matured,
    promise: Promise,
    *,
    bucket: Literal["day", "week"] = "day",
    minimum: int = MINIMUM,
) -> tuple[Bucket, ...]:
    """Performance per day or week, oldest first; a bucket without rows is left out.

    Parameters
    ----------
    at : shape (n,), when each answer was given; with a time zone

    Raises
    ------
    DataError
        As :func:`performance`; a time without time zone.
    """
    rows = _checked(matured, promise)
    if len(at) != rows.index.size:
        raise DataError("matured labels", f"{len(at)} times for {rows.index.size} answers")
    starts = np.array([_start_of(moment, bucket) for moment in at], dtype=object)
    return tuple(
        Bucket(start, _performance(rows[np.asarray(starts == start, dtype=np.bool_)], promise, minimum))
        for start in sorted(set(starts))
    )


def _start_of(moment: datetime, bucket: Literal["day", "week"]) -> datetime:
    if moment.tzinfo is None:
        raise DataError("matured labels", f"time {moment.isoformat()} has no time zone")
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day if bucket == "day" else day - timedelta(days=day.weekday())


def _checked(matured: Matured, promise: Promise) -> _Rows:
    proba = checked_probabilities(matured.proba, len(promise.classes))
    sets = sets_of(matured.p_values, promise.sizes, promise.level)
    index = class_indices(matured.labels, promise.classes)
    ids = group_ids(matured.groups)
    lengths = {proba.shape[0], sets.shape[0], index.size, index.size if ids is None else ids.size}
    if len(lengths) > 1:
        raise DataError("matured labels", f"columns of {sorted(lengths)} rows, expected one length")
    return _Rows(proba, sets, index, np.arange(index.size) if ids is None else ids)


def _performance(rows: _Rows, promise: Promise, minimum: int) -> Performance:
    if minimum < 2:
        raise ValueError(f"minimum of {minimum} rows, expected 2 or more")
    n_classes = len(promise.classes)
    reasons = _reasons(rows, n_classes, minimum)
    means = {name: None if reasons[name] else float(mean(rows)) for name, mean in _MEANS.items()}
    covered = rows.sets[np.arange(rows.index.size), rows.index]
    return Performance(
        n=int(rows.index.size),
        n_per_class=tuple(int(c) for c in np.bincount(rows.index, minlength=n_classes)),
        auc=None if reasons["auc"] else _auc(rows.proba[:, 1], rows.index == 1, rows.ids),
        brier=means["brier"],
        brier_skill=means["brier_skill"],
        log_loss=means["log_loss"],
        coverage=coverage_bands(covered, rows.index, promise, rows.ids),
        mean_set_size=means["mean_set_size"],
        singleton_share=means["singleton_share"],
        empty_share=means["empty_share"],
        unjudged={name: reason for name, reason in reasons.items() if reason},
    )


def _reasons(rows: _Rows, n_classes: int, minimum: int) -> dict[str, Reason | None]:
    """Why each number cannot be given; None where it can."""
    patients = [np.unique(rows.ids[rows.index == k]).size for k in range(n_classes)]
    few: Reason | None = "too_few_rows" if rows.index.size < minimum else None
    scarce: Reason | None = few or ("too_few_of_a_class" if min(patients) < minimum else None)
    reasons = dict.fromkeys(_MEANS, few)
    return reasons | {"auc": "not_binary" if n_classes > 2 else scarce, "brier_skill": scarce}


def _auc(scores: FloatArray, positive: BoolArray, ids: IntArray) -> AucEstimate:
    """AUC with ties counting half, its error by patient, and an interval on the scale of log(A / (1 - A)).

    On that scale no end leaves [0, 1]. Where the classes are fully apart no spread is seen; then min(P, N) pairs, none
    sharing a patient, were all in order, which has at most the chance A ** min(P, N).
    """
    components = _components(scores, positive)
    with_pos, with_neg = np.unique(ids[positive]).size, np.unique(ids[~positive]).size
    fewest, outside = min(with_pos, with_neg), (1.0 - INTERVAL_LEVEL) / 2
    area = float(components[positive].mean())
    if area in {0.0, 1.0}:
        reach = outside ** (1.0 / fewest)
        return AucEstimate(area, 0.0, reach if area else 0.0, 1.0 if area else 1.0 - reach)
    error = sqrt(_clustered_variance(components - area, positive, ids, with_pos, with_neg))
    half = float(t.isf(outside, fewest - 1)) * error / (area * (1.0 - area))
    middle = float(logit(area))
    return AucEstimate(area, error, float(expit(middle - half)), float(expit(middle + half)))


def _components(scores: FloatArray, positive: BoolArray) -> FloatArray:
    """DeLong's components in row order: for a positive row the share of negatives below it, and the other way round."""
    components = np.empty(scores.size)
    overall = rankdata(scores)
    pos, neg = scores[positive], scores[~positive]
    components[positive] = (overall[positive] - rankdata(pos)) / neg.size
    components[~positive] = 1.0 - (overall[~positive] - rankdata(neg)) / pos.size
    return components


def _clustered_variance(
    residuals: FloatArray, positive: BoolArray, ids: IntArray, with_pos: int, with_neg: int
) -> float:
    """Obuchowski's variance of an AUC from its centred components."""
    n_groups = np.unique(ids).size
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    pos = np.bincount(ids[positive], weights=residuals[positive], minlength=int(ids.max()) + 1)
    neg = np.bincount(ids[~positive], weights=residuals[~positive], minlength=int(ids.max()) + 1)
    s10 = with_pos / ((with_pos - 1) * n_pos) * float((pos**2).sum())
    s01 = with_neg / ((with_neg - 1) * n_neg) * float((neg**2).sum())
    s11 = n_groups / (n_groups - 1) * float((pos * neg).sum())
    return max(s10 / n_pos + s01 / n_neg + 2.0 * s11 / (n_pos * n_neg), 0.0)


def _brier(rows: _Rows) -> float:
    return float(_squared_errors(rows.proba, rows.index).mean())


def _brier_skill(rows: _Rows) -> float:
    shares = np.bincount(rows.index, minlength=rows.proba.shape[1]) / rows.index.size
    return 1.0 - _brier(rows) / float(_squared_errors(np.broadcast_to(shares, rows.proba.shape), rows.index).mean())


def _squared_errors(proba: FloatArray, index: IntArray) -> FloatArray:
    if proba.shape[1] == 2:
        squared: FloatArray = (proba[:, 1] - index) ** 2
        return squared
    summed: FloatArray = ((proba - np.eye(proba.shape[1])[index]) ** 2).sum(axis=1)
    return summed


def _log_loss(rows: _Rows) -> float:
    true = rows.proba[np.arange(rows.index.size), rows.index]
    return float(-np.log(np.maximum(true, np.finfo(np.float64).eps)).mean())  # a sure miss stays finite


_MEANS: dict[str, Callable[[_Rows], float]] = {
    "brier": _brier,
    "brier_skill": _brier_skill,
    "log_loss": _log_loss,
    "mean_set_size": lambda rows: rows.sets.sum(axis=1).mean(),
    "singleton_share": lambda rows: (rows.sets.sum(axis=1) == 1).mean(),
    "empty_share": lambda rows: (rows.sets.sum(axis=1) == 0).mean(),
}
