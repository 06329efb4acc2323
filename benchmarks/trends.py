"""Estimates the slope of a series with an interval that allows for autocorrelation, and compares it with a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

__all__ = ["CONFIDENCE", "Trend", "Verdict", "trend", "verdict"]

Verdict = Literal["holds", "broken", "open"]
CONFIDENCE = 0.999
"""Of the two-sided interval: a flat series is called broken once in two thousand runs."""
_MOST_ALIKE = 0.9


@dataclass(frozen=True, slots=True)
class Trend:
    """Growth over the whole of a series, in the series' own unit.

    Attributes
    ----------
    growth : of the least-squares line
    low, high : its interval at ``CONFIDENCE``; infinite where there are too few points
    """

    growth: float
    low: float
    high: float

    def per(self, spans: float) -> Trend:
        """The same growth as a rate, for a series that took this many units of time."""
        return Trend(self.growth / spans, self.low / spans, self.high / spans)


def trend(values: Sequence[float]) -> Trend:
    """Growth of a series of points at equal distances.

    The line is fitted by least squares. The residuals are modelled as a first-order autoregression. The number of
    independent points is n (1 - r) / (1 + r), with r the lag-one correlation of the residuals if it is positive, else 0.

    References
    ----------
    Santer et al. (2000), Journal of Geophysical Research 105(D6), 7337-7356, section 4.
    """
    n = len(values)
    y = np.asarray(values, dtype=np.float64)
    if n < 2:
        return Trend(0.0, -np.inf, np.inf)
    scale = float(y @ y)
    x = np.linspace(-0.5, 0.5, n)
    spread = float(x @ x)
    y = y - y.mean()
    slope = float(x @ y) / spread
    rest = y - slope * x
    left = float(rest @ rest)
    if left <= 1e-18 * max(1.0, scale):
        return Trend(slope, slope, slope)
    alike = min(max(float(rest[1:] @ rest[:-1]) / left, 0.0), _MOST_ALIKE)
    free = n * (1 - alike) / (1 + alike) - 2
    if free < 1:
        return Trend(slope, -np.inf, np.inf)
    width = float(stats.t.ppf((1 + CONFIDENCE) / 2, free)) * float(np.sqrt(left / free / spread))
    return Trend(slope, slope - width, slope + width)


def verdict(found: Trend, limit: float) -> Verdict:
    """Whether growth is certainly below the limit, certainly above it, or undecided."""
    if found.low > limit:
        return "broken"
    return "holds" if found.high <= limit else "open"
