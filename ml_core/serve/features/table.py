"""Many rows at once: the strict rules of the column table, applied column by column with numpy.

Serves Arrow requests and the tables of training alike, so that a row is accepted and encoded the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray
from ml_core.base.errors import DataError
from ml_core.features.columns import Column, ColumnArrays, coded_levels
from ml_core.serve.features.column_rules import (
    EXACT,
    OPTIONAL_ROLES,
    Fault,
    fault_of,
    integer_levels,
    plain_names,
    shown_name,
    unknown_field_fault,
)
from ml_core.serve.features.moments import moment_number, moment_numbers
from ml_core.serve.features.row_faults import RowFaults, RowProblems

__all__ = ["Cells", "EncodedTable", "encode_table"]

_NULL, _REFUSED = -1, -2  # codes of a category while it is being read


@dataclass(frozen=True, slots=True)
class Cells:
    """One column of n raw values.

    Attributes
    ----------
    values : shape (n,), or a sequence of n plain Python values
        In a sequence or an object array None is null and NaN is a value (and refused).
    missing : bool, shape (n,), optional
        Where null. Without it, NaN in a float array means null, as everywhere in numpy; with it, NaN is a value.
    levels : sequence, optional
        If given, ``values`` are positions in it (a dictionary-encoded column); a negative position is null.
    """

    values: npt.NDArray[Any] | Sequence[object]
    missing: BoolArray | None = None
    levels: Sequence[object] | None = None

    def objects(self) -> list[Any]:
        """The n values as plain Python values, None where null."""
        raw: Any = self.values
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "M":
            raw = raw.astype("datetime64[us]")  # nanoseconds would come out as numbers
        values: list[Any] = raw.tolist() if isinstance(raw, np.ndarray) else list(raw)
        if self.levels is not None:
            levels = [*self.levels, None]
            return [levels[at] for at in self.positions().tolist()]
        if self.missing is not None:
            return [None if gone else value for value, gone in zip(values, self.missing.tolist(), strict=True)]
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "f":
            return [None if gone else value for value, gone in zip(values, np.isnan(raw).tolist(), strict=True)]
        return values

    def positions(self) -> npt.NDArray[np.int64]:
        """Of a dictionary-encoded column, where each value stands in ``levels``; their number itself where null.

        Raises
        ------
        DataError
            A position lies beyond the dictionary.
        """
        n_levels = len(self.levels or ())
        at = np.array(self.values, dtype=np.int64)
        if self.missing is not None:
            at[self.missing] = -1
        if (at >= n_levels).any():
            raise DataError("table", "a dictionary-encoded column has positions beyond its dictionary")
        at[at < 0] = n_levels
        return at


@dataclass(frozen=True, slots=True)
class EncodedTable:
    """What became of a table.

    Attributes
    ----------
    n_rows : rows in it
    arrays : the feature columns as ``ColumnArrays``; a cell that was refused counts as missing there
    ids : the id, group and time columns that were there, as plain values
    problems : for every row that is refused, by its number from 0, all that is wrong with it
    checks : how many cells failed each (column, check)
    """

    n_rows: int
    arrays: ColumnArrays
    ids: dict[str, list[Any]]
    problems: RowProblems
    checks: dict[tuple[str, str], int]

    @property
    def good(self) -> BoolArray:
        """Shape (n,): whether a row was accepted."""
        if self.problems.everywhere:
            return np.zeros(self.n_rows, dtype=np.bool_)
        good = np.ones(self.n_rows, dtype=np.bool_)
        good[list(self.problems.of_row)] = False
        return good

    def problem_text(self, row: int) -> str | None:
        """All that is wrong with a row, None for a good one. It may quote cells: it is for who sent them."""
        faults = self.problems.get(row)
        return None if faults is None else "; ".join(f"{fault.field}: {fault.problem}" for fault in faults)


def encode_table(
    columns: Sequence[Column], table: Mapping[str, Cells | npt.NDArray[Any] | Sequence[object]]
) -> EncodedTable:
    """Checks and encodes a whole table as ``RecordReader`` does one row.

    Parameters
    ----------
    columns : the column table; the label is refused, id, group and time columns may be missing
    table : one entry per column, all of the same length

    Raises
    ------
    DataError
        Columns differ in length, or a dictionary-encoded one points beyond its dictionary.
    InvalidRecord
        More than a million cells are wrong: the table is refused as a whole, by column and check.
    """
    cells = {name: raw if isinstance(raw, Cells) else Cells(raw) for name, raw in table.items()}
    lengths = {len(c.values) for c in cells.values()}
    if len(lengths) > 1:
        raise DataError("table", f"columns differ in length: {', '.join(str(n) for n in sorted(lengths))}")
    faults = RowFaults(RowProblems(lengths.pop() if lengths else 0))
    arrays: dict[str, npt.NDArray[Any]] = {}
    ids: dict[str, list[Any]] = {}
    accepted = [c for c in columns if c.role == "feature"] + [c for c in columns if c.role in OPTIONAL_ROLES]
    for column in accepted:
        if column.role in OPTIONAL_ROLES:
            if column.name in cells:
                ids[column.name] = _plain_values(column, cells[column.name], faults)
        elif column.name not in cells:
            arrays[column.name] = _all_missing(column, Fault("missing", "is missing"), faults)
        elif _is_null_throughout(cells[column.name]):
            arrays[column.name] = _all_missing(column, fault_of(column, None), faults)
        else:
            arrays[column.name] = _ENCODERS[column.dtype](column, cells[column.name], faults)
    unknown = cells.keys() - {c.name for c in accepted}
    plain = plain_names(columns) if unknown else {}
    for name in unknown:
        faults.every_row(shown_name(name), unknown_field_fault(tuple(columns), name, plain))
    return EncodedTable(faults.n_rows, arrays, ids, faults.problems, faults.checks)


def _is_null_throughout(cells: Cells) -> bool:
    return cells.missing is not None and len(cells.missing) > 0 and bool(cells.missing.all())


def _all_missing(column: Column, fault: Fault | None, faults: RowFaults) -> npt.NDArray[Any]:
    """A column without values; ``fault`` is what is wrong with that where it must have some."""
    n = faults.n_rows
    if not column.nullable and fault is not None:
        faults.every_row(column.name, fault)
    if coded_levels(column):
        return np.full(n, _NULL, dtype=np.int64)
    if column.dtype == "text":
        return np.full(n, None, dtype=np.object_)
    return np.full(n, np.nan)


def _plain_values(column: Column, cells: Cells, faults: RowFaults) -> list[Any]:
    """The column as plain values, None where null or refused."""
    if column.dtype == "datetime":
        return _moments_as_sent(column, cells, faults)
    encoded = _ENCODERS[column.dtype](replace(column, nullable=True), cells, faults)
    if column.dtype == "text":
        return list(encoded)
    missing = encoded < 0 if column.dtype == "category" else np.isnan(encoded)
    values = cells.objects()
    if column.dtype == "int":
        values = [int(v) if type(v) is float and v.is_integer() else v for v in values]
    return [None if gone else value for value, gone in zip(values, missing.tolist(), strict=True)]


def _moments_as_sent(column: Column, cells: Cells, faults: RowFaults) -> list[Any]:
    values = cells.objects()
    for row, value in enumerate(values):
        if fault := fault_of(column, value):
            faults.add(column, row, fault)
            values[row] = None
    return values


# --- numbers ------------------------------------------------------------------------------------------------------


def _numeric(cells: Cells) -> tuple[npt.NDArray[np.float64], BoolArray] | None:
    """The values as float64 with a mask of nulls, or None if some are no plain numbers."""
    if cells.levels is not None:  # a dictionary of numbers is read once, then spread over the rows
        of_level = _numeric(Cells([*cells.levels, None]))
        at = cells.positions()
        return None if of_level is None else (of_level[0][at], of_level[1][at])
    values = cells.values
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        numbers = values.astype(np.float64)
        if cells.missing is not None:
            return numbers, cells.missing
        return numbers, np.isnan(numbers)
    objects = cells.objects()
    if not set(map(type, objects)) <= {int, float, type(None)}:
        return None
    missing = np.fromiter((value is None for value in objects), np.bool_, len(objects))
    try:
        return np.array(objects, dtype=np.float64), missing
    except OverflowError:  # whole numbers beyond float64
        return None


def _encode_numbers(column: Column, cells: Cells, faults: RowFaults) -> npt.NDArray[np.float64]:
    numeric = _numeric(cells)
    if numeric is None:
        return _encode_one_by_one(column, cells, faults)
    numbers, missing = numeric
    wrong = ~np.isfinite(numbers)
    if column.dtype == "int":
        wrong |= np.trunc(numbers) != numbers
        wrong |= _inexact(column, cells, numbers)
    if column.low is not None:
        wrong |= numbers < column.low
    if column.high is not None:
        wrong |= numbers > column.high
    wrong &= ~missing
    if not column.nullable:
        wrong |= missing
    if missing.any():
        numbers[missing] = np.nan
    if wrong.any():
        faults.at(column, np.flatnonzero(wrong), _value_in(cells, missing))
        numbers[wrong] = np.nan
    return numbers


def _inexact(column: Column, cells: Cells, numbers: npt.NDArray[np.float64]) -> BoolArray:
    """Which whole numbers are too large to be kept exactly; none of a column of whole numbers that only names rows."""
    suspect: BoolArray = np.abs(numbers) >= EXACT
    if column.role in OPTIONAL_ROLES and suspect.any():
        value_at = _value_in(cells, np.isnan(numbers))
        for row in np.flatnonzero(suspect).tolist():
            suspect[row] = fault_of(column, value_at(row)) is not None
    return suspect


def _value_in(cells: Cells, missing: BoolArray) -> Callable[[int], object]:
    if cells.levels is not None:
        return cells.objects().__getitem__

    def value_at(row: int) -> object:
        value = cells.values[row]
        return None if missing[row] else value.item() if isinstance(value, np.generic) else value

    return value_at


def _encode_one_by_one(column: Column, cells: Cells, faults: RowFaults) -> npt.NDArray[np.float64]:
    numbers = np.full(faults.n_rows, np.nan)
    for row, value in enumerate(cells.objects()):
        fault = fault_of(column, value)
        if fault:
            faults.add(column, row, fault)
        elif value is not None:
            numbers[row] = value
    return numbers


# --- categories and texts -----------------------------------------------------------------------------------------


def _encode_category(column: Column, cells: Cells, faults: RowFaults) -> npt.NDArray[np.int64]:
    codes = _level_codes(column, cells)
    wrong = codes < _NULL if column.nullable else codes < 0
    if wrong.any():
        objects = cells.objects()
        faults.at(column, np.flatnonzero(wrong), objects.__getitem__)
        codes[wrong] = _NULL
    return codes


def _level_codes(column: Column, cells: Cells) -> npt.NDArray[np.int64]:
    if column.dtype == "bool" and isinstance(cells.values, np.ndarray) and cells.values.dtype.kind == "b":
        plain = cells.values.astype(np.int64)
        return plain if cells.missing is None else np.where(cells.missing, _NULL, plain)
    if cells.levels is not None:
        of_level = np.array([*(_level_code(column, level) for level in cells.levels), _NULL], dtype=np.int64)
        return of_level[cells.positions()]
    if integer_levels(column) and max(abs(int(level)) for level in column.levels) < EXACT:
        numeric = _numeric(cells)
        if numeric is not None:
            return _integer_codes(column, *numeric)
    objects = cells.objects()
    if column.dtype == "category" and not integer_levels(column) and set(map(type, objects)) <= {str, type(None)}:
        codes = {None: _NULL, **{level: code for code, level in enumerate(column.levels)}}
        return np.fromiter((codes.get(value, _REFUSED) for value in objects), np.int64, len(objects))
    return np.fromiter((_level_code(column, value) for value in objects), np.int64, len(objects))


def _level_code(column: Column, value: Any) -> int:
    if value is None:
        return _NULL
    return _REFUSED if fault_of(column, value) else coded_levels(column).index(value)


def _integer_codes(column: Column, numbers: npt.NDArray[np.float64], missing: BoolArray) -> npt.NDArray[np.int64]:
    levels = np.array(column.levels, dtype=np.float64)
    order = np.argsort(levels)
    at = np.searchsorted(levels, numbers, sorter=order)
    at[at == len(levels)] = 0
    codes = order[at].astype(np.int64)
    codes[levels[codes] != numbers] = _REFUSED
    codes[missing] = _NULL
    return codes


def _encode_text(column: Column, cells: Cells, faults: RowFaults) -> npt.NDArray[np.object_]:
    if cells.levels is not None:
        return _encode_text_levels(column, cells, cells.levels, faults)
    objects = _accepted_objects(column, cells, faults)
    out = np.empty(len(objects), dtype=np.object_)
    out[:] = objects
    return out


def _encode_text_levels(
    column: Column, cells: Cells, levels: Sequence[object], faults: RowFaults
) -> npt.NDArray[np.object_]:
    """A dictionary-encoded text column: its levels are judged, its rows only looked up."""
    texts = np.empty(len(levels) + 1, dtype=np.object_)  # the last one stands for null
    texts[: len(levels)] = levels
    refused = np.array([fault_of(column, text) is not None for text in texts], dtype=np.bool_)
    at = cells.positions()
    out = texts[at]
    wrong = np.flatnonzero(refused[at])
    if len(wrong):
        faults.at(column, wrong, out.__getitem__)
        out[wrong] = None
    return out


def _accepted_objects(column: Column, cells: Cells, faults: RowFaults) -> list[Any]:
    """The values, None where null or refused."""
    objects = cells.objects()
    wrong = _refused_rows(column, objects)
    if len(wrong):
        faults.at(column, wrong, objects.__getitem__)
        objects = list(objects)
        for row in wrong.tolist():
            objects[row] = None
    return objects


def _refused_rows(column: Column, objects: list[Any]) -> npt.NDArray[np.intp]:
    """Rows whose value is refused; every distinct value is judged once, because codes repeat."""
    if set(map(type, objects)) <= {str, type(None)}:
        refused = {value for value in set(objects) if fault_of(column, value)}
        rows = [row for row, value in enumerate(objects) if value in refused] if refused else []
    else:
        rows = [row for row, value in enumerate(objects) if fault_of(column, value)]
    return np.array(rows, dtype=np.intp)


# --- moments ------------------------------------------------------------------------------------------------------


def _encode_moments(column: Column, cells: Cells, faults: RowFaults) -> npt.NDArray[np.float64]:
    values = cells.values
    if cells.levels is not None or not isinstance(values, np.ndarray) or values.dtype.kind != "M":
        return np.array([moment_number(v) for v in _accepted_objects(column, cells, faults)], dtype=np.float64)
    numbers, missing, wrong = moment_numbers(values, cells.missing)
    if not column.nullable:
        wrong |= missing
    if wrong.any():
        faults.at(column, np.flatnonzero(wrong), cells.objects().__getitem__)
        numbers[wrong] = np.nan
    return numbers


_ENCODERS: dict[str, Callable[[Column, Cells, RowFaults], npt.NDArray[Any]]] = {
    "int": _encode_numbers,
    "float": _encode_numbers,
    "bool": _encode_category,
    "category": _encode_category,
    "datetime": _encode_moments,
    "text": _encode_text,
}
