"""A bulk call's file gives back what was answered to the last bit, and is refused by name where it is not that file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import LogDamaged
from ml_core.serve.log.segments import Segment, SegmentEntry, read_segment, write_segment
from tests.serve.log.builders import BULK_COLUMNS, DAY, NOON_US, fill, segment, small_disk

ARRAYS = ("ids", "probabilities", "p_values", "sets", "predictions", "slots", "reasons")
FACTS = ("level", "validity", "validity_reasons", "input_hash", "lineages", "slot_names", "reason_names")
BATCH = "01936f0e-0000-7000-8000-000000000000"


def written(folder: Path, found: Segment, *, durable: bool = False) -> SegmentEntry:
    return write_segment(folder, DAY, BATCH, found, BULK_COLUMNS, durable=durable, elapsed_us=70)


def assert_same(one: Segment, two: Segment) -> None:
    """Equal to the last bit, missing values included."""
    for name in ARRAYS:
        a, b = getattr(one, name), getattr(two, name)
        assert a.shape == b.shape
        assert a.astype(b.dtype).tobytes() == b.tobytes(), name
    for name in FACTS:
        assert getattr(one, name) == getattr(two, name), name
    assert (one.inputs is None) == (two.inputs is None)
    for name, values in (one.inputs or {}).items():
        assert two.inputs is not None
        if values.dtype == np.object_:
            assert values.tolist() == two.inputs[name].tolist()
        else:
            assert values.tobytes() == two.inputs[name].astype(values.dtype).tobytes(), name


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 1_000])
@pytest.mark.parametrize("inputs", [True, False])
def test_a_segment_reads_back_to_the_same_bits(tmp_path: Path, n: int, k: int, inputs: bool) -> None:
    found = segment(n, k, inputs=inputs)
    entry = written(tmp_path, found, durable=n == 2)
    assert (entry.rows, entry.elapsed_us) == (n, 70)
    assert entry.sha256 == hashlib.sha256((tmp_path / entry.segment).read_bytes()).hexdigest()
    again = read_segment(tmp_path, entry)
    assert len(again) == n
    assert_same(found, again)
    assert list((tmp_path / "bulk" / DAY).iterdir()) == [tmp_path / entry.segment]


numbers = st.floats(allow_nan=True, allow_infinity=False, width=64)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_values_read_back_to_the_same_bits(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))

    def column(values: st.SearchStrategy[Any], dtype: Any) -> np.ndarray[Any, Any]:
        return np.array(data.draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)

    inputs = {
        "age": column(st.integers(-(2**53), 2**53).map(float) | st.just(float("nan")), np.float64),
        "glucose": column(numbers, np.float64),
        "sex": column(st.integers(-1, 2), np.int64),
        "ward": column(st.integers(-1, 2), np.int64),
        "code": column(st.none() | st.text(max_size=8), np.object_),
    }
    found = replace(segment(n), inputs=inputs, probabilities=column(st.tuples(numbers, numbers), np.float64))
    folder = tmp_path_factory.mktemp("log")
    assert_same(found, read_segment(folder, written(folder, found)))


def test_rows_are_told_as_a_request_has_them(tmp_path: Path) -> None:
    inputs = {
        "age": np.array([71.0, np.nan]),
        "glucose": np.array([np.nan, 182.5]),
        "sex": np.array([1, -1]),
        "ward": np.array([-1, 2]),
        "code": np.array(["E11", None], dtype=np.object_),
    }
    again = read_segment(tmp_path, written(tmp_path, replace(segment(2), inputs=inputs)))
    first, second = again.records([0, 1])
    assert first == {"age": 71, "glucose": None, "sex": "m", "ward": None, "code": "E11"}
    assert second == {"age": None, "glucose": 182.5, "sex": None, "ward": 7, "code": None}
    assert isinstance(first["age"], int)
    assert list(again.records([1])) == [second]
    assert orjson.loads(orjson.dumps(first)) == first


def test_rows_without_inputs_are_told_without(tmp_path: Path) -> None:
    again = read_segment(tmp_path, written(tmp_path, segment(3, inputs=False)))
    assert list(again.records([0, 2])) == [None, None]


def test_anything_that_reads_arrow_reads_it(tmp_path: Path) -> None:
    found = segment(500, 3)
    entry = written(tmp_path, found)
    with pa.OSFile(str(tmp_path / entry.segment)) as file, pa.ipc.open_stream(file) as stream:
        table = stream.read_all()
    table.validate(full=True)
    assert table.num_rows == 500
    assert table["request_id"].to_pylist() == [raw.tobytes() for raw in found.ids]
    for c in range(3):
        assert table[f"p_value.{c}"].to_numpy().tobytes() == np.ascontiguousarray(found.p_values[:, c]).tobytes()
        assert table[f"in_set.{c}"].to_numpy().astype(bool).tolist() == found.sets[:, c].tolist()
    assert found.inputs is not None
    assert table["input.glucose"].to_numpy().tobytes() == found.inputs["glucose"].tobytes()
    meta = orjson.loads(table.schema.metadata[b"surety"])
    assert meta["levels"]["sex"] == ["f", "m", "x"]
    codes, levels = table["input.code"].to_pylist(), meta["levels"]["code"]
    assert [None if code < 0 else levels[code] for code in codes] == found.inputs["code"].tolist()


def test_an_entry_tells_the_span_of_its_ids(tmp_path: Path) -> None:
    ids = np.concatenate([segment(2, at_us=NOON_US).ids, segment(2, at_us=NOON_US + 5_000_000).ids])
    entry = written(tmp_path, replace(segment(4), ids=ids))
    assert (entry.first_ms, entry.last_ms) == (NOON_US // 1_000, NOON_US // 1_000 + 5_000)


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def emptied(_: bytes) -> bytes:
    return b""


def flipped(raw: bytes) -> bytes:
    at = len(raw) // 2
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def lengthened(raw: bytes) -> bytes:
    return raw + b"\0"


@pytest.mark.parametrize("damage", [cut, emptied, flipped, lengthened])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    entry = written(tmp_path, segment(50))
    path = tmp_path / entry.segment
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LogDamaged, match=f"{BATCH}.*not the file that was written"):
        read_segment(tmp_path, entry)


@pytest.mark.parametrize("damage", [cut, emptied])
def test_a_file_that_is_no_segment_is_refused_by_name_also_unverified(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    entry = written(tmp_path, segment(50))
    path = tmp_path / entry.segment
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LogDamaged, match=f"{BATCH}.*no segment"):
        read_segment(tmp_path, entry, verify=False)


def test_a_table_of_somebody_else_is_no_segment(tmp_path: Path) -> None:
    entry = written(tmp_path, segment(5))
    table = pa.table({"a": [1, 2]})
    with pa.OSFile(str(tmp_path / entry.segment), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(LogDamaged, match="no segment"):
        read_segment(tmp_path, entry, verify=False)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    entry = written(tmp_path, segment(5))
    (tmp_path / entry.segment).unlink()
    with pytest.raises(LogDamaged, match=f"{BATCH}.*cannot be read"):
        read_segment(tmp_path, entry)


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "log"):
        fill(tmp_path / "log")
        with pytest.raises(OSError, match="No space left"):
            written(tmp_path / "log", segment(2_000))
        assert [path for path in (tmp_path / "log").rglob("*") if path.is_file() and path.name != "filler"] == []
