"""Performance to be expected before labels come, from recalibrated probabilities: confidence-based estimation (CBPE).

Calibration rows tell how often a label is true where the model gives it a probability p. If that has not changed, the
probabilities and sets of new answers alone say which AUC, Brier score and coverage their labels will show. A change of
the patients (covariate shift) is followed as far as the share of a label at a probability stays the same. A change of
what inputs mean for the outcome (concept change) cannot be seen.

Answers are kept as sums in cells of their probabilities, so that days can be added, and none is read twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import norm

from ml_core.base.arrays import BoolArray, FloatArray
from ml_core.base.errors import DataError
from ml_core.lab.measuring.performance import MINIMUM
from ml_core.lab.measuring.reliability import INTERVAL_LEVEL
from ml_core.serve.model.conformity_scores import checked_probabilities
from ml_core.serve.model.prediction_sets import ConformalCalibration

__all__ = [
    "FEWEST_OF_A_CLASS",
    "Expectation",
    "ExpectedPerformance",
    "ProbabilityMap",
    "ScoreSums",
    "expected_performance",
    "recalibration_of",
    "score_sums",
]

FEWEST_OF_A_CLASS = 10.0
"""Fewest expected answers of a class for its coverage, and of either class for the AUC."""

_CELLS = 64
"""Cells per class, each with about as many calibration rows. Pairs of answers within one count half for the AUC."""
_NEAREST = 1e-6  # probabilities are kept so far from 0 and 1, whose logarithms are infinite
_PRIOR_SD = 3.0  # of each coefficient around "probabilities are right": keeps fits of few or separated rows finite
_STEPS, _DONE = 100, 1e-10
_Z = float(norm.isf((1.0 - INTERVAL_LEVEL) / 2.0))


# --- recalibration ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class ProbabilityMap:
    """Beta calibration of each class's probability against all others, fitted on a model's calibration rows.

    P(label k | p) = 1 / (1 + exp(-(c + a log(p) - b log(1 - p)))), with a, b >= 0.

    Attributes
    ----------
    coefficients : shape (K, 3): c, a, b of each class
    covariance : shape (K, 3, 3), sampling error of the coefficients; 0 for one that was set to 0
    edges : shape (K, C - 1), ascending borders of the cells of each class's probability
    """

    coefficients: FloatArray
    covariance: FloatArray
    edges: FloatArray

    def share(self, label: int, probability: FloatArray) -> FloatArray:
        """Share of answers with that label among those that were given it with such a probability; same shape."""
        found: FloatArray = expit(_terms(probability) @ self.coefficients[label])
        return found

    def as_json(self) -> dict[str, Any]:
        """The same as plain lists."""
        return {
            "coefficients": self.coefficients.tolist(),
            "covariance": self.covariance.tolist(),
            "edges": self.edges.tolist(),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> ProbabilityMap:
        """What :meth:`as_json` gave."""
        return cls(*(np.array(kept[part], dtype=np.float64) for part in ("coefficients", "covariance", "edges")))


def recalibration_of(
    calibration: ConformalCalibration, distributions: Sequence[npt.ArrayLike] | None = None
) -> ProbabilityMap | None:
    """The recalibration that a model's conformal calibration allows; None where it does not tell labels apart.

    The scores of class k are 1 - P(k) of the calibration rows of that class. For two classes they are all pairs of
    probability and label. For more, the distribution of P(k) over all calibration rows must be given: the fit needs
    nothing else of the rows with other labels. The pooled scores of a ``marginal`` calibration do not tell which label
    a row had.

    Parameters
    ----------
    calibration : of the model, with guarantee ``class_conditional``
    distributions : for K > 2, per class: P(k) over all calibration rows, or its order statistics at even ranks

    Raises
    ------
    DataError
        More than two classes without their distributions, or a class without calibration rows.

    References
    ----------
    Kull, Silva Filho & Flach (2017), Beta calibration, AISTATS, PMLR 54:623-631.
    """
    if calibration.guarantee == "marginal":
        return None
    if min(calibration.sizes) == 0:
        raise DataError("the calibration", "a class has no calibration rows: nothing is to be expected of it")
    own = [1.0 - scores for scores in calibration.scores]
    if calibration.n_classes == 2:
        everybody = [np.concatenate([own[k], calibration.scores[1 - k]]) for k in (0, 1)]
    elif distributions is None or len(distributions) != calibration.n_classes:
        raise DataError("the calibration", "more than two classes need the distribution of each one's probability")
    else:
        everybody = [np.asarray(values, dtype=np.float64) for values in distributions]
    rows = sum(calibration.sizes)
    fits = [_fitted(mine, every, rows / every.size) for mine, every in zip(own, everybody, strict=True)]
    ranks = np.arange(1, _CELLS) / _CELLS
    edges = [np.quantile(every, ranks, method="inverted_cdf") for every in everybody]
    return ProbabilityMap(np.stack([f for f, _ in fits]), np.stack([v for _, v in fits]), np.stack(edges))


def _terms(probability: FloatArray) -> FloatArray:
    """1, log(p) and -log(1 - p), shape (n, 3)."""
    p = np.clip(probability, _NEAREST, 1.0 - _NEAREST)
    return np.stack([np.ones_like(p), np.log(p), -np.log1p(-p)], axis=-1)


def _fitted(own: FloatArray, everybody: FloatArray, weight: float) -> tuple[FloatArray, FloatArray]:
    """Coefficients and their covariance, from P(k) of the rows of class k and of all rows, each of these weighted.

    A slope below 0 is set to 0 and the others fitted again, as Kull and others do.
    """
    total, terms = _terms(own).sum(axis=0), _terms(everybody)
    used = np.array([True, True, True])
    while True:
        fitted, variance = _maximum(total[used], terms[:, used], weight, np.array([0.0, 1.0, 1.0])[used])
        coefficients = np.zeros(3)
        coefficients[used] = fitted
        if (coefficients[1:] >= 0.0).all():
            covariance = np.zeros((3, 3))
            covariance[np.ix_(used, used)] = variance
            return coefficients, covariance
        used[1 + int(np.argmin(coefficients[1:]))] = False


def _maximum(total: FloatArray, terms: FloatArray, weight: float, centre: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Largest penalised log-likelihood of a logistic regression, by Newton steps that are halved until they climb.

    The likelihood needs the rows of the class only through the ``total`` of their terms.
    """
    precision = 1.0 / _PRIOR_SD**2

    def height(at: FloatArray) -> float:
        return float(
            total @ at - weight * np.logaddexp(0.0, terms @ at).sum() - precision / 2 * ((at - centre) ** 2).sum()
        )

    at, reached = centre.copy(), height(centre)
    for _ in range(_STEPS):
        share = expit(terms @ at)
        slope = total - weight * (terms.T @ share) - precision * (at - centre)
        curvature = weight * (terms.T * (share * (1.0 - share))) @ terms + precision * np.eye(at.size)
        step = np.linalg.solve(curvature, slope)
        while (found := height(at + step)) < reached and np.abs(step).max() > _DONE:
            step = step / 2.0
        at, reached = at + step, max(found, reached)
        if np.abs(step).max() <= _DONE:
            break
    return at, np.linalg.inv(curvature)


# --- sums ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class ScoreSums:
    """Answers of one model as sums in the cells of its :class:`ProbabilityMap`; sums of days may be added.

    Attributes
    ----------
    answers : how many
    counts : shape (K, C), answers whose P(k) lies in the cell
    totals, squares : shape (K, C), sum of P(k) and of its square
    held : shape (K, C), those of the answers whose set holds label k
    """

    answers: int
    counts: FloatArray
    totals: FloatArray
    squares: FloatArray
    held: FloatArray

    def __add__(self, other: ScoreSums) -> ScoreSums:
        return ScoreSums(
            self.answers + other.answers,
            *(getattr(self, part) + getattr(other, part) for part in ("counts", "totals", "squares", "held")),
        )

    def as_json(self) -> dict[str, Any]:
        """The same as plain lists, cells without answers left out."""
        parts = []
        for k in range(len(self.counts)):
            filled = np.flatnonzero(self.counts[k])
            parts.append(
                {
                    "cells": filled.tolist(),
                    "counts": self.counts[k, filled].astype(int).tolist(),
                    "totals": self.totals[k, filled].tolist(),
                    "squares": self.squares[k, filled].tolist(),
                    "held": self.held[k, filled].astype(int).tolist(),
                }
            )
        return {"answers": self.answers, "classes": parts}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> ScoreSums:
        """What :meth:`as_json` gave."""
        found = {part: np.zeros((len(kept["classes"]), _CELLS)) for part in ("counts", "totals", "squares", "held")}
        for k, each in enumerate(kept["classes"]):
            for part, into in found.items():
                into[k, each["cells"]] = each[part]
        return cls(kept["answers"], **found)


def score_sums(recalibration: ProbabilityMap, proba: npt.ArrayLike, sets: npt.ArrayLike) -> ScoreSums:
    """Answers as sums.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1], as answered
    sets : shape (n, K), whether the set at the model's configured level holds a label

    Raises
    ------
    BadModelOutput
        Probabilities of another shape, or not in [0, 1].
    DataError
        Sets of another shape.
    """
    checked, members = checked_probabilities(proba, len(recalibration.edges)), np.asarray(sets, dtype=np.bool_)
    if members.shape != checked.shape:
        raise DataError("stored sets", f"shape {members.shape}, expected {checked.shape} as of the probabilities")
    cells = [np.searchsorted(edges, checked[:, k], side="left") for k, edges in enumerate(recalibration.edges)]

    def summed(values: FloatArray | BoolArray) -> FloatArray:
        found = [np.bincount(cell, weights=values[:, k], minlength=_CELLS) for k, cell in enumerate(cells)]
        return np.stack(found).astype(np.float64)

    return ScoreSums(len(checked), summed(np.ones_like(checked)), summed(checked), summed(checked**2), summed(members))


# --- what is to be expected ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expectation:
    """A number that labels are expected to show.

    Attributes
    ----------
    value : the expected one
    standard_error : of what the labels of these very answers will show around it: chance decides the labels, and
        calibration rows are few
    lower, upper : 95 % interval of what they will show, within [0, 1] (a Brier score of many classes: [0, 2])
    """

    value: float
    standard_error: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class ExpectedPerformance:
    """Performance that answers are expected to show once their labels are known; None where they are too few.

    Attributes
    ----------
    answers : how many
    auc : of two classes, the second being the positive one; None for more
    brier : of P(second label) for two classes, summed over classes for more
    coverage : per class, in class order, at the model's configured level
    """

    answers: int
    auc: Expectation | None
    brier: Expectation | None
    coverage: tuple[Expectation | None, ...]


def expected_performance(recalibration: ProbabilityMap, sums: ScoreSums) -> ExpectedPerformance:
    """What the labels of these answers are expected to show.

    Errors are to first order: of independent labels, and of the recalibration's coefficients. Errors of several classes
    are added up as if these were independent. At least ``MINIMUM`` answers, and ``FEWEST_OF_A_CLASS`` expected of each
    class in question, are needed.

    References
    ----------
    Bialek, Kuberski, Perrakis & Bifet (2024), Estimating model performance under covariate shift without labels,
    arXiv:2401.08348 (CBPE in section 3).
    """
    shares = [recalibration.share(k, _means(sums, k)) for k in range(len(sums.counts))]
    expected = [float(share @ sums.counts[k]) for k, share in enumerate(shares)]
    many = sums.answers >= MINIMUM
    coverage = [
        _coverage(recalibration, sums, k, share) if many and expected[k] >= FEWEST_OF_A_CLASS else None
        for k, share in enumerate(shares)
    ]
    is_binary = len(shares) == 2 and min(expected) >= FEWEST_OF_A_CLASS
    return ExpectedPerformance(
        answers=sums.answers,
        auc=_auc(recalibration, sums, shares[1]) if many and is_binary else None,
        brier=_brier(recalibration, sums, shares) if many else None,
        coverage=tuple(coverage),
    )


def _means(sums: ScoreSums, k: int) -> FloatArray:
    """Mean probability of each cell, any number where it is empty."""
    found: FloatArray = sums.totals[k] / np.maximum(sums.counts[k], 1.0)
    return found


def _brier(recalibration: ProbabilityMap, sums: ScoreSums, shares: Sequence[FloatArray]) -> Expectation:
    value = variance = 0.0
    classes = [1] if len(shares) == 2 else range(len(shares))
    for k in classes:
        q, n = shares[k], sums.counts[k]
        value += float((q * (n - 2.0 * sums.totals[k]) + sums.squares[k]).sum()) / sums.answers
        pull = (1.0 - 2.0 * _means(sums, k)) / sums.answers
        variance += _variance(recalibration, sums, k, q, pull * n, pull**2 * n)
    return _interval(value, variance, highest=1.0 if len(shares) == 2 else 2.0)


def _coverage(recalibration: ProbabilityMap, sums: ScoreSums, k: int, share: FloatArray) -> Expectation:
    n, held = sums.counts[k], sums.held[k]
    of_class = float(share @ n)
    value = float(share @ held) / of_class
    pulls = (held - value * n) / of_class
    squared = (held * (1.0 - value) ** 2 + (n - held) * value**2) / of_class**2
    return _interval(value, _variance(recalibration, sums, k, share, pulls, squared))


def _auc(recalibration: ProbabilityMap, sums: ScoreSums, share: FloatArray) -> Expectation:
    """Chance that an answer of the second class has the larger probability; pairs in one cell count half."""
    n = sums.counts[1]
    positives, negatives = share * n, (1.0 - share) * n
    below = np.cumsum(negatives) - negatives / 2.0
    above = positives.sum() - np.cumsum(positives) + positives / 2.0
    n_pos, n_neg = float(positives.sum()), float(negatives.sum())
    alone = float((share * (1.0 - share) * n).sum())  # nobody is compared with himself
    value = (float(positives @ below) - alone / 2.0) / (n_pos * n_neg - alone)
    pull = (below / n_neg - value) / n_pos - (above / n_pos - value) / n_neg
    return _interval(value, _variance(recalibration, sums, 1, share, pull * n, pull**2 * n))


def _variance(
    recalibration: ProbabilityMap, sums: ScoreSums, k: int, share: FloatArray, pulls: FloatArray, squared: FloatArray
) -> float:
    """Variance of what the labels will show.

    Parameters
    ----------
    share : shape (C,), chance of label k in each cell
    pulls, squared : shape (C,), sum over the answers of a cell of what one label moves the number by, and of its square
    """
    spread = share * (1.0 - share)
    slope = (pulls * spread) @ _terms(_means(sums, k))
    return float(squared @ spread + slope @ recalibration.covariance[k] @ slope)


def _interval(value: float, variance: float, highest: float = 1.0) -> Expectation:
    error = sqrt(variance)
    return Expectation(value, error, max(0.0, value - _Z * error), min(highest, value + _Z * error))
