from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.lab.drift.drift_columns import MISSING, Feature, features_in, levels_in, numbers_in, positions_in

CELLS = {
    "whole": [1, 2, 3],
    "halves": [0.5, np.nan, 1.5],
    "nullable": pd.array([1, None, 3], dtype="Int64"),
    "flags": [True, False, True],
    "flags_and_none": [True, None, False],
    "texts": ["b", "a", None],
    "ordered": pd.Categorical(["low", "high", "low"], categories=["low", "high"], ordered=True),
    "unordered": pd.Categorical(["x", "y", "x"]),
    "decimals": [Decimal("1.5"), None, Decimal(2)],
    "numbers_and_a_text": [1.0, 2.0, "many"],
    "nothing": [None, None, None],
    "dates": pd.to_datetime(["2026-01-01", "2026-01-02", None]),
    "lists": [[1], [2], [3]],
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "number") for name in ("whole", "halves", "nullable", "decimals", "numbers_and_a_text", "nothing")),
        *((name, "category") for name in ("flags", "flags_and_none", "ordered")),
        *((name, "text") for name in ("texts", "unordered")),
        *((name, "unjudged") for name in ("dates", "lists")),
    ],
)
def test_without_a_table_cells_tell_what_a_column_is(name, kind):
    assert features_in(pd.DataFrame(CELLS), [name])[0].kind == kind


def test_a_column_table_decides_before_the_cells():
    columns = (
        Column("a", "int", "A."),
        Column("b", "category", "B.", levels=(1, 2)),
        Column("c", "text", "C."),
        Column("d", "datetime", "D."),
    )
    found = features_in({name: np.zeros(3) for name in "abcd"}, list("abcd"), columns)
    assert [f.kind for f in found] == ["number", "category", "text", "unjudged"]
    assert found[1].levels == (1, 2)


def test_an_absent_column_is_named():
    with pytest.raises(DataError, match="no column bmi"):
        features_in({"age": np.zeros(3)}, ["age", "bmi"])


@pytest.mark.parametrize("name", ["whole", "halves", "nullable", "decimals"])
def test_numbers_of_every_type_are_floats_with_nan_for_missing(name):
    found = numbers_in(pd.Series(CELLS[name]))
    assert (found.cells.dtype, found.unreadable) == (np.float64, 0)
    assert np.isnan(found.cells).tolist() == pd.isna(pd.Series(CELLS[name])).tolist()


def test_texts_among_numbers_are_counted():
    found = numbers_in(pd.Series([1.0, "2.5", "many", None], dtype=object))
    assert found.cells[:2].tolist() == [1.0, 2.5]
    assert found.unreadable == 1


def test_a_column_of_floats_is_not_copied():
    cells = np.array([1.0, 2.0])
    assert np.shares_memory(numbers_in(cells).cells, cells)


def test_levels_are_sorted_and_a_categoricals_keep_their_order():
    assert levels_in(pd.Series(["b", None, "a", "b"])) == ("a", "b")
    assert levels_in(pd.Series(CELLS["ordered"])) == ("low", "high")


def test_positions_tell_missing_from_unlisted():
    feature, place = Feature("sex", "category", ("f", "m"), tabled=True), {"f": 0, "m": 1}
    assert positions_in(pd.Series(["m", None, "x", "f"]), feature, place).tolist() == [1, MISSING, 2, 0]


def test_whole_numbers_in_an_array_are_positions_where_a_table_lists_the_levels():
    place = {10: 0, 20: 1}
    tabled, plain = Feature("code", "category", (10, 20), tabled=True), Feature("code", "category", (10, 20))
    assert positions_in(np.array([1, 0, MISSING, 5]), tabled, place).tolist() == [1, 0, MISSING, 2]
    assert positions_in(np.array([10, 20, 30, 10]), plain, place).tolist() == [0, 1, 2, 0]
    assert positions_in(pd.Series([10.0, np.nan, 20.0, 30.0]), tabled, place).tolist() == [0, MISSING, 1, 2]
