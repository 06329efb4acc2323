"""pandas frames on their way into the arrays of a transform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ml_core.base.errors import DataError, InvalidRows
from ml_core.features.columns import Column, ColumnArrays
from ml_core.serve.features.table import Cells, EncodedTable, encode_table
from ml_core.serve.features.versions import FeatureVersion

__all__ = ["cells_of", "columns_of", "encode_frame", "to_arrays"]


def cells_of(values: pd.Series[Any]) -> Cells:
    """A frame's column as raw cells.

    In an object column None is null and NaN is a value; in every other column missing is null, as pandas means it.
    """
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return Cells(values.cat.codes.to_numpy(), levels=dtype.categories.tolist())
    if isinstance(dtype, np.dtype) and dtype.kind in "iufb":
        return Cells(values.to_numpy())
    if pd.api.types.is_object_dtype(dtype):
        return Cells(_without_na(values.to_numpy()))
    missing = values.isna().to_numpy()
    if isinstance(dtype, pd.BooleanDtype) or pd.api.types.is_numeric_dtype(dtype):
        numpy_dtype = getattr(dtype, "numpy_dtype", np.dtype(np.float64))
        return Cells(values.to_numpy(dtype=numpy_dtype, na_value=numpy_dtype.type(0)), missing=missing)
    if isinstance(dtype, pd.DatetimeTZDtype):
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return Cells(values.to_numpy(dtype="datetime64[us]"))
    objects = values.to_numpy(dtype=object)
    objects[missing] = None
    return Cells(objects)


def _without_na(objects: Any) -> Any:
    """The same values with None for ``pd.NA``, which only pandas knows."""
    if not any(value is pd.NA for value in objects):
        return objects
    return np.array([None if value is pd.NA else value for value in objects], dtype=object)


def encode_frame(frame: pd.DataFrame, version: FeatureVersion, beside: Sequence[Column] = ()) -> EncodedTable:
    """A frame of a request's columns (no label) checked and encoded by the rules every request meets.

    Parameters
    ----------
    beside : further columns that it may have, which only tell groups of patients
    """
    return encode_table((*version.columns, *beside), {str(name): cells_of(frame[name]) for name in frame.columns})


def to_arrays(frame: pd.DataFrame, version: FeatureVersion) -> ColumnArrays:
    """The feature columns of a frame as a transform takes them; other columns are not looked at.

    Raises
    ------
    DataError
        A feature column is missing.
    InvalidRows
        Rows break the column table.
    """
    return columns_of(frame, version.features)


def columns_of(frame: pd.DataFrame, columns: Sequence[Column]) -> ColumnArrays:
    """These columns of a frame as ``ColumnArrays``; errors as :func:`to_arrays`."""
    names = [column.name for column in columns]
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise DataError("table", f"has no column {', '.join(missing)}")
    encoded = encode_table(columns, {name: cells_of(frame[name]) for name in names})
    if encoded.problems:
        checks = [(column, check, count) for (column, check), count in sorted(encoded.checks.items())]
        raise InvalidRows("table", len(encoded.problems), len(frame), checks)
    return encoded.arrays
