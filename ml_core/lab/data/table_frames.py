"""Table files as frames: Parquet keeps its types, CSV is typed by the column table; neither is judged here."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ml_core.base.errors import DataError
from ml_core.base.files import written_for_user
from ml_core.features.columns import Column
from ml_core.lab.batch.table_places import Place, arrow_source, check_is_file, open_bytes, open_text
from ml_core.lab.config import CsvConfig
from ml_core.lab.data.csv_format import other_separator
from ml_core.serve.features.column_rules import EXACT, integer_levels

__all__ = [
    "boolean_of_text",
    "check_present",
    "column_names",
    "csv_options",
    "exact_type",
    "guarded",
    "is_csv",
    "numbers_of_text",
    "odd_quotes",
    "plain_marks",
    "read_table",
    "read_texts",
    "type_text",
    "typed_text",
    "whole_number",
    "write_table",
]

_T = TypeVar("_T")
_CSV_BLOCK_BYTES = 1 << 24  # no row may be longer
_TEXT_TABLES = (".csv", ".tsv", ".txt")
_USUAL = CsvConfig()

_DIGITS_OF_INT64 = 18
_INT64 = range(-(2**63), 2**63)
_WHOLE = r"[+-]?[0-9]{1,20}"  # one with more digits has more than 64 bits, and is read as a float
_NUMBER = r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?"


def column_names(path: Place, form: CsvConfig = _USUAL) -> list[str]:
    """Names of the columns of a table file, in its order.

    Parameters
    ----------
    form : how a text table is written

    Raises
    ------
    DataError
        The file is missing, unreadable, empty, of another format, or names a column twice.
    """
    names = guarded(path, lambda p: _csv_header(p, form) if is_csv(p) else _parquet_names(p))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(str(path), f"names a column twice: {', '.join(twice)}")
    return names


def read_table(
    path: Place, wanted: Sequence[str], form: CsvConfig = _USUAL, groups: Sequence[int] | None = None
) -> pd.DataFrame:
    """The wanted columns of a ``.parquet`` or ``.csv`` file, with at least one row.

    CSV cells come as texts, null where empty or a null word (see ``type_text``). In Parquet, null and NaN stay apart: a
    float column that holds real NaNs comes as objects.

    Parameters
    ----------
    groups : only these row groups of a Parquet file

    Raises
    ------
    DataError
        As ``column_names``; or a wanted column is missing, or there is no row.
    """
    present = column_names(path, form)
    check_present(path, wanted, present, form)
    frame = guarded(path, lambda p: _read_csv(p, wanted, form) if is_csv(p) else _read_parquet(p, wanted, groups))
    if frame.empty:
        raise DataError(str(path), "has no rows")
    return frame


def check_present(path: Place, wanted: Sequence[str], present: Sequence[str], form: CsvConfig = _USUAL) -> None:
    """Check that a table has all wanted columns.

    Raises
    ------
    DataError
        It lacks some; the message names them, and the separator that the file seems to have instead.
    """
    missing = [name for name in wanted if name not in present]
    if not missing:
        return
    other = other_separator(present, form.separator) if is_csv(path) else None
    cure = f'; its cells seem to be separated by {other!r}: set data.csv.separator: "{other}"' if other else ""
    raise DataError(str(path), f"has no column {', '.join(missing)}{cure}")


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Writes a frame as ``.parquet`` or ``.csv``; a reader sees the old file or the whole new one.

    Raises
    ------
    DataError
        The format is another, or the place cannot be written.
    """
    as_csv = is_csv(path)
    with written_for_user(path) as draft:
        if as_csv:
            frame.to_csv(draft, index=False, lineterminator="\n")
        else:
            frame.to_parquet(draft, index=False)


def type_text(frame: pd.DataFrame, columns: Sequence[Column], form: CsvConfig = _USUAL) -> pd.DataFrame:
    """A frame of texts, as CSV gives it, with numbers and booleans where the column table wants them.

    A text that is none stays a text, so that the strict rules refuse it under its own name.
    """
    return pd.DataFrame({column.name: typed_text(frame[column.name], column, form) for column in columns})


def typed_text(values: pd.Series[Any], column: Column, form: CsvConfig = _USUAL) -> pd.Series[Any]:
    """One column of ``type_text``."""
    if column.dtype == "bool":
        return pd.Series([boolean_of_text(v) for v in values], name=values.name, dtype=object)
    wants_number = column.dtype in ("int", "float") or integer_levels(column)
    return numbers_of_text(plain_marks(values, form)) if wants_number else values


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
"""How CSV writes booleans, in any case."""


def boolean_of_text(value: Any) -> Any:
    """The boolean that a text writes: ``true`` or ``1``, ``false`` or ``0``; anything else as it is."""
    return _BOOLEANS.get(value.strip().lower(), value) if isinstance(value, str) else value


def plain_marks(values: pd.Series[Any], form: CsvConfig) -> pd.Series[Any]:
    """Texts of numbers with a decimal point and no thousands marks, whatever marks the file has; others unchanged."""
    if (form.decimal, form.thousands) == (".", "") or pd.api.types.is_numeric_dtype(values):
        return values
    mark, group = re.escape(form.decimal), re.escape(form.thousands)
    digits = rf"(?:[0-9]{{1,3}}(?:{group}[0-9]{{3}})+|[0-9]+)" if group else "[0-9]+"
    number = rf"\s*[+-]?(?:{digits}(?:{mark}[0-9]*)?|{mark}[0-9]+)(?:[eE][+-]?[0-9]+)?\s*"
    text = values.astype("str")
    is_number = text.str.fullmatch(number).fillna(value=False).to_numpy(dtype=bool) & values.notna().to_numpy()
    plain = values.astype(object).copy()
    found = text[is_number]
    if form.thousands:
        found = found.str.replace(form.thousands, "", regex=False)
    plain[is_number] = found.str.replace(form.decimal, ".", regex=False).astype(object)
    return plain


def numbers_of_text(values: pd.Series[Any]) -> pd.Series[Any]:
    """Texts as numbers: int64 if all are whole, else float64 with NaN where null; objects if some are no numbers.

    Whole numbers are read exactly. Where float64 could not hold one of them they come as Int64, or as objects where one
    has more than 64 bits. Numbers are left as they are.
    """
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values
    text = values.astype("str").str.strip()
    is_number = text.str.fullmatch(_NUMBER).fillna(value=False).to_numpy(dtype=bool)
    is_whole = text.str.fullmatch(_WHOLE).fillna(value=False).to_numpy(dtype=bool)
    null = values.isna().to_numpy()
    numbers = np.full(len(values), np.nan)
    numbers[is_number] = text[is_number].astype(np.float64)
    if not (is_number | null).all():
        mixed = values.astype(object).where(~null, None)
        mixed[is_number] = numbers[is_number].tolist()
        mixed[is_whole] = [int(written) for written in text[is_whole]]
        return mixed
    if (np.abs(numbers[is_whole]) >= EXACT).any():
        return _large_numbers(values, text, is_whole)
    if not null.any() and (np.abs(numbers) < EXACT).all() and (np.trunc(numbers) == numbers).all():
        return pd.Series(numbers.astype(np.int64), name=values.name)
    return pd.Series(numbers, name=values.name)


def whole_number(text: str) -> int | None:
    """The whole number that a text writes without point or exponent; None for others, and for one beyond 64 bits."""
    written = text.strip()
    return int(written) if re.fullmatch(_WHOLE, written) else None


def _large_numbers(values: pd.Series[Any], text: pd.Series[Any], is_whole: npt.NDArray[np.bool_]) -> pd.Series[Any]:
    """Numbers of which some whole ones are too large for float64."""
    read = [
        int(t) if whole else None if pd.isna(v) else float(t)
        for v, t, whole in zip(values, text, is_whole, strict=True)
    ]
    is_int64 = all(number is None or (isinstance(number, int) and number in _INT64) for number in read)
    return pd.Series(read, name=values.name, dtype=pd.Int64Dtype() if is_int64 else object)


def exact_type(kind: pa.DataType) -> pa.DataType | None:
    """The type in which a decimal column is read: int64 where it holds whole numbers, else float64; None for others."""
    if not pa.types.is_decimal(kind):
        return None
    return pa.int64() if kind.scale <= 0 and kind.precision <= _DIGITS_OF_INT64 else pa.float64()


def csv_options(
    wanted: Sequence[str], form: CsvConfig = _USUAL
) -> tuple[pa_csv.ReadOptions, pa_csv.ParseOptions, pa_csv.ConvertOptions]:
    """How CSV is read everywhere: the wanted columns as texts, by one thread, so that errors name the row."""
    read = pa_csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK_BYTES, encoding=form.encoding)
    types = dict.fromkeys(wanted, pa.string())
    convert = pa_csv.ConvertOptions(
        include_columns=list(wanted), column_types=types, strings_can_be_null=True,
        null_values=["", *form.null_words], quoted_strings_can_be_null=True,
    )  # fmt: skip
    return read, pa_csv.ParseOptions(delimiter=form.separator, newlines_in_values=True), convert


def is_csv(path: Place) -> bool:
    """Whether the file's name says a text table; DataError where it says neither such a one nor Parquet."""
    suffix = path.suffix.lower()
    if suffix not in (*_TEXT_TABLES, ".parquet"):
        raise DataError(str(path), f"is of the format {suffix or '(none)'}; .parquet and .csv are understood")
    return suffix in _TEXT_TABLES


def guarded(path: Place, read: Callable[[Place], _T]) -> _T:
    """Reads, and turns what the libraries raise into one line that quotes no cell."""
    try:
        check_is_file(path)
        return read(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, csv.Error, UnicodeError) as error:
        problem = _csv_problem(str(error)) if is_csv(path) else "is not a readable Parquet file"
        raise DataError(str(path), problem) from error
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror or type(error).__name__}") from error


def _csv_problem(told: str) -> str:
    """Our words for an error of the CSV reader, whose own quote the row."""
    if "UTF8" in told or "utf-8" in told:
        return "is not UTF-8 text: set data.csv.encoding, e.g. cp1252"
    if "codec can't decode" in told or "UTF-16" in told:
        return "is not text of the encoding that data.csv.encoding names"
    row = re.search(r"Row #(\d+)", told)
    where = f" (row {row[1]})" if row else ""
    return f"is no CSV table: its rows differ in length, or a quote stays open{where}"


def _csv_header(path: Place, form: CsvConfig) -> list[str]:
    with _opened(path, form) as file:
        header = next(csv.reader(file, delimiter=form.separator), [])
    if not header:
        raise DataError(str(path), "is empty")
    return header


def _opened(path: Place, form: CsvConfig) -> TextIO:
    """The file as text, without a byte order mark."""
    return open_text(path, "utf-8-sig" if form.encoding == "utf-8" else form.encoding)


def read_texts(path: Place, form: CsvConfig, wanted: Sequence[str]) -> pa.Table:
    """Those columns of a text table, cells as texts, null where empty or a null word; errors as ``read_table``."""
    return guarded(path, lambda p: _csv_texts(p, wanted, form))


def _csv_texts(path: Place, wanted: Sequence[str], form: CsvConfig) -> pa.Table:
    # Arrow's reader and not pandas': that one fills short rows with nulls and drops what is too much
    if odd_quotes(path, form):
        raise pa.ArrowInvalid("open quote")
    return pa_csv.read_csv(arrow_source(path), *csv_options(wanted, form))


def _read_csv(path: Place, wanted: Sequence[str], form: CsvConfig) -> pd.DataFrame:
    table = _csv_texts(path, wanted, form)
    return pd.DataFrame({name: pd.Series(table.column(name).to_numpy(), dtype=object) for name in wanted})


def odd_quotes(path: Place, form: CsvConfig) -> bool:
    """Whether a quote stays open to the end and swallows rows: a quoted cell has two, and one inside it is doubled."""
    if form.encoding.startswith("utf-16"):
        with _opened(path, form) as text:
            return sum(block.count('"') for block in iter(lambda: text.read(1 << 20), "")) % 2 == 1
    with open_bytes(path) as file:
        return sum(block.count(b'"') for block in iter(lambda: file.read(1 << 20), b"")) % 2 == 1


def _parquet_names(path: Place) -> list[str]:
    return list(pq.read_schema(arrow_source(path)).names)


def _read_parquet(path: Place, wanted: Sequence[str], groups: Sequence[int] | None) -> pd.DataFrame:
    # one file is read, never a folder of partitions that its name seems to belong to
    file = pq.ParquetFile(arrow_source(path))
    chosen = range(file.num_row_groups) if groups is None else groups
    table = file.read_row_groups(list(chosen), columns=list(wanted))
    return pd.DataFrame({name: _series(table.column(name), name) for name in wanted})


def _series(values: pa.ChunkedArray, name: str) -> pd.Series[Any]:
    kind = values.type
    if (decimal := exact_type(kind)) is not None:
        kind = decimal
        values = values.cast(kind)
    elif pa.types.is_date(kind):
        values = values.cast(pa.timestamp("us"))
    if pa.types.is_integer(kind) and values.null_count:
        wide, nullable = (
            (pa.uint64(), pd.UInt64Dtype()) if pa.types.is_unsigned_integer(kind) else (pa.int64(), pd.Int64Dtype())
        )
        return pd.Series(values.cast(wide).to_pandas(types_mapper={wide: nullable}.get), name=name)
    if pa.types.is_floating(kind) and pc.any(pc.is_nan(values)).as_py():
        return pd.Series(values.to_pylist(), name=name, dtype=object)
    return pd.Series(values.to_pandas(), name=name)
