"""Validated rows in the columns and types in which the feature store keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.serve.features.column_rules import as_moment, integer_levels
from ml_core.serve.features.versions import FeatureVersion

__all__ = ["alike", "arrow_type", "as_stored", "beside_in"]


def as_stored(frame: pd.DataFrame, version: FeatureVersion, beside: Sequence[Column] = ()) -> pa.Table:
    """The version's columns in table order and in one type each, then those beside; absent optional ones are null."""
    needed = [c.name for c in version.columns if c.role in ("feature", "group", "label")]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise DataError("table", f"has no column {', '.join(missing)}")
    return pa.table({c.name: _arrow_column(frame, c) for c in (*version.columns, *beside)})


def beside_in(frame: pd.DataFrame, version: FeatureVersion) -> list[Column]:
    """The columns of a stored table that are not the version's, with the types they have."""
    known = {column.name for column in version.columns}
    kinds: Mapping[str, Literal["int", "float"]] = {"i": "int", "f": "float"}
    return [
        Column(name, kinds.get(getattr(frame[name].dtype, "kind", "O"), "text"), "beside the version's")
        for name in frame.columns
        if name not in known
    ]


def _arrow_column(frame: pd.DataFrame, column: Column) -> pa.Array:
    if column.name not in frame.columns:
        return pa.nulls(len(frame), arrow_type(column))
    values: pd.Series[Any] = frame[column.name]
    null = values.isna().to_numpy(dtype=bool)
    if column.dtype in ("int", "float") or integer_levels(column):
        dtype: Any = np.float64 if column.dtype == "float" else np.int64
        numbers = values.where(~null, 0).to_numpy(dtype=dtype)  # nulls are all alike, so that equal rows hash alike
        return pa.array(numbers, arrow_type(column), mask=null)
    if column.dtype == "datetime":
        moments = [None if gone else as_moment(value) for value, gone in zip(values, null, strict=True)]
        return pa.array(moments, arrow_type(column))
    return pa.array(values.astype(object).where(~null, None), arrow_type(column))


def arrow_type(column: Column) -> pa.DataType:
    """The type in which a column is kept."""
    if column.dtype == "datetime":
        return pa.timestamp("us", tz="UTC")
    if column.dtype == "float":
        return pa.float64()
    if column.dtype == "bool":
        return pa.bool_()
    return pa.int64() if column.dtype == "int" or integer_levels(column) else pa.string()


def alike(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types hold the same values: texts come back from Delta as large or small ones."""
    texts = (pa.string(), pa.large_string(), pa.string_view())
    return one == other or (one in texts and other in texts)
