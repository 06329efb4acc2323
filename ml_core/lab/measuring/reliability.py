"""Whether probabilities mean what they say: calibration slope and intercept, and predicted beside observed shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import t

from ml_core.base.arrays import BoolArray, FloatArray, IntArray

__all__ = [
    "CURVE_BINS",
    "INTERVAL_LEVEL",
    "CalibrationEstimate",
    "CalibrationFit",
    "CurvePoint",
    "calibration_curve",
    "calibration_fit",
]

CURVE_BINS = 10
INTERVAL_LEVEL = 0.95
"""Level of the interval around an estimate on matured answers."""

_NEAREST, _STEPS, _STEEPEST = 1e-9, 50, 30.0  # of the fits
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One bin of a calibration curve: mean predicted probability, share observed, rows."""

    predicted: float
    observed: float
    n: int


@dataclass(frozen=True, slots=True)
class CalibrationEstimate:
    """A number of a calibration fit with its standard error (by patient) and its 95 % interval."""

    value: float
    standard_error: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class CalibrationFit:
    """How the log odds of the second label hang on their predicted log odds (Cox 1958, Biometrika 45:562).

    Attributes
    ----------
    slope : 1 means that predictions spread as they should, less that they are too extreme
    intercept : "calibration in the large": what must be added to the predicted log odds, at slope 1, so that the mean
        fits; 0 means that predictions are right on average, more that they are too low
    """

    slope: CalibrationEstimate
    intercept: CalibrationEstimate


def calibration_fit(proba: npt.ArrayLike, y_index: npt.ArrayLike, ids: IntArray | None = None) -> CalibrationFit | None:
    """Slope and intercept by maximum likelihood, with sandwich estimates of their errors over patients.

    None where the slope has no finite value (one class only, no variation, or classes that scores separate), and for
    more than two classes.

    Parameters
    ----------
    proba : shape (n, K)
    y_index : shape (n,), class indices
    ids : shape (n,), number of each row's patient; None where every row is its own

    References
    ----------
    Cox (1958), Biometrika 45:562; Van Calster, McLernon, van Smeden, Wynants & Steyerberg (2019), BMC Medicine 17:230.
    """
    scores, labels = np.asarray(proba, dtype=np.float64), np.asarray(y_index, dtype=np.int64)
    patients = np.arange(labels.size) if ids is None else ids
    if scores.shape[1] != 2 or np.unique(labels).size < 2:
        return None
    odds = logit(np.clip(scores[:, 1], _NEAREST, 1.0 - _NEAREST))
    center, spread = float(odds.mean()), float(odds.std())
    if spread < _LEAST_SPREAD:
        return None
    ones = np.ones((odds.size, 1))
    line = _fitted(np.column_stack([ones, (odds - center) / spread]), np.zeros_like(odds), labels, patients)
    level = _fitted(ones, odds, labels, patients)
    if line is None or level is None:
        return None
    fewest = min(np.unique(patients[labels == k]).size for k in (0, 1))
    reach = float(t.isf((1.0 - INTERVAL_LEVEL) / 2, fewest - 1)) if fewest > 1 else float("inf")
    return CalibrationFit(
        slope=_estimate(line[0][1] / spread, line[1][1] / spread, reach),
        intercept=_estimate(level[0][0], level[1][0], reach),
    )


def _estimate(value: float, error: float, reach: float) -> CalibrationEstimate:
    half = reach * error
    return CalibrationEstimate(float(value), float(error), float(value - half), float(value + half))


def _fitted(
    terms: FloatArray, offset: FloatArray, labels: IntArray, patients: IntArray
) -> tuple[FloatArray, FloatArray] | None:
    """Coefficients of a logistic regression, by Newton steps, and their standard errors; None where it has no end.

    Parameters
    ----------
    terms : shape (n, d)
    offset : shape (n,), log odds that are given
    """
    at = np.zeros(terms.shape[1])
    for _ in range(_STEPS):
        share = expit(terms @ at + offset)
        inverse = np.linalg.pinv((terms.T * (share * (1.0 - share))) @ terms)
        step = inverse @ (terms.T @ (labels - share))
        at = at + step
        if np.abs(step).max() < _NEAREST:
            break
        if np.abs(at).max() > _STEEPEST:  # classes that are separated
            return None
    else:
        return None
    pulls = terms * (labels - share)[:, None]
    together = np.stack([np.bincount(patients, weights=pull) for pull in pulls.T], axis=1)
    n = np.unique(patients).size
    variance = inverse @ (together.T @ together) @ inverse * n / max(n - 1, 1)
    return at, np.sqrt(np.diag(variance))


def calibration_curve(probability: FloatArray, happened: BoolArray, bins: int = CURVE_BINS) -> tuple[CurvePoint, ...]:
    """Predicted against observed in at most ``bins`` bins of about equal size; equal predictions share a bin.

    Parameters
    ----------
    probability : shape (n,), in [0, 1]
    happened : shape (n,)
    """
    edges = np.unique(np.quantile(probability, np.arange(1, bins) / bins, method="inverted_cdf"))
    where = np.searchsorted(edges, probability, side="left")
    points = []
    for b in range(edges.size + 1):
        inside = where == b
        n = int(inside.sum())
        if n:
            points.append(CurvePoint(float(probability[inside].mean()), float(happened[inside].mean()), n))
    return tuple(points)
