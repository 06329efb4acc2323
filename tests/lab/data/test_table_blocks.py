"""Blocks of a table file: the same rows wherever they are cut, in cells that the strict rules judge as ever."""

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.lab.config import DataConfig
from ml_core.lab.data.table_blocks import open_table
from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.table import encode_table

COLUMNS = (
    Column("who", "text", "d", role="id"),
    Column("n", "int", "d", low=-1_000, high=1_000, nullable=True),
    Column("x", "float", "d", nullable=True),
    Column("code", "category", "d", levels=(1, 2, 30), nullable=True),
    Column("word", "category", "d", levels=("no", "yes"), nullable=True),
    Column("y", "category", "d", role="label", levels=(0, 1)),
)
FEATURES = ("n", "x", "code", "word")


def csv_file(path, *rows: str, header: str = "n,x,code,word"):
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


def parquet_file(path, row_group_size: int | None = None, **columns):
    rows = max(len(values) for values in columns.values())
    whole = {name: columns.get(name, pa.nulls(rows)) for name in (*FEATURES, *columns)}
    pq.write_table(pa.table(whole), path, row_group_size=row_group_size)
    return path


def encoded(path):
    table = open_table(path, COLUMNS)
    (block,) = table.blocks(1_000)
    return encode_table(table.columns, block.cells)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("blocks")


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60), group=st.integers(1, 25), rows=st.integers(1, 70), first=st.integers(0, 8),
    suffix=st.sampled_from(["csv", "parquet"]),
)  # fmt: skip
def test_every_row_is_in_one_block_from_whichever_on(folder, n, group, rows, first, suffix):
    path = folder / f"t.{suffix}"
    if suffix == "csv":
        csv_file(path, *(f"{i},,,no" for i in range(n)))
    else:
        parquet_file(path, group, n=list(range(n)))
    blocks = list(open_table(path, COLUMNS).blocks(rows, first))
    found = [v for block in blocks for v in encode_table(COLUMNS[1:5], block.cells).arrays["n"].tolist()]
    assert found == list(range(first * rows, n))
    assert [b.n_rows for b in blocks[:-1]] == [rows] * (len(blocks) - 1)
    assert [b.first_row for b in blocks] == [(first + i) * rows for i in range(len(blocks))]


def test_csv_cells_are_typed_by_the_column_table_and_empty_is_null(tmp_path):
    found = encoded(csv_file(tmp_path / "t.csv", ' 7 ,1e-3,30,"yes"', ",,,", "-3,.5,1,no"))
    assert not found.problems
    np.testing.assert_array_equal(found.arrays["n"], [7, np.nan, -3])
    np.testing.assert_array_equal(found.arrays["x"], [0.001, np.nan, 0.5])
    assert found.arrays["code"].tolist() == [2, -1, 0]
    assert found.arrays["word"].tolist() == [1, -1, 0]


@pytest.mark.parametrize("around", ["1,1,1,no", ",,,", "x,x,x,x", "1.5,1.5,2,no"])
def test_a_wrong_csv_cell_is_told_as_json_would_be_whatever_stands_around_it(tmp_path, around):
    found = encoded(csv_file(tmp_path / "t.csv", around, "2000,1,4,no", "2000.0,inf,2,maybe", around))
    told = [[fault.problem for fault in found.problems[row]] for row in (1, 2)]
    reader = RecordReader(COLUMNS)
    for said, record in zip(
        told,
        ({"n": 2000, "x": 1, "code": 4, "word": "no"}, {"n": 2000.0, "x": "inf", "code": 2, "word": "maybe"}),
        strict=True,
    ):
        with pytest.raises(Exception, match="cannot be accepted") as caught:
            reader.read(record)
        assert said == [fault.problem for fault in caught.value.fields]


def test_parquet_types_of_every_kind_are_read_for_what_they_mean(tmp_path):
    path = parquet_file(
        tmp_path / "t.parquet",
        n=pa.array([1, None, 3], pa.uint8()),
        x=pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-7.5")]),
        code=pa.array([30, None, 1], pa.int16()).dictionary_encode(),
        word=pa.array(["yes", None, "no"], pa.large_string()).dictionary_encode(),
        who=pa.array([dt.date(2026, 1, 31), None, dt.date(2026, 2, 1)]),
    )
    found = encoded(path)
    np.testing.assert_array_equal(found.arrays["n"], [1, np.nan, 3])
    np.testing.assert_array_equal(found.arrays["x"], [1.25, np.nan, -7.5])
    assert found.arrays["code"].tolist() == [2, -1, 0]
    assert found.arrays["word"].tolist() == [1, -1, 0]
    assert {row: [f.field for f in faults] for row, faults in found.problems.items()} == {0: ["who"], 2: ["who"]}


def test_values_that_are_no_numbers_are_refused_one_by_one(tmp_path):
    path = parquet_file(
        tmp_path / "t.parquet",
        n=[True, None, False],
        x=pa.array([float("nan"), None, float("inf")]),
        code=pa.array([[1], None, [2]]),
        word=pa.array([b"no", None, b"yes"]),
    )
    found = encoded(path)
    assert sorted(found.problems) == [0, 2]
    assert {fault.field for fault in found.problems[0]} == set(FEATURES)


def test_other_columns_are_named_and_the_label_is_one_of_them(tmp_path):
    path = parquet_file(tmp_path / "t.parquet", n=[1], who=["a"], y=[1], more=[2])
    table = open_table(path, COLUMNS)
    assert (table.ignored, [f.name for f in table.id_fields]) == (("y", "more"), ["who"])
    assert "y" not in {column.name for column in table.columns}


def test_an_id_that_cannot_be_carried_is_refused(tmp_path):
    path = parquet_file(tmp_path / "t.parquet", n=[1], who=pa.array([["a"]]))
    with pytest.raises(DataError, match="column who is of type"):
        open_table(path, COLUMNS)


def test_a_csv_of_several_blocks_of_bytes_is_read_to_its_end(tmp_path):
    long = "no" + " " * 4_000
    path = csv_file(tmp_path / "t.csv", *(f'{i % 900},,,"{long}\n"' for i in range(6_000)))  # 24 MB, Arrow reads 16
    table = open_table(path, COLUMNS)
    blocks = list(table.blocks(2_500))
    assert [block.n_rows for block in blocks] == [2_500, 2_500, 1_000]
    assert table.rows >= 6_000


def test_a_csv_that_breaks_far_inside_says_how_far_and_quotes_nothing(tmp_path):
    path = csv_file(tmp_path / "t.csv", *["1,,,no" + " " * 1_000] * 20_000, "secret")
    blocks = open_table(path, COLUMNS).blocks(1_000)
    with pytest.raises(DataError, match="cannot be read beyond row") as caught:
        list(blocks)
    assert "secret" not in str(caught.value)


def test_damaged_pages_of_a_parquet_file_are_one_line(tmp_path):
    path = parquet_file(tmp_path / "t.parquet", 500, n=list(range(900)), x=np.random.default_rng(1).normal(size=900))
    raw = bytearray(path.read_bytes())
    raw[40:400] = bytes(360)
    path.write_bytes(raw)
    with pytest.raises(DataError, match="cannot be read beyond row 0: it is damaged") as caught:
        list(open_table(path, COLUMNS).blocks(100))
    assert "\n" not in str(caught.value)


WRITTEN = {
    "semicolons": ({"separator": ";", "decimal": ","}, "n;x;code;word\n12;1,5;30;yes\n;-,25;;no\n"),
    "thousands": ({"separator": ";", "decimal": ",", "thousands": "."}, "n;x;code;word\n1.000;1.234,5;1;yes\n"),
    "null words": ({"null_words": ["NA", "n.d."]}, "n,x,code,word\n12,NA,n.d.,yes\nNA,-0.25,30,NA\n"),
    "utf-16": ({"encoding": "utf-16", "separator": "\t"}, "n\tx\tcode\tword\n12\t1.5\t30\tyes\n"),
    "windows": ({"encoding": "cp1252"}, "n,x,code,word,Größe\n12,1.5,30,yes,ü\n"),
}
PLAIN = {
    "semicolons": "n,x,code,word\n12,1.5,30,yes\n,-0.25,,no\n",
    "thousands": "n,x,code,word\n1000,1234.5,1,yes\n",
    "null words": "n,x,code,word\n12,,,yes\n,-0.25,30,\n",
    "utf-16": "n,x,code,word\n12,1.5,30,yes\n",
    "windows": "n,x,code,word\n12,1.5,30,yes\n",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_is_read_as_the_configuration_says_that_it_is_written(tmp_path, name):
    form, content = WRITTEN[name]
    path, plain = tmp_path / "t.csv", tmp_path / "plain.csv"
    path.write_bytes(content.encode(form.get("encoding", "utf-8")))
    plain.write_text(PLAIN[name])
    found = blocks_of(path, csv=form)
    expected = blocks_of(plain)
    assert not found.problems
    for column in FEATURES:
        np.testing.assert_array_equal(found.arrays[column], expected.arrays[column])


def blocks_of(path, **data):
    table = open_table(path, COLUMNS, data=DataConfig(source=path, **data))
    (block,) = table.blocks(1_000)
    return encode_table(table.columns, block.cells)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_null_values_and_forms_of_dates_are_those_of_the_configuration(tmp_path, suffix):
    since = Column("since", "datetime", "d", nullable=True)
    path = tmp_path / f"t.{suffix}"
    columns = {"n": [12, -999], "x": [1.5, -999.0], "code": [30, 1], "word": ["yes", "?"], "since": ["31.01.2026", "?"]}
    if suffix == "csv":
        csv_file(path, "12,1.5,30,yes,31.01.2026", "-999,-999.0,1,?,?", header="n,x,code,word,since")
    else:
        pq.write_table(pa.table(columns), path)
    nulls = {"n": [-999], "x": [-999], "word": ["?"], "since": ["?"]}
    data = DataConfig(source=path, null_values=nulls, dates={"since": "%d.%m.%Y"})
    table = open_table(path, (*COLUMNS, since), data=data)
    (block,) = table.blocks(10)
    found = encode_table(table.columns, block.cells)
    assert not found.problems
    np.testing.assert_array_equal(found.arrays["n"], [12, np.nan])
    np.testing.assert_array_equal(found.arrays["x"], [1.5, np.nan])
    assert found.arrays["word"].tolist() == [1, -1]
    assert found.arrays["since"][0] == np.datetime64("2026-01-31", "us").astype(np.int64)
    assert np.isnan(found.arrays["since"][1])


def test_a_file_of_another_separator_is_refused_with_the_line_to_write(tmp_path):
    path = csv_file(tmp_path / "t.csv", "12;1,5;30;yes", header="n;x;code;word")
    with pytest.raises(DataError, match=r'has no column n, .*set data.csv.separator: ";"'):
        open_table(path, COLUMNS)
