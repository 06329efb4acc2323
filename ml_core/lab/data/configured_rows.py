"""What a configuration says about cells and rows of a raw table: marks, null values, dates, labels left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.base.errors import ConfigError
from ml_core.features.columns import Column, with_role
from ml_core.lab.config import DataConfig
from ml_core.lab.data.table_frames import numbers_of_text, typed_text
from ml_core.serve.features.column_rules import integer_levels

__all__ = ["as_configured", "configured_column", "kept_rows", "with_row_number"]


def as_configured(
    frame: pd.DataFrame, columns: Sequence[Column], data: DataConfig, *, of_text: bool = False
) -> pd.DataFrame:
    """The frame with each column as :func:`configured_column` reads it.

    Raises
    ------
    ConfigError
        The configuration names a column that the table does not have.
    """
    names = {column.name for column in columns}
    for setting, named in (("data.null_values", data.null_values), ("data.dates", data.dates)):
        for name in named:
            if name not in names:
                raise ConfigError(f"{setting}.{name}", "is no column of this model")
    return pd.DataFrame({c.name: configured_column(frame[c.name], c, data, of_text=of_text) for c in columns})


def configured_column(
    values: pd.Series[Any], column: Column, data: DataConfig, *, of_text: bool = False
) -> pd.Series[Any]:
    """A column with nulls for the configured null values, and with dates and labels in the column table's terms.

    A date that does not have its configured form stays as it is, so that the strict rules refuse it under its name.

    Parameters
    ----------
    of_text : whether the cells are those of a text table, with the configured marks, and have no types yet
    """
    if of_text:
        values = typed_text(values, column, data.csv)
    if column.name in data.null_values:
        values = _without(values, data.null_values[column.name])
    if column.name in data.dates:
        values = _dates(values, data.dates[column.name])
    wants_texts = column.role == "label" and not integer_levels(column)
    return _texts_of_label(values) if wants_texts else values


def kept_rows(frame: pd.DataFrame, columns: Sequence[Column], data: DataConfig) -> npt.NDArray[np.bool_]:
    """Which rows stay, shape (n,): those whose label is not among ``data.leave_out_labels``."""
    label = with_role(columns, "label")
    kept = np.ones(len(frame), dtype=np.bool_)
    if label is None or not data.leave_out_labels:
        return kept
    values = frame[label.name]
    if None in data.leave_out_labels:
        kept &= values.notna().to_numpy()
    named = {value for value in data.leave_out_labels if value is not None}
    return kept & ~(values.isin(named) | values.astype(str).isin({str(value) for value in named})).to_numpy(dtype=bool)


def with_row_number(frame: pd.DataFrame, name: str, first: int = 0) -> pd.DataFrame:
    """The frame with a column of whole numbers from ``first``, for tables in which each row is its own subject."""
    return frame.assign(**{name: np.arange(first, first + len(frame), dtype=np.int64)})


def _without(values: pd.Series[Any], nulls: Sequence[float | str]) -> pd.Series[Any]:
    """Null where the value is one of these, be it written as a number or as a text."""
    texts = {str(value) for value in nulls}
    numbers = {float(value) for value in nulls if not isinstance(value, str)}
    is_null = values.astype(str).isin(texts).to_numpy(dtype=bool)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        is_null = is_null | values.isin(numbers).to_numpy(dtype=bool)
    if not is_null.any():
        return values
    if pd.api.types.is_integer_dtype(values):
        return values.astype("Int64").mask(is_null)
    if pd.api.types.is_object_dtype(values) or isinstance(values.dtype, pd.StringDtype):
        left = values.astype(object).where(~is_null, None)
        return numbers_of_text(left) if _only_numbers(left) else left
    return values.mask(is_null)


def _only_numbers(values: pd.Series[Any]) -> bool:
    """Whether a column of objects holds numbers and nulls alone, as one does whose null word has been taken out."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values[values.notna()])


def _dates(values: pd.Series[Any], form: str) -> pd.Series[Any]:
    if pd.api.types.is_datetime64_any_dtype(values):
        return values
    moments = pd.to_datetime(values, format=form, errors="coerce", utc=True)
    if (moments.isna() & values.notna()).any():
        read = moments.dt.tz_localize(None).astype(object)
        return values.astype(object).where(moments.isna().to_numpy(), read)
    return moments.dt.tz_localize(None)


def _texts_of_label(values: pd.Series[Any]) -> pd.Series[Any]:
    """Truth values as the texts that people write for them; others unchanged."""
    if not pd.api.types.is_bool_dtype(values):
        return values
    return values.map({True: "True", False: "False"}).astype(object).where(values.notna(), None)
