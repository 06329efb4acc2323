"""The kind of a column (numbers, levels, texts), and its cells as arrays, from a frame or from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.base.errors import DataError
from ml_core.features.columns import Column, coded_levels

__all__ = [
    "MISSING",
    "Feature",
    "FeatureKind",
    "Numbers",
    "Table",
    "features_in",
    "levels_in",
    "numbers_in",
    "positions_in",
]

FeatureKind = Literal["number", "category", "text", "unjudged"]

Table = pd.DataFrame | Mapping[str, npt.NDArray[Any]]
"""Rows: a frame of raw values, or one array of shape (n,) per column (see ``features_in``)."""

MISSING = -1
"""Position of a missing level."""

_NUMBERS = ("integer", "floating", "decimal", "mixed-integer-float", "empty")
_MIXED = ("mixed", "mixed-integer")


@dataclass(frozen=True, slots=True)
class Feature:
    """How one column is compared.

    Attributes
    ----------
    name : of the column
    kind : ``number``; ``category`` (levels whose positions have a meaning); ``text`` (levels without an order);
        ``unjudged`` (dates, mixed objects)
    levels : the levels by position, if known beforehand; None if they are taken from the reference
    tabled : the levels are those of a column table, and arrays of whole numbers hold their positions
    """

    name: str
    kind: FeatureKind
    levels: tuple[object, ...] | None = None
    tabled: bool = False


@dataclass(frozen=True, slots=True)
class Numbers:
    """A column of numbers.

    Attributes
    ----------
    cells : float64, shape (n,), NaN where missing or unreadable
    unreadable : cells that hold something else than a number
    """

    cells: npt.NDArray[np.float64]
    unreadable: int


def features_in(table: Table, names: Sequence[str], columns: Sequence[Column] = ()) -> tuple[Feature, ...]:
    """How each named column is compared: as its ``Column`` says, else as its cells look.

    Without a ``Column``: numeric types are numbers, booleans and ordered categoricals are categories, other
    categoricals and strings are texts, objects are what most of them are.

    Parameters
    ----------
    table : the reference
        A frame holds raw values. A mapping of arrays may hold, for columns with a ``Column``, what every transform
        takes (``ml_core.features.columns.ColumnArrays``: categories as positions, -1 where missing).
    names : of the columns to compare
    columns : a column table, where there is one

    Raises
    ------
    DataError
        The table lacks a named column.
    """
    missing = [name for name in names if name not in table]
    if missing:
        raise DataError("reference", f"has no column {', '.join(missing)}")
    known = {column.name: column for column in columns}
    return tuple(of_column(known[n]) if n in known else _of_cells(n, pd.Series(table[n])) for n in names)


def of_column(column: Column) -> Feature:
    """How a column of a column table is compared."""
    if column.dtype in ("int", "float"):
        return Feature(column.name, "number")
    if levels := coded_levels(column):
        return Feature(column.name, "category", tuple(levels), tabled=True)
    return Feature(column.name, "text" if column.dtype == "text" else "unjudged")


def numbers_in(values: Any) -> Numbers:
    """A column's cells as float64; texts that spell a number count as that number."""
    array = values.to_numpy() if isinstance(values, pd.Series) and isinstance(values.dtype, np.dtype) else values
    if isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
        return Numbers(array.astype(np.float64, copy=False), 0)
    series = pd.Series(values)
    numeric = pd.to_numeric(series, errors="coerce")
    found = numeric.to_numpy(dtype=np.float64, na_value=np.nan)
    return Numbers(found, int((np.isnan(found) & series.notna().to_numpy()).sum()))


def levels_in(values: Any) -> tuple[object, ...]:
    """The distinct levels of a column of raw values, sorted where they can be (a categorical's in its own order)."""
    series = pd.Series(values)
    if isinstance(series.dtype, pd.CategoricalDtype):
        return tuple(series.dtype.categories.tolist())
    distinct = series.dropna().unique().tolist()
    try:
        return tuple(sorted(distinct))
    except TypeError:  # of several kinds
        return tuple(distinct)


def positions_in(values: Any, feature: Feature, place: Mapping[object, int]) -> npt.NDArray[np.int64]:
    """Position of each cell among the levels; ``MISSING`` where there is none, ``len(place)`` where it is not listed.

    Parameters
    ----------
    values : cells of shape (n,): raw levels, or positions (see ``Feature.tabled``)
    place : position by level

    Returns
    -------
    int64, shape (n,)
    """
    if feature.tabled and isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        levels = feature.levels or ()
        listed = np.array([*(place.get(level, len(place)) for level in levels), len(place), MISSING], dtype=np.int64)
        within = (values >= MISSING) & (values < len(levels))
        return listed[np.where(within, values, len(levels))]  # -1, for missing, is the last entry
    codes, distinct = pd.factorize(pd.Series(values))
    known = np.array([place.get(level, len(place)) for level in distinct.tolist()] + [MISSING], dtype=np.int64)
    positions: npt.NDArray[np.int64] = known[codes]  # factorize gives -1 for missing: the last entry
    return positions


def _of_cells(name: str, cells: pd.Series[Any]) -> Feature:
    dtype = cells.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return Feature(name, "category" if dtype.ordered else "text")
    if pd.api.types.is_bool_dtype(dtype):
        return Feature(name, "category", (False, True))
    if pd.api.types.is_numeric_dtype(dtype):
        kind = "unjudged" if pd.api.types.is_complex_dtype(dtype) else "number"
        return Feature(name, cast("FeatureKind", kind))
    if not pd.api.types.is_object_dtype(dtype):
        return Feature(name, "text" if pd.api.types.is_string_dtype(dtype) else "unjudged")
    what = pd.api.types.infer_dtype(cells, skipna=True)
    if what == "boolean":
        return Feature(name, "category", (False, True))
    if what in _NUMBERS or (what in _MIXED and _mostly_numbers(cells)):
        return Feature(name, "number")
    return Feature(name, "text" if what == "string" else "unjudged")


def _mostly_numbers(cells: pd.Series[Any]) -> bool:
    present = cells.dropna()
    is_number = [isinstance(cell, int | float) and not isinstance(cell, bool) for cell in present]
    return 2 * sum(is_number) >= len(is_number)
