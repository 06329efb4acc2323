"""The gate on a model with groups of patients: what it promises, each cell's calibration, and a floor for every group."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_core.lab.judging.gate_rules import GateCase, gate_verdicts
from ml_core.lab.measuring.calibration import calibrate
from ml_core.serve.model.bundle import CALIBRATION_FILE, Calibrations, pack_calibration, read_bundle
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.promotion_record import RuleVerdict
from tests.homes import remade
from tests.toy_models import GROUPS, grouped_rows, grouped_toy, toy_config


def case(folder: Path | None = None, *, conformal: Any = GROUPS, gate: Any = None) -> GateCase:
    config = toy_config(conformal=conformal, gate={"min_group_rows": 20, **(gate or {})})
    folder = folder or grouped_toy().folder
    return GateCase(Predictor(read_bundle(folder)), grouped_rows(), config, folder)


def rules(judged: GateCase) -> dict[str, RuleVerdict]:
    return {rule.rule: rule for rule in gate_verdicts(judged)}


def test_an_honest_model_with_groups_passes_and_each_grouping_is_judged() -> None:
    found = rules(case())
    assert [name for name, rule in found.items() if not rule.passed] == []
    assert {"coverage_by_sex", "coverage_by_age_band"} <= found.keys()
    assert "not judged for too few test rows: unknown, class 1" in found["coverage_by_sex"].note
    assert found["metrics_reproduce"].value == 0.0
    assert found["calibration_reproduces"].value == 0.0


def test_a_group_below_its_floor_refuses_and_is_named() -> None:
    """Women and men keep .9; the old who were not readmitted are covered .69, which the measured grouping shows."""
    found = rules(case(gate={"min_group_coverage": 0.9}))
    assert not found["coverage_by_age_band"].passed
    assert "too low: 70 and above, class 0" in found["coverage_by_age_band"].note
    assert found["coverage_by_age_band"].value == pytest.approx(0.694, abs=0.001)
    assert found["coverage_by_sex"].passed  # its floor is min_coverage


@pytest.mark.parametrize(
    "conformal",
    [
        {**GROUPS, "calibrate_by": "age_band"},
        {**GROUPS, "guarantee": "class_conditional"},
        {**GROUPS, "groups": GROUPS["groups"][:1]},
        {"guarantee": "class_conditional"},
    ],
)
def test_another_promise_than_the_configurations_is_refused(conformal: Any) -> None:
    assert not rules(case(conformal=conformal))["promise_matches"].passed


def test_groups_with_too_few_test_rows_are_noted_and_not_judged() -> None:
    found = rules(case(gate={"min_group_rows": 10_000}))
    assert found["coverage_by_sex"].passed
    assert "no group has the rows to be judged" in found["coverage_by_sex"].note


def test_the_calibration_of_another_group_is_refused(tmp_path: Path) -> None:
    """All hashes are right, and women are answered with the men's scores."""
    bundle = grouped_toy().bundle
    assert bundle.grouped is not None
    assert bundle.grouped_scorecard is not None
    swapped = bundle.grouped.calibrations[1::-1]
    raw = pack_calibration(
        bundle.calibration, bundle.scorecard_calibration, swapped, bundle.grouped_scorecard.calibrations[:2]
    )
    named = Calibrations(bundle.calibration, swapped).id_with(bundle.manifest.groups)
    remade(grouped_toy().folder, tmp_path / "b", {CALIBRATION_FILE: raw}, calibration_id=named)
    found = rules(case(tmp_path / "b"))
    assert not found["calibration_reproduces"].passed
    assert found["scorecard_reproduces"].passed


def test_scores_of_other_rows_in_one_group_alone_are_refused(tmp_path: Path) -> None:
    bundle, rows = grouped_toy().bundle, grouped_rows().part("test")
    assert bundle.grouped is not None
    assert bundle.grouped_scorecard is not None
    inside = np.flatnonzero((rows.frame["sex"] == "male").to_numpy())
    other = calibrate(Predictor(bundle).score(rows.matrix)[inside], rows.y_index[inside], 2)
    cells = (bundle.grouped.calibrations[0], other)
    raw = pack_calibration(
        bundle.calibration, bundle.scorecard_calibration, cells, bundle.grouped_scorecard.calibrations[:2]
    )
    named = Calibrations(bundle.calibration, cells).id_with(bundle.manifest.groups)
    remade(grouped_toy().folder, tmp_path / "b", {CALIBRATION_FILE: raw}, calibration_id=named)
    found = rules(case(tmp_path / "b"))["calibration_reproduces"]
    assert not found.passed
    assert found.value is None


def test_a_model_without_groups_has_no_rule_about_them(tmp_path: Path) -> None:
    from tests.toy_models import toy_model, toy_rows

    folder = toy_model().folder
    judged = GateCase(Predictor(read_bundle(folder)), toy_rows(), toy_config(), folder)
    assert not [name for name in rules(judged) if name.startswith("coverage_by")]
    shutil.rmtree(tmp_path)
