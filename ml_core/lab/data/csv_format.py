"""How a text table is written: encoding, separator, decimal and thousands marks, null words, found in its content."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ml_core.base.errors import DataError
from ml_core.lab.config import CsvConfig

__all__ = ["detect_layout", "detect_marks", "format_in_words", "other_separator"]

SEPARATORS = (",", ";", "\t", "|")
_SAMPLE_CHARACTERS = 1 << 18
_CHUNK_BYTES = 1 << 20
_SURE_NULLS = frozenset({"NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "Null", "null", "?"})
_PERHAPS_NULLS = frozenset({"None", "none", "-", "--", ".", "na", "missing", "Missing", "unknown", "Unknown"})
"""Null words only where the rest of a column is numbers: elsewhere they may be a level that somebody chose."""

_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_PLAIN = r"^\s*[+-]?(\d+|\d+\.\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_COMMA = r"^\s*[+-]?(\d+|\d*,\d+)([eE][+-]?\d+)?\s*$"
_POINT_GROUPS = r"^\s*[+-]?\d{1,3}(\.\d{3})+(,\d+)?\s*$"
_COMMA_GROUPS = r"^\s*[+-]?\d{1,3}(,\d{3})+(\.\d+)?\s*$"
_POINT_GROUPED = rf"{_POINT_GROUPS}|{_COMMA}"
_COMMA_GROUPED = rf"{_COMMA_GROUPS}|{_PLAIN}"


def detect_layout(path: Path) -> CsvConfig:
    """Encoding and separator of a text table; the rest as it is by default.

    The encoding is UTF-8 where the whole file is; UTF-16 by its byte order mark, or by its many NULs; else Windows'
    western one (cp1252), or Latin-1 where the file has bytes that cp1252 does not know. The separator is the one by
    which most rows have as many cells as the header.

    Raises
    ------
    DataError
        There is no such file, or it is empty.
    """
    try:
        encoding = _encoding(path)
        with path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="") as file:
            sample = file.read(_SAMPLE_CHARACTERS)
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror or type(error).__name__}") from error
    if not sample.strip():
        raise DataError(str(path), "is empty")
    whole = len(sample) < _SAMPLE_CHARACTERS
    return CsvConfig(encoding=encoding, separator=_separator(sample, whole=whole))


def detect_marks(columns: Iterable[pa.ChunkedArray], layout: CsvConfig) -> CsvConfig:
    """The layout with decimal and thousands marks and null words, as the cells of all columns tell them.

    Parameters
    ----------
    columns : the cells as texts
    """
    seen = [_distinct(column) for column in columns]
    numbers = [(texts, pc.drop_null(_without_nulls(texts))) for texts in seen]
    decimal, thousands = _marks([plain for _, plain in numbers], layout.separator)
    number = _number_pattern(decimal, thousands)
    words: set[str] = set()
    for texts, plain in numbers:
        present = {t for t in _short(texts) if t in _SURE_NULLS or t in _PERHAPS_NULLS}
        if not present:
            continue
        is_numeric = len(plain) > 0 and pc.all(pc.match_substring_regex(plain, number)).as_py()
        words |= present if is_numeric else present & _SURE_NULLS
    return layout.model_copy(update={"decimal": decimal, "thousands": thousands, "null_words": tuple(sorted(words))})


def format_in_words(form: CsvConfig) -> str:
    """The format in one line, for people."""
    words = f"; null words: {', '.join(form.null_words)}" if form.null_words else ""
    groups = f", thousands by {form.thousands!r}" if form.thousands else ""
    mark = "comma" if form.decimal == "," else "point"
    return f"cells separated by {_NAMES[form.separator]}, decimal {mark}{groups}, {form.encoding}{words}"


def other_separator(header: Sequence[str], separator: str) -> str | None:
    """The separator that a header of one cell seems to have instead, as the configuration would name it."""
    if len(header) != 1:
        return None
    counts = {mark: header[0].count(mark) for mark in SEPARATORS if mark != separator}
    best = max(counts, key=lambda mark: counts[mark])
    return None if not counts[best] else best.replace("\t", "\\t")


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        decoder, is_utf8, latin, nuls = codecs.getincrementaldecoder("utf-8-sig")(), True, False, [0, 0]
        file.seek(0)
        for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""):
            nuls[0] += chunk[0::2].count(0)
            nuls[1] += chunk[1::2].count(0)
            latin = latin or any(byte in chunk for byte in b"\x81\x8d\x8f\x90\x9d")
            if is_utf8:
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    is_utf8 = False
        with_end = is_utf8 and not decoder.getstate()[0]
        size = file.tell()
    if sum(nuls) > size // 4:
        return "utf-16-le" if nuls[1] > nuls[0] else "utf-16-be"
    return "utf-8" if with_end else "latin-1" if latin else "cp1252"


def _separator(sample: str, *, whole: bool) -> str:
    def fit(mark: str) -> tuple[float, int]:
        rows = list(csv.reader(io.StringIO(sample), delimiter=mark))
        rows = [row for row in (rows if whole else rows[:-1] or rows) if row]
        width = len(rows[0]) if rows else 1
        same = sum(len(row) == width for row in rows) / max(len(rows), 1)
        return (same if width > 1 else 0.0), width

    try:
        csv.field_size_limit(max(csv.field_size_limit(), _SAMPLE_CHARACTERS))
        found = {mark: fit(mark) for mark in SEPARATORS}
    except csv.Error:
        return ","
    best = max(SEPARATORS, key=lambda mark: found[mark])
    return best if found[best][0] > 0.5 else ","


def _distinct(column: pa.ChunkedArray) -> pa.Array:
    return pc.unique(column.cast(pa.string()))


def _short(texts: pa.Array) -> list[str]:
    few = texts.filter(pc.less_equal(pc.utf8_length(texts), 8))
    return [text for text in pc.unique(pc.utf8_trim_whitespace(few)).to_pylist() if text]


def _without_nulls(texts: pa.Array) -> pa.Array:
    words = pa.array([*_SURE_NULLS, *_PERHAPS_NULLS, ""], pa.string())
    return texts.filter(pc.invert(pc.is_in(pc.utf8_trim_whitespace(texts), words)))


def _number_pattern(decimal: str, thousands: str) -> str:
    if decimal == ",":
        return _POINT_GROUPED if thousands == "." else _COMMA
    return _COMMA_GROUPED if thousands == "," else _PLAIN


def _marks(columns: Sequence[pa.Array], separator: str) -> tuple[str, str]:
    """Decimal and thousands marks: those by which most columns are columns of numbers, the usual ones where equal."""
    readings = [(".", ""), (",", ""), (".", ","), (",", ".")]
    if separator == ",":  # a quoted 1,234 is rather a thousand than a decimal
        readings = [(".", ""), (".", ","), (",", ""), (",", ".")]
    counts = dict.fromkeys(readings, 0)
    for texts in columns:
        if not len(texts):
            continue
        for reading in readings:
            counts[reading] += bool(pc.all(pc.match_substring_regex(texts, _number_pattern(*reading))).as_py())
    return max(readings, key=lambda reading: counts[reading])
