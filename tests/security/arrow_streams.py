"""Arrow streams of every kind that is read, and seeded ways to damage them."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["COLUMNS", "every_byte", "mutated", "stream_of", "valid_streams"]

COLUMNS = (
    "age", "glucose", "bmi", "bp_systolic", "a", "b", "c", "d", "e", "f", "g", "h",
)  # fmt: skip
"""Names that the streams use: four of them are features of v1."""

_TEXTS = ["", "a", "Surgery-General", "é", "Ω-mega", "🙂", "x" * 70, "0", None]


def stream_of(batches: list[pa.RecordBatch], **options: Any) -> bytes:
    """The IPC stream of batches that share a schema."""
    out = io.BytesIO()
    with pa.ipc.new_stream(out, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return out.getvalue()


def valid_streams() -> dict[str, bytes]:
    """Twelve streams by name: all types, dictionaries of all kinds, nulls, one batch and several, both compressions."""
    r = np.random.default_rng(12)
    mixed = [_mixed(r, n) for n in (7, 1, 12)]
    return {
        "integers": stream_of([_integers(r, 9), _integers(r, 4)]),
        "floats": stream_of([_floats(r, 8)]),
        "texts": stream_of([_texts(r, n) for n in (11, 0, 5)]),
        "dictionaries": stream_of([_dictionaries(r, 10)]),
        "deltas": stream_of([_growing(n) for n in (2, 5, 9)], emit_dictionary_deltas=True),
        "replacements": stream_of([_dictionaries(r, n) for n in (4, 6)]),
        "moments": stream_of([_moments(r, 6), _moments(r, 3)]),
        "zstd": stream_of(mixed, compression="zstd"),
        "lz4": stream_of(mixed, compression="lz4"),
        "zstd dictionaries": stream_of([_dictionaries(r, n) for n in (20, 3)], compression="zstd"),
        "records": stream_of([_records(r, n) for n in (3, 3)]),
        "records in lz4": stream_of([_records(r, 400)], compression="lz4"),
    }


def _batch(columns: dict[str, pa.Array]) -> pa.RecordBatch:
    fields = [pa.field(name, array.type, metadata={"unit": name}) for name, array in columns.items()]
    return pa.record_batch(list(columns.values()), schema=pa.schema(fields, metadata={"by": "a test"}))


def _holed(values: Any, kind: pa.DataType, r: np.random.Generator) -> pa.Array:
    plain = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return pa.array([None if r.random() < 0.2 else value for value in plain], kind)


def _integers(r: np.random.Generator, n: int) -> pa.RecordBatch:
    kinds = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
    return _batch({
        name: _holed(r.integers(0, 100, n), kind, r) for name, kind in zip(COLUMNS, kinds, strict=False)
    })  # fmt: skip


def _floats(r: np.random.Generator, n: int) -> pa.RecordBatch:
    values = [float("nan"), float("inf"), -0.0, 1.5, *r.normal(0, 10, n - 4).tolist()]
    return _batch({
        "age": _holed(np.array(values, np.float16), pa.float16(), r),
        "bmi": _holed(values, pa.float32(), r),
        "glucose": pa.array(values, pa.float64()),
        "a": pa.nulls(n),
    })  # fmt: skip


def _texts(r: np.random.Generator, n: int) -> pa.RecordBatch:
    texts = [_TEXTS[i] for i in r.integers(0, len(_TEXTS), n)]
    return _batch({
        "a": pa.array(texts, pa.string()),
        "b": pa.array(texts[::-1], pa.large_string()),
        "c": pa.array(["ward"] * n, pa.string()),
    })  # fmt: skip


def _dictionaries(r: np.random.Generator, n: int) -> pa.RecordBatch:
    def coded(values: Any, kind: pa.DataType, index: pa.DataType, nulls: str = "mask") -> pa.Array:
        return _holed(values, kind, r).dictionary_encode(null_encoding=nulls).cast(pa.dictionary(index, kind))

    levels = pa.array([date(2026, 1, 31), date(1931, 5, 1)])
    return _batch({
        "age": coded(r.integers(20, 90, n), pa.int64(), pa.int32(), "encode"),
        "glucose": coded(r.normal(100, 9, n), pa.float64(), pa.int8()),
        "a": coded([_TEXTS[i % 8] for i in range(n)], pa.string(), pa.int16()),
        "b": coded([_TEXTS[i % 3] for i in range(n)], pa.large_string(), pa.uint32(), "encode"),
        "c": pa.DictionaryArray.from_arrays(pa.array(r.integers(0, 2, n), pa.uint8()), levels),
    })  # fmt: skip


def _growing(n: int) -> pa.RecordBatch:
    """A dictionary that begins as that of a smaller ``n`` does."""
    levels = pa.array([f"level {i}" for i in range(n)])
    return _batch({"a": pa.DictionaryArray.from_arrays(pa.array(range(n), pa.int32()), levels)})


def _moments(r: np.random.Generator, n: int) -> pa.RecordBatch:
    seconds = r.integers(-3_000_000_000, 3_000_000_000, n)
    return _batch({
        "a": _holed(seconds // 86_400, pa.int32(), r).cast(pa.date32()),
        "b": _holed(seconds // 86_400 * 86_400_000, pa.int64(), r).cast(pa.date64()),
        "c": _holed(seconds, pa.int64(), r).cast(pa.timestamp("s")),
        "d": _holed(seconds * 1_000 + 7, pa.int64(), r).cast(pa.timestamp("ms", "UTC")),
        "e": _holed(seconds * 10**6 + 7, pa.int64(), r).cast(pa.timestamp("us", "Europe/Berlin")),
        "f": _holed(seconds * 10**9 - 1, pa.int64(), r).cast(pa.timestamp("ns", "+05:30")),
    })  # fmt: skip


def _mixed(r: np.random.Generator, n: int) -> pa.RecordBatch:
    texts, moments = _texts(r, n), _moments(r, n)
    return _batch({
        "age": _holed(r.integers(0, 100, n), pa.int64(), r),
        "bmi": _holed(r.normal(20, 2, n), pa.float32(), r),
        "a": texts["a"],
        "b": texts["b"],
        "c": moments["f"],
        "d": pa.nulls(n),
        "e": _holed(r.integers(0, 2, n).astype(bool), pa.bool_(), r),
    })  # fmt: skip


def _records(r: np.random.Generator, n: int) -> pa.RecordBatch:
    return _batch({
        "age": pa.array(r.integers(18, 100, n)),
        "glucose": _holed(r.normal(120, 20, n), pa.float64(), r),
        "bmi": pa.array(r.normal(25, 3, n)),
        "bp_systolic": pa.array(r.integers(90, 180, n)),
    })  # fmt: skip


# --- damage -------------------------------------------------------------------------------------------------------

_EDGES = (
    0, 1, 2, 7, 8, 63, 64, 255, 256, 65_535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40,
    (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 8, (1 << 64) - (1 << 31),
)  # fmt: skip


def mutated(streams: list[bytes], dice: random.Random) -> bytes:
    """One of the streams, damaged in one to three ways."""
    body = bytearray(dice.choice(streams))
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        dice.choice(_DAMAGES)(body, streams, dice)
    return bytes(body)


def every_byte(stream: bytes) -> Iterator[bytes]:
    """The stream with one byte changed: each of them, to several values."""
    for at, was in enumerate(stream):
        for value in {was ^ 1, was ^ 0x80, 0, 0xFF, (was + 1) % 256, (was - 1) % 256, was ^ 4} - {was}:
            body = bytearray(stream)
            body[at] = value
            yield bytes(body)


def _messages(body: bytes | bytearray) -> list[tuple[int, int]]:
    """Where the descriptions of the messages lie, as far as they can be followed by their markers."""
    found, at = [], body.find(b"\xff\xff\xff\xff")
    while at >= 0 and at + 8 <= len(body):
        (size,) = struct.unpack_from("<i", body, at + 4)
        if 0 < size <= len(body) - at - 8:
            found.append((at + 8, at + 8 + size))
        at = body.find(b"\xff\xff\xff\xff", at + 8)
    return found


def _place(body: bytearray, dice: random.Random) -> int:
    """Somewhere, mostly within the description of a message."""
    spans = _messages(body)
    if spans and dice.random() < 0.7:
        return dice.randrange(*dice.choice(spans))
    return dice.randrange(max(len(body), 1))


def _flip(body: bytearray, _: list[bytes], dice: random.Random) -> None:
    if body:
        body[_place(body, dice)] ^= 1 << dice.randrange(8)


def _set(body: bytearray, _: list[bytes], dice: random.Random) -> None:
    if body:
        body[_place(body, dice)] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))


def _edit(body: bytearray, _: list[bytes], dice: random.Random) -> None:
    """A number of the description becomes another: at an edge, or near what it was."""
    width = dice.choice((2, 4, 4, 8, 8, 8))
    at = _place(body, dice) // width * width
    if at + width > len(body):
        return
    was = int.from_bytes(body[at : at + width], "little")
    value = dice.choice((*_EDGES, was + 8, was - 8, was + 1, was - 1, was * 2, was << 32))
    body[at : at + width] = (value % (1 << (8 * width))).to_bytes(width, "little")


def _swap(body: bytearray, _: list[bytes], dice: random.Random) -> None:
    """Two numbers of the description change places."""
    width = dice.choice((2, 4, 8))
    one, two = (_place(body, dice) // width * width for _ in range(2))
    if max(one, two) + width <= len(body):
        body[one : one + width], body[two : two + width] = body[two : two + width], body[one : one + width]


def _cut(body: bytearray, _: list[bytes], dice: random.Random) -> None:
    del body[dice.choice((_place(body, dice), len(body) - 8, len(body) - 1)) :]


def _lose(body: bytearray, _: list[bytes], dice: random.Random) -> None:
    at = _place(body, dice)
    del body[at : at + dice.choice((1, 4, 8, 16, dice.randrange(1, 100)))]


def _insert(body: bytearray, _: list[bytes], dice: random.Random) -> None:
    at = dice.choice((_place(body, dice), len(body)))
    body[at:at] = dice.choice((bytes(8), b"\xff" * 4 + bytes(4), dice.randbytes(dice.randrange(1, 40))))


def _splice(body: bytearray, streams: list[bytes], dice: random.Random) -> None:
    """The rest comes from another stream, mostly from where a message of it begins."""
    other = dice.choice(streams)
    mine, theirs = (
        [start - 8 for start, _ in _messages(raw)] + [dice.randrange(len(raw) or 1)] for raw in (body, other)
    )
    body[dice.choice(mine) :] = other[dice.choice(theirs) :]


def _reorder(body: bytearray, _: list[bytes], dice: random.Random) -> None:
    """A message is lost, comes twice, or changes places with the next."""
    starts = [start - 8 for start, _ in _messages(body)]
    if len(starts) < 3:
        return
    i = dice.randrange(1, len(starts) - 1)
    one, two = bytes(body[starts[i - 1] : starts[i]]), bytes(body[starts[i] : starts[i + 1]])
    body[starts[i - 1] : starts[i + 1]] = dice.choice((two, one, two + one, one + one + two, one + two + two))


def _copy(body: bytearray, _: list[bytes], dice: random.Random) -> None:
    """Some bytes are written over others."""
    n = dice.choice((2, 4, 8, 16, 32))
    one, two = _place(body, dice), _place(body, dice)
    body[two : two + n] = body[one : one + n]


_DAMAGES: tuple[Callable[[bytearray, list[bytes], random.Random], None], ...] = (
    _flip, _flip, _set, _edit, _edit, _edit, _swap, _cut, _lose, _insert, _splice, _reorder, _copy,
)  # fmt: skip
