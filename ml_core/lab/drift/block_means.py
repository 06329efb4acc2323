"""Blocks of consecutive answers as evidence: what is measured of each, and what the reference expects of it.

Rows that come together resemble each other: a ward's batch, the stays of one patient. So a single row is no
independent piece of evidence, and a test that takes it for one alarms in the first window. A block of rows is one,
however much its rows resemble each other: while nothing has changed, the average over blocks is that of the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.base.arrays import BoolArray, FloatArray, IntArray
from ml_core.lab.drift.current_window import FEWEST
from ml_core.lab.drift.drift_columns import MISSING, Table, numbers_in, positions_in
from ml_core.lab.drift.drift_rules import MISSING_LIMIT
from ml_core.lab.drift.reference_window import CategoryReference, NumberReference, ReferenceColumn, ReferenceWindow

__all__ = ["BlockStatistics", "Statistic", "blocks_of"]

_TAIL = 0.01
"""Share of the reference beyond the value from which a number counts as unusually high or low."""
_COMMON = 0.01
"""Share of the reference from which a level is counted by itself."""
_FEWEST_SHARE = 0.005
"""Smallest change of a share that counts: a level that the reference lacks has no standard deviation."""
_DRAWN_IN = 20
"""Most patients of a tail that a published reference draws in to one value, so that it seems to hold nothing beyond."""
_ERRORS = 3.0
"""Standard errors of the reference's own mean that are tolerated besides."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number between 0 and 1 that every row has, and its law in the reference.

    Attributes
    ----------
    column : of which column
    about : what of it: ``place`` (rank among the reference's values, 0 to 1), ``spread`` (distance of that rank from
        the middle), ``above`` and ``below`` (beyond all but a hundredth of the reference), ``level:I`` (the level at
        that position), ``rare`` (any level that is not counted by itself), ``unlisted`` (a level that the reference
        does not list), ``missing``
    mean, sd : of the reference's rows
    tolerance : how far a block's mean may lie off without counting as a change
    kurtosis : of the reference's rows, 1 or more; the larger it is, the more blocks it takes to know how much they vary
    """

    column: str
    about: str
    mean: float
    sd: float
    tolerance: float
    kurtosis: float


@dataclass(frozen=True)
class BlockStatistics:
    """All statistics of a reference.

    Attributes
    ----------
    window : the reference
    statistics : J of them, column after column
    """

    window: ReferenceWindow
    statistics: tuple[Statistic, ...]

    @classmethod
    def of(cls, window: ReferenceWindow, min_shift_fraction: float = 0.10) -> BlockStatistics:
        """The statistics of every column that can be judged.

        Parameters
        ----------
        min_shift_fraction : unitless, >= 0, tolerated change of a mean in standard deviations of the statistic
        """
        found: list[Statistic] = []
        for name, column in window.columns.items():
            laws = _number_laws(column) if isinstance(column, NumberReference) else _level_laws(column)
            found += [
                _statistic(name, about, *law, column.count, min_shift_fraction, _beyond(column, about))
                for about, law in laws.items()
            ]
            if column.rows >= FEWEST:
                rate, sd, kurtosis = _share_law(column.missing / column.rows)
                tolerance = MISSING_LIMIT + _ERRORS * sd / column.rows**0.5
                found.append(Statistic(name, "missing", rate, sd, tolerance, kurtosis))
        return cls(window, tuple(found))

    @property
    def key(self) -> str:
        """Short hash of what is measured; states of other statistics do not fit."""
        return sha256("\n".join(f"{s.column}\t{s.about}" for s in self.statistics).encode()).hexdigest()[:16]

    def rows(self, inputs: Table) -> FloatArray:
        """Every statistic of every row.

        A missing value counts as the reference's mean, so it speaks for nothing but ``missing``.

        Parameters
        ----------
        inputs : columns of shape (n,), as ``ReferenceWindow`` was made of

        Returns
        -------
        float64, shape (n, J), in [0, 1]
        """
        of_column: dict[str, dict[str, npt.NDArray[Any]]] = {}
        missing: dict[str, BoolArray] = {}
        for name in dict.fromkeys(s.column for s in self.statistics):
            of_column[name], missing[name] = _measured(self.window.columns[name], inputs[name])
        found = []
        for s in self.statistics:
            gap = missing[s.column]
            found.append(gap if s.about == "missing" else np.where(gap, s.mean, of_column[s.column][s.about]))
        return np.column_stack(found).astype(np.float64) if found else np.zeros((0, 0))

    def block_means(self, inputs: Table, blocks: IntArray) -> FloatArray:
        """Mean of every statistic in every block.

        Parameters
        ----------
        blocks : shape (n,), the block of each row, 0 to B - 1; see ``blocks_of``

        Returns
        -------
        float64, shape (B, J)
        """
        rows, sizes = self.rows(inputs), np.bincount(blocks)
        sums = np.column_stack([np.bincount(blocks, weights=column) for column in rows.T]) if rows.size else rows
        return sums[sizes > 0] / sizes[sizes > 0, np.newaxis] if rows.size else rows


def blocks_of(subjects: Sequence[bytes | str | int | None], size: int) -> IntArray:
    """The block of each row: about ``size`` consecutive rows, all rows of one subject in the block of his first.

    Parameters
    ----------
    subjects : of whom each of the n rows is, in order of time; None where nobody knows, then the row stands alone
    size : rows of a block, at least 1

    Returns
    -------
    int64, shape (n,), 0 to max(n // size, 1) - 1

    Examples
    --------
    >>> blocks_of(["a", "b", None, "a", "c", "c"], 2).tolist()
    [0, 1, 1, 0, 2, 2]
    """
    n, first = len(subjects), dict[bytes | str | int, int]()
    starts = np.array([i if s is None else first.setdefault(s, i) for i, s in enumerate(subjects)], dtype=np.int64)
    place = np.empty(n, dtype=np.int64)
    place[np.argsort(starts, kind="stable")] = np.arange(n)
    return place[starts] * max(n // size, 1) // max(n, 1)


# --- the law of the reference ---------------------------------------------------------------------------------------


_Law = tuple[float, float, float]  # mean, standard deviation, kurtosis


def _statistic(
    column: str, about: str, mean: float, sd: float, kurtosis: float, count: int, fraction: float, beyond: float
) -> Statistic:
    tolerance = max(fraction * sd + _ERRORS * sd / count**0.5, _FEWEST_SHARE + _ERRORS / count) + beyond
    return Statistic(column, about, mean, sd, tolerance, kurtosis)


def _beyond(reference: ReferenceColumn, about: str) -> float:
    """Share of rows that may lie beyond the last value that a reference publishes."""
    if about not in ("above", "below") or not isinstance(reference, NumberReference) or not reference.drawn_in:
        return 0.0
    edge = reference.points[-1 if about == "above" else 0]
    if edge not in _tails(reference):
        return 0.0
    return min(float((reference.points == edge).mean()), _DRAWN_IN / reference.count)


def _number_laws(reference: NumberReference) -> dict[str, _Law]:
    points = reference.points
    if min(reference.count, len(points)) < FEWEST:
        return {}
    return {about: _law(values) for about, values in _of_numbers(reference, points).items()}


def _level_laws(reference: ReferenceColumn) -> dict[str, _Law]:
    if not isinstance(reference, CategoryReference) or reference.count < FEWEST:
        return {}
    shares = _shares(reference)
    common = _common(reference)
    found = {f"level:{i}": float(shares[i]) for i in common.tolist()}
    found["rare"] = max(1.0 - float(shares[common].sum()), 0.0)
    found["unlisted"] = (reference.rest or 0) / reference.count
    return {about: _share_law(share) for about, share in found.items()}


def _law(values: npt.NDArray[Any]) -> _Law:
    mean, sd = float(values.mean()), float(values.std())
    return mean, sd, float(((values - mean) ** 4).mean() / sd**4) if sd > 0.0 else 1.0


def _share_law(share: float) -> _Law:
    """Law of the indicator of an event."""
    spread = share * (1.0 - share)
    return share, spread**0.5, (1.0 - 3.0 * spread) / spread if spread > 0.0 else 1.0


def _shares(reference: CategoryReference) -> FloatArray:
    shares: FloatArray = reference.counts / reference.count
    return shares


def _common(reference: CategoryReference) -> IntArray:
    return np.flatnonzero(_shares(reference) >= _COMMON).astype(np.int64)


# --- rows -----------------------------------------------------------------------------------------------------------


def _measured(reference: ReferenceColumn, values: Any) -> tuple[dict[str, npt.NDArray[Any]], BoolArray]:
    """Statistics of a column by what they are about, each (n,), and where it has no value."""
    if isinstance(reference, NumberReference):
        cells = numbers_in(values).cells
        missing = ~np.isfinite(cells)
        known = _of_numbers(reference, np.where(missing, 0.0, cells)) if len(reference.points) else {}
        return known, missing
    if not isinstance(reference, CategoryReference):
        return {}, np.asarray(pd.isna(values), dtype=np.bool_)
    positions = positions_in(values, reference.feature, reference.place)
    common = _common(reference)
    found = {f"level:{i}": positions == i for i in common.tolist()}
    absent = np.append(reference.counts == 0, [True, False])  # not listed at all; missing, at -1
    return found | {"rare": ~np.isin(positions, common), "unlisted": absent[positions]}, positions == MISSING


def _of_numbers(reference: NumberReference, cells: FloatArray) -> dict[str, npt.NDArray[Any]]:
    points = reference.points
    within = np.clip(cells, points[0], points[-1])
    below, upto = (np.searchsorted(points, within, side=side) for side in ("left", "right"))
    place = (below + upto) / (2.0 * len(points))
    low, high = _tails(reference)
    return {"place": place, "spread": np.abs(2.0 * place - 1.0), "above": cells > high, "below": cells < low}


def _tails(reference: NumberReference) -> tuple[float, float]:
    low = np.quantile(reference.points, _TAIL, method="lower")
    return float(low), float(np.quantile(reference.points, 1.0 - _TAIL, method="higher"))
