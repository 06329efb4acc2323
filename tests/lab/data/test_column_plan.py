"""A column table is planned from a file: roles, bounds, levels, and what is left out."""

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import ConfigError
from ml_core.features.columns import table_fault
from ml_core.lab.data.column_plan import ROW, plan_columns
from ml_core.lab.data.table_profile import profile_file

N = 60


def planned(tmp_path, columns, label="y", **more):
    frame = pd.DataFrame({"y": ["no", "yes"] * (N // 2), **columns})
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    return plan_columns(profile_file(tmp_path / "t.parquet"), label, **more)


def column(plan, name):
    return next(p.column for p in plan.columns if p.column.name == name)


def test_the_table_is_a_column_table(tmp_path):
    plan = planned(tmp_path, {
        "age": np.arange(N) % 40 + 20, "weight": np.linspace(40.5, 90, N), "smokes": [True, False] * (N // 2),
        "town": ["a", "b", None] * (N // 3), "when": pd.date_range("2026-01-01", periods=N), "who": np.arange(N) % 30,
    }, group="who", time="when")  # fmt: skip
    assert table_fault([p.column for p in plan.columns]) is None
    roles = {p.column.name: (p.column.role, p.column.dtype) for p in plan.columns}
    assert roles == {
        "age": ("feature", "int"), "weight": ("feature", "float"), "smokes": ("feature", "bool"),
        "town": ("feature", "category"), "when": ("time", "datetime"), "who": ("group", "int"), "y": ("label", "category"),
    }  # fmt: skip
    assert (column(plan, "town").levels, column(plan, "town").nullable) == (("a", "b"), True)


def test_a_weight_is_no_feature_and_stands_for_somebody(tmp_path):
    found = column(planned(tmp_path, {"x": np.arange(N) / 7, "w": np.linspace(0.5, 90, N)}, weight="w"), "w")
    assert (found.role, found.dtype, found.low, found.high) == ("weight", "float", 0.2, None)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.r_[0.0, 0.0, np.linspace(1, 2, N - 2)], "is empty, 0 or below 0 in 2 rows"),
        (np.r_[np.nan, -1.0, np.linspace(1, 2, N - 2)], "is empty, 0 or below 0 in 2 rows"),
        (["a", "b"] * (N // 2), "holds texts; numbers above 0 are wanted"),
    ],
)
def test_a_weight_of_nobody_is_refused(tmp_path, weights, words):
    with pytest.raises(ConfigError, match=words):
        planned(tmp_path, {"x": np.arange(N) / 7, "w": weights}, weight="w")


def test_without_a_group_the_row_number_is_one(tmp_path):
    plan = planned(tmp_path, {"x": np.arange(N) / 7})
    assert (plan.group, column(plan, ROW).role) == (ROW, "group")
    assert planned(tmp_path, {"x": np.arange(N) / 7, ROW: np.arange(N) / 3}).group == f"{ROW}_"


@pytest.mark.parametrize(
    ("low", "high", "bounds"),
    [
        (20.0, 59.0, (0, 100)),
        (0.1, 0.9, (0, 1.7)),
        (-5.0, 5.0, (-20, 20)),
        (-9.0, -1.0, (-17, 0)),
        (2013, 2019, (2007, 2025)),
    ],
)
def test_bounds_are_wider_than_what_was_seen_and_round(tmp_path, low, high, bounds):
    found = column(planned(tmp_path, {"x": np.linspace(low, high, N)}), "x")
    assert (found.low, found.high) == pytest.approx(bounds)
    assert found.low <= low <= high <= found.high


def test_what_is_no_feature_is_left_out_with_the_reason(tmp_path):
    plan = planned(tmp_path, {
        "x": np.arange(N) / 7, "visit_id": np.arange(N) + 1_000, "same": ["s"] * N, "free": [f"words {i} of {i * i}" for i in range(N)],
        "none": [None] * N,
    })  # fmt: skip
    assert {p.column.name for p in plan.features} == {"x"}
    assert plan.left_out == {
        "visit_id": "differs in nearly every row: a name, and no feature",
        "same": "has one value only",
        "free": "differs in nearly every row: a name, and no feature",
        "none": "is empty",
    }


@pytest.mark.parametrize(
    ("labels", "levels"),
    [
        (["<30", "3+"], ("3+", "<30")),
        (["0%", "yes, once"], ("0%", "yes, once")),
        ([True, False], ("False", "True")),
        ([1.0, 2.0], (1, 2)),
        ([0, 1], (0, 1)),
        (["malignant", "benign"], ("benign", "malignant")),
        (["c", "a", "b"], ("a", "b", "c")),
    ],
)
def test_labels_of_any_text_and_the_one_looked_for_is_second(tmp_path, labels, levels):
    n = N // len(labels)
    plan = planned(tmp_path, {"y": labels * n, "x": np.arange(N) / 7})
    assert column(plan, "y").levels == levels
    assert [label for label, _ in plan.counts] == list(levels)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.arange(N) / 7, "holds fractions. To predict a number \\(regression\\) is not offered: make classes of it"),
        (np.arange(N), "holds 60 different numbers. To predict a number \\(regression\\) is not offered"),
        ([f"t{i}" for i in range(N)], "holds 60 different texts; up to 50 classes"),
        (["one"] * N, "holds one value only"),
        ([None] * N, "holds no value, which are no classes"),
        (pd.date_range("2026-01-01", periods=N), "holds dates, which are no classes"),
    ],
)
def test_what_is_no_label_is_refused_with_what_to_do(tmp_path, values, problem):
    with pytest.raises(ConfigError, match=problem):
        planned(tmp_path, {"y": values, "x": np.arange(N) / 7})


def test_a_mistyped_column_is_told_with_the_nearest(tmp_path):
    for options in ({"label": "Y "}, {"group": "patient"}, {"time": "admited"}):
        with pytest.raises(ConfigError, match=r"has no such column; \w+ is meant\?"):
            planned(tmp_path, {"x": np.arange(N) / 7, "patient_": [1] * N, "admitted": [1] * N}, **options)


def test_a_group_with_gaps_is_refused_and_one_only_in_rows_without_a_label_is_not(tmp_path):
    who = ["a", None] * (N // 2)
    with pytest.raises(ConfigError, match="is empty in 30 rows: whose are they"):
        planned(tmp_path, {"x": np.arange(N) / 7, "who": who}, group="who")
    labels = ["no" if i % 4 else "yes" for i in range(N)]
    labels = [None if name is None else label for name, label in zip(who, labels, strict=True)]
    assert planned(tmp_path, {"x": np.arange(N) / 7, "who": who, "y": labels}, group="who").group == "who"


def test_without_a_column_to_learn_from_the_reasons_are_told(tmp_path):
    with pytest.raises(ConfigError, match="no column is left to learn from: same has one value only"):
        planned(tmp_path, {"same": ["s"] * N})


def test_groups_worth_watching_are_known_by_name(tmp_path):
    plan = planned(
        tmp_path,
        {
            "Age": np.arange(N) % 40,
            "race": ["a", "b"] * (N // 2),
            "page": np.arange(N) / 7,
            "voltage": np.arange(N) / 9,
        },
    )
    assert [p.column.name for p in plan.watched] == ["Age", "race"]
