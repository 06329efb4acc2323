"""Many rows at once: every form a column may come in gives the same codes, and wrong cells are told row by row."""

import numpy as np
import pytest

from ml_core.base.errors import DataError, InvalidRecord
from ml_core.features.columns import Column
from ml_core.serve.features.table import Cells, encode_table

NUMBER = Column("x", "int", "A number.", low=0, high=10, nullable=True)
NEEDED = Column("x", "float", "A number.", low=0, high=10)
LEVEL = Column("c", "category", "A level.", levels=("a", "b", "z"), nullable=True)
CODE = Column("k", "category", "A code.", levels=(3, 1, 8), nullable=True)
TEXT = Column("t", "text", "A text.", pattern="[0-9]+", nullable=True)
GROUP = Column("g", "int", "A group.", role="group", low=1, high=2**53 - 1)
LABEL = Column("y", "category", "The outcome.", role="label", levels=(0, 1))


def column(spec, raw):
    table = encode_table((spec,), {spec.name: raw})
    return table.arrays[spec.name].tolist(), table


@pytest.mark.parametrize(
    "raw",
    [
        [1, None, 3.0],
        np.array([1, np.nan, 3]),
        np.array([1, np.nan, 3], dtype=np.float32),
        np.array([1, None, 3], dtype=object),
        Cells(np.array([1, 99, 3], dtype=np.int8), missing=np.array([False, True, False])),
        Cells(np.array([1, 0, 2]), levels=[None, 1, 3]),
    ],
)
def test_numbers_come_in_many_forms(raw):
    values, table = column(NUMBER, raw)
    np.testing.assert_array_equal(values, [1, np.nan, 3])
    assert not table.problems


@pytest.mark.parametrize(
    "raw",
    [
        ["b", None, "z"],
        np.array(["b", None, "z"], dtype=object),
        Cells(np.array(["b", "?", "z"]), missing=np.array([False, True, False])),
        Cells(np.array([0, -1, 1], dtype=np.int8), levels=["b", "z"]),
        Cells(np.array([0, 0, 1]), missing=np.array([False, True, False]), levels=("b", "z")),
        Cells(np.array([0, 2, 1]), levels=["b", "z", None]),
    ],
)
def test_levels_come_in_many_forms(raw):
    values, table = column(LEVEL, raw)
    assert values == [1, -1, 2]
    assert not table.problems


@pytest.mark.parametrize(
    "raw",
    [[1, None, 3.0], np.array([1, np.nan, 3]), Cells(np.array([1, 7, 3]), missing=np.array([False, True, False]))],
)
def test_integer_levels_are_coded_by_their_place_in_the_table(raw):
    values, table = column(CODE, raw)
    assert values == [1, -1, 0]
    assert not table.problems


@pytest.mark.parametrize(
    "raw", [["12", None], np.array(["12", None], dtype=object), Cells(np.array([1, -1]), levels=["x", "12"])]
)
def test_texts_come_in_many_forms(raw):
    values, table = column(TEXT, raw)
    assert values == ["12", None]
    assert not table.problems


def test_every_wrong_cell_is_told_and_counts_as_missing():
    values, table = column(NUMBER, [11, "3", True, 2.5, float("nan"), None, 10**400, [1], -1, 4])
    np.testing.assert_array_equal(values, [np.nan] * 9 + [4])
    assert {row: [f.problem for f in found] for row, found in table.problems.items()} == {
        0: ["11 is above the highest allowed value 10"],
        1: ["this text is not a number"],
        2: ["true is not a number"],
        3: ["2.5 is not a whole number"],
        4: ["nan is not a finite number"],
        6: ["a number of more than 64 bits is above the highest allowed value 10"],
        7: ["a list is not a number"],
        8: ["-1 is below the lowest allowed value 0"],
    }
    assert table.good.tolist() == [False] * 5 + [True] + [False] * 3 + [True]


def test_with_a_mask_nan_is_a_value_and_refused():
    values, table = column(NUMBER, Cells(np.array([np.nan, np.nan]), missing=np.array([False, True])))
    assert list(table.problems) == [0]
    assert np.isnan(values).all()


def test_numpy_booleans_and_times_are_no_numbers():
    for raw in (np.array([True, False]), np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[ns]")):
        assert set(column(NUMBER, raw)[1].problems) == {0, 1}


def test_null_in_a_needed_column_is_told_in_every_form():
    for raw in ([None], np.array([np.nan]), Cells(np.array([1.0]), missing=np.array([True]))):
        assert [f.problem for f in column(NEEDED, raw)[1].problems[0]] == ["must not be null"]


def test_an_absent_column_is_null_or_missing_in_every_row():
    table = encode_table((NEEDED, LEVEL, TEXT), {"c": ["a", "b"]})
    assert [[f.problem for f in table.problems[row]] for row in (0, 1)] == [["is missing"]] * 2
    assert table.arrays["t"].tolist() == [None, None]
    assert table.checks == {("x", "missing"): 2}


def test_unknown_columns_and_the_outcome_refuse_every_row():
    table = encode_table((NUMBER, LABEL), {"x": [1, 2], "y": [0, 1], "q": [0, 0]})
    assert table.checks == {("y", "outcome sent"): 2, ("q", "unknown field"): 2}
    assert not table.good.any()


def test_ids_stay_out_of_the_arrays_and_keep_every_digit():
    table = encode_table((GROUP, NUMBER), {"g": [2**53 - 1, None, 7.0, "8"], "x": [1, 1, 1, 1]})
    assert list(table.arrays) == ["x"]
    assert table.ids == {"g": [2**53 - 1, None, 7, None]}
    assert table.checks == {("g", "not a number"): 1}


def test_columns_of_different_length_are_refused_as_a_whole():
    with pytest.raises(DataError, match="differ in length: 1, 2"):
        encode_table((NUMBER, LEVEL), {"x": [1], "c": ["a", "b"]})


def test_the_callers_arrays_stay_as_they_are():
    codes, numbers = np.array([0, -1, 1]), np.array([50.0, np.nan, 3.0])
    encode_table((LEVEL, NUMBER), {"c": Cells(codes, levels=["b", "q"]), "x": numbers})
    np.testing.assert_array_equal(codes, [0, -1, 1])
    np.testing.assert_array_equal(numbers, [50, np.nan, 3])


def test_a_position_before_a_dictionary_is_null_never_another_level():
    assert column(LEVEL, Cells(np.array([-1, -7, 0]), levels=["a"]))[0] == [-1, -1, 0]


@pytest.mark.parametrize("at", [1, 2, 2**40])
@pytest.mark.parametrize("spec", [LEVEL, NUMBER, TEXT])
def test_a_position_beyond_a_dictionary_refuses_the_table(spec, at):
    with pytest.raises(DataError, match="beyond its dictionary"):
        encode_table((spec,), {spec.name: Cells(np.array([0, at]), levels=["a"])})


def test_what_lies_under_a_masked_position_is_never_looked_at():
    cells = Cells(np.array([0, 99]), missing=np.array([False, True]), levels=["a"])
    assert column(LEVEL, cells)[0] == [0, -1]


def test_past_ten_thousand_wrong_cells_values_are_no_longer_quoted():
    _, table = column(NUMBER, np.full(10_005, 77))
    assert table.problems[9_999][0].problem == "77 is above the highest allowed value 10"
    assert table.problems[10_004][0].problem == "too high"


def test_a_table_of_a_million_wrong_cells_is_refused_as_a_whole():
    with pytest.raises(InvalidRecord) as caught:
        encode_table(
            (NUMBER, NEEDED, LEVEL),
            {"x": np.full(400_000, 7), "p": [0] * 400_000, "q": [0] * 400_000, "r": [0] * 400_000},
        )
    assert {f.problem for f in caught.value.fields} == {"unknown field in 400000 rows or more"}


def test_a_dictionary_of_numbers_is_judged_like_the_numbers_themselves():
    values, table = column(NUMBER, Cells(np.array([0, 1, 2, 3, -1]), levels=[3, 11.0, 2.5, float("nan")]))
    np.testing.assert_array_equal(values, [3] + [np.nan] * 4)
    assert [found[0].problem for found in table.problems.values()] == [
        "11.0 is above the highest allowed value 10",
        "2.5 is not a whole number",
        "nan is not a finite number",
    ]


def test_no_rows_are_no_problem():
    table = encode_table((NEEDED, LEVEL, TEXT), {"x": [], "c": [], "t": []})
    assert table.n_rows == 0
    assert table.good.shape == (0,)
