"""What a table holds is told by its content: types, levels, dates, gaps."""

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import DataError
from ml_core.lab.data.table_profile import MOST_LEVELS, profile_file


def profile(tmp_path, columns, suffix=".csv"):
    frame = pd.DataFrame(columns)
    path = tmp_path / f"t{suffix}"
    (frame.to_csv if suffix == ".csv" else frame.to_parquet)(path, index=False)
    return profile_file(path)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 3], "int"),
        ([1.5, 2.0, 3.0], "float"),
        ([True, False, True], "bool"),
        (["a", "b", "a"], "category"),
        (["2026-01-31", "2026-02-01", "2026-02-01"], "datetime"),
        (["007", "008", "009"], "category"),  # digits with zeros before them are names
        ([None, None, None], "empty"),
        ([2**60, 2**60 + 1, 5], "text"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_types_are_told_by_content(tmp_path, values, kind, suffix):
    found = profile(tmp_path, {"x": values, "y": ["p", "q", "r"]}, suffix).column("x")
    assert found.kind == kind
    assert found.nulls == (3 if kind == "empty" else 0)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_gaps_ranges_and_levels(tmp_path, suffix):
    table = profile(tmp_path, {"n": [1.0, None, 4.0, 4.0], "c": ["b", "b", None, "a"]}, suffix)
    n, c = table.columns
    assert (n.kind, n.nulls, n.low, n.high, n.distinct) == ("int", 1, 1.0, 4.0, 2)
    assert np.isnan(n.numbers).tolist() == [False, True, False, False]
    assert (c.counts, c.nulls, c.codes.tolist()) == ((("b", 2), ("a", 1)), 1, [0, 0, -1, 1])


def test_words_that_come_again_among_numbers_are_gaps(tmp_path):
    numbers = [str(n) for n in range(60)]
    table = profile(
        tmp_path,
        {
            "v": [*numbers, "n.d.", "n.d."],
            "once": [*numbers, "n.d.", "7"],  # a slip of the pen, perhaps
            "amount": [*numbers, ">300", ">300"],  # says something
            "many": [*numbers[:54], *"aabbccdd"],
        },
    )
    v, *others = table.columns
    assert (v.kind, v.nulls, v.low, v.high, v.words) == ("int", 2, 0.0, 59.0, (("n.d.", 2),))
    assert np.isnan(v.numbers).tolist() == [False] * 60 + [True] * 2
    assert [(c.kind, c.words) for c in others] == [("text", ())] * 3


def test_whole_decimals_are_whole_numbers_and_fractions_are_not(tmp_path):
    table = profile(tmp_path, {"a": ["1.0", "2.0"], "b": ["1.0", "2.5"]})
    assert [c.kind for c in table.columns] == ["int", "float"]


@pytest.mark.parametrize(
    ("texts", "form", "others"),
    [
        (["31.01.2026", "01.02.2026"], "%d.%m.%Y", ()),
        (["01/31/2026", "02/01/2026"], "%m/%d/%Y", ()),
        (["03/04/2026", "05/06/2026"], "%d/%m/%Y", ("%m/%d/%Y",)),
        (["31.01.2026 10:15", "01.02.2026 23:59"], "%d.%m.%Y %H:%M", ()),
        (["Jan 31, 2026", "Feb 01, 2026"], "%b %d, %Y", ()),
        (["2026-01-31 10:15:00", "2026-02-01T00:00:00Z"], "", ()),
    ],
)
def test_dates_are_read_in_the_form_they_have(tmp_path, texts, form, others):
    found = profile(tmp_path, {"d": texts}).column("d")
    assert (found.kind, found.date_form) == ("datetime", form)
    assert found.date_forms[1:] == others


def test_many_texts_are_levels_only_where_each_comes_often(tmp_path):
    many = [f"t{i % 100}" for i in range(10_000)]
    few = [f"t{i}" for i in range(MOST_LEVELS + 1)]
    assert profile(tmp_path, {"x": many}).column("x").kind == "category"
    assert profile(tmp_path, {"x": few}).column("x").kind == "text"


def test_rows_that_repeat_are_counted(tmp_path):
    assert profile(tmp_path, {"a": [1, 1, 2, None, None], "b": ["x", "x", "x", None, None]}).duplicates == 2
    assert profile(tmp_path, {"a": [1, 1, 2, 2], "b": ["x", "y", "x", "y"]}).duplicates == 0


def test_a_column_without_a_name_is_counted_and_passed_over(tmp_path):
    (tmp_path / "t.csv").write_text(",a\n0,1\n1,2\n")
    table = profile_file(tmp_path / "t.csv")
    assert (table.unnamed, [c.name for c in table.columns]) == (1, ["a"])


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        profile_file(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="has no rows"):
        profile_file(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"of the format \.xlsx"):
        profile_file(tmp_path / "t.xlsx")


def test_a_wide_table_is_looked_at_column_by_column(tmp_path):
    rng = np.random.default_rng(7)
    table = profile(tmp_path, {f"g{i}": rng.normal(size=60) for i in range(1_500)}, ".parquet")
    assert {c.kind for c in table.columns} == {"float"}
    assert len(table.columns) == 1_500


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_that_is_too_wide_is_refused_by_its_header(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("ml_core.lab.data.table_profile.MOST_COLUMNS", 3)
    path = tmp_path / f"rows.{suffix}"
    rows = pd.DataFrame({name: [1.5, 2.5] for name in "abcd"})
    rows.to_csv(path, index=False) if suffix == "csv" else rows.to_parquet(path)
    with pytest.raises(DataError, match="has 4 columns, and 3 are the most: choose columns before"):
        profile_file(path)
