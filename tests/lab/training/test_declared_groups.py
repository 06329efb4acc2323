"""Groupings of a configuration: what they become in the manifest, how small cells are pooled, and what is refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ml_core.base.errors import ConfigError, DataError
from ml_core.lab.config import ConformalConfig
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.training.declared_groups import group_facts, groups_of, pooled_cells
from ml_core.lab.training.learner import train_model
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.model.predictor import Predictor
from tests.toy_models import GROUPS, grouped_rows, grouped_toy, toy_config, toy_model

V1, V2 = get_feature_version("v1"), get_feature_version("v2")


def conformal(*groups: dict[str, Any], **more: Any) -> ConformalConfig:
    return ConformalConfig.model_validate({"groups": groups, **more})


def test_every_kind_of_grouping_becomes_cells() -> None:
    facts = group_facts(
        conformal(
            {"name": "age", "cells": {"young": ["[0-10)", "[10-20)"], "old": ["[90-100)"]}},
            {"name": "sex", "column": "gender"},
            {"name": "stay", "column": "time_in_hospital", "cuts": [3, 7.5]},
            {"name": "race", "levels": ["A", "B"], "doc": "As the patient says."},
            {"name": "income", "cuts": [10_000]},
        ),
        V2,
    )
    assert facts is not None
    age, sex, stay, race, income = facts.declared
    assert age.cells == ("young", "old", "other")
    assert [age.cells[at] for at in age.level_cells] == ["young", "young", *["other"] * 7, "old"]
    assert sex.cells == ("Female", "Male")
    assert stay.cells == ("below 3", "3 to below 7.5", "7.5 and above")
    assert (race.is_feature, race.cells, race.doc) == (False, ("A", "B"), "As the patient says.")
    assert (income.is_feature, income.cuts) == (False, (10_000.0,))
    assert (facts.calibrated_by, facts.cells) == (None, ())


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ({"name": "who", "column": "patient_nbr", "cuts": [5]}, "is the group column"),
        ({"name": "outcome", "column": "readmission_30d"}, "is the label column"),
        ({"name": "race"}, "give its levels, or the cuts of a number"),
        ({"name": "stay", "column": "time_in_hospital"}, "needs cuts"),
        ({"name": "diag", "column": "diag_1"}, "is of type text"),
        ({"name": "sex", "column": "gender", "cuts": [1]}, "is a category"),
        ({"name": "sex", "column": "gender", "cells": {"m": ["Male"], "x": ["X"]}}, "has no level X"),
        ({"name": "race", "levels": ["a", "unknown"]}, "none is called unknown"),
        ({"name": "ward", "levels": [str(i) for i in range(50)]}, "40 cells at most"),
        ({"name": "ward", "cells": {"a": ["x"], "b": [1]}}, "all texts or all whole numbers"),
    ],
)
def test_a_grouping_that_does_not_fit_its_column_is_refused_by_name(group: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        group_facts(conformal(group), V2)
    assert f"conformal.groups: {group['name']}" in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "raw",
    [
        {"guarantee": "class_and_group"},
        {"groups": [{"name": "a", "cuts": [1]}, {"name": "a", "cuts": [2]}]},
        {"groups": [{"name": "a", "cuts": [1]}], "calibrate_by": "a"},
        {"groups": [{"name": "a", "cuts": [1]}], "guarantee": "class_and_group", "calibrate_by": "b"},
        {"groups": [{"name": "a", "cuts": [2, 1]}]},
        {"groups": [{"name": "a", "cuts": [1], "levels": ["x"]}]},
        {"groups": [{"name": "a", "cells": {"x": ["l"], "y": ["l"]}}]},
        {"groups": [{"name": "a", "cells": {"unknown": ["l"]}}]},
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConformalConfig.model_validate(raw)


def pooled(counts: list[list[int]], pool: Any, names: str = "abcdefg") -> list[tuple[str, tuple[str, ...], bool]]:
    cells = [*names[: len(counts) - 1], "unknown"]
    found = pooled_cells(cells, np.array(counts), (0, 1), 100, pool)
    return [(cell.name, cell.of, cell.is_own) for cell in found]


UNKNOWN = ("unknown", ("unknown",), False)


def test_cells_with_enough_rows_are_left_alone() -> None:
    for pool in ("other", "neighbour"):
        assert pooled([[900, 100], [100, 900], [0, 0]], pool) == [("a", ("a",), True), ("b", ("b",), True), UNKNOWN]


def test_small_cells_become_other() -> None:
    assert pooled([[900, 99], [500, 300], [60, 60], [0, 0]], "other") == [
        ("b", ("b",), True), ("other", ("a", "c"), True), UNKNOWN,
    ]  # fmt: skip


def test_an_other_that_is_still_too_small_is_calibrated_with_all_rows_and_says_so() -> None:
    assert pooled([[900, 30], [500, 300], [60, 60], [0, 0]], "other")[1] == ("other", ("a", "c"), False)


def test_a_declared_other_takes_the_small_cells_in() -> None:
    found = pooled_cells(
        ["a", "b", "other", "unknown"], np.array([[500, 300], [9, 9], [400, 200], [7, 7]]), (0, 1), 100, "other"
    )
    assert [(cell.name, cell.of) for cell in found[:2]] == [("a", ("a",)), ("other", ("b", "other"))]
    assert found[1].rows == {"0": 409, "1": 209}
    assert (found[2].rows, found[2].is_own) == ({"0": 7, "1": 7}, False)


def test_a_small_band_joins_the_neighbour_with_fewer_rows_of_the_class_it_lacks() -> None:
    counts = [[900, 400], [500, 50], [600, 200], [300, 300], [0, 0]]
    assert pooled(counts, "neighbour") == [
        ("a", ("a",), True), ("b | c", ("b", "c"), True), ("d", ("d",), True), UNKNOWN,
    ]  # fmt: skip
    assert pooled([[10, 10], [20, 20], [30, 30], [0, 0]], "neighbour")[0] == ("a | b | c", ("a", "b", "c"), False)


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=2, max_size=8),
    st.sampled_from(["other", "neighbour"]),
)
@settings(max_examples=200, deadline=None)
def test_pooling_loses_no_cell_and_no_row_and_leaves_none_too_small(counts: list[tuple[int, int]], pool: Any) -> None:
    cells = [*(f"c{i}" for i in range(len(counts) - 1)), "unknown"]
    found = pooled_cells(cells, np.array(counts), (0, 1), 100, pool)
    assert sorted(name for cell in found for name in cell.of) == sorted(cells)
    assert [sum(cell.rows[k] for cell in found) for k in ("0", "1")] == np.sum(counts, axis=0).tolist()
    assert all(cell.is_own == (min(cell.rows.values()) >= 100) for cell in found[:-1])
    assert found[-1].of == ("unknown",)
    assert not found[-1].is_own
    if pool == "neighbour":
        assert [name for cell in found for name in cell.of] == cells  # bands stay in their order


def test_the_artefact_holds_the_calibration_of_each_cell_of_its_calibration_rows() -> None:
    bundle, rows = grouped_toy().bundle, grouped_rows().part("calibration")
    assert bundle.grouped is not None
    assert bundle.grouped.names == ("sex=female", "sex=male", "sex=unknown")
    proba = Predictor(bundle).score(rows.matrix)
    for sex, calibration in zip(("female", "male"), bundle.grouped.calibrations, strict=False):
        inside = (rows.frame["sex"] == sex).to_numpy()
        assert calibration.calibration_id == calibrate(proba[inside], rows.y_index[inside], 2).calibration_id
    assert bundle.grouped.calibrations[2] is bundle.calibration
    facts = bundle.manifest.groups
    assert facts is not None
    assert sum(sum(cell.rows.values()) for cell in facts.cells) == len(rows)
    assert bundle.manifest.guarantee == "class_and_group"
    assert any("sex" in entry["record"] for entry in bundle.golden)


def test_groups_that_are_only_measured_change_neither_calibration_nor_promise() -> None:
    config = toy_config(conformal={**GROUPS, "guarantee": "class_conditional"})
    facts = groups_of(config, grouped_rows().part("calibration"))
    assert facts is not None
    assert (facts.calibrated_by, facts.cells) == (None, ())
    assert "groups" not in toy_model().bundle.manifest.content()


def test_too_few_rows_for_more_than_one_group_are_refused() -> None:
    rows = grouped_rows().part("calibration")
    with pytest.raises(DataError, match="too few groups have 200 calibration rows"):
        groups_of(toy_config(conformal={**GROUPS, "min_group_rows": 200}), rows)
    strict = toy_config(conformal={**GROUPS, "confidence_level": Decimal("0.995")})
    with pytest.raises(DataError, match="too few groups have 199 calibration rows"):  # the level needs that many
        groups_of(strict, rows)


def test_rows_without_the_column_of_a_group_say_what_to_do() -> None:
    from dataclasses import replace

    rows = grouped_rows().part("calibration")
    without = replace(rows, frame=rows.frame.drop(columns="sex"))
    with pytest.raises(DataError, match=r"has no column sex.*surety features run"):
        groups_of(toy_config(conformal=GROUPS), without)


def test_a_confidence_over_calibrations_holds_in_each_cell(tmp_path: Path) -> None:
    config = toy_config(conformal={**GROUPS, "training_conditional": "0.8"})
    bundle = train_model(config, grouped_rows(), tmp_path / "b", lambda _: None).bundle
    assert bundle.grouped is not None
    assert {c.confidence for c in bundle.grouped.calibrations} == {Decimal("0.8")}
    usual = grouped_toy().bundle.grouped
    assert usual is not None
    level = Decimal("0.9")
    for sure, mean in zip(bundle.grouped.calibrations, usual.calibrations, strict=True):
        assert all(s >= m for s, m in zip(sure.thresholds(level), mean.thresholds(level), strict=True))
