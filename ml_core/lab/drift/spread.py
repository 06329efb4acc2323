"""Change of place and of spread between two samples of numbers: Wasserstein distance and Brown-Forsythe test."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc

__all__ = ["Moments", "brown_forsythe_p", "integral_of", "spread_around", "wasserstein"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


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
        """The moments of ``count`` values of which these are a fair picture."""
        return Moments(count, self.mean, self.squares * (count / self.count))

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets together (Chan, Golub & LeVeque 1979, STAN-CS-79-773)."""
        if not self.count or not other.count:
            return other if other.count else self
        count, shift = self.count + other.count, other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        return Moments(count, mean, self.squares + other.squares + shift * shift * (self.count * other.count / count))


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
