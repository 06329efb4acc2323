"""Current values counted at and between the points of a reference: a summary whose size is that of the reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml_core.lab.drift.spread import Moments

__all__ = ["Bins"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_MOST_KEPT = 1 << 17
"""Values kept around a median: 1 MB. A bin that holds more is thinned at random; the median then moves by about 0.15 %
of that bin's values."""


class Bins:
    """Counts, sums and sums of squares: bin 2 i + 1 is distinct point i, bin 2 i the open cell before it.

    Sums are of differences from an origin near the values, so that a large common offset costs no digits.

    Parameters
    ----------
    points : shape (K,), strictly ascending; K > 0
    origin : e.g. the median of the points
    with_sums : also what ``spread`` and ``wasserstein`` need
    """

    def __init__(self, points: FloatArray, origin: float, *, with_sums: bool) -> None:
        self._points, self._origin = points, origin
        self.counts: IntArray = np.zeros(2 * len(points) + 1, dtype=np.int64)
        size = len(self.counts) if with_sums else 0
        self._sums, self._squares = np.zeros(size), np.zeros(size)
        self._kept: list[FloatArray] = []
        self._rng = np.random.default_rng(0)

    def add(self, ordered: FloatArray) -> None:
        """Count further values, ascending and at least one."""
        bins = self._bins_of(ordered)
        starts = np.append(0, np.flatnonzero(np.diff(bins)) + 1)
        touched = bins[starts]
        self.counts[touched] += np.diff(np.append(starts, len(bins)))
        if self._sums.size:
            away = ordered - self._origin
            self._sums[touched] += np.add.reduceat(away, starts)
            self._squares[touched] += np.add.reduceat(away**2, starts)

    def keep(self, ordered: FloatArray) -> None:
        """Keep those of the same values, seen a second time, that share a bin with the median."""
        median_bins = self._median_bins()
        held = ordered[np.isin(self._bins_of(ordered), median_bins)]
        share = _MOST_KEPT / int(self.counts[median_bins].sum())
        self._kept.append(held if share >= 1.0 else held[self._rng.random(len(held)) < share])

    def cumulated(self) -> tuple[IntArray, IntArray]:
        """Values below, and at most at, each point; shape (K,) each."""
        running = np.cumsum(self.counts)
        return running[:-1:2], running[1::2]

    def spread(self) -> Moments:
        """Moments of the distances from the median: from sums, and value by value in the bins that hold it."""
        count, bins = int(self.counts.sum()), self._median_bins()
        kept = np.sort(np.concatenate(self._kept)) - self._origin
        total, before = int(self.counts[bins].sum()), int(self.counts[: bins[0]].sum())
        low, high = (kept[(rank - before) * len(kept) // total] for rank in _middle_ranks(count))
        center = float(low + high) / 2.0
        others = np.delete(np.arange(len(self.counts)), bins)
        held, sums = self.counts[others], self._sums[others]
        sign = np.where(others < bins[0], -1.0, 1.0)
        near, weight = np.abs(kept - center), total / len(kept)
        mean = float((sign * (sums - center * held)).sum() + weight * near.sum()) / count
        squared = (self._squares[others] - 2.0 * center * sums + center * center * held).sum() + weight * (
            near**2
        ).sum()
        return Moments(count, mean, max(float(squared) - count * mean * mean, 0.0))

    def wasserstein(self, weights: FloatArray) -> float:
        """Sum over the open cells of the absolute integral of F - G: W1, but in cells where the two cross.

        Parameters
        ----------
        weights : shape (K,), reference's distribution function at each point, in (0, 1]
        """
        points, count = self._points - self._origin, int(self.counts.sum())
        held, sums = self.counts[::2], self._sums[::2]
        to_next = held[:-1] * points - sums[:-1]  # from the values of a cell to the point after it, summed
        _, upto = self.cumulated()
        inner = np.abs(np.diff(points) * (weights - upto / count)[:-1] - to_next[1:] / count).sum()
        tails = to_next[0] + sums[-1] - held[-1] * points[-1]
        return float(inner + tails / count)

    def _bins_of(self, ordered: FloatArray) -> IntArray:
        below, upto = (np.searchsorted(self._points, ordered, side=side) for side in ("left", "right"))
        bins: IntArray = below + upto
        return bins

    def _median_bins(self) -> IntArray:
        running = np.cumsum(self.counts)
        return np.unique(np.searchsorted(running, _middle_ranks(int(running[-1])), side="right"))


def _middle_ranks(count: int) -> tuple[int, int]:
    return (count - 1) // 2, count // 2
