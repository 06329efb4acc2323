"""Groups of patients: which group a row belongs to, and sets that are calibrated in each group by itself.

A *grouping* is a rule that gives every row one of a few *cells*, from the value of one raw column: levels of a
category, or bands of a number. Rows without a value are in the cell ``unknown``. A model may promise its coverage in
the cells of one grouping (Mondrian conformal prediction, Vovk 2012, arXiv:1209.2673). The others are only measured.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import orjson

from ml_core.base.arrays import IntArray
from ml_core.base.errors import InvalidCalibration
from ml_core.features.columns import ColumnArrays
from ml_core.serve.features.column_rules import column_beside
from ml_core.serve.features.record import Record, Value
from ml_core.serve.model.manifest import GroupFacts, GroupingFacts
from ml_core.serve.model.prediction_sets import ConformalCalibration, Guarantee, Predictions

__all__ = ["UNKNOWN", "GroupedCalibration", "GroupedRows", "Grouping", "Groupings", "Promise"]

Promise = Guarantee | Literal["class_and_group", "weighted"]
"""What a set promises: coverage of all rows, of each class, of each class by group, or weighted as patients come."""

UNKNOWN = "unknown"
"""Cell of the rows that have no value. It is calibrated with all rows, and promises what they promise."""


class Grouping:
    """The rule from a raw column to the cells of one grouping.

    Parameters
    ----------
    facts : as the manifest has it

    Attributes
    ----------
    name : of the grouping
    column : name of the raw column
    cells : names of the cells, by their positions; the last one is ``unknown``
    beside : the column itself where it is no feature, so that requests may send it
    """

    def __init__(self, facts: GroupingFacts) -> None:
        self.name = facts.name
        self.column = facts.column
        self.cells = (*facts.cells, UNKNOWN)
        self.beside = None if facts.is_feature else column_beside(facts.column, facts.levels, facts.doc)
        self._unknown = len(facts.cells)
        self._cuts = list(facts.cuts)
        self._by_level: dict[Value, int] = dict(zip(facts.levels, facts.level_cells, strict=True))
        self._by_code = np.array([*facts.level_cells, self._unknown], dtype=np.int64)  # -1, missing, is the last

    def position(self, value: Value) -> int:
        """Position of the cell of one plain value; None is missing."""
        if value is None:
            return self._unknown
        if self._by_level:
            return self._by_level.get(value, self._unknown)
        return bisect_right(self._cuts, float(value))

    def positions(self, values: npt.NDArray[np.float64] | IntArray) -> IntArray:
        """The same for n values as ``ColumnArrays`` has them, shape (n,): codes of levels, or numbers."""
        if self._by_level:
            of_codes: IntArray = self._by_code[values.astype(np.int64, copy=False)]
            return of_codes
        found: IntArray = np.searchsorted(self._cuts, values, side="right").astype(np.int64)
        found[np.isnan(values)] = self._unknown
        return found


class Groupings:
    """All declared groupings of a model.

    Attributes
    ----------
    declared : in the order of the configuration
    names : of the groupings
    beside : raw columns that are no features and are asked for because of them
    by : position of the grouping whose cells have a promise of their own; None where all are only measured
    """

    def __init__(self, facts: GroupFacts) -> None:
        self.declared = tuple(map(Grouping, facts.declared))
        self.names = tuple(grouping.name for grouping in self.declared)
        beside = {g.beside.name: g.beside for g in self.declared if g.beside is not None}
        self.beside = tuple(beside.values())
        self.by = None if facts.calibrated_by is None else self.names.index(facts.calibrated_by)
        self._texts: dict[tuple[int, ...], bytes] = {}

    def of_record(self, record: Record) -> tuple[int, ...]:
        """Position of a record's cell in each grouping."""
        values, beside = record.values, record.ids
        return tuple(
            g.position((values if g.beside is None else beside).get(g.column))  # not sent is missing
            for g in self.declared
        )

    def of_columns(self, columns: ColumnArrays) -> IntArray:
        """The same for n rows, shape (n, groupings); a column that is not there is missing."""
        n = len(next(iter(columns.values())))
        found = np.empty((n, len(self.declared)), dtype=np.int64)
        for g, grouping in enumerate(self.declared):
            values = columns.get(grouping.column)
            found[:, g] = len(grouping.cells) - 1 if values is None else grouping.positions(values)
        return found

    def named(self, positions: Sequence[int]) -> dict[str, str]:
        """Cell by grouping, in words."""
        return {g.name: g.cells[at] for g, at in zip(self.declared, positions, strict=True)}

    def text(self, positions: tuple[int, ...]) -> bytes:
        """:meth:`named` as JSON; made once for each combination of cells, which are few."""
        found = self._texts.get(positions)
        if found is None:
            found = self._texts[positions] = orjson.dumps(self.named(positions))
        return found


@dataclass(frozen=True, eq=False)
class GroupedRows:
    """The groups of n rows.

    Attributes
    ----------
    groupings : declared
    positions : shape (n, groupings), position of each row's cell in each of them
    """

    groupings: Groupings
    positions: IntArray


@dataclass(frozen=True, eq=False)
class GroupedCalibration:
    """One calibration for each group, and one of all rows for the rest.

    Attributes
    ----------
    grouping : gives every row its declared cell
    at : position of the declared grouping among all of them
    names : of the calibrated cells, as answers name them: ``age=80 and above``
    calibrations : of the calibrated cells
    is_own : whether a cell is calibrated with its own rows, and so has a promise of its own
    of_declared : calibrated cell of each declared one, by their positions
    calibration_id : sha256 (hex) over the calibration of all rows and of every cell, and which cells these are
    """

    grouping: Grouping
    at: int
    names: tuple[str, ...]
    calibrations: tuple[ConformalCalibration, ...]
    is_own: tuple[bool, ...]
    of_declared: tuple[int, ...]
    calibration_id: str

    @classmethod
    def of(
        cls, facts: GroupFacts, groupings: Groupings, whole: ConformalCalibration, own: Sequence[ConformalCalibration]
    ) -> GroupedCalibration:
        """The calibration that a manifest describes.

        Parameters
        ----------
        whole : of all calibration rows
        own : of the cells that have one, in their order

        Raises
        ------
        InvalidCalibration
            The cells are not those of the grouping, each once, or have other calibrations than they say.
        """
        if groupings.by is None:
            raise InvalidCalibration("no grouping is calibrated by")
        grouping = groupings.declared[groupings.by]
        owner = {name: c for c, cell in enumerate(facts.cells) for name in cell.of}
        listed = sum(len(cell.of) for cell in facts.cells)
        if owner.keys() != set(grouping.cells) or listed != len(grouping.cells):
            raise InvalidCalibration(f"the calibrated cells are not those of the grouping {grouping.name}")
        if sum(cell.is_own for cell in facts.cells) != len(own):
            raise InvalidCalibration(f"{len(own)} calibrations for the cells of {grouping.name}")
        rest = iter(own)
        return cls(
            grouping=grouping,
            at=groupings.by,
            names=tuple(f"{grouping.name}={cell.name}" for cell in facts.cells),
            calibrations=tuple(next(rest) if cell.is_own else whole for cell in facts.cells),
            is_own=tuple(cell.is_own for cell in facts.cells),
            of_declared=tuple(owner[name] for name in grouping.cells),
            calibration_id=_id_of(facts, (whole, *own)),
        )

    @cached_property
    def _of_declared(self) -> IntArray:
        return np.array(self.of_declared, dtype=np.int64)

    def promise(self, cell: int) -> Promise:
        """What the sets of a calibrated cell promise."""
        return "class_and_group" if self.is_own[cell] else self.calibrations[cell].guarantee

    def cell(self, positions: Sequence[int]) -> int:
        """The calibrated cell of a row, from the positions of its declared cells in all groupings."""
        return self.of_declared[positions[self.at]]

    def of_record(self, record: Record) -> ConformalCalibration:
        """The calibration of a record."""
        grouping = self.grouping
        value = (record.values if grouping.beside is None else record.ids).get(grouping.column)
        return self.calibrations[self.of_declared[grouping.position(value)]]

    def cells(self, columns: ColumnArrays) -> IntArray:
        """The calibrated cell of n rows, shape (n,); a column that is not there is missing."""
        values = columns.get(self.grouping.column)
        if values is None:
            n = len(next(iter(columns.values())))
            return np.full(n, self.of_declared[-1], dtype=np.int64)
        found: IntArray = self._of_declared[self.grouping.positions(values)]
        return found

    def rows(self, proba: npt.ArrayLike, level: Decimal, cells: IntArray) -> Predictions:
        """p-values, sets and predictions of n rows, each by the calibration of its cell.

        Parameters
        ----------
        proba : shape (n, K), in [0, 1]
        cells : shape (n,), as :meth:`cells` gives them

        Raises
        ------
        BadModelOutput
            As ``ConformalCalibration.rows``.
        """
        array64 = np.asarray(proba, dtype=np.float64)
        present = np.unique(cells).tolist()
        if len(present) == 1:
            only: Predictions = self.calibrations[present[0]].rows(array64, level)
            return only
        found = Predictions.blank(len(array64), self.calibrations[0].n_classes)
        for cell in present:
            inside = cells == cell
            found.put(inside, self.calibrations[cell].rows(array64[inside], level))
        return found


def _id_of(facts: GroupFacts, calibrations: Sequence[ConformalCalibration]) -> str:
    listed = [[cell.name, *cell.of] for cell in facts.cells]
    digest = hashlib.sha256(orjson.dumps([facts.calibrated_by, listed]))
    for calibration in calibrations:
        digest.update(bytes.fromhex(calibration.calibration_id))
    return digest.hexdigest()
