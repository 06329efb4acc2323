"""The current window in numbers: what the rules need to know of each column to compare it with the reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ml_core.base.arrays import FloatArray, IntArray
from ml_core.base.errors import DataError
from ml_core.lab.drift.drift_columns import MISSING, Table, numbers_in, positions_in
from ml_core.lab.drift.ks import KsDistance, distance_of_counts, distance_of_sorted
from ml_core.lab.drift.reference_window import (
    CategoryReference,
    NumberReference,
    ReferenceColumn,
    ReferenceWindow,
    UnjudgedReference,
)
from ml_core.lab.drift.repeat_counts import RepeatCounts
from ml_core.lab.drift.two_sample import Moments, moments_of_counts, spread_around, wasserstein

__all__ = [
    "FEWEST",
    "CategoryCurrent",
    "CurrentColumn",
    "NumberCurrent",
    "People",
    "UnjudgedCurrent",
    "category_current",
    "comparable",
    "independent_share",
    "level_counts",
    "level_current",
    "summarised",
    "thinned",
]

FEWEST = 30
"""Values on each side below which nothing is tested."""


@dataclass(frozen=True, slots=True)
class NumberCurrent:
    """A column of numbers.

    Attributes
    ----------
    rows, count, infinite, unreadable : rows; finite values; values left out, of which unreadable ones count as missing
    mean, low, high : of the finite values; NaN without any
    distance : Kolmogorov-Smirnov distance from the reference; None where a side has fewer than ``FEWEST`` values
    wasserstein, spread : W1 from the reference, and moments of ``|x - median|``; None unless asked for
    cells : rows with each of the reference's ``few_values``, and last with any other; None where it has more
    """

    rows: int
    count: int
    infinite: int
    unreadable: int
    mean: float
    low: float
    high: float
    distance: KsDistance | None = None
    wasserstein: float | None = None
    spread: Moments | None = None
    cells: IntArray | None = None

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return self.rows - self.count - self.infinite


@dataclass(frozen=True, slots=True)
class CategoryCurrent:
    """A column of levels.

    Attributes
    ----------
    rows : rows
    counts : shape (L,), rows per listed level of the reference
    other : rows with a level that it does not list
    distance : of the positions; None where these have no meaning, or a side has fewer than ``FEWEST`` listed values
    mean : of the positions of listed levels; NaN where these have no meaning
    """

    rows: int
    counts: IntArray
    other: int
    distance: KsDistance | None
    mean: float

    @property
    def count(self) -> int:
        """Rows with a value."""
        return int(self.counts.sum()) + self.other

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return self.rows - self.count


@dataclass(frozen=True, slots=True)
class UnjudgedCurrent:
    """A column that no rule compares."""

    rows: int
    missing: int
    count: int
    mean: float = np.nan
    distance: None = None


CurrentColumn = NumberCurrent | CategoryCurrent | UnjudgedCurrent


def summarised(window: ReferenceWindow, table: Table, *, extended: bool) -> Mapping[str, CurrentColumn]:
    """Every column of the reference as the current rows have it.

    Parameters
    ----------
    table : frame of raw values, or arrays (see ``features_in``)
    extended : also what the rule ``extended`` needs

    Raises
    ------
    DataError
        A column of the reference is missing.
    """
    missing = [name for name in window.columns if name not in table]
    if missing:
        raise DataError("current window", f"has no column {', '.join(missing)}")
    with np.errstate(over="ignore", invalid="ignore"):  # for values near the largest float, which get a flag
        return {
            name: _number_current(column, table[name], extended=extended)
            if isinstance(column, NumberReference)
            else level_current(column, table[name])
            for name, column in window.columns.items()
        }


People = Sequence[Hashable] | RepeatCounts
"""Of whom each row is; None where nobody knows, then the row stands alone."""


def independent_share(patients: People, reference: People = ()) -> float:
    """Share of the rows that independent rows could be, so as to say as much as rows in which patients repeat.

    A patient's rows count as if they were all alike, which is the most they can resemble each other: n rows with m of
    each patient are worth n**2 / sum(m**2) (Kish).

    Parameters
    ----------
    patients : of whom each of n rows is
    reference : the same of the reference's rows, where it is known; what they lack is taken from this side

    Returns
    -------
    float
        In (0, 1].

    References
    ----------
    Kish (1965), Survey Sampling, chapter 5.

    Examples
    --------
    >>> independent_share(["a", "a", "b", "b"]), independent_share(["a", None, None, "b"])
    (0.5, 1.0)
    """
    if not len(patients):
        return 1.0
    # variance of a mean in units of that of a row: of these rows, and what repeats add to that of the reference
    more = _mean_variance(reference) - 1.0 / len(reference) if len(reference) else 0.0
    return min(1.0, 1.0 / ((_mean_variance(patients) + more) * len(patients)))


def _mean_variance(patients: People) -> float:
    if isinstance(patients, RepeatCounts):
        return patients.squares / len(patients) ** 2
    repeats = Counter(patient for patient in patients if patient is not None)
    squares = sum(m * m for m in repeats.values()) + len(patients) - sum(repeats.values())
    return squares / len(patients) ** 2


def thinned(reference: ReferenceColumn, current: CurrentColumn, share: float) -> CurrentColumn:
    """The same column as if only that share of its rows had been seen, so that tests count no row twice.

    Shares of levels, means and distances stay as they are, up to whole rows.

    Parameters
    ----------
    share : in (0, 1]; at 1 the column is returned as it is
    """
    if share >= 1.0:
        return current
    rows = round(current.rows * share)
    if isinstance(current, CategoryCurrent) and isinstance(reference, CategoryReference):
        counts = _whole(np.append(current.counts, current.other), share)
        found = category_current(reference, counts[:-1], int(counts[-1]), max(rows, int(counts.sum())))
        return replace(found, mean=current.mean)
    if isinstance(current, NumberCurrent):
        count, infinite = round(current.count * share), round(current.infinite * share)
        known = comparable(reference, count) if isinstance(reference, NumberReference) else False
        distance = current.distance
        if distance is not None:
            i, j = distance.at
            distance = KsDistance(round(distance.value * distance.n * count), distance.n, count, (i, round(j * share)))
        return replace(
            current,
            rows=rows,
            count=count,
            infinite=infinite,
            distance=distance if known else None,
            spread=None if current.spread is None else current.spread.scaled_to(count),
            cells=None if current.cells is None else _whole(current.cells, share),
        )
    return UnjudgedCurrent(rows, round(current.missing * share), round(current.count * share), current.mean)


def _whole(counts: IntArray, share: float) -> IntArray:
    """That share of each count in whole rows, of the whole sum as well."""
    upto = np.round(np.cumsum(counts) * share).astype(np.int64)
    return np.diff(np.append(0, upto))


def comparable(reference: NumberReference, count: int) -> bool:
    """Whether both sides have enough values to be tested."""
    return min(reference.count, count) >= FEWEST and len(reference.points) > 0


def _number_current(reference: NumberReference, values: Any, *, extended: bool) -> NumberCurrent:
    """A whole column of numbers, compared with the reference."""
    numbers = numbers_in(values)
    finite_at = np.isfinite(numbers.cells)
    finite = numbers.cells[finite_at] if not finite_at.all() else numbers.cells
    count, rows = finite.size, len(numbers.cells)
    infinite = 0 if count == rows else int(np.isinf(numbers.cells).sum())
    if not count:
        return NumberCurrent(rows, 0, infinite, numbers.unreadable, np.nan, np.nan, np.nan)
    ordered = np.sort(finite)
    plain = (rows, count, infinite, numbers.unreadable, float(finite.mean()), float(ordered[0]), float(ordered[-1]))
    if not comparable(reference, count):
        return NumberCurrent(*plain)
    if reference.drawn_in:
        ordered = np.clip(ordered, reference.points[0], reference.points[-1])
    distance = distance_of_sorted(reference.points, ordered, reference.ranks, reference.count)
    if not extended:
        return NumberCurrent(*plain, distance)
    if reference.few_values is not None:
        return NumberCurrent(*plain, distance, cells=_cells(reference.few_values, ordered))
    w1 = wasserstein(reference.points, reference.integral, reference.median, ordered)
    return NumberCurrent(*plain, distance, w1, spread_around(float(np.median(ordered)), ordered))


def category_current(reference: CategoryReference, counts: IntArray, other: int, rows: int) -> CategoryCurrent:
    """A column of levels, given its counts, compared with the reference."""
    if reference.feature.kind != "category":
        return CategoryCurrent(rows, counts, other, None, np.nan)
    listed = int(counts.sum())
    enough = min(int(reference.counts.sum()), listed) >= FEWEST
    distance = distance_of_counts(reference.counts, counts) if enough else None
    return CategoryCurrent(rows, counts, other, distance, moments_of_counts(counts).mean)


def level_current(reference: CategoryReference | UnjudgedReference, values: Any) -> CategoryCurrent | UnjudgedCurrent:
    """A whole column that holds no numbers, compared with the reference."""
    if isinstance(reference, CategoryReference):
        return category_current(reference, *level_counts(reference, values), len(values))
    missing = int(pd.isna(values).sum())
    return UnjudgedCurrent(len(values), missing, len(values) - missing)


def level_counts(reference: CategoryReference, values: Any) -> tuple[IntArray, int]:
    """Rows per listed level, and rows with another one."""
    positions = positions_in(values, reference.feature, reference.place)
    counts = np.bincount(positions[positions != MISSING], minlength=len(reference.levels) + 1)
    return counts[: len(reference.levels)].astype(np.int64), int(counts[len(reference.levels) :].sum())


def _cells(few: FloatArray, ordered: FloatArray) -> IntArray:
    below, upto = (np.searchsorted(ordered, few, side=side) for side in ("left", "right"))
    counts = upto - below
    return np.append(counts, len(ordered) - counts.sum())
