"""What a configuration says of cells and rows is done before anything is judged."""

import pandas as pd
import pytest

from ml_core.base.errors import ConfigError
from ml_core.features.columns import Column
from ml_core.lab.config import DataConfig
from ml_core.lab.data.configured_rows import as_configured, kept_rows, with_row_number

AGE, TOWN = Column("age", "int", "", nullable=True), Column("town", "category", "", levels=("a", "b"), nullable=True)
WHEN = Column("when", "datetime", "")
LABEL = Column("y", "category", "", role="label", levels=("no", "yes"))


def configured(frame, *columns, **data):
    return as_configured(frame, columns, DataConfig(source="rows.csv", **data))


@pytest.mark.parametrize(
    ("values", "nulls", "left"),
    [
        ([1, -999, 3], [-999], [1, None, 3]),
        ([1.5, 9999.0, 3.0], [9999], [1.5, None, 3.0]),
        (pd.Series([1, None, 9], dtype="Int64"), [9], [1, None, None]),
        (pd.Series(["1", "unknown", "3"], dtype=object), ["unknown"], ["1", None, "3"]),
        (pd.Series([1, "unknown", 3], dtype=object), ["unknown"], [1, None, 3]),
        ([1, 2, 3], [7], [1, 2, 3]),
    ],
)
def test_null_values_become_nulls_and_nothing_else_does(values, nulls, left):
    found = configured(pd.DataFrame({"age": values}), AGE, null_values={"age": nulls})["age"]
    assert [None if gone else value for value, gone in zip(found, found.isna(), strict=True)] == left


def test_a_level_can_mean_that_nothing_is_known():
    found = configured(pd.DataFrame({"town": ["a", "?", "b"]}), TOWN, null_values={"town": ["?"]})["town"]
    assert found.isna().tolist() == [False, True, False]


def test_dates_are_read_in_their_form_and_others_stay_to_be_refused():
    frame = pd.DataFrame({"when": pd.Series(["31.01.2026", None, "2026-02-01"], dtype=object)})
    found = configured(frame, WHEN, dates={"when": "%d.%m.%Y"})["when"]
    assert found[0] == pd.Timestamp("2026-01-31")
    assert pd.isna(found[1])
    assert found[2] == "2026-02-01"


def test_truth_values_are_the_texts_of_a_label():
    assert configured(pd.DataFrame({"y": [True, False]}), LABEL)["y"].tolist() == ["True", "False"]


@pytest.mark.parametrize("setting", [{"null_values": {"agee": [1]}}, {"dates": {"agee": "%d"}}])
def test_a_column_that_is_none_is_told(setting):
    with pytest.raises(ConfigError, match=r"data\.\w+\.agee: is no column of this model"):
        configured(pd.DataFrame({"age": [1]}), AGE, **setting)


@pytest.mark.parametrize(
    ("left_out", "kept"),
    [([], [1, 1, 1, 1]), ([None], [1, 1, 0, 1]), (["rare"], [1, 0, 1, 1]), ([None, "rare", "no"], [0, 0, 0, 1])],
)
def test_rows_are_left_out_by_their_label(left_out, kept):
    frame = pd.DataFrame({"y": pd.Series(["no", "rare", None, "yes"], dtype=object)})
    found = kept_rows(frame, (LABEL,), DataConfig(source="rows.csv", leave_out_labels=left_out))
    assert found.astype(int).tolist() == kept


def test_labels_of_numbers_are_left_out_too():
    label = Column("y", "category", "", role="label", levels=(1, 2))
    frame = pd.DataFrame({"y": [1, 2, 3]})
    assert kept_rows(frame, (label,), DataConfig(source="r", leave_out_labels=[3])).tolist() == [True, True, False]


def test_the_row_number_counts_from_zero():
    assert with_row_number(pd.DataFrame({"x": [5, 5]}), "row")["row"].tolist() == [0, 1]
