"""Columns come out as they were sent: nulls, levels, texts and moments; what cannot be is refused."""

from __future__ import annotations

import io
import struct
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ml_core.features.columns import Column
from ml_core.serve.features.table import Cells, encode_table
from ml_core.serve.http.arrow_reader import StreamLimits, read_records
from ml_core.serve.http.replies import Refused

LIMITS = StreamLimits(rows=100_000, unpacked_bytes=1 << 20)


def stream(*batches: pa.RecordBatch, **options: Any) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return out.getvalue()


def cells_of(*arrays: pa.Array, **options: Any) -> list[Cells]:
    """Column ``a`` of each batch that has rows."""
    body = stream(*(pa.record_batch({"a": array}) for array in arrays), **options)
    return [cells["a"] for cells in read_records(body, {"a"}, LIMITS)]


def values(*arrays: pa.Array, **options: Any) -> list[list[Any]]:
    return [cells.objects() for cells in cells_of(*arrays, **options)]


def coded(codes: list[int | None], levels: list[Any]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(levels))


def refusal(body: bytes, limits: StreamLimits = LIMITS) -> str:
    with pytest.raises(Refused) as caught:
        list(read_records(body, {"a"}, limits))
    return caught.value.code


@pytest.mark.parametrize("ages", [[50, None, 50, None], [50.5, None, 1.0, None], ["x", None, "y", None]])
def test_a_level_that_is_null_is_a_null(ages: list[Any]) -> None:
    assert values(pa.array(ages).dictionary_encode(null_encoding="encode")) == [ages]


def test_a_null_level_of_a_column_that_may_not_be_null_is_refused_as_a_null_is() -> None:
    column = Column("a", "int", "An age.", low=0, high=130)
    sent = pa.array([50, None, 50]).dictionary_encode(null_encoding="encode")
    table = encode_table([column], {"a": cells_of(sent)[0]})
    assert [fault.problem for fault in table.problems[1]] == ["must not be null"]
    assert table.good.tolist() == [True, False, True]


def test_dictionaries_that_grow_or_are_replaced_are_followed() -> None:
    grown = [coded([0], ["x"]), coded([0, 1], ["x", "y"]), coded([2, None], ["x", "y", "z"])]
    assert values(*grown, emit_dictionary_deltas=True) == [["x"], ["x", "y"], ["z", None]]
    replaced = [coded([0, 1], ["x", "y"]), coded([0, 1], ["y", "x"])]
    assert values(*replaced) == [["x", "y"], ["y", "x"]]


def test_of_a_long_dictionary_only_the_levels_that_occur_are_kept() -> None:
    (cells,) = cells_of(coded([70, None, 3, 70], [f"level {i}" for i in range(100)]))
    assert cells.objects() == ["level 70", None, "level 3", "level 70"]
    assert cells.levels == ["level 3", "level 70"]


def test_a_code_without_a_level_is_refused() -> None:
    body = stream(pa.record_batch({"a": coded([0, 1, 0], ["x", "y"])}))
    at = body.rindex(struct.pack("<3i", 0, 1, 0))
    for code in (2, -1, 1 << 30):
        assert refusal(body[:at] + struct.pack("<3i", 0, code, 0) + body[at + 12 :]) == "invalid_arrow"


@pytest.mark.parametrize(
    ("unit", "moment"),
    [
        ("s", datetime(2026, 1, 31, 10, 15, 30, tzinfo=UTC)),
        ("ms", datetime(1931, 5, 1, 0, 0, 0, 7_000, tzinfo=UTC)),
        ("us", datetime(2199, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("ns", datetime(1900, 1, 1, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "-05:00", "no/zone"])
def test_timestamps_are_moments_in_utc(unit: str, moment: datetime, zone: str | None) -> None:
    kind = pa.timestamp(unit, zone)
    microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    ticks = microseconds * 1_000 if unit == "ns" else microseconds // {"s": 10**6, "ms": 10**3, "us": 1}[unit]
    sent = pa.array([ticks, None], pa.int64()).view(kind)
    assert values(sent) == [[moment.replace(tzinfo=None), None]]
    column = Column("a", "datetime", "When.", role="time")
    table = encode_table([column], {"a": cells_of(sent)[0]})
    assert not table.problems
    assert table.ids["a"] == [moment.replace(tzinfo=None), None]


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 64, 1_001])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_booleans_are_read_bit_by_bit(n: int, compression: str | None) -> None:
    sent = [(True, False, None)[i * i % 3] if i % 5 else i % 2 == 0 for i in range(n)]
    kept = pa.array([False, *sent], pa.bool_()).slice(1)  # begins within a byte
    assert values(kept, compression=compression) == ([sent] if n else [])
    column = Column("a", "bool", "Whether.", nullable=True)
    for cells in cells_of(kept, compression=compression):
        table = encode_table([column], {"a": cells})
        assert not table.problems
        assert table.arrays["a"].tolist() == [-1 if value is None else int(value) for value in sent]


def test_booleans_may_stand_in_a_dictionary() -> None:
    assert values(coded([0, 1, None, 1], [True, False])) == [[True, False, None, False]]


def test_fewer_bits_than_rows_are_refused() -> None:
    body = stream(pa.record_batch({"a": pa.array([True] * 9)}))
    shorter = body.replace(struct.pack("<qq", 0, 2), struct.pack("<qq", 0, 1))
    assert shorter != body
    assert refusal(shorter) == "invalid_arrow"


@pytest.mark.parametrize("sent", [[1, 0], [1.0, 0.0], ["true", "false"]])
def test_only_booleans_are_booleans(sent: list[Any]) -> None:
    table = encode_table([Column("a", "bool", "Whether.")], {"a": cells_of(pa.array(sent))[0]})
    assert table.checks == {("a", "not a boolean"): 2}


@pytest.mark.parametrize("dtype", ["int", "float", "category", "text", "datetime"])
def test_a_boolean_is_nothing_else(dtype: str) -> None:
    column = Column("a", dtype, "What.", levels=(0, 1) if dtype == "category" else ())
    assert not encode_table([column], {"a": cells_of(pa.array([True, False]))[0]}).good.any()


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_dates_are_moments_at_midnight(kind: pa.DataType) -> None:
    sent = [date(2026, 1, 31), None, date(1900, 1, 1)]
    midnight = [datetime(2026, 1, 31), None, datetime(1900, 1, 1)]  # noqa: DTZ001 - moments without a zone are UTC
    assert values(pa.array(sent, kind)) == [midnight]
    assert values(pa.array(sent, kind), compression="zstd") == [midnight]


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ns"), pa.date32()], ids=str)
def test_moments_beyond_the_calendar_are_refused_and_never_null(kind: pa.DataType) -> None:
    width = pa.int32() if kind == pa.date32() else pa.int64()
    most = (1 << (width.bit_width - 1)) - 1
    sent = pa.array([most, -most - 1, 0], width).view(kind)
    table = encode_table([Column("a", "datetime", "When.", role="time")], {"a": cells_of(sent)[0]})
    assert sorted(table.problems) == [0, 1]


def test_a_moment_is_no_number() -> None:
    column = Column("a", "int", "An age.", low=0, high=130)
    table = encode_table([column], {"a": cells_of(pa.array([1, 2], pa.int64()).view(pa.timestamp("s")))[0]})
    assert sorted(table.problems) == [0, 1]


def test_a_date_in_milliseconds_within_a_day_is_refused() -> None:
    body = stream(pa.record_batch({"a": pa.array([86_400_001], pa.int64()).view(pa.date64())}))
    assert refusal(body) == "invalid_arrow"


def test_many_different_texts_come_back() -> None:
    texts = [f"text number {i} Ω" if i % 7 else None for i in range(9_001)]
    assert values(pa.array(texts)) == [texts]
    assert values(pa.array(texts, pa.large_string())) == [texts]
    (cells,) = cells_of(pa.array(texts))
    assert cells.levels is None
    assert cells.values[-1] == texts[-1]
    assert list(cells.values[1:3]) == texts[1:3]


@pytest.mark.parametrize("damage", [b"\xff", b"\xc3\xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_texts_that_are_not_utf8_are_refused(damage: bytes) -> None:
    body = stream(pa.record_batch({"a": ["abcdef", "ghi"]}))
    assert refusal(body.replace(b"abcdef"[: len(damage)], damage)) == "invalid_arrow"


def test_texts_that_share_a_character_are_refused() -> None:
    body = stream(pa.record_batch({"a": ["éa", "b"]}))
    assert body.count("éab".encode()) == 1
    assert (
        refusal(
            body.replace("éab".encode(), "aéb".encode()).replace(
                struct.pack("<3i", 0, 3, 4), struct.pack("<3i", 0, 2, 4)
            )
        )
        == "invalid_arrow"
    )


def test_a_text_has_65536_bytes_at_most() -> None:
    assert values(pa.array(["x" * 65_536])) == [["x" * 65_536]]
    assert refusal(stream(pa.record_batch({"a": ["x" * 65_537]}))) == "too_large"


def test_texts_that_would_grow_in_memory_are_counted() -> None:
    """One emoji makes every character of its text take four bytes."""
    grown = stream(pa.record_batch({"a": ["x" * 60_000 + "🙂"] * 7}))
    assert refusal(grown) == "too_large"
    assert len(list(read_records(grown, {"a"}, StreamLimits(10, 1 << 21)))) == 1


@pytest.mark.parametrize("offsets", [(0, 9, 4), (0, 2, 99), (-1, 2, 4), (3, 2, 4)])
def test_texts_outside_their_column_are_refused(offsets: tuple[int, int, int]) -> None:
    body = stream(pa.record_batch({"a": ["ab", "cd"]}))
    assert refusal(body.replace(struct.pack("<3i", 0, 2, 4), struct.pack("<3i", *offsets))) == "invalid_arrow"


def test_offsets_that_go_once_around_32_bits_are_refused() -> None:
    """Each text is short and the last one ends where the column does, but those between lie nowhere."""
    texts = pa.array([""] * 65_535 + ["x"])
    body = stream(pa.record_batch({"a": texts}))
    around = (np.arange(65_537, dtype=np.int64) * 65_536).astype(np.int32)
    around[-1] = 1
    straight = struct.pack("<65537i", *([0] * 65_536), 1)
    assert body.count(straight) == 1
    assert refusal(body.replace(straight, around.tobytes())) == "invalid_arrow"


def test_a_wrong_count_of_nulls_is_refused() -> None:
    body = stream(pa.record_batch({"a": pa.array([1.5, None, 2.5])}))
    node = struct.pack("<2q", 3, 1)
    assert body.count(node) == 1
    for n_null in (0, 2, 3):
        assert refusal(body.replace(node, struct.pack("<2q", 3, n_null))) == "invalid_arrow"


def test_columns_that_the_model_does_not_know_are_checked_but_not_read() -> None:
    batch = pa.record_batch({"a": [1, 2], "x": ["some", "text"]})
    (cells,) = read_records(stream(batch), {"a"}, LIMITS)
    assert cells["x"].objects() == [None, None]
    assert refusal(stream(batch).replace(b"some", b"som\xff")) == "invalid_arrow"


def test_a_column_of_nulls_takes_no_memory() -> None:
    (cells,) = read_records(stream(pa.record_batch({"a": pa.nulls(100_000)})), {"a"}, LIMITS)
    assert isinstance(cells["a"].values, np.ndarray)
    assert cells["a"].values.strides == (0,)
    assert cells["a"].objects() == [None] * 100_000


def test_batches_without_rows_are_left_out() -> None:
    assert values(pa.array(["x"]), pa.array([], pa.string()), pa.array(["y"])) == [["x"], ["y"]]
    assert values(coded([], ["x"])) == []


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_damaged_compressed_buffer_is_refused(codec: str) -> None:
    body = bytearray(stream(pa.record_batch({"a": np.arange(500.0)}), compression=codec))
    at = body.rindex(struct.pack("<q", 4_000)) + 8
    body[at + 1] ^= 0xFF
    assert refusal(bytes(body)) == "invalid_arrow"
