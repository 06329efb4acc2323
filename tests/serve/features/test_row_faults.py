"""What is wrong with many rows: each row is told all of it, and a short body takes no memory by the row."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from ml_core.base.errors import FieldProblem, InvalidRecord
from ml_core.features.columns import Column
from ml_core.serve.features import row_faults
from ml_core.serve.features.column_rules import Fault
from ml_core.serve.features.row_faults import RowFaults, RowProblems
from ml_core.serve.features.table import EncodedTable, encode_table
from ml_core.serve.http.arrow_reader import StreamLimits, read_records
from ml_core.serve.http.replies import Refused
from tests.security.arrow_streams import stream_of

AGE = Column("age", "int", "Age.", low=0, high=120)
WARD = Column("ward", "category", "Ward.", levels=("east", "west"))
NOTE = Column("note", "text", "Note.", pattern=".*", examples=("calm",))
ROWS = 400_000


def encoded(body: bytes, column: Column, rows: int = ROWS) -> EncodedTable:
    (cells,) = read_records(body, {column.name}, StreamLimits(rows, 1 << 27))
    return encode_table((column,), cells)


def test_what_is_wrong_everywhere_and_what_is_wrong_with_a_row_are_told_together() -> None:
    everywhere, here = FieldProblem("a", "is missing"), FieldProblem("b", "too high")
    found = RowProblems(3, [everywhere], {1: (here,)})
    assert dict(found) == {0: (everywhere,), 1: (everywhere, here), 2: (everywhere,)}
    assert (len(found), 3 in found) == (3, False)


def test_without_what_is_wrong_everywhere_only_wrong_rows_are_listed() -> None:
    found = RowProblems(3, [], {2: (FieldProblem("b", "too high"),)})
    assert (list(found), len(found), 0 in found, bool(found)) == ([2], 1, False, True)
    assert not RowProblems(3)


def test_a_row_can_be_wrong_in_several_columns_and_past_the_quoted_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_faults, "_QUOTED_FAULTS", 1)
    faults = RowFaults(RowProblems(2))
    for column, fault in ((AGE, Fault("too high", "300 is too high")), (WARD, Fault("unknown", "'x' is unknown"))):
        faults.add(column, 0, fault)
    assert faults.problems[0] == (FieldProblem("age", "300 is too high"), FieldProblem("ward", "unknown"))
    assert faults.checks == {("age", "too high"): 1, ("ward", "unknown"): 1}


@pytest.mark.parametrize("column", [AGE, WARD, NOTE], ids=lambda column: column.name)
def test_a_null_column_of_a_short_body_makes_nothing_by_the_row(
    monkeypatch: pytest.MonkeyPatch, column: Column
) -> None:
    def told_one_by_one(*_: object) -> None:
        raise AssertionError("a row was looked at")

    monkeypatch.setattr(RowFaults, "add", told_one_by_one)
    body = stream_of([pa.record_batch({column.name: pa.nulls(ROWS)})])
    assert len(body) < 600
    tracemalloc.start()
    try:
        table = encoded(body, column)
        good, text = table.good, table.problem_text(ROWS - 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not good.any()
    assert (len(table.problems), text) == (ROWS, f"{column.name}: must not be null")
    assert table.checks == {(column.name, "null"): ROWS}
    assert peak < 24 * ROWS  # the array of the column itself, and flags; lists would be more than 100 bytes a row


def test_a_body_that_is_wrong_everywhere_and_packed_well_takes_a_small_dictionary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_faults, "_QUOTED_FAULTS", 100)
    rows = 50_000
    body = stream_of([pa.record_batch({"age": np.full(rows, -1, dtype=np.int8)})], compression="zstd")
    tracemalloc.start()
    try:
        table = encoded(body, AGE, rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(table.problems) == rows
    assert len({id(found) for found in table.problems.of_row.values()}) == 101
    assert peak < 200 * rows


def test_more_rows_than_allowed_are_refused_before_anything_is_made() -> None:
    body = stream_of([pa.record_batch({"age": pa.nulls(10**7)})])
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="more than 1000 rows"):
            encoded(body, AGE, 1_000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_million_wrong_cells_are_refused_before_anything_is_made() -> None:
    body = stream_of([pa.record_batch({"age": pa.nulls(10**7)})])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRecord, match="age"):
            encoded(body, AGE, 10**7)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
