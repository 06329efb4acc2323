"""What a scorer must show that was calibrated anew: on few records, and against the champion whose scorer it is."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from ml_core.lab.config import GateConfig
from ml_core.lab.judging.recalibration_rules import (
    CalibratedAnew,
    enough_outcomes_rules,
    has_the_same_scorer,
    restores_coverage,
    skill_rules,
    strangers_rule,
)
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.evaluation import score_metrics
from ml_core.lab.measuring.metric_ranges import skill_half_width
from ml_core.serve.model.bundle import ONNX_FILE, Bundle
from ml_core.serve.model.manifest import Recalibration
from tests.toy_models import toy_model, toy_rows
from tests.toy_scores import binary_rows

NINETY = Decimal("0.9")
NONE: tuple[str, ...] = ()


def verdicts(rules: list[Any]) -> dict[str, bool]:
    return {rule.rule: rule.passed for rule in rules}


def anew(proba: np.ndarray, y: np.ndarray) -> Bundle:
    """The toy model with another calibration."""
    toy = toy_model().bundle
    facts = {"recalibration": Recalibration(model_hash=toy.model_hash, table="v1-outcomes", table_version=0)}
    return replace(toy, manifest=toy.manifest.model_copy(update=facts), calibration=calibrate(proba, y, 2))


def contest(n: int = 1_500, seed: int = 1, shift: float = 0.0, champion: Bundle | None = None) -> CalibratedAnew:
    """A champion calibrated on scores of one law, and answered records whose scores all moved by ``shift`` logits."""
    before, after = binary_rows(4_000, seed + 100), binary_rows(n, seed)
    p1 = after.proba[:, 1]
    p1 = p1 / (p1 + (1 - p1) * np.exp(shift))
    proba = np.column_stack([1 - p1, p1])
    parts = np.where(np.arange(n) % 5 == 0, "test", "calibration")
    rows = replace(
        toy_rows(),
        frame=toy_rows().frame.head(n),
        y_index=after.y,
        groups=np.arange(n),
        parts=parts,
        newest=np.ones(n, dtype=np.bool_),
        returning=np.zeros(n, dtype=np.bool_),
        positions=np.arange(n),
    )
    kept = parts == "calibration"
    old = champion or replace(toy_model().bundle, calibration=calibrate(before.proba, before.y, 2))
    return CalibratedAnew(anew(proba[kept], after.y[kept]), old, rows, proba)


def test_a_champion_that_covers_as_promised_is_not_replaced() -> None:
    found = verdicts(restores_coverage(contest(seed=3), NONE))
    assert found == {"same_scorer": True, "recalibration_needed": False}


def test_a_valid_champion_is_called_out_of_its_band_at_most_as_often_as_stated() -> None:
    needed = [verdicts(restores_coverage(contest(800, seed), NONE))["recalibration_needed"] for seed in range(150)]
    assert sum(needed) <= 15  # 4 % of 150 is 6; the 99.95th percentile of that binomial law is 15


def test_a_lost_class_is_a_reason_and_its_coverage_must_be_restored() -> None:
    rules = restores_coverage(contest(shift=1.0), NONE)
    assert verdicts(rules) == {
        "same_scorer": True,
        "recalibration_needed": True,
        "coverage_restored_class_1": True,
    }
    restored = rules[-1]
    assert restored.value is not None
    assert restored.limit is not None
    assert restored.value > restored.limit + 0.1


def test_a_class_that_was_held_too_often_may_lose_what_it_had_too_much() -> None:
    rules = restores_coverage(contest(shift=-1.2), NONE)
    assert "coverage of class 0" in rules[1].note
    assert verdicts(rules) == {"same_scorer": True, "recalibration_needed": True, "coverage_restored_class_0": True}


def test_an_alarm_is_a_reason_and_names_the_class() -> None:
    found = restores_coverage(contest(), ("coverage:0",))
    assert found[1].passed
    assert "alarm coverage:0" in found[1].note
    assert "coverage_restored_class_0" in verdicts(found)
    assert "coverage_restored_class_1" not in verdicts(found)


def test_a_calibration_that_covers_a_lost_class_less_is_refused() -> None:
    case = contest(shift=1.0)
    worse = replace(case.challenger, calibration=calibrate(*_of_class_one_scored_high(), 2))
    assert not verdicts(restores_coverage(replace(case, challenger=worse), NONE))["coverage_restored_class_1"]


def _of_class_one_scored_high() -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(400) % 2
    p1 = np.where(y == 1, 0.9, 0.1) + np.linspace(0, 0.05, 400)
    return np.column_stack([1 - p1, p1]), y


def test_a_champion_calibrated_anew_is_judged_by_test_people_alone() -> None:
    case = contest(shift=1.0)
    again = replace(case, champion=case.challenger)
    (whole, *_) = again.champions_coverage()
    assert whole.n_test == int((case.rows.parts == "test").sum())
    assert not verdicts(restores_coverage(again, NONE))["recalibration_needed"]


def test_only_a_model_calibrated_anew_with_the_same_onnx_has_the_same_scorer() -> None:
    toy = toy_model().bundle
    new = contest().challenger
    assert has_the_same_scorer(new, toy)
    assert not has_the_same_scorer(toy, toy)
    files = {**toy.manifest.files, ONNX_FILE: toy.manifest.files["golden.json"]}
    assert not has_the_same_scorer(new, replace(toy, manifest=toy.manifest.model_copy(update={"files": files})))


# --- the gate -------------------------------------------------------------------------------------------------------


def skill(n: int, seed: int, spread: float = 0.9, **limits: float) -> dict[str, bool]:
    rows = binary_rows(n, seed, spread=spread)
    return verdicts(skill_rules(GateConfig(**{"min_roc_auc": 0.63, **limits}), rows.proba, rows.y, rows.groups))


def test_a_scorer_is_refused_where_it_is_shown_to_be_below_a_floor() -> None:
    assert skill(1_000, 2) == {"roc_auc": True, "brier": True, "brier_skill": True}
    assert not skill(4_000, 3, spread=0.1)["roc_auc"]
    assert not skill(1_000, 2, max_brier=0.01)["brier"]
    assert not skill(1_000, 2, min_brier_skill=0.5)["brier_skill"]


def own_skill(n: int, seed: int) -> float:
    rows = binary_rows(n, seed)
    return score_metrics(rows.proba, rows.y)["brier_skill"]


@pytest.mark.parametrize("n", [300, 1_000])
def test_a_brier_skill_at_the_floor_is_seldom_refused_by_chance(n: int) -> None:
    true_skill = float(np.mean([own_skill(100_000, seed) for seed in range(1_000, 1_005)]))
    refused = sum(not skill(n, seed, min_brier_skill=true_skill)["brier_skill"] for seed in range(200))
    assert 0 < refused <= 14  # as for the area below


def test_probabilities_that_are_the_shares_of_the_classes_have_no_skill_however_few_the_rows() -> None:
    y = np.repeat([0, 1], [30, 10])
    proba = np.tile([0.75, 0.25], (40, 1))
    rules = verdicts(skill_rules(GateConfig(min_roc_auc=0.5), proba, y, np.arange(40)))
    assert not rules["brier_skill"]


def test_probabilities_that_are_off_are_refused_by_enough_rows() -> None:
    rows = binary_rows(4_000, 5)
    rules = verdicts(skill_rules(GateConfig(min_roc_auc=0.5), rows.proba[:, ::-1], rows.y, rows.groups))
    assert not rules["brier_skill"]


def test_weights_count_rows_as_if_they_were_there_so_often() -> None:
    rows = binary_rows(500, 6)
    twice = np.repeat(np.arange(500), 1 + np.arange(500) % 2)
    weighted = skill_half_width(rows.proba, rows.y, rows.groups, 1.0 + np.arange(500) % 2)
    plain = skill_half_width(rows.proba[twice], rows.y[twice], rows.groups[twice])
    assert weighted == pytest.approx(plain, rel=1e-9)


def test_a_scorer_at_the_floor_is_seldom_refused_by_chance() -> None:
    true_auc = 0.7264  # of these rows' law, by 10**6 of them
    refused = sum(not skill(1_000, seed, min_roc_auc=true_auc)["roc_auc"] for seed in range(200))
    assert refused <= 14  # 2.5 % of 200 is 5; the 99.95th percentile of that binomial law is 14


def test_rows_of_one_class_cannot_show_skill() -> None:
    rows = binary_rows(500, 4)
    none = np.flatnonzero(rows.y == 0)
    found = verdicts(skill_rules(GateConfig(), rows.proba[none], rows.y[none], rows.groups[none]))
    assert not found["roc_auc"]


@pytest.mark.parametrize(("held_out", "passed"), [(9, False), (10, True)])
def test_few_records_that_did_not_calibrate_are_refused(held_out: int, passed: bool) -> None:
    every = np.repeat([0, 1], [900, 120])
    judges = np.repeat([0, 1], [200, held_out])
    found = verdicts(enough_outcomes_rules(every, judges, [0, 1], GateConfig(min_positives=100), 10))
    assert found == {
        "rows_class_0": True,
        "rows_class_1": True,
        "held_out_class_0": True,
        "held_out_class_1": passed,
    }


def test_people_who_trained_the_scorer_are_counted() -> None:
    rows = toy_rows()
    name = str(rows.groups[0])
    assert not strangers_rule(rows, {name}).passed
    assert strangers_rule(rows, {"somebody-else"}).passed
