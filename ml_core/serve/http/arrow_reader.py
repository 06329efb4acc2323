"""Reads an Arrow IPC stream of records into columns of raw values, with numpy alone.

``arrow_messages`` has checked every message before a buffer is touched here. The contents of buffers are checked too:
counts of nulls, offsets of texts, UTF-8, codes of dictionaries. Texts stay bytes until a
column is looked at. docs/decisions/arrow-reader.md says why no library reads the stream.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray
from ml_core.serve.features.table import Cells
from ml_core.serve.http.arrow_messages import Batch, Field, StreamLimits, ValueType, damaged, plan_of, too_large
from ml_core.serve.http.arrow_unpack import Bytes, CannotUnpack, unpacked
from ml_core.serve.http.text_codes import distinct, text_codes

__all__ = ["StreamLimits", "read_records"]


_LONGEST_TEXT = 65_536  # bytes: as long as a whole record in JSON
_CHUNK = 1 << 20
_ROWS_AT_A_TIME, _LONG_ROWS_AT_A_TIME = 4_096, 16  # so many texts are copied at a time: some megabytes at most
_SHORT = 256  # bytes of a text on average
_PREFIX = 8  # bytes before a compressed buffer that say what it unpacks to


def read_records(body: bytes, columns: Collection[str], limits: StreamLimits) -> Iterator[dict[str, Cells]]:
    """The record batches of a stream in order, each as its columns by name; batches without rows are left out.

    Parameters
    ----------
    body : the whole stream
    columns : names that the model knows; of others the values are checked, but come out as nulls

    Raises
    ------
    Refused
        ``invalid_arrow``: no sound stream, or a type that is not read. ``too_large``: it goes beyond a limit.
    """
    plan = plan_of(body, columns, limits)
    reader = _Reader(body, limits, columns)
    types = {field.dictionary_id: field.values for field in plan.fields if field.codes is not None}
    levels: dict[int, list[Any]] = {}
    for batch in plan.batches:
        buffers = reader.buffers(batch)
        key = batch.dictionary_id
        if key is None:
            cells = reader.columns(plan.fields, batch, buffers, levels)
            if batch.length:
                yield cells
        elif batch.is_delta:
            levels[key] += reader.plain(types[key], batch, 0, buffers).objects()
        else:
            levels[key] = reader.plain(types[key], batch, 0, buffers).objects()


class _Reader:
    """Turns buffers of one stream into columns."""

    def __init__(self, body: bytes, limits: StreamLimits, wanted: Collection[str]) -> None:
        self._body = np.frombuffer(body, dtype=np.uint8)
        self._wanted = wanted
        self._spare = limits.unpacked_bytes

    def buffers(self, batch: Batch) -> Iterator[Bytes]:
        """The buffers of a batch in order, unpacked one by one."""
        for start, length, size in zip(
            batch.starts.tolist(), batch.lengths.tolist(), batch.sizes.tolist(), strict=True
        ):
            raw = self._body[start : start + length]
            if batch.codec is None or not length:
                yield raw
            elif size < 0:
                yield raw[_PREFIX:]
            else:
                try:
                    yield unpacked(raw[_PREFIX:], size, batch.codec)
                except CannotUnpack as error:
                    raise damaged("a compressed buffer cannot be unpacked") from error

    def columns(
        self, fields: Sequence[Field], batch: Batch, buffers: Iterator[Bytes], levels: dict[int, list[Any]]
    ) -> dict[str, Cells]:
        """The columns of a record batch by name."""
        found = {}
        for i, field in enumerate(fields):
            cells = self.plain(field.stored, batch, i, buffers)
            if field.codes is not None:
                cells = _with_levels(cells, levels[field.dictionary_id])
            found[field.name] = _coded(cells) if field.name in self._wanted else _nulls(batch.length)
        return found

    def plain(self, kind: ValueType, batch: Batch, column: int, buffers: Iterator[Bytes]) -> Cells:
        """One column as it is stored."""
        n, n_null = batch.length, int(batch.nulls[column])
        if kind.kind == "null":
            if n_null != n:
                raise damaged("a count of nulls is wrong")
            return _nulls(n)
        missing = _missing(next(buffers), n, n_null)
        if kind.kind == "text":
            offsets = next(buffers)
            ends = _fixed(offsets, kind.dtype, n + 1 if n or len(offsets) else 0)  # no rows may need no offsets
            return self._texts(ends, next(buffers), missing)
        if kind.kind == "bool":
            return Cells(_bits(next(buffers), n), missing)
        values = _fixed(next(buffers), kind.dtype, n)
        if kind.kind == "moment":
            values = _moments(values if kind.unit else _days(values, missing), kind.unit or "D")
        return Cells(values, missing)

    def _texts(self, ends: npt.NDArray[Any], data: Bytes, missing: BoolArray) -> Cells:
        if not len(ends):
            return Cells([], missing)
        if ends[0] < 0 or ends[-1] > len(data) or (ends[1:] < ends[:-1]).any():
            raise damaged("a text lies outside its column")
        if np.diff(ends).max(initial=0) > _LONGEST_TEXT:
            raise too_large(f"a text has more than {_LONGEST_TEXT} bytes")
        self._hold_utf8(data, ends)
        return Cells(_Texts(data, ends), missing)

    def _hold_utf8(self, data: Bytes, ends: npt.NDArray[Any]) -> None:
        """Each text is UTF-8, and there is room for what they all take as Python's texts, up to 4 bytes a character."""
        data = data[ends[0] : ends[-1]]
        largest = int(data.max(initial=0))
        if largest < 0x80:
            return
        decoder, n_characters = codecs.getincrementaldecoder("utf-8")(), 0
        try:
            for at in range(0, len(data), _CHUNK):
                n_characters += len(decoder.decode(data[at : at + _CHUNK].tobytes()))
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise damaged("a text is not UTF-8") from error
        inner = ends[(ends > ends[0]) & (ends < ends[-1])] - ends[0]
        if ((data[inner] & 0xC0) == 0x80).any():  # such a byte continues a character
            raise damaged("a text is not UTF-8")
        self._spare -= max(0, (4 if largest >= 0xF0 else 2) * n_characters - len(data))
        if self._spare < 0:
            raise too_large("its texts take too much memory; send them in several calls")


@dataclass(frozen=True, slots=True)
class _Texts(Sequence[str]):
    """Texts that are decoded when they are asked for.

    Attributes
    ----------
    data : UTF-8 of all texts
    ends : shape (n + 1,), where each begins, and where the last one ends
    """

    data: Bytes
    ends: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        return self.data[self.ends[row] : self.ends[row + 1]].tobytes().decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        step = _ROWS_AT_A_TIME if len(self.data) <= _SHORT * len(self) else _LONG_ROWS_AT_A_TIME
        for first in range(0, len(self), step):
            at = self.ends[first : first + step + 1].tolist()
            raw = self.data[at[0] : at[-1]].tobytes()
            for start, end in pairwise(at):
                yield raw[start - at[0] : end - at[0]].decode("utf-8")


def _nulls(n: int) -> Cells:
    """A column of nulls, which takes no memory however many there are."""
    return Cells(np.broadcast_to(np.nan, n), np.broadcast_to(np.True_, n))


def _fixed(buffer: Bytes, dtype: str, n: int) -> npt.NDArray[Any]:
    """The ``n`` numbers at the beginning of a buffer."""
    size = n * np.dtype(dtype).itemsize
    if len(buffer) < size:
        raise damaged("a buffer is shorter than its column")
    return buffer[:size].view(f"<{dtype}")


def _bits(bitmap: Bytes, n: int) -> BoolArray:
    """The first ``n`` bits of a buffer, shape (n,)."""
    if 8 * len(bitmap) < n:
        raise damaged("a buffer is shorter than its column")
    bits: BoolArray = np.unpackbits(bitmap[: (n + 7) // 8], count=n, bitorder="little").astype(np.bool_)
    return bits


def _missing(bitmap: Bytes, n: int, n_null: int) -> BoolArray:
    """Shape (n,): where a column is null. A column without nulls may have no bitmap."""
    if not len(bitmap):
        if n_null:
            raise damaged("a column has nulls, but does not say where")
        return np.zeros(n, dtype=np.bool_)
    missing = ~_bits(bitmap, n)
    if np.count_nonzero(missing) != n_null:
        raise damaged("a count of nulls is wrong")
    return missing


def _with_levels(codes: Cells, levels: list[Any]) -> Cells:
    """A dictionary-encoded column; of a dictionary longer than the column only the levels that occur."""
    positions, missing = np.asarray(codes.values), codes.missing
    used = positions if missing is None else positions[~missing]
    if len(used) and (int(used.min()) < 0 or int(used.max()) >= len(levels)):
        raise damaged("a dictionary code has no level")
    if len(levels) <= len(positions):
        return Cells(positions, missing, levels)
    kept = distinct(used)
    return Cells(np.searchsorted(kept, positions), missing, [levels[i] for i in kept.tolist()])


def _coded(cells: Cells) -> Cells:
    """Texts as codes and levels where that is quicker, everything else as it is."""
    texts = cells.values
    found = text_codes(texts.data, texts.ends.astype(np.int64)) if isinstance(texts, _Texts) else None
    return cells if found is None else Cells(found[0].astype(np.int16), cells.missing, found[1])


_DAY_MS = 86_400_000
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799  # years 1 and 9999
_RANGES = {
    "D": (_FIRST_S // 86_400, _LAST_S // 86_400),
    **{unit: (_FIRST_S * ticks, (_LAST_S + 1) * ticks - 1) for unit, ticks in _PER_SECOND.items()},
    "ns": (1 - 2**63, 2**63 - 1),  # the least number means no time to numpy
}
_NO_MOMENT = np.int64(2**62)
"""Microseconds of a moment beyond year 9999: numpy gives it out as a number, which every column refuses as no date."""


def _days(counts: npt.NDArray[Any], missing: BoolArray) -> npt.NDArray[Any]:
    """Days of dates that are sent in milliseconds."""
    if (counts[~missing] % _DAY_MS).any():
        raise damaged("a date lies within a day")
    return counts // _DAY_MS


def _moments(counts: npt.NDArray[Any], unit: str) -> npt.NDArray[np.datetime64]:
    """Dates or timestamps since 1970 in UTC, to the microsecond."""
    first, last = _RANGES[unit]
    outside = (counts < first) | (counts > last)
    whole = np.where(outside, 0, counts.astype(np.int64)).view(f"datetime64[{unit}]")
    found = whole.astype("datetime64[us]").view(np.int64)
    return np.where(outside, _NO_MOMENT, found).view("datetime64[us]")
