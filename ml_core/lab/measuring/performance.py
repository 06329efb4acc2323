"""Performance on matured answers: discrimination, calibration, coverage and set sizes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import t

from ml_core.base.arrays import BoolArray, FloatArray, IntArray, Label
from ml_core.base.errors import DataError
from ml_core.lab.measuring.comparison import paired_auc_difference
from ml_core.lab.measuring.coverage_law import holds_label
from ml_core.lab.measuring.evaluation import SHARED_BY, roc_auc, score_metrics, set_metrics
from ml_core.lab.measuring.live_coverage import (
    CoverageBand,
    CoverageTarget,
    RowTargets,
    class_indices,
    coverage_bands,
    group_ids,
)
from ml_core.lab.measuring.reliability import (
    CURVE_BINS,
    INTERVAL_LEVEL,
    CalibrationEstimate,
    CurvePoint,
    calibration_curve,
    calibration_fit,
)
from ml_core.serve.model.conformity_scores import checked_probabilities

__all__ = [
    "MINIMUM",
    "AucEstimate",
    "MaturedArrays",
    "MaturedPerformance",
    "Reason",
    "performance",
]

MINIMUM = 20
"""Fewest rows for means, and fewest patients of each class for AUC and Brier skill.

With 20 patients of a class or more, the 95 % interval of the AUC covers the true value in 95 of 100 draws of normal
scores for areas up to 0.8, in 92 to 94 at 0.9, and in 88 to 92 at 0.97. Be careful with a near-perfect area of few
patients.
"""

_MEANS = ("brier", "brier_skill", "log_loss", "mean_set_size", "singleton_share", "empty_share")

Reason = Literal["too_few_rows", "too_few_of_a_class", "not_binary"]


@dataclass(frozen=True, slots=True, eq=False)
class MaturedArrays:
    """Matured answers of one model and one calibration, as arrays.

    They must hold every answer of a day or none. Labels that come early (readmitted on day 5) differ from those that
    come late (not readmitted by day 30); the early ones alone would show another model.

    Attributes
    ----------
    proba : shape (n, K), in [0, 1], class probabilities as answered
    p_values : shape (n, K), as answered
    labels : shape (n,), each one of the model's classes
    groups : shape (n,), patient of every row (None: its own); None where every row is its own
    """

    proba: npt.ArrayLike
    p_values: npt.ArrayLike
    labels: Sequence[Label] | npt.NDArray[np.generic]
    groups: Sequence[Hashable] | npt.NDArray[np.generic] | None = None

    def only(self, rows: BoolArray) -> MaturedArrays:
        """Some of the rows, by a mask of shape (n,)."""
        places = rows.nonzero()[0].tolist()
        return MaturedArrays(
            proba=np.asarray(self.proba, dtype=np.float64)[places],
            p_values=np.asarray(self.p_values, dtype=np.float64)[places],
            labels=[self.labels[n] for n in places],
            groups=None if self.groups is None else [self.groups[n] for n in places],
        )


@dataclass(frozen=True, slots=True)
class AucEstimate:
    """Area under the ROC curve, in [0, 1], with its standard error (by patient) and its 95 % interval."""

    value: float
    standard_error: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class MaturedPerformance:
    """Performance of a model on matured answers. A number that the rows cannot give is None; ``unjudged`` says why.

    Attributes
    ----------
    n : rows
    n_per_class : rows of each class, in class order
    auc : of two classes, the second being the positive one; of more, the mean over classes of one against the rest,
        with the mean of their standard errors, which that of the mean does not exceed
    brier : mean squared error of P(second label) for two classes, in [0, 1]; summed over classes for more, in [0, 2]
    brier_skill : 1 minus the ratio of the Brier score to that of a constant forecast of the class shares; at most 1
    log_loss : mean, nats
    coverage : of all rows, then of each class, at the model's configured level
    mean_set_size : labels per set
    singleton_share, empty_share : share of sets with one label, and with none
    calibration_slope, calibration_intercept : as in ``CalibrationFit``, of two classes; None as well where scores
        separate the classes or are all alike
    reliability : of two classes, predicted and observed share of the second one in at most ten bins of rows, with ten
        patients or more to a bin on average
    unjudged : for each number that is None, the reason: ``too_few_rows``, ``too_few_of_a_class`` or ``not_binary``
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
    calibration_slope: CalibrationEstimate | None
    calibration_intercept: CalibrationEstimate | None
    reliability: tuple[CurvePoint, ...]
    unjudged: dict[str, Reason]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Checked rows: ``proba`` and ``sets`` (n, K), label ``index`` (n,), patient ``ids`` (n,)."""

    proba: FloatArray
    sets: BoolArray
    index: IntArray
    ids: IntArray


def performance(
    matured: MaturedArrays, target: CoverageTarget | RowTargets, *, minimum: int = MINIMUM
) -> MaturedPerformance:
    """Performance on these rows.

    Coverage is given for any number of rows: its band is wide where rows are few.

    Parameters
    ----------
    target : coverage target of all rows, or of each
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
    if minimum < 2:
        raise ValueError(f"minimum of {minimum} rows, expected 2 or more")
    rows, n_classes = _checked(matured, target), len(target.classes)
    reasons = _reasons(rows, n_classes, minimum)
    found = {**score_metrics(rows.proba, rows.index), **set_metrics(rows.sets)} if rows.index.size else {}
    known = {name: None if reasons[name] else found[name] for name in _MEANS}
    fit = None if reasons["calibration_slope"] else calibration_fit(rows.proba, rows.index, rows.ids)
    return MaturedPerformance(
        n=int(rows.index.size),
        n_per_class=tuple(int(c) for c in np.bincount(rows.index, minlength=n_classes)),
        auc=None if reasons["auc"] else _auc(rows.proba, rows.index, rows.ids),
        calibration_slope=None if fit is None else fit.slope,
        calibration_intercept=None if fit is None else fit.intercept,
        reliability=() if reasons["calibration_slope"] else _reliability(rows),
        coverage=coverage_bands(holds_label(rows.sets, rows.index), rows.index, target, rows.ids),
        unjudged={name: reason for name, reason in reasons.items() if reason},
        **known,
    )


def _checked(matured: MaturedArrays, target: CoverageTarget | RowTargets) -> _Rows:
    proba = checked_probabilities(matured.proba, len(target.classes))
    index = class_indices(matured.labels, target.classes)
    of_rows = target if isinstance(target, RowTargets) else RowTargets.of(target, len(np.asarray(matured.p_values)))
    sets = of_rows.sets(matured.p_values)
    ids = group_ids(matured.groups)
    lengths = {proba.shape[0], sets.shape[0], index.size, index.size if ids is None else ids.size}
    if len(lengths) > 1:
        raise DataError("matured labels", f"columns of {sorted(lengths)} rows, expected one length")
    return _Rows(proba, sets, index, np.arange(index.size) if ids is None else ids)


def _reliability(rows: _Rows) -> tuple[CurvePoint, ...]:
    """The calibration curve, in bins of which each tells of ``SHARED_BY`` patients or more on average."""
    bins = min(CURVE_BINS, max(1, np.unique(rows.ids).size // SHARED_BY))
    return calibration_curve(rows.proba[:, 1], rows.index == 1, bins)


def _reasons(rows: _Rows, n_classes: int, minimum: int) -> dict[str, Reason | None]:
    """Why each number cannot be given; None where it can."""
    patients = [np.unique(rows.ids[rows.index == k]).size for k in range(n_classes)]
    few: Reason | None = "too_few_rows" if rows.index.size < minimum else None
    scarce: Reason | None = few or ("too_few_of_a_class" if min(patients) < minimum else None)
    reasons = dict.fromkeys(_MEANS, few)
    slope: Reason | None = "not_binary" if n_classes > 2 else scarce
    return reasons | {"auc": scarce, "brier_skill": scarce, "calibration_slope": slope}


def _auc(proba: FloatArray, index: IntArray, ids: IntArray) -> AucEstimate:
    """AUC with ties counting half, its error by patient, and an interval on the scale of log(A / (1 - A)).

    On that scale no end leaves [0, 1]. Where the scores separate the classes completely, the variance estimate is 0.
    The interval then follows from min(P, N) pairs that share no patient: all of them are in order with probability at
    most A ** min(P, N).
    """
    area = roc_auc(proba, index)
    if area is None:
        raise ValueError("an AUC needs rows of every class")
    n_classes = proba.shape[1]
    fewest, outside = min(np.unique(ids[index == k]).size for k in range(n_classes)), (1.0 - INTERVAL_LEVEL) / 2
    if area in {0.0, 1.0}:
        reach = outside ** (1.0 / fewest)
        return AucEstimate(area, 0.0, reach if area else 0.0, 1.0 if area else 1.0 - reach)
    # compared with a constant score, whose AUC is one half without any error
    errors = [
        paired_auc_difference(index == k, proba[:, k], np.zeros(index.size), ids).standard_error
        for k in (range(n_classes) if n_classes > 2 else (1,))
    ]
    error = float(np.mean(errors))
    half = float(t.isf(outside, fewest - 1)) * error / (area * (1.0 - area))
    middle = float(logit(area))
    return AucEstimate(area, error, float(expit(middle - half)), float(expit(middle + half)))
