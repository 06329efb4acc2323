"""The law of coverage: beta-binomial limits that a valid model rarely leaves, widened for repeated patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import fftconvolve
from scipy.special import betaln, gammaln

from ml_core.base.arrays import BoolArray, FloatArray, IntArray
from ml_core.serve.model.conformity_scores import true_label_scores
from ml_core.serve.model.prediction_sets import ConformalCalibration, misses_allowed

__all__ = [
    "Band",
    "CoverageLaw",
    "DesignEffects",
    "Groups",
    "band_of",
    "design_effect",
    "design_effects",
    "effective_size",
    "effects_of",
    "holds_label",
    "pooled_law",
    "row_groups",
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

    With n rows and no ties among scores, b = l = floor((n + 1) alpha); of m fresh rows the number covered then follows
    BetaBinomial(m, n + 1 - l, l). With ties more rows are covered; the rows strictly within the threshold are fewer, so
    they are what an upper limit may judge. Design effects shrink both sizes and keep the mean (Vovk 2012,
    arXiv:1209.2673; Angelopoulos & Bates 2023, Foundations and Trends in ML 16(4), section 3.2).

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
    def of(
        cls,
        rows: int,
        level: Decimal,
        effect: float = 1.0,
        floor: float = 0.0,
        confidence: Decimal | None = None,
    ) -> CoverageLaw:
        """The law for ``rows`` calibration rows with that design effect. A mean below ``floor`` is raised to it.

        With a ``confidence`` (of a calibration that has one) the mean is above the level.
        """
        promised = 1.0 - misses_allowed(rows, level, confidence) / (rows + 1)
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


def pooled_law(laws: Sequence[CoverageLaw], counts: Sequence[int], effect: float) -> tuple[float, FloatArray]:
    """Mean coverage of rows of several classes together, and the probabilities of how many of them are covered.

    Given the counts, the number covered is a sum of independent beta-binomial numbers, one per class.

    Parameters
    ----------
    laws, counts : law and rows of each class
    effect : design effect of the rows, >= 1
    """
    pmf = np.ones(1)
    for law, m in zip(laws, counts, strict=True):
        pmf = np.maximum(fftconvolve(pmf, law.pmf(effective_size(m, effect))), 0.0)
    total = sum(counts)
    shares = np.array(counts) / total if total else np.full(len(laws), 1.0 / len(laws))
    return float(shares @ np.array([law.promised for law in laws])), pmf


def holds_label(sets: BoolArray, labels: IntArray) -> BoolArray:
    """Whether each row's set holds its label, shape (n,), from sets, shape (n, K), and class indices, shape (n,)."""
    covered: BoolArray = sets[np.arange(labels.size), labels]
    return covered


def design_effect(covered: BoolArray, groups: Groups, strata: npt.ArrayLike | None = None) -> float:
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
    group = row_groups(groups, n)
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


def row_groups(groups: Groups, n: int) -> IntArray:
    """Number of each row's group, from 0, shape (n,)."""
    return np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]


def effective_size(n: int, effect: float) -> int:
    """Independent rows worth as much as ``n`` rows with that design effect; at least 1 where there are rows."""
    return max(1, int(n / effect)) if n else 0


def effects_of(covered: BoolArray, labels: IntArray, groups: Groups, n_classes: int) -> DesignEffects:
    """Design effects of the indicator ``covered``, shape (n,), for rows of these labels, shape (n,), and groups."""
    group = None if groups is None else np.asarray(groups)
    per_class = tuple(
        design_effect(covered[labels == k], None if group is None else group[labels == k]) for k in range(n_classes)
    )
    return DesignEffects(design_effect(covered, group, labels), per_class)
