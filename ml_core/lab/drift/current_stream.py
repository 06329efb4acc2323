"""The current window read piece by piece: the summary of all rows, in memory that depends on the reference alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np
import pandas as pd

from ml_core.base.arrays import FloatArray, IntArray
from ml_core.lab.drift.current_window import (
    CategoryCurrent,
    CurrentColumn,
    NumberCurrent,
    UnjudgedCurrent,
    category_current,
    comparable,
    level_current,
)
from ml_core.lab.drift.drift_columns import numbers_in
from ml_core.lab.drift.ks import distance_at_points
from ml_core.lab.drift.reference_window import CategoryReference, NumberReference, ReferenceWindow, UnjudgedReference
from ml_core.lab.drift.two_sample import Moments

__all__ = ["summarised_stream"]

Pieces = Callable[[], Iterable[pd.DataFrame]]

_MOST_KEPT = 1 << 17
"""Values kept around a median: 1 MB. A bin that holds more is sampled; the median then moves by about 0.15 % of the
bin's values."""


def summarised_stream(window: ReferenceWindow, pieces: Pieces, *, extended: bool) -> Mapping[str, CurrentColumn]:
    """Every column of the reference as the current rows have it, whatever their number.

    Equals ``current_window.summarised`` of all rows, except for rounding and for W1. W1 is a lower bound: it misses
    part of a cell between two reference values if the two distribution functions cross there.

    Parameters
    ----------
    pieces : returns all rows from the start, as frames of raw values; called twice if ``extended`` needs medians
    extended : also what the rule ``extended`` needs
    """
    streams = {
        n: _NumberStream(c, extended=extended) for n, c in window.columns.items() if isinstance(c, NumberReference)
    }
    others = {n: c for n, c in window.columns.items() if not isinstance(c, NumberReference)}
    found: dict[str, CurrentColumn] = {name: level_current(column, []) for name, column in others.items()}
    with np.errstate(over="ignore", invalid="ignore"):  # for values near the largest float, which get a flag
        for piece in pieces():
            for name, stream in streams.items():
                stream.add(piece[name])
            for name, column in others.items():
                found[name] = _together(column, found[name], level_current(column, piece[name]))
        again = {name: stream for name, stream in streams.items() if stream.wants_median}
        for piece in pieces() if again else ():
            for name, stream in again.items():
                stream.add_again(piece[name])
        found |= {name: stream.summary() for name, stream in streams.items()}
    return {name: found[name] for name in window.columns}


def _together(
    reference: CategoryReference | UnjudgedReference, one: CurrentColumn, two: CurrentColumn
) -> CurrentColumn:
    """The summary of two pieces of a column that holds no numbers."""
    rows = one.rows + two.rows
    if isinstance(reference, CategoryReference):
        one, two = cast("CategoryCurrent", one), cast("CategoryCurrent", two)
        return category_current(reference, one.counts + two.counts, one.other + two.other, rows)
    return UnjudgedCurrent(rows, one.missing + two.missing, one.count + two.count)


class _NumberStream:
    def __init__(self, reference: NumberReference, *, extended: bool) -> None:
        self._reference, self._extended = reference, extended
        self._tested = comparable(reference, reference.count)
        self._few = extended and self._tested and reference.few_values is not None
        with_sums = extended and self._tested and not self._few
        origin = reference.median if with_sums else 0.0
        self._bins = _Bins(reference.points[reference.starts], origin, with_sums=with_sums) if self._tested else None
        self._moments = Moments.of(np.empty(0))
        self._low, self._high = np.inf, -np.inf
        self._rows = self._infinite = self._unreadable = 0

    def add(self, cells: Any) -> None:
        numbers = numbers_in(cells)
        finite = numbers.cells[np.isfinite(numbers.cells)]
        self._rows += len(numbers.cells)
        self._unreadable += numbers.unreadable
        self._infinite += int(np.isinf(numbers.cells).sum())
        if not finite.size:
            return
        self._moments = self._moments.merged(Moments.of(finite))
        self._low, self._high = min(self._low, float(finite.min())), max(self._high, float(finite.max()))
        if self._bins is not None:
            self._bins.add(self._ordered(finite))

    @property
    def wants_median(self) -> bool:
        """Whether the rows must be seen a second time."""
        return self._extended and not self._few and comparable(self._reference, self._moments.count)

    def add_again(self, cells: Any) -> None:
        numbers = numbers_in(cells)
        if self._bins is not None:
            self._bins.keep(self._ordered(numbers.cells[np.isfinite(numbers.cells)]))

    def summary(self) -> NumberCurrent:
        count, reference = self._moments.count, self._reference
        if not count:
            return NumberCurrent(self._rows, 0, self._infinite, self._unreadable, np.nan, np.nan, np.nan)
        plain = (self._rows, count, self._infinite, self._unreadable, self._moments.mean, self._low, self._high)
        if self._bins is None or not comparable(reference, count):
            return NumberCurrent(*plain)
        ends = np.append(reference.starts[1:], len(reference.points))
        ranks = np.arange(reference.count) if reference.ranks is None else reference.ranks
        below, upto = self._bins.cumulated()
        distance = distance_at_points(
            ranks[reference.starts], ranks[ends - 1], below, upto, reference.count, count
        )  # fmt: skip
        if self._few:
            counts = self._bins.counts
            return NumberCurrent(*plain, distance, cells=np.append(counts[1::2], counts[::2].sum()))
        if not self._extended:
            return NumberCurrent(*plain, distance)
        w1 = self._bins.wasserstein(ends / len(reference.points))
        return NumberCurrent(*plain, distance, w1, self._bins.spread())

    def _ordered(self, finite: FloatArray) -> FloatArray:
        points = self._reference.points
        return np.clip(np.sort(finite), points[0], points[-1]) if self._reference.drawn_in else np.sort(finite)


class _Bins:
    """Counts, sums and sums of squares per bin: bin 2 i + 1 is distinct point i, bin 2 i the open cell before it.

    Sums are taken of differences from an origin near the values: a large common offset then costs no precision.

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
        """Keep the values that share a bin with the median. Call it with the same values as ``add``, afterwards."""
        median_bins = self._median_bins()
        held = ordered[np.isin(self._bins_of(ordered), median_bins)]
        share = _MOST_KEPT / int(self.counts[median_bins].sum())
        self._kept.append(held if share >= 1.0 else held[self._rng.random(len(held)) < share])

    def cumulated(self) -> tuple[IntArray, IntArray]:
        """Values below, and at most at, each point; shape (K,) each."""
        running = np.cumsum(self.counts)
        return running[:-1:2], running[1::2]

    def spread(self) -> Moments:
        """Moments of the distances from the median: from the kept values in its bins, from sums in all others."""
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
        """Sum over the open cells of the absolute integral of F - G. It is W1, except in cells where the two cross.

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
