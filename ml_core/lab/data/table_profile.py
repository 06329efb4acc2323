"""What a raw table holds, column by column: type, range, levels, gaps. It guesses, and says nothing of single rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ml_core.base.clock import FIRST_YEAR, LAST_YEAR
from ml_core.base.errors import DataError
from ml_core.lab.config import CsvConfig
from ml_core.lab.data.csv_format import detect_layout, detect_marks
from ml_core.lab.data.table_frames import column_names, is_csv, numbers_of_text, plain_marks, read_texts
from ml_core.serve.features.column_rules import EXACT, as_moment
from ml_core.serve.features.column_table import MOST_COLUMNS

__all__ = ["ColumnProfile", "Kind", "TableProfile", "profile_file"]

Kind = Literal["int", "float", "bool", "category", "text", "datetime", "empty"]

MOST_LEVELS = 50
"""So many different texts are the levels of a category in any table; more only where each comes often."""
_LARGEST_CATEGORY, _ROWS_PER_LEVEL = 500, 50
_MOST_WORDS, _OFTEN, _FEWEST_NUMBERS = 3, 2, 10
_TRUTHS = frozenset({"true", "false"})
_TRIED_DATES = 1_000
_DATES = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y",
          "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%Y-%m-%d")  # fmt: skip
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %H:%M:%S %z")
_LIKE_A_DATE = re.compile(r"\s*(?=.*\d)[\w ,]+[-/. ][\w]+[-/., ]+\d+.*")


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """What one column holds.

    Attributes
    ----------
    name : as in the file
    kind : what its values are; ``empty`` where there are none
    rows, nulls, distinct : rows of the table, those without a value, different values
    low, high : smallest and largest number
    counts : of a category, a truth value or a few whole numbers: (value, rows), most rows first
    date_form : how its dates are written, where that is not ISO 8601; the first form that reads all of them
    date_forms : all such forms
    distinct_values : the different values, by code
    codes : shape (rows,), which of them each row has; -1 where none
    numbers : shape (rows,), a number's values as float64 with NaN; None for other kinds
    words : texts that stand between its numbers and are counted as nulls: (text, rows), most rows first
    """

    name: str
    kind: Kind
    rows: int
    nulls: int
    distinct: int
    low: float | None = None
    high: float | None = None
    counts: tuple[tuple[Any, int], ...] = ()
    date_form: str = ""
    date_forms: tuple[str, ...] = ()
    distinct_values: Sequence[Any] = ()
    codes: npt.NDArray[np.int64] | None = None
    numbers: npt.NDArray[np.float64] | None = None
    words: tuple[tuple[str, int], ...] = ()

    @property
    def filled(self) -> int:
        """Rows with a value."""
        return self.rows - self.nulls


@dataclass(frozen=True, slots=True)
class TableProfile:
    """What a file holds.

    Attributes
    ----------
    path : of the file
    form : how it is written; None for Parquet
    rows : how many
    columns : in the order of the file
    duplicates : rows that are equal to an earlier one in every column
    unnamed : columns of the file without a name
    """

    path: Path
    form: CsvConfig | None
    rows: int
    columns: tuple[ColumnProfile, ...]
    duplicates: int
    unnamed: int = 0

    def column(self, name: str) -> ColumnProfile | None:
        """The column of that name, if there is one."""
        return next((c for c in self.columns if c.name == name), None)


def profile_file(path: Path, form: CsvConfig | None = None) -> TableProfile:
    """Read a ``.csv`` or ``.parquet`` file whole and say what its columns hold.

    Parameters
    ----------
    form : how a text table is written; found out where it is not given

    Raises
    ------
    DataError
        The file cannot be read, has no rows, or more columns than a column table may have.
    """
    if not is_csv(path):
        _check_number(path, column_names(path))
        table, found = pq.ParquetFile(path).read(), None
        columns = [_of_values(name, table.column(name)) for name in table.column_names if name]
    else:
        layout = form or (detect_layout(path) if path.is_file() else CsvConfig())
        names = [name for name in column_names(path, layout) if name]
        _check_number(path, names)
        found = form or detect_marks(read_texts(path, layout, names).columns, layout)
        table = read_texts(path, found, names)
        columns = [_of_texts(name, table.column(name), found) for name in names]
    if not table.num_rows:
        raise DataError(str(path), "has no rows")
    unnamed = len(column_names(path, found or CsvConfig())) - len(columns)
    return TableProfile(path, found, table.num_rows, tuple(columns), _duplicates(columns), unnamed)


def _check_number(path: Path, names: Sequence[str]) -> None:
    """Refuse a table that is too wide before anything of it is read."""
    if len(names) > MOST_COLUMNS:
        problem = (
            f"has {len(names)} columns, and {MOST_COLUMNS} are the most: choose columns before, or make fewer of them"
        )
        raise DataError(str(path), problem)


def _duplicates(columns: Sequence[ColumnProfile]) -> int:
    """Rows that repeat an earlier one, by 128 bits of a sum over their codes."""
    if not columns:
        return 0
    rng = np.random.default_rng(0)
    total = np.zeros((2, columns[0].rows), dtype=np.uint64)
    for column in columns:
        codes = (column.codes if column.codes is not None else np.zeros(column.rows, dtype=np.int64)) + 1
        for half in range(2):
            weight = np.uint64(rng.integers(1, 2**63) | 1)
            mixed = (codes.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) * weight
            total[half] += mixed ^ (mixed >> np.uint64(29))
    return int(pd.DataFrame(total.T).duplicated().sum())


# --- typed columns ------------------------------------------------------------------------------------------------


def _of_values(name: str, values: pa.ChunkedArray) -> ColumnProfile:
    """A column of Parquet, which has a type already."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    plain = values.cast(kind) if kind != values.type else values
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return _of_texts(name, plain.cast(pa.string()), CsvConfig(), typed=True)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        codes, distinct = _encoded(plain)
        return _plain_profile(name, "datetime", codes, distinct.to_pylist())
    if pa.types.is_boolean(kind):
        codes, distinct = _encoded(plain)
        return _with_counts(name, "bool", codes, [bool(v) for v in distinct.to_pylist()])
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return _plain_profile(name, "text", np.zeros(len(values), dtype=np.int64), [None])  # lists and structures
    if pa.types.is_decimal(kind):
        plain = plain.cast(pa.int64() if kind.scale <= 0 and kind.precision <= 18 else pa.float64())
    if pa.types.is_floating(plain.type):
        plain = pc.if_else(pc.is_nan(plain), pa.scalar(None, plain.type), plain)
    codes, distinct = _encoded(plain)
    return _of_numbers(name, codes, pd.Series(distinct.to_pylist(), dtype=object))


def _of_texts(name: str, values: pa.ChunkedArray, form: CsvConfig, *, typed: bool = False) -> ColumnProfile:
    """A column of texts: numbers, truth values, dates, levels, or texts.

    Parameters
    ----------
    typed : the file has types, and says text: then digits are no numbers
    """
    codes, found = _encoded(values)
    distinct = found.to_pylist()
    if not distinct:
        return _plain_profile(name, "empty", codes, ())
    if not typed:
        numbers = numbers_of_text(plain_marks(pd.Series(distinct, dtype=object), form))
        if pd.api.types.is_numeric_dtype(numbers) or all(isinstance(v, int) for v in numbers):
            padded = any(re.match(r"\s*[+-]?0[0-9]", text) for text in distinct)
            if not padded:  # 007 is a name, and no number
                return _of_numbers(name, codes, numbers)
        elif (words := _words_between(numbers, codes)) is not None:
            return _of_numbers_between(name, codes, numbers, words)
        if {text.lower() for text in distinct[:3]} <= _TRUTHS and len(distinct) <= 6:
            return _with_counts(name, "bool", codes, distinct)
    if len(distinct) <= MOST_LEVELS and not _like_dates(distinct):
        return _with_counts(name, "category", codes, distinct)
    forms = _date_forms(distinct)
    if forms is not None:
        form_of = forms[0] if forms else ""
        return _plain_profile(name, "datetime", codes, distinct, date_form=form_of, date_forms=tuple(forms))
    often = len(distinct) <= min(_LARGEST_CATEGORY, (codes >= 0).sum() // _ROWS_PER_LEVEL)
    if len(distinct) <= MOST_LEVELS or often:
        return _with_counts(name, "category", codes, distinct)
    return _plain_profile(name, "text", codes, distinct)


def _of_numbers(name: str, codes: npt.NDArray[np.int64], distinct: pd.Series[Any]) -> ColumnProfile:
    """A column of numbers, given the number of each code."""
    if not len(distinct):
        return _plain_profile(name, "empty", codes, ())
    exact = distinct.tolist()
    values = np.array([float(v) for v in exact])
    whole = bool(np.isfinite(values).all() and (np.trunc(values) == values).all())
    numbers = np.where(codes >= 0, values[codes], np.nan)
    finite = values[np.isfinite(values)]
    bounds = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    counts: tuple[tuple[Any, int], ...] = ()
    if len(exact) <= MOST_LEVELS:
        counts = _counted(codes, [int(v) if whole else v for v in exact])
    kind: Kind = "int" if whole else "float"
    if kind == "int" and finite.size and np.abs(finite).max() >= EXACT:
        kind = "text"  # names, of more digits than a number keeps
    return _plain_profile(name, kind, codes, exact, low=bounds[0], high=bounds[1], counts=counts, numbers=numbers)


def _words_between(distinct: pd.Series[Any], codes: npt.NDArray[np.int64]) -> list[int] | None:
    """Codes of the few texts that stand again and again in a column of numbers, such as "n.d."; None for other columns.

    A text with a digit in it, such as ">300", is an amount that somebody wrote down, and never one of these.
    """
    words = [code for code, value in enumerate(distinct) if isinstance(value, str)]
    if not 0 < len(words) <= _MOST_WORDS or any(re.search("[0-9]", distinct.iloc[code]) for code in words):
        return None
    rows = np.bincount(codes[codes >= 0], minlength=len(distinct))
    is_number = np.isin(np.arange(len(distinct)), words, invert=True)
    many = is_number.sum() > MOST_LEVELS or (
        is_number.sum() >= _FEWEST_NUMBERS and rows[is_number].sum() > rows.sum() / 2
    )
    return words if many and (rows[words] >= _OFTEN).all() else None


def _of_numbers_between(
    name: str, codes: npt.NDArray[np.int64], distinct: pd.Series[Any], words: Sequence[int]
) -> ColumnProfile:
    is_word = np.isin(np.arange(len(distinct)), words)
    place = np.where(is_word, -1, np.cumsum(~is_word) - 1)
    left = np.where(codes >= 0, place[codes], -1)
    counted = _counted(np.where(codes >= 0, codes, -1), distinct.tolist())
    found = _of_numbers(name, left, distinct[~is_word].reset_index(drop=True))
    texts = {distinct.iloc[code] for code in words}
    return replace(found, words=tuple((text, n) for text, n in counted if text in texts))


def _with_counts(name: str, kind: Kind, codes: npt.NDArray[np.int64], distinct: Sequence[Any]) -> ColumnProfile:
    return _plain_profile(name, kind, codes, distinct, counts=_counted(codes, distinct))


def _plain_profile(
    name: str, kind: Kind, codes: npt.NDArray[np.int64], distinct: Sequence[Any], **more: Any
) -> ColumnProfile:
    nulls = int((codes < 0).sum())
    return ColumnProfile(name, kind, len(codes), nulls, len(distinct), distinct_values=distinct, codes=codes, **more)


def _counted(codes: npt.NDArray[np.int64], distinct: Sequence[Any]) -> tuple[tuple[Any, int], ...]:
    n = np.bincount(codes[codes >= 0], minlength=len(distinct))
    return tuple(sorted(zip(distinct, n.tolist(), strict=True), key=lambda pair: (-pair[1], str(pair[0]))))


def _encoded(values: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Code of each row (-1 where null), and the different values."""
    encoded = pc.dictionary_encode(values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary


# --- dates --------------------------------------------------------------------------------------------------------


def _like_dates(distinct: Sequence[str]) -> bool:
    return all(_LIKE_A_DATE.fullmatch(text) for text in distinct)


def _date_forms(distinct: Sequence[str]) -> list[str] | None:
    """Forms that read all of these texts as dates: none where they are ISO 8601; None where they are no dates."""
    if not _like_dates(distinct[:_TRIED_DATES]):
        return None
    if all(as_moment(text) is not None for text in distinct):
        return []
    texts = pd.Series(distinct, dtype=object)
    few = texts.iloc[:_TRIED_DATES]
    fits = [form for form in (d + t for d in _DATES for t in _TIMES) if _reads(few, form) and _reads(texts, form)]
    return fits or None


def _reads(texts: pd.Series[Any], form: str) -> bool:
    moments = pd.to_datetime(texts, format=form, errors="coerce", utc=True)
    return bool(moments.notna().all() and moments.dt.year.between(FIRST_YEAR, LAST_YEAR).all())
