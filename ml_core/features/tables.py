"""Table files as frames: Parquet keeps its types, CSV is typed by the column table; neither is judged here."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml_core.errors import DataError
from ml_core.features.columns import Column
from ml_core.features.rules import integer_levels

__all__ = ["column_names", "numbers_of_text", "read_table", "type_text", "write_table"]

_NUMBER = r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?"


def column_names(path: Path) -> list[str]:
    """Names of the columns of a table file, in its order.

    Raises
    ------
    DataError
        The file is missing, unreadable, empty, of another format, or names a column twice.
    """
    names = _guarded(path, _csv_header if _is_csv(path) else _parquet_names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(str(path), f"names a column twice: {', '.join(twice)}")
    return names


def read_table(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    """The wanted columns of a ``.parquet`` or ``.csv`` file, with at least one row.

    CSV cells come as texts, null where empty (see ``type_text``). In Parquet, null and NaN stay apart: a float column
    that holds real NaNs comes as objects.

    Raises
    ------
    DataError
        As ``column_names``; or a wanted column is missing, or there is no row.
    """
    present = column_names(path)
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataError(str(path), f"has no column {', '.join(missing)}")
    frame = _guarded(path, lambda p: _read_csv(p, wanted) if _is_csv(p) else _read_parquet(p, wanted))
    if frame.empty:
        raise DataError(str(path), "has no rows")
    return frame


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Writes a frame as ``.parquet`` or ``.csv``; a reader sees the old file or the whole new one.

    Raises
    ------
    DataError
        The format is another, or the place cannot be written.
    """
    as_csv = _is_csv(path)
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if as_csv:
            frame.to_csv(draft, index=False, lineterminator="\n")
        else:
            frame.to_parquet(draft, index=False)
        draft.replace(path)
    except OSError as error:
        raise DataError(str(path), f"cannot be written: {error.strerror or type(error).__name__}") from error
    finally:
        draft.unlink(missing_ok=True)


def type_text(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """A frame of texts, as CSV gives it, with numbers where the column table wants numbers.

    A text that is no number stays a text, so that the strict rules refuse it under its own name.
    """
    typed = {}
    for column in columns:
        values = frame[column.name]
        wants_number = column.dtype in ("int", "float") or integer_levels(column)
        typed[column.name] = numbers_of_text(values) if wants_number else values
    return pd.DataFrame(typed)


def numbers_of_text(values: pd.Series[Any]) -> pd.Series[Any]:
    """Texts as float64 with NaN where null; as objects if some are no numbers."""
    text = values.astype("str").str.strip()
    is_number = text.str.fullmatch(_NUMBER).fillna(False).to_numpy(dtype=bool)
    null = values.isna().to_numpy()
    numbers = np.full(len(values), np.nan)
    numbers[is_number] = text[is_number].astype(np.float64)
    if (is_number | null).all():
        return pd.Series(numbers, name=values.name)
    return pd.Series(
        [None if n else number if ok else raw for n, ok, number, raw in zip(null, is_number, numbers.tolist(), values, strict=True)],
        name=values.name,
        dtype=object,
    )


def _is_csv(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise DataError(str(path), f"is of the format {suffix or '(none)'}; .parquet and .csv are understood")
    return suffix == ".csv"


def _guarded(path: Path, read: Callable[[Path], Any]) -> Any:
    """Reads, and turns what the libraries raise into one line that quotes no cell."""
    if not path.is_file():
        raise DataError(str(path), "is a folder" if path.is_dir() else "there is no such file")
    try:
        if path.stat().st_size == 0:
            raise DataError(str(path), "is empty")
        return read(path)
    except pd.errors.EmptyDataError as error:
        raise DataError(str(path), "is empty") from error
    except (pd.errors.ParserError, csv.Error) as error:
        line = re.search(r"line (\d+)", str(error))
        where = f" (line {line[1]})" if line else ""
        raise DataError(str(path), f"is not a CSV table: its rows differ in length or quotes are left open{where}") from error
    except UnicodeDecodeError as error:
        raise DataError(str(path), "is not UTF-8 text") from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(str(path), "is not a readable Parquet file") from error
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror or type(error).__name__}") from error


def _csv_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    if not header:
        raise pd.errors.EmptyDataError
    return header


def _read_csv(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    # index_col=False: without it pandas takes surplus cells of the first row for an index and shifts every column
    frame = pd.read_csv(path, dtype=object, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    frame = frame[list(wanted)]
    return frame.where(frame != "", None)


def _parquet_names(path: Path) -> list[str]:
    return list(pq.read_schema(path).names)


def _read_parquet(path: Path, wanted: Sequence[str]) -> pd.DataFrame:
    # one file is read, never a folder of partitions that its name seems to belong to
    table = pq.ParquetFile(path).read(columns=list(wanted))
    return pd.DataFrame({name: _series(table.column(name), name) for name in wanted})


def _series(values: pa.ChunkedArray, name: str) -> pd.Series[Any]:
    kind = values.type
    if pa.types.is_decimal(kind):
        values = values.cast(pa.float64())
    elif pa.types.is_date(kind):
        values = values.cast(pa.timestamp("us"))
    elif pa.types.is_integer(kind) and values.null_count:
        return pd.Series(values.cast(pa.int64()).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get), name=name)
    elif pa.types.is_floating(kind) and pc.any(pc.is_nan(values)).as_py():
        return pd.Series(values.to_pylist(), name=name, dtype=object)
    return pd.Series(values.to_pandas(), name=name)
