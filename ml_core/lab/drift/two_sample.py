"""Two samples compared: shares of levels, spread and place of numbers, each as a test or a distance."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
from scipy.special import chdtrc, fdtrc
from scipy.stats import fisher_exact

from ml_core.base.arrays import BoolArray, FloatArray, IntArray

__all__ = [
    "CountsCompared",
    "Moments",
    "brown_forsythe_p",
    "compare_counts",
    "integral_of",
    "jensen_shannon",
    "moments_of_counts",
    "spread_around",
    "two_by_two_p",
    "wasserstein",
]

_FEWEST_EXPECTED = 5.0
"""The chi-square test is used where every cell expects at least so many rows (Cochran 1954, Biometrics 10, 417-451)."""


# --- levels -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CountsCompared:
    """How two windows of counts differ.

    Attributes
    ----------
    test : the tests behind ``p_value``
    p_value : in [0, 1]
    distance : Jensen-Shannon distance of the shares, natural logarithm, in [0, 0.833]
    """

    test: str
    p_value: float
    distance: float


def compare_counts(reference: IntArray, current: IntArray, rest: int | None, other: int) -> CountsCompared | None:
    """Test of equal shares per level: chi-square over the frequent levels, with all that is rare in one cell.

    A level is rare with fewer than 5 expected rows on a side; what is not listed is rare too. Where even all rare rows
    together are too few for chi-square, Fisher's exact test of rare against frequent stands beside it, and the p-value
    is twice the smaller one. Which levels share a cell hangs on both sides together, so it favours neither: a free text
    whose values hardly repeat is no change, a new level in a closed list is one.

    Parameters
    ----------
    reference, current : shape (L,), rows per listed level
    rest : reference rows with a level that is not listed; None where it lists all it holds
    other : current rows with a level that is not listed

    Returns
    -------
    CountsCompared or None
        None where both sides hold one and the same level, or only levels too rare to compare.
    """
    n, m = int(reference.sum()) + (rest or 0), int(current.sum()) + other
    frequent = _enough(reference + current, n, m)
    ours, theirs = reference[frequent], current[frequent]
    rare = (n - int(ours.sum()), m - int(theirs.sum()))
    found = []
    if sum(rare) and (len(ours) < 2 or _enough(np.array(sum(rare)), n, m)):
        cells = (np.append(ours, rare[0]), np.append(theirs, rare[1]))
    else:
        cells = (ours, theirs)
        if sum(rare):
            found.append(("fisher exact", two_by_two_p(rare[0], n - rare[0], rare[1], m - rare[1])))
    if len(cells[0]) >= 2:
        found.append(_shares_p(*cells))
    if not found:
        return None
    # where levels occur once in the reference, some that it lacks are to be expected and get no cell of their own
    unseen = other if rest is None and not (reference == 1).any() else 0
    shares = (np.append(ours, [rare[0], 0]), np.append(theirs, [rare[1] - unseen, unseen]))
    test = " | ".join(name for name, _ in found)
    return CountsCompared(test, min(1.0, len(found) * min(p for _, p in found)), jensen_shannon(*shares))


def two_by_two_p(a: int, b: int, c: int, d: int) -> float:
    """p-value of "a of a + b and c of c + d are the same share".

    Chi-square without correction where all four cells expect at least 5 rows, else Fisher's exact test. Two shares
    that are both 0, or both 1, give 1.
    """
    if not (a + c) or not (b + d):
        return 1.0
    if not _enough(np.array([a + c, b + d]), a + b, c + d).all():
        return float(fisher_exact([[a, b], [c, d]]).pvalue)
    return _chi_square_p(np.array([a, b]), np.array([c, d]))


def jensen_shannon(reference: IntArray, current: IntArray) -> float:
    """Jensen-Shannon distance of two rows of counts: 0 for equal shares, sqrt(log 2) = 0.833 for disjoint ones."""
    p, q = reference / reference.sum(), current / current.sum()
    middle = (p + q) / 2.0
    return float(max((_entropy(middle) - (_entropy(p) + _entropy(q)) / 2.0), 0.0) ** 0.5)


def _entropy(shares: FloatArray) -> float:
    above = shares[shares > 0.0]
    return float(-(above * np.log(above)).sum())


def _enough(rows: IntArray, n: int, m: int) -> BoolArray:
    """Whether cells that hold so many rows of both sides together expect enough on each."""
    enough: BoolArray = rows * (min(n, m) / (n + m)) >= _FEWEST_EXPECTED
    return enough


def _shares_p(reference: IntArray, current: IntArray) -> tuple[str, float]:
    """Name and p-value of the test over at least two cells."""
    if len(reference) > 2 or _enough(reference + current, int(reference.sum()), int(current.sum())).all():
        return "chi-square", _chi_square_p(reference, current)
    cells = (int(reference[0]), int(reference[1]), int(current[0]), int(current[1]))
    return "fisher exact", two_by_two_p(*cells)


def _chi_square_p(reference: IntArray, current: IntArray) -> float:
    n, m = int(reference.sum()), int(current.sum())
    # sum over both rows of (seen - expected)^2 / expected, written as one sum over the cells
    distance = reference * (m / n) ** 0.5 - current * (n / m) ** 0.5
    return float(chdtrc(len(reference) - 1, (distance**2 / (reference + current)).sum()))


# --- numbers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moments:
    """Number, mean and sum of squared deviations from the mean of some values."""

    count: int
    mean: float
    squares: float

    @property
    def sd(self) -> float:
        """Standard deviation, ddof 0; NaN of no value."""
        return float((self.squares / self.count) ** 0.5) if self.count else nan

    @classmethod
    def of(cls, values: FloatArray) -> Moments:
        """The moments of an array, by numpy's own mean and standard deviation (ddof 0)."""
        if not values.size:
            return cls(0, nan, 0.0)
        mean, sd = float(values.mean()), float(values.std())
        return cls(values.size, mean, sd * sd * values.size)  # a power of plain floats would raise where it overflows

    def scaled_to(self, count: int) -> Moments:
        """The same mean and variance, for ``count`` values."""
        return Moments(count, self.mean, self.squares * (count / self.count))

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets together (Chan, Golub & LeVeque 1979, STAN-CS-79-773)."""
        if not self.count or not other.count:
            return other if other.count else self
        count, shift = self.count + other.count, other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        return Moments(count, mean, self.squares + other.squares + shift * shift * (self.count * other.count / count))


def moments_of_counts(counts: IntArray) -> Moments:
    """Moments of positions 0..L-1 with these counts."""
    total, positions = int(counts.sum()), np.arange(len(counts))
    if not total:
        return Moments(0, np.nan, 0.0)
    mean = float(counts @ positions) / total
    return Moments(total, mean, float(counts @ (positions - mean) ** 2))


def spread_around(center: float, values: FloatArray) -> Moments:
    """Moments of the distances ``|x - center|``."""
    return Moments.of(np.abs(values - center))


def brown_forsythe_p(reference: Moments, current: Moments) -> float:
    """p-value of "the spread is equal": analysis of variance of the distances from each side's own median.

    Equals ``scipy.stats.levene(center="median")`` of two samples. Two sides without any variance of these distances
    give 1 if the distances are equal too, else 0. Values whose squares are no finite numbers tell nothing: 1.

    Parameters
    ----------
    reference, current : moments of ``|x - median|``, at least 2 values each

    References
    ----------
    Brown & Forsythe (1974), Robust tests for the equality of variances, JASA 69(346), 364-367.
    """
    n, m = reference.count, current.count
    apart = reference.mean - current.mean
    between = apart * apart * (n * m / (n + m))
    within = (reference.squares + current.squares) / (n + m - 2)
    if not (isfinite(between) and isfinite(within)):
        return 1.0
    if within == 0.0:
        return 1.0 if between == 0.0 else 0.0
    return float(fdtrc(1, n + m - 2, between / within))


def integral_of(points: FloatArray, center: float) -> FloatArray:
    """Integral of ``quantile - center`` from 0 to i / K, times K, for i = 0..K; shape (K + 1,)."""
    return np.append(0.0, np.cumsum(points - center))


def wasserstein(points: FloatArray, integral: FloatArray, center: float, current: FloatArray) -> float:
    """W1 between the points (equal weights) and a sorted current window, in the unit of the values.

    Each current value holds a slice of probability 1/m, in which the points' quantile function crosses it at most
    once; the integral of their distance over the slice is a difference of ``integral``. So the points are searched and
    never walked through: O(m log K).

    Parameters
    ----------
    points : shape (K,), ascending; ``integral`` is ``integral_of(points, center)``
    current : shape (m,), ascending
    """
    k, m = len(points), len(current)
    edges = np.arange(m + 1) / m
    crossing = np.clip(np.searchsorted(points, current) / k, edges[:-1], edges[1:])
    at_edges, at_crossing = _integral_at(integral, edges), _integral_at(integral, crossing)
    # below its crossing the quantile lies under the value, above it over the value
    under = (current - center) * (2.0 * crossing - edges[:-1] - edges[1:])
    return float(max(under.sum() + (at_edges[:-1] + at_edges[1:] - 2.0 * at_crossing).sum(), 0.0))


def _integral_at(integral: FloatArray, probability: FloatArray) -> FloatArray:
    """The integral up to any probability: linear between the i / K, as the quantile function is constant there."""
    k = len(integral) - 1
    position = probability * k
    whole = np.minimum(position.astype(np.int64), k - 1)
    value: FloatArray = (integral[whole] + (position - whole) * (integral[whole + 1] - integral[whole])) / k
    return value
