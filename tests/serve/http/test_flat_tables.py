"""Tables that flatbuffers' own builder makes are read; bytes that are none are refused, whatever they are."""

from __future__ import annotations

from contextlib import suppress
from struct import Struct

import flatbuffers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.serve.http.flat_tables import DamagedTable, FlatTable

_I8, _I32, _I64 = Struct("<b"), Struct("<i"), Struct("<q")


def built() -> bytes:
    """A table: 0 a byte, 1 a 64-bit number, 2 a text, 3 a table with 0 a number, 4 two such tables; 5 is absent."""
    builder = flatbuffers.Builder(0)
    text = builder.CreateString("ward")
    inner = []
    for value in (7, 8):
        builder.StartObject(1)
        builder.PrependInt32Slot(0, value, 0)
        inner.append(builder.EndObject())
    builder.StartVector(4, 2, 4)
    for at in reversed(inner):
        builder.PrependUOffsetTRelative(at)
    vector = builder.EndVector()
    builder.StartObject(6)
    builder.PrependInt8Slot(0, -3, 0)
    builder.PrependInt64Slot(1, 1 << 40, 0)
    builder.PrependUOffsetTRelativeSlot(2, text, 0)
    builder.PrependUOffsetTRelativeSlot(3, inner[0], 0)
    builder.PrependUOffsetTRelativeSlot(4, vector, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def everything(raw: bytes) -> tuple[object, ...]:
    table = FlatTable.root(raw)
    inner = table.table(3)
    return (
        table.number(0, _I8),
        table.number(1, _I64),
        table.text(2),
        None if inner is None else inner.number(0, _I32),
        [one.number(0, _I32) for one in table.tables(4, 2)],
        table.number(5, _I32, 42),
        table.table(6),
        table.vector(7, 8),
        table.text(8),
    )


def test_a_table_is_read() -> None:
    assert everything(built()) == (-3, 1 << 40, b"ward", 7, [7, 8], 42, None, (0, 0), b"")


def test_more_tables_than_asked_for_are_refused() -> None:
    with pytest.raises(DamagedTable):
        FlatTable.root(built()).tables(4, 1)


def test_a_table_cut_short_is_refused() -> None:
    """Its text stands last, with a zero byte and padding after it."""
    raw = built()
    for n in range(raw.index(b"ward") + 5):
        with pytest.raises(DamagedTable):
            FlatTable.root(raw[:n]).text(2)


@given(st.integers(0, len(built()) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_reads_as_something(at: int, value: int) -> None:
    raw = bytearray(built())
    raw[at] = value
    with suppress(DamagedTable):
        assert len(everything(bytes(raw))) == 9


@given(st.binary(max_size=80))
def test_any_bytes_are_refused_or_read(raw: bytes) -> None:
    with suppress(DamagedTable):
        everything(raw)
