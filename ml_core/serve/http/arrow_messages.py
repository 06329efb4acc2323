"""Reads the messages of an Arrow IPC stream and checks them against the bytes and the limits, before any unpacking.

Of the format (https://arrow.apache.org/docs/format/Columnar.html) only flat columns of numbers, texts, dates and
timestamps are known here. Everything else is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Literal, NoReturn

import numpy as np

from ml_core.base.arrays import IntArray
from ml_core.serve.http.arrow_unpack import Codec, can_unpack
from ml_core.serve.http.flat_tables import DamagedTable, FlatTable
from ml_core.serve.http.replies import Refused

__all__ = ["Batch", "Field", "StreamLimits", "StreamPlan", "ValueType", "damaged", "plan_of", "too_large"]

ArrowKind = Literal["null", "number", "bool", "text", "moment"]

MOST_BATCHES = 1_024
_MOST_DICTIONARIES = 16 * MOST_BATCHES
_MOST_UNKNOWN_FIELDS = 100
_LARGEST_METADATA = 1 << 22
_MOST_PAIRS = 64  # of the metadata of a message, a schema or a column, which is only held to be whole
_LONGEST_NAME = 1_024  # bytes

_I8, _I16, _I32, _I64 = Struct("<b"), Struct("<h"), Struct("<i"), Struct("<q")
_PREFIX = Struct("<Ii")
_MARKER = 0xFFFFFFFF
_V4, _V5 = 3, 4  # which differ for unions, and V4 has no compression
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_CODECS: tuple[Codec, Codec] = ("lz4", "zstd")
_UNITS = ("s", "ms", "us", "ns")


def damaged(what: str) -> Refused:
    """The refusal of bytes that are no stream as Arrow describes it."""
    return Refused(
        "invalid_arrow", f"the body is not a readable Arrow IPC stream: {what}; write it anew and send it whole"
    )


def too_large(what: str) -> Refused:
    """The refusal of a stream that has more of something than may be read."""
    return Refused("too_large", what)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What a stream may hold at most.

    Attributes
    ----------
    rows : of all batches, and levels of all dictionaries
    unpacked_bytes : what its compressed buffers unpack to, and what its texts take as Python's texts beyond their bytes
    """

    rows: int
    unpacked_bytes: int


@dataclass(frozen=True, slots=True)
class ValueType:
    """What the values of a column, or of its dictionary, are.

    Attributes
    ----------
    kind : how they are read
    dtype : of the numbers; of the offsets of texts; of the count of units of a moment
    unit : numpy's unit of a moment; empty for dates in milliseconds
    """

    kind: ArrowKind
    dtype: str = ""
    unit: str = ""

    @property
    def n_buffers(self) -> int:
        """Buffers that a column of such values has in a batch."""
        return {"null": 0, "text": 3}.get(self.kind, 2)


@dataclass(frozen=True, slots=True)
class Field:
    """One column of the schema; with ``codes``, the type of its positions, its values stand in a dictionary."""

    name: str
    values: ValueType
    codes: ValueType | None = None
    dictionary_id: int = 0

    @property
    def stored(self) -> ValueType:
        """What a record batch holds of it."""
        return self.codes or self.values


@dataclass(frozen=True, slots=True)
class Batch:
    """One record batch, or the levels of one dictionary.

    Attributes
    ----------
    length : rows
    nulls : shape (n_columns,), how many values of each column are null
    starts, lengths : shape (n_buffers,), where each buffer lies in the body, bytes
    sizes : shape (n_buffers,), bytes that each unpacks to; -1 where it stands as it is
    codec : of the buffers that are compressed
    dictionary_id : whose levels these are; None for a record batch
    is_delta : the levels come after those that are there
    """

    length: int
    nulls: IntArray
    starts: IntArray
    lengths: IntArray
    sizes: IntArray
    codec: Codec | None
    dictionary_id: int | None = None
    is_delta: bool = False


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """A stream that keeps the limits: its columns, and its batches in order."""

    fields: tuple[Field, ...]
    batches: tuple[Batch, ...]


def plan_of(body: bytes, columns: Collection[str], limits: StreamLimits) -> StreamPlan:
    """The columns and batches of a stream.

    Parameters
    ----------
    columns : names that the model knows

    Raises
    ------
    Refused
        ``invalid_arrow``: no such stream, or a type that is not read. ``too_large``: it goes beyond a limit.
    """
    try:
        messages = _messages(body)
        first = next(messages, None)
        if first is None or first.kind != _SCHEMA:
            raise damaged("it does not begin with a schema")
        fields = _fields(first, columns)
        return StreamPlan(fields, tuple(_Tally(body, fields, limits).batches(messages)))
    except DamagedTable as error:
        raise damaged("the description of a message is broken") from error


# --- messages -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Message:
    """One message: its version and kind, its header, and where its body lies."""

    version: int
    kind: int
    header: FlatTable
    start: int
    end: int


def _messages(body: bytes) -> Iterator[_Message]:
    at = 0
    while at < len(body):
        if at + _PREFIX.size > len(body):
            raise damaged("it ends within a message")
        marker, size = _PREFIX.unpack_from(body, at)
        if marker != _MARKER:
            raise damaged("a message does not begin with its marker")
        at += _PREFIX.size
        if size == 0:
            if at != len(body):
                raise damaged("bytes come after its end")
            return
        if size < 0 or size % 8:
            raise damaged("a message has no sound length")
        if size > _LARGEST_METADATA:
            raise too_large(f"the description of a message has more than {_LARGEST_METADATA} bytes")
        if at + size > len(body):
            raise damaged("it ends within a message")
        message = _message(body[at : at + size], at + size)
        if message.end > len(body):
            raise damaged("it ends within a message")
        yield message
        at = message.end


def _message(raw: bytes, start: int) -> _Message:
    table = FlatTable.root(raw)
    header, length, version = table.table(2), table.number(3, _I64), table.number(0, _I16)
    if version not in (_V4, _V5):
        raise damaged("it is of a version before Arrow 0.15")
    if header is None or length < 0 or length % 8:
        raise damaged("a message has no header, or no sound length")
    _hold_metadata(table, 4)
    return _Message(version, table.number(1, _I8), header, start, start + length)


def _hold_metadata(table: FlatTable, field: int) -> None:
    """Check metadata without reading it: damage in it shows that the message is not what was sent."""
    if table.vector(field, 4)[1] > _MOST_PAIRS:
        raise too_large(f"metadata has more than {_MOST_PAIRS} entries; send it without")
    for pair in table.tables(field, _MOST_PAIRS):
        for part in (0, 1):
            if pair.vector(part, 1, ends_with_zero=True) == (0, 0):
                raise DamagedTable


# --- schema -------------------------------------------------------------------------------------------------------


def _fields(message: _Message, columns: Collection[str]) -> tuple[Field, ...]:
    schema, most = message.header, len(columns) + _MOST_UNKNOWN_FIELDS
    if message.end != message.start or schema.number(0, _I16) != 0:
        raise damaged("its schema has a body, or its numbers are big-endian")
    if schema.vector(1, 4)[1] > most:
        raise too_large(f"the stream has more than {most} columns; send those of the model")
    _hold_metadata(schema, 2)
    schema.vector(3, 8)
    fields = tuple(_field(table, i, columns) for i, table in enumerate(schema.tables(1, most)))
    if not fields:
        raise damaged("it has no columns")
    if len({field.name for field in fields}) != len(fields):
        raise Refused("invalid_arrow", "a column comes twice; send each once")
    if len({(f.dictionary_id, f.values) for f in fields if f.codes}) > len(
        {f.dictionary_id for f in fields if f.codes}
    ):
        raise damaged("columns of several types share a dictionary")
    return fields


def _field(table: FlatTable, position: int, columns: Collection[str]) -> Field:
    if table.vector(0, 1)[1] > _LONGEST_NAME:
        raise too_large(f"the name of column number {position + 1} has more than {_LONGEST_NAME} bytes")
    try:
        name = table.text(0).decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged("the name of a column is not UTF-8") from error
    shown = f"column {name!r}" if name in columns else f"column number {position + 1}"
    table.number(1, _I8)
    _hold_metadata(table, 6)
    if table.vector(5, 4)[1]:
        _refuse_type(shown)
    values, encoding = _value_type(table, shown), table.table(4)
    if encoding is None:
        return Field(name, values)
    index, form = encoding.table(1), encoding.number(3, _I16)
    encoding.number(2, _I8)
    if index is None:
        raise damaged("a dictionary does not say how its codes are stored")
    if form != 0:
        _refuse_type(shown)
    return Field(name, values, _integer(index, shown), encoding.number(0, _I64))


def _refuse_type(shown: str) -> NoReturn:
    raise Refused(
        "invalid_arrow",
        f"{shown} has a type that is not read; send numbers, booleans, texts (utf8, large_utf8), dates or "
        "timestamps, plain or dictionary-encoded",
    )


def _value_type(field: FlatTable, shown: str) -> ValueType:
    code, table = field.number(2, _I8), field.table(3)
    if table is None:
        raise damaged("a column has no type")
    match code:
        case 1:
            return ValueType("null")
        case 2:
            return _integer(table, shown)
        case 3 if (precision := table.number(0, _I16)) in (0, 1, 2):
            return ValueType("number", f"f{2 << precision}")
        case 5:
            return ValueType("text", "i4")
        case 20:
            return ValueType("text", "i8")
        case 6:
            return ValueType("bool")
        case 8 if (unit := table.number(0, _I16, 1)) in (0, 1):
            return ValueType("moment", "i8") if unit else ValueType("moment", "i4", "D")
        case 10 if (unit := table.number(0, _I16)) in range(len(_UNITS)):
            table.vector(1, 1, ends_with_zero=True)
            return ValueType("moment", "i8", _UNITS[unit])
    _refuse_type(shown)


def _integer(table: FlatTable, shown: str) -> ValueType:
    bits = table.number(0, _I32)
    if bits not in (8, 16, 32, 64):
        _refuse_type(shown)
    return ValueType("number", f"{'i' if table.number(1, _I8) else 'u'}{bits // 8}")


# --- batches ------------------------------------------------------------------------------------------------------


class _Tally:
    """Reads the messages after the schema and counts what they would cost."""

    def __init__(self, body: bytes, fields: tuple[Field, ...], limits: StreamLimits) -> None:
        self._body, self._limits = body, limits
        self._stored = [field.stored for field in fields]
        self._levels_of = {field.dictionary_id: field.values for field in fields if field.codes is not None}
        self._n_rows = self._n_levels = self._n_batches = self._n_dictionaries = self._unpacked = 0

    def batches(self, messages: Iterator[_Message]) -> Iterator[Batch]:
        """Each batch and dictionary; refused as soon as one is unsound or too much."""
        seen: set[int] = set()
        for message in messages:
            if message.kind == _BATCH:
                if seen != self._levels_of.keys():
                    raise damaged("a batch comes before a dictionary it needs")
                yield self._record_batch(message)
            elif message.kind == _DICTIONARY:
                batch = self._dictionary(message)
                if batch.is_delta and batch.dictionary_id not in seen:
                    raise damaged("a dictionary is continued before it begins")
                seen.add(int(batch.dictionary_id or 0))
                yield batch
            else:
                raise damaged("a message is neither dictionary nor batch")
        if seen and seen != self._levels_of.keys():
            raise damaged("it ends before a dictionary it needs")

    def _record_batch(self, message: _Message) -> Batch:
        self._n_batches += 1
        if self._n_batches > MOST_BATCHES:
            raise too_large(f"more than {MOST_BATCHES} record batches; send fewer with more rows each")
        batch = self._batch(message.header, message, self._stored)
        self._n_rows += batch.length
        if self._n_rows > self._limits.rows:
            raise too_large(f"more than {self._limits.rows} rows; send them in several calls")
        return batch

    def _dictionary(self, message: _Message) -> Batch:
        self._n_dictionaries += 1
        if self._n_dictionaries > _MOST_DICTIONARIES:
            raise too_large(f"more than {_MOST_DICTIONARIES} dictionaries; send fewer and larger record batches")
        key, table = message.header.number(0, _I64), message.header.table(1)
        levels = self._levels_of.get(key)
        if table is None or levels is None:
            raise damaged("a dictionary belongs to no column")
        batch = self._batch(table, message, [levels], key, is_delta=bool(message.header.number(2, _I8)))
        self._n_levels += batch.length
        if self._n_levels > self._limits.rows:
            raise too_large(f"more than {self._limits.rows} levels in its dictionaries; send such columns plain")
        return batch

    def _batch(
        self,
        table: FlatTable,
        message: _Message,
        stored: Sequence[ValueType],
        dictionary_id: int | None = None,
        *,
        is_delta: bool = False,
    ) -> Batch:
        length = table.number(0, _I64)
        nodes = _pairs(table, 1)
        buffers = _pairs(table, 2)
        if len(nodes) != len(stored) or len(buffers) != sum(kind.n_buffers for kind in stored):
            raise damaged("a batch has not the columns of its schema")
        if length < 0 or (nodes[:, 0] != length).any() or (nodes[:, 1] < 0).any() or (nodes[:, 1] > length).any():
            raise damaged("the columns of a batch differ in length")
        if table.vector(4, 8)[1]:
            raise damaged("a batch has buffers of no column")
        starts, lengths = buffers[:, 0], buffers[:, 1]
        _hold_places(starts, lengths, message.end - message.start)
        codec, starts = _codec(table, message.version), starts + message.start
        sizes = np.full(len(starts), -1) if codec is None else self._sizes(starts, lengths)
        return Batch(length, nodes[:, 1], starts, lengths, sizes, codec, dictionary_id, is_delta)

    def _sizes(self, starts: IntArray, lengths: IntArray) -> IntArray:
        """Bytes that each buffer of a compressed batch says it unpacks to; -1 where it says that it is plain."""
        sizes = np.full(len(starts), -1)
        for i in np.flatnonzero(lengths).tolist():
            if lengths[i] < _I64.size:
                raise damaged("a compressed buffer has no length")
            size = _I64.unpack_from(self._body, starts[i])[0]
            if size < -1:
                raise damaged("a compressed buffer has no sound length")
            sizes[i] = size
            self._unpacked += max(size, 0)
        if self._unpacked > self._limits.unpacked_bytes:
            raise too_large(f"it unpacks to more than {self._limits.unpacked_bytes} bytes; send it in several calls")
        return sizes


def _codec(table: FlatTable, version: int) -> Codec | None:
    compression = table.table(3)
    if compression is None:
        return None
    codec = compression.number(0, _I8)
    if version == _V4 or codec not in range(len(_CODECS)) or compression.number(1, _I8) != 0:
        raise damaged("it is compressed in an unknown way")
    if not can_unpack():
        raise Refused("invalid_arrow", "compressed streams are not read on this platform; send it uncompressed")
    return _CODECS[codec]


def _pairs(table: FlatTable, field: int) -> IntArray:
    """A vector of pairs of 64-bit numbers, shape (n, 2)."""
    start, count = table.vector(field, 16)
    if count and start % 8:
        raise DamagedTable
    raw = np.frombuffer(table.raw, "<i8", 2 * count, start) if count else np.empty(0, "<i8")
    return raw.astype(np.int64, copy=False).reshape(count, 2)


def _hold_places(starts: IntArray, lengths: IntArray, size: int) -> None:
    """Buffers lie within the body of their message, in order, without sharing a byte."""
    if (starts < 0).any() or (lengths < 0).any() or (starts > size).any() or (lengths > size - starts).any():
        raise damaged("a buffer lies outside its message")
    used = lengths > 0
    starts, ends = starts[used], (starts + lengths)[used]
    if (starts % 8).any() or (starts[1:] < ends[:-1]).any():
        raise damaged("buffers overlap, or do not begin at a multiple of 8")
