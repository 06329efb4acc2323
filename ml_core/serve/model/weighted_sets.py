"""Sets for patients whose mix has changed in a known way: weighted conformal p-values, in numpy alone.

Under covariate shift the features of live rows follow another law than those of the calibration rows, while the outcome
given the features does not change. Each calibration row then counts by the ratio w(x) of the two densities, and so does
the row that is asked about (Tibshirani, Barber, Candès and Ramdas 2019, arXiv:1904.06019).
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray, FeatureMatrix, FloatArray
from ml_core.base.errors import BadModelOutput, InvalidCalibration
from ml_core.serve.model.conformity_scores import checked_probabilities
from ml_core.serve.model.prediction_sets import ConformalCalibration, Predictions, RowPrediction, largest_p_value

__all__ = ["WIDEST", "DensityRatio", "WeightedCalibration", "effective_rows", "sets_above"]

WIDEST = 3.0
"""A feature counts as that many standard deviations from its mean at most: far rows must not decide alone."""

_STEPS = 128
_MOST_STEPS = 4 * _STEPS
_WEIGHTS = np.array([math.exp(step / _STEPS) for step in range(-_MOST_STEPS, _MOST_STEPS + 1)])


def effective_rows(weights: FloatArray) -> float:
    """Equally weighted rows that are worth as much as rows of these weights, shape (n,) (Kish 1965).

    Examples
    --------
    >>> effective_rows(np.array([1.0, 1.0, 2.0]))
    2.6666666666666665
    """
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


class DensityRatio:
    """How much more often a row of these features comes now than among the calibration rows: w(x).

    log w(x) is linear in the standardised features, each cut off at 3 standard deviations; a missing value counts as
    the mean. It is rounded to multiples of 1/128 and kept within 4 of zero, so that weights lie between 1/55 and 55 and
    are the same on every processor. A common factor of all weights changes no p-value.

    Parameters
    ----------
    content : ``center``, ``scale`` and ``coefficients`` (d,), and the number ``intercept``

    Raises
    ------
    InvalidCalibration
        Arrays of different shapes, or numbers that are not finite.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        try:
            names = ("center", "scale", "coefficients", "intercept")
            parts = [np.asarray(content[name], dtype=np.float64) for name in names]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidCalibration("there is no density ratio") from error
        center, scale, coefficients, intercept = parts
        if center.ndim != 1 or not center.shape == scale.shape == coefficients.shape or intercept.size != 1:
            raise InvalidCalibration("the density ratio has arrays of different shapes")
        if not all(np.isfinite(part).all() for part in parts) or (scale <= 0).any():
            raise InvalidCalibration("the density ratio has a number that is not finite, or a scale not above 0")
        self.center, self.scale, self.coefficients, self.intercept = center, scale, coefficients, float(intercept.sum())

    def weights(self, features: FeatureMatrix) -> FloatArray:
        """W of each row of a matrix (n, d), shape (n,). Row i never depends on row j (no BLAS call)."""
        far = np.where(np.isnan(features), 0.0, features.astype(np.float64) - self.center) / self.scale
        logarithm = (np.clip(far, -WIDEST, WIDEST) * self.coefficients).sum(axis=1) + self.intercept
        steps = np.clip(np.rint(logarithm * _STEPS), -_MOST_STEPS, _MOST_STEPS).astype(np.int64)
        found: FloatArray = _WEIGHTS[steps + _MOST_STEPS]
        return found


@dataclass(frozen=True, eq=False)
class WeightedCalibration:
    """Sorted calibration scores of each class with the weight of each, and the ratio that weights live rows.

    Attributes
    ----------
    plain : the same scores without weights
    weights : one float64 array per class, > 0, in the order of the scores
    ratio : weights of live rows

    Raises
    ------
    InvalidCalibration
        Weights of another number than scores, or not finite and above zero; or ``plain`` is marginal.
    """

    plain: ConformalCalibration
    weights: tuple[FloatArray, ...]
    ratio: DensityRatio

    def __post_init__(self) -> None:
        if self.plain.guarantee != "class_conditional":
            raise InvalidCalibration("weights are of a class-conditional calibration")
        if tuple(w.shape for w in self.weights) != tuple(s.shape for s in self.plain.scores):
            raise InvalidCalibration("there is not one weight for each calibration score")
        if not all(w.dtype == np.float64 and np.isfinite(w).all() and (w > 0).all() for w in self.weights):
            raise InvalidCalibration("weights of calibration scores are not finite and above zero")

    @property
    def guarantee(self) -> str:
        """``weighted``: each class, among patients of the mix that the ratio describes."""
        return "weighted"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Equally weighted rows that are worth as much as each class's calibration rows, rounded down."""
        return tuple(int(effective_rows(w)) for w in self.weights)

    @cached_property
    def calibration_id(self) -> str:
        """sha256 (hex) over scores, weights and ratio: equal id, equal sets."""
        digest = hashlib.sha256(bytes.fromhex(self.plain.calibration_id))
        ratio = (self.ratio.center, self.ratio.scale, self.ratio.coefficients, np.array([self.ratio.intercept]))
        for array in (*self.weights, *ratio):
            digest.update(array.astype("<f8", copy=False).tobytes())
        return digest.hexdigest()

    @cached_property
    def _tails(self) -> tuple[FloatArray, ...]:
        """Per class, (n + 1,): total weight of the scores from each place on."""
        return tuple(np.append(np.cumsum(w[::-1])[::-1], 0.0) for w in self.weights)

    @cached_property
    def _compact(self) -> tuple[tuple[list[float], list[float]], ...]:
        """(scores, tails) per class as plain floats, for single rows."""
        return tuple((s.tolist(), t.tolist()) for s, t in zip(self.plain.scores, self._tails, strict=True))

    def p_values(self, proba: npt.ArrayLike, weights: FloatArray) -> FloatArray:
        """Weighted p-value of every label, in (0, 1], shape (n, K).

        (w(x) + weight of the calibration scores of the class that are as strange or stranger) / (w(x) + weight of all).

        Parameters
        ----------
        proba : shape (n, K), in [0, 1]
        weights : shape (n,), of the same rows

        Raises
        ------
        BadModelOutput
            Wrong shape, or a value that is NaN or outside [0, 1].
        """
        scores = 1.0 - checked_probabilities(proba, self.plain.n_classes)
        found = np.empty_like(scores)
        for k, (calibration, tails) in enumerate(zip(self.plain.scores, self._tails, strict=True)):
            stranger = tails[np.searchsorted(calibration, scores[:, k], side="left")]
            found[:, k] = (stranger + weights) / (tails[0] + weights)
        return found

    def rows(self, proba: npt.ArrayLike, level: Decimal, weights: FloatArray) -> Predictions:
        """p-values, sets and predictions of n rows; row i never depends on row j. As :meth:`p_values`."""
        array64 = np.asarray(proba, dtype=np.float64)
        p_values = self.p_values(array64, weights)
        return Predictions(array64, p_values, sets_above(p_values, level), largest_p_value(p_values, array64))

    def row(self, proba: Sequence[float], level: Decimal, weight: float) -> RowPrediction:
        """The answer for one row in plain Python, equal to the array path bit for bit.

        Raises
        ------
        BadModelOutput
            Wrong length, or a value that is NaN or outside [0, 1].
        """
        if len(proba) != len(self._compact):
            raise BadModelOutput(f"{len(proba)} class probabilities, expected {len(self._compact)}")
        p_values: list[float] = []
        prediction, top, top_probability = 0, 0.0, 0.0
        for k, (scores, tails) in enumerate(self._compact):
            p = float(proba[k])
            if not 0.0 <= p <= 1.0:
                raise BadModelOutput("a class probability is not a number in [0, 1]")
            p_value = (tails[bisect_left(scores, 1.0 - p)] + weight) / (tails[0] + weight)
            p_values.append(p_value)
            if p_value > top or (p_value == top and p > top_probability):
                prediction, top, top_probability = k, p_value, p
        alpha = float(1 - level)
        return RowPrediction(proba, p_values, [k for k, p in enumerate(p_values) if p > alpha], prediction)


def sets_above(p_values: FloatArray, level: Decimal) -> BoolArray:
    """Sets of weighted p-values, shape (n, K): those above 1 - level. Weights are no ranks, so floats decide."""
    found: BoolArray = p_values > float(1 - level)
    return found
