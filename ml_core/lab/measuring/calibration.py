"""Calibrates: sorts the scores of calibration rows, checks that they suffice, and checks the result against MAPIE."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor, log
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import CalibrationDisagrees, CalibrationTooSmall, InvalidCalibration
from ml_core.serve.model.conformity_scores import FloatArray, IntArray, checked_probabilities, true_label_scores
from ml_core.serve.model.prediction_sets import ConformalCalibration, Guarantee, misses_allowed

__all__ = [
    "MAPIE_TOLERANCE",
    "agree_with_mapie",
    "calibrate",
    "check_large_enough",
    "mapie_classifier",
    "mapie_thresholds",
    "needed_rows",
]

MAPIE_TOLERANCE = 1e-8
"""MAPIE 1.6 admits a label up to this far beyond its threshold (``mapie._machine_precision.EPSILON``); we do not."""


def calibrate(
    proba: npt.ArrayLike,
    y_index: npt.ArrayLike,
    n_classes: int,
    guarantee: Guarantee = "class_conditional",
    confidence: Decimal | None = None,
) -> ConformalCalibration:
    """The calibration: the sorted scores of the true labels.

    A class with few rows, or none, is allowed here and simply enters every set; :func:`check_large_enough` is the
    place to refuse it at training time.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1]
        Probabilities of calibration rows, by the scorer that will serve; the model never saw these rows.
    y_index : shape (n,), position of the true label in class order, 0 to K - 1
    confidence : over calibrations, that the true coverage is at least the level; None for the mean over calibrations

    Raises
    ------
    BadModelOutput
        ``proba`` has another shape, or a value that is NaN or outside [0, 1].
    InvalidCalibration
        ``y_index`` has another length or an index out of range.

    Examples
    --------
    >>> calibrate([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], [0, 0, 1], 2).scores
    (array([0.25, 0.5 ]), array([0.25]))
    """
    checked = checked_probabilities(proba, n_classes)
    labels = _checked_labels(y_index, checked.shape[0], n_classes)
    scores = true_label_scores(checked, labels)
    if guarantee == "marginal":
        pooled = np.sort(scores)
        return ConformalCalibration(guarantee, (pooled,) * n_classes, confidence)
    return ConformalCalibration(guarantee, tuple(np.sort(scores[labels == k]) for k in range(n_classes)), confidence)


def needed_rows(level: Decimal, confidence: Decimal | None = None) -> int:
    """Fewest calibration rows for which the level means anything: ceil(1 / alpha) - 1.

    With fewer, every label is in every set. With a confidence, the fewest of which one at least falls into a share of
    alpha with that probability.

    Examples
    --------
    >>> needed_rows(Decimal("0.9")), needed_rows(Decimal("0.99"))
    (9, 99)
    >>> needed_rows(Decimal("0.9"), Decimal("0.95"))
    29
    """
    rows = ceil(1 / (1 - Fraction(level))) - 1
    if confidence is None:
        return rows
    rows = max(rows, floor(log(1 - confidence) / log(level)) - 1)
    while not misses_allowed(rows, level, confidence):
        rows += 1
    return rows


def check_large_enough(calibration: ConformalCalibration, level: Decimal, classes: Sequence[object]) -> None:
    """Check that every class has the rows that the level needs.

    Raises
    ------
    CalibrationTooSmall
        A class has fewer than :func:`needed_rows`; the first such class is named.
    """
    needed = needed_rows(level, calibration.confidence)
    for label, rows in zip(classes, calibration.sizes, strict=True):
        if rows < needed:
            raise CalibrationTooSmall(label, rows, needed, level)


def mapie_classifier(
    proba: npt.ArrayLike, y_index: npt.ArrayLike, levels: Sequence[float], classes: Sequence[int]
) -> Any:
    """MAPIE's ``SplitConformalClassifier`` (LAC) conformalised on these rows; its ``X`` are probabilities.

    MAPIE keeps the estimator's dtype in calibration and widens it in prediction, so that with float32 estimators tied
    rows can fall out of their set; here everything is float64.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1]
    y_index : shape (n,), class indices
    levels : confidence levels, in (0, 1)
    classes : all class indices, 0 to K - 1

    Returns
    -------
    mapie.classification.SplitConformalClassifier
        Class-conditional sets need one such object per class, conformalised on the rows of that class alone.
    """
    from mapie.classification import SplitConformalClassifier  # build side only
    from sklearn.base import BaseEstimator, ClassifierMixin

    class GivenProbabilities(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A fitted classifier whose features are already the probabilities."""

        def __init__(self) -> None:
            self.classes_ = np.asarray(classes)
            self.is_fitted_ = True

        def fit(self, *_: object) -> GivenProbabilities:
            return self

        def predict_proba(self, rows: npt.ArrayLike) -> FloatArray:
            return np.asarray(rows, dtype=np.float64)

        def predict(self, rows: npt.ArrayLike) -> IntArray:
            return np.asarray(self.classes_[self.predict_proba(rows).argmax(axis=1)], dtype=np.int64)

    mapie = SplitConformalClassifier(GivenProbabilities(), confidence_level=list(levels), prefit=True)
    with warnings.catch_warnings():  # it warns that one class alone is conformalised, which is the point
        warnings.filterwarnings("ignore", message=".*has less labels than your training")
        return mapie.conformalize(np.asarray(proba, dtype=np.float64), np.asarray(y_index))


def mapie_thresholds(
    proba: npt.ArrayLike,
    y_index: npt.ArrayLike,
    level: Decimal | Sequence[Decimal],
    guarantee: Guarantee = "class_conditional",
) -> tuple[float, ...]:
    """MAPIE's own threshold per class; infinity for a class too small for MAPIE (it refuses n < 1 / alpha).

    Parameters
    ----------
    proba : shape (n, K), in [0, 1]
    y_index : shape (n,), class indices
    level : of all classes, or one per class
    """
    checked = checked_probabilities(proba)
    labels = np.asarray(y_index, dtype=np.int64)
    n_classes = checked.shape[1]
    thresholds = []
    for k, wanted in enumerate((level,) * n_classes if isinstance(level, Decimal) else level):
        alpha = float(1 - wanted)
        smallest = max(1 / alpha, 1 / (1 - alpha)) if alpha else float("inf")  # MAPIE's own condition, in its floats
        rows = labels == k if guarantee == "class_conditional" else np.ones(labels.size, dtype=np.bool_)
        if int(rows.sum()) < smallest:
            thresholds.append(float("inf"))
            continue
        mapie = mapie_classifier(checked[rows], labels[rows], [float(wanted)], range(n_classes))
        mapie.predict_set(checked[rows][:1])  # MAPIE computes the quantile only here
        quantiles = mapie._mapie_classifier.conformity_score_function_.quantiles_  # noqa: SLF001  # kept nowhere public
        thresholds.append(float(np.ravel(quantiles)[0]))
    return tuple(thresholds)


def agree_with_mapie(
    calibration: ConformalCalibration,
    proba: npt.ArrayLike,
    y_index: npt.ArrayLike,
    level: Decimal,
    classes: Sequence[object],
) -> tuple[float, ...]:
    """The thresholds of the calibration, checked against those that MAPIE computes from the same rows.

    A calibration with a confidence is compared at the levels it has inside, one per class.

    A class too small for MAPIE cannot be compared and passes: its threshold follows from the rule alone. Where
    (n + 1) * level is a whole number, MAPIE's float product may land just above it (449 rows at 0.54) and its threshold
    is then the next score; that is accepted, ours is exact.

    Raises
    ------
    CalibrationDisagrees
        A threshold differs in any bit.
    """
    ours = calibration.thresholds(level)
    levels = calibration.inner_levels(level)
    theirs = mapie_thresholds(proba, y_index, levels, calibration.guarantee)
    for label, scores, inner, own, other in zip(classes, calibration.scores, levels, ours, theirs, strict=True):
        if np.isfinite(other) and other not in {own, _one_rank_up(scores, inner, own)}:
            raise CalibrationDisagrees(label, own, other)
    return ours


def _one_rank_up(scores: FloatArray, level: Decimal, threshold: float) -> float:
    """The next score after the threshold where (n + 1) * level is whole, else the threshold."""
    misses = misses_allowed(scores.size, level)
    is_whole = ((scores.size + 1) * Fraction(level)).denominator == 1
    return float(scores[scores.size - misses + 1]) if is_whole and misses > 1 else threshold


def _checked_labels(y_index: npt.ArrayLike, n_rows: int, n_classes: int) -> IntArray:
    labels = np.asarray(y_index)
    if labels.shape != (n_rows,) or labels.dtype.kind not in "iu":
        raise InvalidCalibration(
            f"labels have shape {labels.shape} and type {labels.dtype}; {n_rows} indices are needed"
        )
    labels = labels.astype(np.int64)
    if n_rows and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise InvalidCalibration(f"a label index lies outside 0 to {n_classes - 1}")
    return labels
