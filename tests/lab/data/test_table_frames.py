"""Table files: what is read how, and one clear line for every file that cannot be used."""

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.lab.data.table_frames import column_names, numbers_of_text, read_table, type_text, write_table


def refused(path, wanted=("a",)):
    with pytest.raises(DataError) as caught:
        read_table(path, wanted)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
def test_a_written_table_reads_back(tmp_path, suffix):
    path = tmp_path / "new" / f"t{suffix}"
    write_table(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), path)
    assert column_names(path) == ["a", "b"]
    assert read_table(path, ["b", "a"]).astype(str).to_dict("list") == {"b": ["x", "y"], "a": ["1", "2"]}
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no draft is left


def test_other_formats_are_named(tmp_path):
    for name, shown in (("t.xlsx", ".xlsx"), ("t", "(none)"), ("t.csv.gz", ".gz")):
        (tmp_path / name).write_bytes(b"a\n1\n")
        assert refused(tmp_path / name) == f"is of the format {shown}; .parquet and .csv are understood"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_missing_empty_and_folder_are_told_apart(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    assert refused(path) == "there is no such file"
    path.write_bytes(b"")
    assert refused(path) == "is empty"
    path.unlink()
    path.mkdir()
    assert refused(path) == "is a folder"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_without_rows_is_refused(tmp_path, suffix):
    write_table(pd.DataFrame({"a": pd.Series([], dtype="int64")}), tmp_path / f"t{suffix}")
    assert refused(tmp_path / f"t{suffix}") == "has no rows"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_missing_columns_are_named(tmp_path, suffix):
    write_table(pd.DataFrame({"a": [1]}), tmp_path / f"t{suffix}")
    assert refused(tmp_path / f"t{suffix}", ["a", "b", "c"]) == "has no column b, c"


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    whole = tmp_path / "whole.parquet"
    write_table(pd.DataFrame({"a": range(1_000)}), whole)
    for name, content in (("text.parquet", b"a,b\n1,2\n"), ("cut.parquet", whole.read_bytes()[:-200])):
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name) == "is not a readable Parquet file"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a,b\n1,2\n1,2,3\n", "is no CSV table: its rows differ in length, or a quote stays open (row 3)"),
        (b'a,b\n1,"2\n', "is no CSV table: its rows differ in length, or a quote stays open"),
        (b"a,b\n\xff\xfe,2\n", "is not UTF-8 text"),
        (b"a,b,a\n1,2,3\n", "names a column twice: a"),
        (b"\n\n", "is empty"),
    ],
)
def test_a_broken_csv_is_refused_in_one_line(tmp_path, content, problem):
    (tmp_path / "t.csv").write_bytes(content)
    assert refused(tmp_path / "t.csv").startswith(problem)


def test_an_unreadable_file_is_refused_without_its_content(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("a\nsecret\n")

    def deny(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ml_core.lab.data.table_frames.pa_csv.read_csv", deny)
    assert refused(path) == "cannot be read: Permission denied"


def test_a_row_with_too_many_cells_never_shifts_the_columns(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,2,3\n4,5,6\n")
    assert refused(tmp_path / "t.csv").startswith("is no CSV table: its rows differ in length")


def test_a_row_with_too_few_cells_is_not_filled_with_nulls(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,2\n4,\n5\n")
    assert refused(tmp_path / "t.csv").endswith("(row 4)")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa\n1\n")
    assert column_names(tmp_path / "t.csv") == ["a"]


def test_in_csv_only_an_empty_cell_is_null(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\nNA,1\nnull,2\n,3\nnan,4\n")
    assert read_table(tmp_path / "t.csv", ["a"])["a"].tolist() == ["NA", "null", None, "nan"]


def test_in_parquet_null_and_nan_stay_apart(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"a": pa.array([1.0, float("nan"), None]), "n": pa.array([2**53 + 1, None, 3])})
    pq.write_table(table, tmp_path / "t.parquet")
    frame = read_table(tmp_path / "t.parquet", ["a", "n"])
    one, nan, null = frame["a"]
    assert (one, null) == (1.0, None)
    assert np.isnan(nan)
    assert frame["n"].iloc[0] == 2**53 + 1  # not rounded on the way


def test_decimals_and_dates_of_parquet_become_numbers_and_times(tmp_path):
    from datetime import date
    from decimal import Decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"a": pa.array([Decimal("1.50"), None]), "d": pa.array([date(2026, 1, 31), None])})
    pq.write_table(table, tmp_path / "t.parquet")
    frame = read_table(tmp_path / "t.parquet", ["a", "d"])
    assert frame["a"].tolist()[0] == 1.5
    assert frame["d"].iloc[0] == pd.Timestamp("2026-01-31")


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["1", " 2 ", "+3", "-0"], [1, 2, 3, 0]),
        (["1.0", "2"], [1, 2]),
        (["1.5", "2", None, "1e2", ".5", "5."], [1.5, 2.0, None, 100.0, 0.5, 5.0]),
        (["1", "x", None], [1.0, "x", None]),
        (
            ["nan", "inf", "True", "0x10", "1_000", "1,5", "٢", "--1", "1e"],
            ["nan", "inf", "True", "0x10", "1_000", "1,5", "٢", "--1", "1e"],
        ),
    ],
)
def test_only_plain_decimal_texts_become_numbers(texts, numbers):
    found = numbers_of_text(pd.Series(texts, dtype=object)).tolist()
    assert [None if isinstance(x, float) and np.isnan(x) else x for x in found] == numbers


def test_whole_numbers_come_as_integers():
    assert numbers_of_text(pd.Series(["1", "2.0"], dtype=object)).dtype == "int64"


def test_only_columns_that_want_numbers_are_typed():
    columns = (Column("n", "int", "N."), Column("k", "category", "K.", levels=(1, 2)), Column("t", "text", "T."))
    frame = pd.DataFrame({"n": ["1"], "k": ["2"], "t": ["3"]}, dtype=object)
    assert type_text(frame, columns).iloc[0].tolist() == [1, 2, "3"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    write_table(pd.DataFrame({"a": [1]}), path)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        write_table(pd.DataFrame({"a": [2]}), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
