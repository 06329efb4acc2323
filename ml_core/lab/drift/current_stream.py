"""The current window a piece at a time: the same summary as of all rows at once, in memory of the reference's size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.lab.drift.bins import Bins
from ml_core.lab.drift.current_window import (
    CategoryCurrent,
    CurrentColumn,
    NumberCurrent,
    UnjudgedCurrent,
    category_current,
    comparable,
    level_counts,
)
from ml_core.lab.drift.drift_columns import numbers_in
from ml_core.lab.drift.ks import distance_at_points
from ml_core.lab.drift.reference_window import CategoryReference, NumberReference, ReferenceColumn, ReferenceWindow
from ml_core.lab.drift.spread import Moments

__all__ = ["summarised_stream"]

Pieces = Callable[[], Iterable[pd.DataFrame]]


def summarised_stream(window: ReferenceWindow, pieces: Pieces, *, extended: bool) -> Mapping[str, CurrentColumn]:
    """Every column of the reference as the current rows have it, whatever their number.

    Equal to ``current.summarised`` of all rows together, but for rounding and for W1: where the current distribution
    function crosses the reference's between two of its values, W1 misses part of that cell and is a lower bound.

    Parameters
    ----------
    pieces : gives the rows anew, as frames of raw values; asked for twice where ``extended`` needs medians
    extended : also what the rule ``extended`` needs
    """
    streams = {name: _stream_of(column, extended=extended) for name, column in window.columns.items()}
    with np.errstate(over="ignore", invalid="ignore"):  # of values near the largest float; a flag tells of them
        for piece in pieces():
            for name, stream in streams.items():
                stream.add(piece[name])
        again = {n: s for n, s in streams.items() if isinstance(s, _NumberStream) and s.wants_median}
        for piece in pieces() if again else ():
            for name, number_stream in again.items():
                number_stream.add_again(piece[name])
        return {name: stream.summary() for name, stream in streams.items()}


def _stream_of(reference: ReferenceColumn, *, extended: bool) -> _NumberStream | _CategoryStream | _UnjudgedStream:
    if isinstance(reference, NumberReference):
        return _NumberStream(reference, extended=extended)
    return _CategoryStream(reference) if isinstance(reference, CategoryReference) else _UnjudgedStream()


class _NumberStream:
    def __init__(self, reference: NumberReference, *, extended: bool) -> None:
        self._reference, self._extended = reference, extended
        self._tested = comparable(reference, reference.count)
        self._few = extended and self._tested and reference.few_values is not None
        with_sums = extended and self._tested and not self._few
        origin = reference.median if with_sums else 0.0
        self._bins = Bins(reference.points[reference.starts], origin, with_sums=with_sums) if self._tested else None
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

    def _ordered(self, finite: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        points = self._reference.points
        return np.clip(np.sort(finite), points[0], points[-1]) if self._reference.drawn_in else np.sort(finite)


class _CategoryStream:
    def __init__(self, reference: CategoryReference) -> None:
        self._reference = reference
        self._counts = np.zeros(len(reference.levels), dtype=np.int64)
        self._rows = self._other = 0

    def add(self, cells: Any) -> None:
        counts, other = level_counts(self._reference, cells)
        self._counts += counts
        self._other += other
        self._rows += len(cells)

    def summary(self) -> CategoryCurrent:
        return category_current(self._reference, self._counts, self._other, self._rows)


class _UnjudgedStream:
    def __init__(self) -> None:
        self._rows = self._missing = 0

    def add(self, cells: Any) -> None:
        self._rows += len(cells)
        self._missing += int(pd.isna(cells).sum())

    def summary(self) -> UnjudgedCurrent:
        return UnjudgedCurrent(self._rows, self._missing, self._rows - self._missing)
