"""A threshold on a class's probability that reaches a wanted sensitivity with a stated confidence."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom

from ml_core.base.arrays import FloatArray
from ml_core.base.errors import CannotJudge
from ml_core.lab.measuring.reliability import INTERVAL_LEVEL

__all__ = ["SensitivityThreshold", "fewest_rows", "sensitivity_threshold"]


@dataclass(frozen=True, slots=True)
class SensitivityThreshold:
    """Flag an answer if the probability of the class is at least ``threshold``.

    Attributes
    ----------
    threshold : in [0, 1]
    sensitivity : share of the class's calibration rows that are flagged; above the wanted one by what chance may take
    rows : calibration rows of the class
    specificity : share of the other calibration rows that are not flagged; None where they are not known
    specificity_lower, specificity_upper : its 95 % interval (Clopper-Pearson)
    other_rows : calibration rows of other classes; 0 where they are not known
    """

    threshold: float
    sensitivity: float
    rows: int
    specificity: float | None = None
    specificity_lower: float | None = None
    specificity_upper: float | None = None
    other_rows: int = 0


def sensitivity_threshold(
    own: npt.ArrayLike, wanted: float, confidence: float, others: npt.ArrayLike | None = None, effect: float = 1.0
) -> SensitivityThreshold:
    """The highest threshold whose sensitivity is at least the wanted one with that confidence.

    The threshold is the r-th smallest probability of the class's n calibration rows. The share of the class below it,
    which will be missed, has the law Beta(r, n + 1 - r) or, where probabilities are tied, lies below that. So r is the
    largest rank with P(Bin(n, 1 - wanted) >= r) >= confidence (one-sided tolerance limit). The bound is exact for
    independent rows, for one threshold that is chosen so. With repeated patients, n / effect takes the place of n.

    Parameters
    ----------
    own : shape (n,), probability of the class for calibration rows of the class
    wanted : sensitivity, in (0, 1)
    confidence : share of draws of the calibration rows in which it is reached, in (0, 1)
    others : shape (m,), probability of the class for calibration rows of other classes; they play no part in the choice
    effect : design effect of the class's calibration rows, >= 1

    Raises
    ------
    CannotJudge
        The rows are too few for any threshold.

    References
    ----------
    Wilks (1941), Annals of Mathematical Statistics 12:91; Clopper & Pearson (1934), Biometrika 26:404.

    Examples
    --------
    >>> sensitivity_threshold(np.arange(1, 101) / 100, 0.8, 0.95).threshold
    0.14
    """
    for name, value in (("sensitivity", wanted), ("confidence", confidence)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} {value}, expected a share between 0 and 1")
    scores = np.sort(np.asarray(own, dtype=np.float64))
    effective = floor(scores.size / effect)
    rank = _rank(effective, wanted, confidence)
    if rank == 0:
        needed = ceil(fewest_rows(wanted, confidence) * effect)
        raise CannotJudge("the threshold", f"{scores.size} calibration rows of the class, at least {needed} are needed")
    place = floor(rank * (scores.size + 1) / (effective + 1))
    threshold = float(scores[place - 1])
    found = SensitivityThreshold(threshold, float((scores >= threshold).mean()), int(scores.size))
    rest = np.asarray([] if others is None else others, dtype=np.float64)
    return found if rest.size == 0 else _with_specificity(found, rest)


def fewest_rows(wanted: float, confidence: float) -> int:
    """Fewest calibration rows of a class for which there is a threshold.

    Examples
    --------
    >>> fewest_rows(0.8, 0.95), fewest_rows(0.95, 0.95)
    (14, 59)
    """
    return ceil(log(1.0 - confidence) / log(wanted))


def _rank(n: int, wanted: float, confidence: float) -> int:
    """Largest rank r with P(Bin(n, 1 - wanted) >= r) >= confidence; 0 where not even the smallest score will do."""
    ranks = np.arange(1, n + 1)
    return int((binom.sf(ranks - 1, n, 1.0 - wanted) >= confidence).sum())


def _with_specificity(found: SensitivityThreshold, others: FloatArray) -> SensitivityThreshold:
    spared, m, tail = int((others < found.threshold).sum()), int(others.size), (1.0 - INTERVAL_LEVEL) / 2.0
    return SensitivityThreshold(
        threshold=found.threshold,
        sensitivity=found.sensitivity,
        rows=found.rows,
        specificity=spared / m,
        specificity_lower=float(beta.ppf(tail, spared, m - spared + 1)) if spared else 0.0,
        specificity_upper=float(beta.isf(tail, spared + 1, m - spared)) if spared < m else 1.0,
        other_rows=m,
    )
