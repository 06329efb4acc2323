"""Streams beyond a limit are refused before a buffer is unpacked, with what to do; so are types that are not read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml_core.serve.http import arrow_messages
from ml_core.serve.http.arrow_messages import StreamLimits, plan_of
from ml_core.serve.http.replies import Refused

LIMITS = StreamLimits(rows=1_000, unpacked_bytes=100_000)
END = b"\xff\xff\xff\xff\0\0\0\0"


def stream(table: pa.Table, rows: int | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows)
    return out.getvalue()


def refusal(body: bytes, columns: tuple[str, ...] = ("a",), limits: StreamLimits = LIMITS) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        plan_of(body, columns, limits)
    return caught.value.code, str(caught.value)


def ones(n: int) -> pa.Table:
    return pa.table({"a": np.ones(n, np.int8)})


def test_rows_of_all_batches_are_counted() -> None:
    assert len(plan_of(stream(ones(1_000), 100), ("a",), LIMITS).batches) == 10
    code, told = refusal(stream(ones(1_001), 100))
    assert (code, told) == ("too_large", "more than 1000 rows; send them in several calls")


def test_a_stream_has_1024_batches_at_most() -> None:
    many = StreamLimits(10**6, 10**6)
    assert len(plan_of(stream(ones(1_024), 1), ("a",), many).batches) == 1_024
    code, told = refusal(stream(ones(20_000), 1), limits=many)
    assert code == "too_large"
    assert told.startswith("more than 1024 record batches; send fewer")


def test_a_stream_has_a_hundred_columns_more_than_the_model_at_most() -> None:
    wide = {f"c{i}": np.ones(1) for i in range(102)}
    assert len(plan_of(stream(pa.table(wide)), ("a", "b"), LIMITS).fields) == 102
    assert refusal(stream(pa.table(wide)))[0] == "too_large"


def test_levels_of_all_dictionaries_are_counted() -> None:
    levels = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(range(501)))
    assert plan_of(stream(pa.table({"a": levels})), ("a",), LIMITS)
    assert refusal(stream(pa.table({"a": levels, "b": levels})))[0] == "too_large"


def test_dictionaries_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_messages, "_MOST_DICTIONARIES", 3)
    arrays = [pa.array([str(i)]).dictionary_encode() for i in range(4)]
    table = pa.table({"a": pa.chunked_array(arrays)})
    assert refusal(stream(table))[0] == "too_large"


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_bytes_are_counted_as_they_would_be_unpacked(codec: str) -> None:
    zeros = pa.table({"a": np.zeros(1_000)})
    assert plan_of(stream(zeros, compression=codec), ("a",), LIMITS)
    body = stream(zeros, compression=codec)
    assert len(body) < 1_000
    code, told = refusal(body, limits=StreamLimits(1_000, 7_999))
    assert code == "too_large"
    assert "unpacks to more than 7999 bytes" in told
    assert plan_of(stream(zeros), ("a",), StreamLimits(1_000, 7_999))  # nothing of it is packed


def test_a_bomb_is_refused_by_what_it_declares() -> None:
    bomb = stream(pa.table({"a": np.zeros(25_000_000)}), compression="zstd")
    assert len(bomb) < 50_000
    assert refusal(bomb, limits=StreamLimits(10**9, 1 << 27))[0] == "too_large"


def test_metadata_has_bounds() -> None:
    schema = pa.schema([pa.field("a", pa.int8())], metadata={str(i): "x" for i in range(65)})
    assert refusal(stream(ones(1).cast(schema)))[0] == "too_large"
    named = pa.table({"a" * 1_025: [1]})
    assert refusal(stream(named))[0] == "too_large"
    large = pa.schema([pa.field("a", pa.int8())], metadata={"x": "y" * (1 << 22)})
    assert refusal(stream(ones(1).cast(large)))[0] == "too_large"


def nested(depth: int) -> pa.DataType:
    kind: pa.DataType = pa.int64()
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind


def other_types() -> Iterator[pa.DataType]:
    yield from (nested(depth) for depth in (1, 2, 48, 60))
    yield from (pa.binary(), pa.binary(4), pa.large_binary(), pa.string_view(), pa.decimal128(5, 2))
    yield from (pa.time32("s"), pa.duration("s"), pa.month_day_nano_interval(), pa.struct([("x", pa.int8())]))
    yield from (pa.map_(pa.string(), pa.int8()), pa.list_(pa.int8(), 2), pa.dictionary(pa.int8(), pa.list_(pa.int8())))
    yield pa.run_end_encoded(pa.int16(), pa.int8())


@pytest.mark.parametrize("kind", other_types(), ids=str)
def test_other_types_are_refused_by_name_where_the_model_knows_it(kind: pa.DataType) -> None:
    schema = pa.schema([("a", kind), ("secret", pa.int8())])
    out = io.BytesIO()
    pa.ipc.new_stream(out, schema).close()
    code, told = refusal(out.getvalue())
    assert code == "invalid_arrow"
    assert told.startswith("column 'a' has a type that is not read; send numbers, booleans, texts")
    assert "column number 1 " in refusal(out.getvalue(), ("b",))[1]


def test_bytes_after_the_end_are_refused() -> None:
    body = stream(ones(3))
    assert body.endswith(END)
    for more in (b"\0", END, body, b"\n"):
        assert refusal(body + more)[0] == "invalid_arrow"


def test_a_stream_may_end_without_its_mark_but_not_within_a_message() -> None:
    body = stream(ones(3), 1).removesuffix(END)
    whole = plan_of(body, ("a",), LIMITS)
    assert len(whole.batches) == 3
    ends = {len(body) - n for n in range(len(body))} & _message_ends(body)
    for n in range(1, len(body)):
        if n in ends:
            assert len(plan_of(body[:n], ("a",), LIMITS).batches) < 3
        else:
            assert refusal(body[:n])[0] == "invalid_arrow"


def _message_ends(body: bytes) -> set[int]:
    """Where messages end, told by where the next ones begin."""
    return {at for at in range(8, len(body), 8) if body[at : at + 4] == b"\xff\xff\xff\xff"}


def test_a_column_that_comes_twice_is_refused() -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert refusal(stream(twice)) == ("invalid_arrow", "a column comes twice; send each once")


def test_other_forms_of_arrow_are_refused() -> None:
    legacy = stream(ones(3), use_legacy_format=True)
    out = io.BytesIO()
    with pa.ipc.new_file(out, ones(3).schema) as writer:
        writer.write_table(ones(3))
    for body in (b"", b"garbage" * 50, b'{"records": []}', legacy, out.getvalue(), END, stream(ones(3))[8:]):
        assert refusal(body)[0] == "invalid_arrow"


def test_metadata_of_version_4_is_read() -> None:
    body = stream(ones(3), metadata_version=pa.ipc.MetadataVersion.V4)
    assert [batch.length for batch in plan_of(body, ("a",), LIMITS).batches] == [3]
