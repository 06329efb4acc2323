"""The law of coverage: beta-binomial limits that a valid model rarely leaves, widened for repeated patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, gammaln

from ml_core.serve.model.conformity_scores import FloatArray, IntArray, true_label_scores
from ml_core.serve.model.prediction_sets import ConformalCalibration, misses_allowed

__all__ = [
    "Band",
    "CoverageLaw",
    "DesignEffects",
    "Groups",
    "band_of",
    "beta_binomial_band",
    "coverage_by_class",
    "design_effect",
    "design_effects",
    "effective_size",
    "effects_of",
]

Groups = npt.NDArray[Any] | Sequence[object] | None
"""Group (patient) of every row; None: every row its own."""


@dataclass(frozen=True, slots=True)
class Band:
    """Where the coverage of a valid model lies, all as shares.

    Attributes
    ----------
    promised : its mean, (k of n + 1), at least the level
    lower : smaller coverage has probability <= tail
    upper : larger coverage has probability <= tail, where scores have no ties
    """

    promised: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class CoverageLaw:
    """Law of one class's true coverage given the size of its calibration set: Beta(a, b) with a + b = n_eff + 1.

    Attributes
    ----------
    rows : calibration rows
    effective_rows : independent rows worth as much
    promised : mean coverage
    """

    rows: int
    effective_rows: float
    promised: float

    @classmethod
    def of(cls, rows: int, level: Decimal, effect: float = 1.0, floor: float = 0.0) -> CoverageLaw:
        """The law for ``rows`` calibration rows with that design effect, its mean raised to ``floor`` if below."""
        promised = 1.0 - misses_allowed(rows, level) / (rows + 1)
        return cls(rows, rows / effect, max(promised, min(floor, 1.0)))

    def pmf(self, m: int) -> FloatArray:
        """Probability that 0 .. m of m independent fresh rows are covered, shape (m + 1,): beta-binomial."""
        pmf: FloatArray
        a, b = (self.effective_rows + 1) * self.promised, (self.effective_rows + 1) * (1.0 - self.promised)
        if b <= 0.0:  # too few calibration rows: every label is in every set
            pmf = np.zeros(m + 1)
            pmf[m] = 1.0
            return pmf
        j = np.arange(m + 1, dtype=np.float64)
        choices = gammaln(m + 1) - gammaln(j + 1) - gammaln(m - j + 1)
        pmf = np.exp(choices + betaln(j + a, m - j + b) - betaln(a, b))
        pmf /= pmf.sum()
        return pmf

    def band(self, m: int, tail: float) -> Band:
        """Limits for the share covered of ``m`` independent fresh rows."""
        return band_of(self.promised, self.pmf(m), tail)


def band_of(promised: float, pmf: FloatArray, tail: float) -> Band:
    """Shares L/m and U/m with P(X < L) <= tail and P(X > U) <= tail, both as tight as whole rows allow.

    Parameters
    ----------
    pmf : shape (m + 1,), probability of 0 .. m covered rows
    """
    m = pmf.size - 1
    if m == 0:
        return Band(promised, 0.0, 1.0)
    lower = int(np.searchsorted(np.cumsum(pmf), tail, side="right"))
    upper = m - int(np.searchsorted(np.cumsum(pmf[::-1]), tail, side="right"))
    return Band(promised, lower / m, upper / m)


@dataclass(frozen=True, slots=True)
class DesignEffects:
    """Variance of coverage with repeated patients, as a multiple of that of independent rows; each >= 1."""

    marginal: float
    per_class: tuple[float, ...]


def coverage_by_class(
    covered: npt.NDArray[np.bool_], y_index: npt.ArrayLike, n_classes: int
) -> tuple[float | None, ...]:
    """Share of covered rows per class, in class order; None for a class without rows.

    Parameters
    ----------
    covered : shape (n,), the row's set holds its label
    y_index : shape (n,), class indices
    """
    labels = np.asarray(y_index, dtype=np.int64)
    counts = np.bincount(labels, minlength=n_classes)
    hits = np.bincount(labels, weights=covered, minlength=n_classes)
    return tuple(float(h / c) if c else None for h, c in zip(hits, counts, strict=True))


def design_effect(covered: npt.NDArray[np.bool_], groups: Groups, strata: npt.ArrayLike | None = None) -> float:
    """How many times larger the variance of coverage is than with independent rows, >= 1.

    The variance is that of a bootstrap over groups, in its closed form: drawing G of G groups with replacement gives a
    sum of residuals the variance ``sum_g R_g ** 2``, where R_g sums a group's residuals, so nothing need be resampled
    (the "ideal bootstrap" of Efron & Tibshirani 1993). Without variation (all covered, or none) it is the largest the
    group sizes allow, ``sum_g n_g ** 2 / n``.

    Parameters
    ----------
    covered : shape (n,)
    groups : shape (n,), or None
    strata : shape (n,), class indices; residuals are then taken from each class's own mean

    References
    ----------
    Kish (1965), Survey Sampling, chapter 5.
    """
    n = covered.shape[0]
    if groups is None or n == 0:
        return 1.0
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    residuals = covered.astype(np.float64)
    stratum = np.zeros(n, dtype=np.int64) if strata is None else np.asarray(strata, dtype=np.int64)
    residuals -= (np.bincount(stratum, weights=residuals) / np.maximum(np.bincount(stratum), 1))[stratum]
    alone = float((residuals**2).sum())
    if alone <= 1e-12 * n:
        return float((np.bincount(group) ** 2).sum() / n)
    together = float((np.bincount(group, weights=residuals) ** 2).sum())
    return max(1.0, together / alone)


def design_effects(
    calibration: ConformalCalibration, proba: npt.ArrayLike, y_index: npt.ArrayLike, groups: Groups, level: Decimal
) -> DesignEffects:
    """Design effects of "the score lies within its threshold", for rows of the calibration or the test split.

    On the calibration split this indicator carries the noise of the thresholds, on the test split that of the count.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1]
    y_index : shape (n,), class indices
    groups : shape (n,), or None
    """
    labels = np.asarray(y_index, dtype=np.int64)
    covered = true_label_scores(proba, labels) <= np.array(calibration.thresholds(level))[labels]
    return effects_of(covered, labels, groups, calibration.n_classes)


def effective_size(n: int, effect: float) -> int:
    """Independent rows worth as much as ``n`` rows with that design effect; at least 1 where there are rows."""
    return max(1, int(n / effect)) if n else 0


def effects_of(covered: npt.NDArray[np.bool_], labels: IntArray, groups: Groups, n_classes: int) -> DesignEffects:
    """Design effects of the indicator ``covered``, shape (n,), for rows of these labels, shape (n,), and groups."""
    group = None if groups is None else np.asarray(groups)
    per_class = tuple(
        design_effect(covered[labels == k], None if group is None else group[labels == k]) for k in range(n_classes)
    )
    return DesignEffects(design_effect(covered, group, labels), per_class)


def beta_binomial_band(
    n_calibration: int,
    n_test: int,
    level: Decimal,
    tail: float,
    calibration_effect: float = 1.0,
    test_effect: float = 1.0,
) -> Band:
    """Limits for the share of ``n_test`` rows covered, given ``n_calibration`` rows of the same class.

    Covered rows follow BetaBinomial(m, n + 1 - l, l), l = floor((n + 1) alpha), when scores have no ties. With ties
    more are covered; rows strictly within the threshold are then fewer, so they are what ``upper`` may judge. Design
    effects shrink both sizes and keep the mean.

    Parameters
    ----------
    tail : in (0, 0.5), chance beyond each limit
    calibration_effect, test_effect : >= 1

    References
    ----------
    Vovk (2012), arXiv:1209.2673; Angelopoulos & Bates (2023), Foundations and Trends in ML 16(4), section 3.2.

    Examples
    --------
    >>> beta_binomial_band(500, 500, Decimal("0.9"), 0.05).lower
    0.868
    """
    law = CoverageLaw.of(n_calibration, level, calibration_effect)
    return law.band(effective_size(n_test, test_effect), tail)
