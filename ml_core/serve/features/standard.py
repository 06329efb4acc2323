"""The ``standard`` transform: a column table in, a float32 matrix out, each column as the table says.

The sha256 of this file is in every model that uses it, as with the other feature versions: it is frozen, and another
way of making the matrix is another file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.features.columns import Column, ColumnArrays, Transform, coded_levels, features_of

__all__ = ["StandardTransform", "standard_fault", "with_transforms"]

_FITTING: dict[str, tuple[Transform, ...]] = {
    "int": ("as_is", "none"),
    "float": ("as_is", "none"),
    "bool": ("as_is", "none"),
    "category": ("one_hot", "ordinal", "none"),
    "datetime": ("date_parts", "none"),
    "text": ("none",),
}
"""Transforms that a type can have; the first is the one it has where the table names none."""
_MOST_ONE_HOT = 20
"""A category of more levels is ordinal where the table names no transform."""

_LARGEST = np.finfo(np.float32).max
_HOUR = 3_600_000_000
"""Microseconds."""
_THURSDAY = 3
"""Weekday of the first of January 1970, Monday being 0."""
_DATE_PARTS = ("year", "month", "day", "weekday", "hour")
_DATE_DOCS = ("Year", "Month, 1 to 12", "Day of the month, 1 to 31", "Weekday, 0 Monday to 6 Sunday", "Hour, 0 to 23")

_Block = npt.NDArray[np.float32]
_Encode = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Part:
    """What becomes of one raw column: ``encode`` turns its n cells into (n,) or (n, len(names)) numbers."""

    column: str
    names: tuple[str, ...]
    docs: tuple[str, ...]
    encode: _Encode


class StandardTransform:
    """The transform of one column table.

    Row i of the matrix depends on row i alone, bit for bit. Values that float32 cannot hold become its largest ones.

    Parameters
    ----------
    columns : the table, with a transform at every feature (see :func:`with_transforms`)

    Attributes
    ----------
    names, docs : of the d columns of the matrix, in order: the table's order, and within a column levels or date parts,
        then the flag of missing values
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        parts = [part for column in features_of(columns) for part in _parts(column)]
        self.names = tuple(name for part in parts for name in part.names)
        self.docs = tuple(doc for part in parts for doc in part.docs)
        ends = np.cumsum([len(part.names) for part in parts]).tolist()
        self._placed = [
            (part.column, end - 1 if len(part.names) == 1 else slice(end - len(part.names), end), part.encode)
            for part, end in zip(parts, ends, strict=True)
        ]

    def __call__(self, columns: ColumnArrays) -> _Block:
        """The feature matrix of n rows.

        Parameters
        ----------
        columns : arrays of shape (n,)
            The feature columns of the table, encoded as ``ColumnArrays`` says. Others are not looked at.

        Returns
        -------
        float32, shape (n, d), columns as in ``names``
        """
        n = len(columns[self._placed[0][0]])
        out = np.empty((n, len(self.names)), dtype=np.float32)
        with np.errstate(over="ignore"):
            for name, where, encode in self._placed:
                out[:, where] = encode(columns[name])
        return np.clip(out, -_LARGEST, _LARGEST, out=out)


def with_transforms(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The same table with a transform at every feature: the one that is named, else the one of its type.

    Numbers and bools as they are; a category of up to 20 levels one-hot, of more levels ordinal; dates by their parts.
    """
    return tuple(
        replace(column, transform=_usual(column)) if column.role == "feature" and column.transform is None else column
        for column in columns
    )


def standard_fault(columns: Sequence[Column]) -> str | None:
    """What keeps the table from the standard transform, naming column and key, or None where nothing does."""
    for column in columns:
        fault = _feature_fault(column) if column.role == "feature" else _other_fault(column)
        if fault is not None:
            return f"{column.name}.{fault}"
    names = StandardTransform(columns).names
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    return None if twice is None else f"two columns of the matrix would be named {twice!r}: rename a column or a level"


def _usual(column: Column) -> Transform:
    fitting = _FITTING[column.dtype]
    return "ordinal" if column.dtype == "category" and len(column.levels) > _MOST_ONE_HOT else fitting[0]


def _feature_fault(column: Column) -> str | None:
    if column.missing_flag and not column.nullable:
        return "missing_flag needs nullable: true, or the value is never missing"
    if column.transform == "none" and not column.missing_flag:
        if column.dtype == "text":
            return (
                "dtype is text, which is no number: make it a category with levels, give it another role, or use only "
                "whether it is there (nullable: true, transform: none, missing_flag: true)"
            )
        return "transform is none, so it would be used for nothing: set missing_flag: true, or leave the column out"
    fitting = _FITTING[column.dtype]
    if column.transform not in fitting:
        return f"transform cannot be {column.transform} for the dtype {column.dtype}: {', '.join(fitting)} can"
    return None


def _other_fault(column: Column) -> str | None:
    if column.transform is None and not column.missing_flag:
        return None
    return f"transform and missing_flag are of features: take them out, its role is {column.role}"


# --- one column ---------------------------------------------------------------------------------------------------


def _parts(column: Column) -> Iterator[_Part]:
    name, about = column.name, column.doc or column.name
    if column.transform == "one_hot":
        names = tuple(f"{name}={level}" for level in column.levels)
        docs = tuple(f"1 if {name} is {level}; else 0, also where it is missing" for level in column.levels)
        table = np.vstack([np.eye(len(names)), np.zeros(len(names))])
        yield _Part(name, names, docs, _lookup(table if len(names) > 1 else table[:, 0]))
    elif column.transform == "ordinal":
        doc = f"Position of {name} among its {len(column.levels)} levels, from 0; NaN if missing"
        yield _Part(name, (name,), (doc,), _codes_as_numbers(column))
    elif column.transform == "date_parts":
        yield _Part(name, tuple(f"{name}.{part}" for part in _DATE_PARTS), _DATE_DOCS, _date_parts)
    elif column.transform == "as_is":
        is_bool = column.dtype == "bool"
        doc = f"{about}{' 1 if true, 0 if false, NaN if missing' if is_bool else ''}"
        yield _Part(name, (name,), (doc,), _codes_as_numbers(column) if is_bool else _same)
    if column.missing_flag:
        yield _Part(name, (f"{name}.missing",), (f"1 if {name} is missing; else 0",), _flag_of(column))


def _same(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values


def _lookup(table: npt.NDArray[np.float64]) -> _Encode:
    """Row k of the table for code k; the last one for -1, which is missing."""
    return table.astype(np.float32).__getitem__


def _codes_as_numbers(column: Column) -> _Encode:
    return _lookup(np.append(np.arange(len(coded_levels(column)), dtype=np.float64), np.nan))


def _date_parts(moments: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Year, month, day, weekday and hour (UTC) of moments, µs since 1970, shape (n, 5); NaN where missing."""
    missing = np.isnan(moments)
    exact = np.where(missing, 0, moments).astype(np.int64)
    days = exact // (24 * _HOUR)
    date = days.astype("datetime64[D]")
    months = date.astype("datetime64[M]")
    parts = np.stack(
        [
            months.astype(np.int64) // 12 + 1970,
            months.astype(np.int64) % 12 + 1,
            (date - months).astype(np.int64) + 1,
            (days + _THURSDAY) % 7,
            exact // _HOUR % 24,
        ],
        axis=1,
    ).astype(np.float64)
    parts[missing] = np.nan
    return parts


def _flag_of(column: Column) -> _Encode:
    if coded_levels(column):
        return lambda codes: codes < 0
    if column.dtype == "text":
        return lambda texts: np.array([text is None for text in texts], dtype=np.bool_)
    return np.isnan
