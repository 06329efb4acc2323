"""The current window read piece by piece: the summary of all rows, in memory that depends on the reference alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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

__all__ = ["MedianBins", "SeenRows", "near_medians"]

_MOST_KEPT = 1 << 17
"""Values kept around a median: 1 MB. A bin that holds more is sampled; the median then moves by about 0.15 % of the
bin's values."""


@dataclass(frozen=True, slots=True)
class MedianBins:
    """Where the median of a column lies.

    Attributes
    ----------
    bins : that hold it, one or two
    share : of the values in them that is kept, all of them from 1 on
    """

    bins: IntArray
    share: float


class SeenRows:
    """What one pass over some rows tells of every column; what is seen of other rows can be added.

    Its summary equals ``current_window.summarised`` of all rows, except for rounding and for W1. W1 is a lower bound:
    it misses part of a cell between two reference values if the two distribution functions cross there. It travels
    between processes without the reference, which both have.

    Parameters
    ----------
    window : the reference
    extended : also what the rule ``extended`` needs
    """

    def __init__(self, window: ReferenceWindow, *, extended: bool) -> None:
        self._names = tuple(window.columns)
        self._streams = {
            n: _NumberStream(c, extended=extended) for n, c in window.columns.items() if isinstance(c, NumberReference)
        }
        self._others = {n: c for n, c in window.columns.items() if not isinstance(c, NumberReference)}
        self._found: dict[str, CurrentColumn] = {n: level_current(c, []) for n, c in self._others.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_others": {}}

    def add(self, rows: pd.DataFrame) -> None:
        """Look at further rows."""
        with np.errstate(over="ignore", invalid="ignore"):  # for values near the largest float, which get a flag
            for name, stream in self._streams.items():
                stream.add(rows[name])
            for name, column in self._others.items():
                self._found[name] = _together(column, self._found[name], level_current(column, rows[name]))

    def include(self, later: SeenRows) -> None:
        """Add what was seen of rows that come after these."""
        with np.errstate(over="ignore", invalid="ignore"):
            for name, stream in self._streams.items():
                stream.include(later._streams[name])
            for name, column in self._others.items():
                self._found[name] = _together(column, self._found[name], later._found[name])

    def medians_wanted(self) -> Mapping[str, MedianBins]:
        """The columns whose rows must be looked at a second time, and where."""
        return {name: stream.median_bins() for name, stream in self._streams.items() if stream.wants_median}

    def keep(self, near: Mapping[str, FloatArray]) -> None:
        """Values near the medians, see ``near_medians``; further ones may follow."""
        for name, values in near.items():
            self._streams[name].keep(values)

    def summary(self) -> Mapping[str, CurrentColumn]:
        """Every column, once all rows have been seen."""
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._found | {name: stream.summary() for name, stream in self._streams.items()}
        return {name: found[name] for name in self._names}


def near_medians(
    window: ReferenceWindow, wanted: Mapping[str, MedianBins], pieces: Iterable[pd.DataFrame], seed: int
) -> dict[str, FloatArray]:
    """The values of these rows that share a bin with the median of all rows, by column.

    Parameters
    ----------
    wanted : where the medians lie
    seed : decides which are kept, where there are too many
    """
    rng = np.random.default_rng(seed)
    kept: dict[str, list[FloatArray]] = {name: [] for name in wanted}
    for piece in pieces:
        for name, around in wanted.items():
            reference = cast("NumberReference", window.columns[name])
            numbers = numbers_in(piece[name]).cells
            ordered = _ordered(reference, numbers[np.isfinite(numbers)])
            held = ordered[np.isin(_bins_of(reference.points[reference.starts], ordered), around.bins)]
            kept[name].append(held if around.share >= 1.0 else held[rng.random(len(held)) < around.share])
    return {name: np.concatenate([np.empty(0), *values]) for name, values in kept.items()}


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
            self._bins.add(_ordered(self._reference, finite))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reference": None}

    def include(self, later: _NumberStream) -> None:
        self._rows += later._rows
        self._unreadable += later._unreadable
        self._infinite += later._infinite
        self._moments = self._moments.merged(later._moments)
        self._low, self._high = min(self._low, later._low), max(self._high, later._high)
        if self._bins is not None and later._bins is not None:
            self._bins.include(later._bins)

    @property
    def wants_median(self) -> bool:
        """Whether the rows must be seen a second time."""
        return self._extended and not self._few and comparable(self._reference, self._moments.count)

    def median_bins(self) -> MedianBins:
        assert self._bins is not None  # only such a stream wants a median
        return self._bins.median_bins()

    def keep(self, values: FloatArray) -> None:
        assert self._bins is not None
        self._bins.keep(values)

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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_points": None}

    def include(self, later: _Bins) -> None:
        """Add the values that other bins of the same points have counted."""
        self.counts += later.counts
        self._sums += later._sums
        self._squares += later._squares

    def add(self, ordered: FloatArray) -> None:
        """Count further values, ascending and at least one."""
        bins = _bins_of(self._points, ordered)
        starts = np.append(0, np.flatnonzero(np.diff(bins)) + 1)
        touched = bins[starts]
        self.counts[touched] += np.diff(np.append(starts, len(bins)))
        if self._sums.size:
            away = ordered - self._origin
            self._sums[touched] += np.add.reduceat(away, starts)
            self._squares[touched] += np.add.reduceat(away**2, starts)

    def median_bins(self) -> MedianBins:
        """Where the median lies, once all values are counted."""
        bins = self._median_bins()
        return MedianBins(bins, _MOST_KEPT / int(self.counts[bins].sum()))

    def keep(self, near: FloatArray) -> None:
        """Keep values of the median's bins, of all or of a random share."""
        self._kept.append(near)

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

    def _median_bins(self) -> IntArray:
        running = np.cumsum(self.counts)
        return np.unique(np.searchsorted(running, _middle_ranks(int(running[-1])), side="right"))


def _ordered(reference: NumberReference, finite: FloatArray) -> FloatArray:
    points = reference.points
    return np.clip(np.sort(finite), points[0], points[-1]) if reference.drawn_in else np.sort(finite)


def _bins_of(points: FloatArray, ordered: FloatArray) -> IntArray:
    below, upto = (np.searchsorted(points, ordered, side=side) for side in ("left", "right"))
    bins: IntArray = below + upto
    return bins


def _middle_ranks(count: int) -> tuple[int, int]:
    return (count - 1) // 2, count // 2
