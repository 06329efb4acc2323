"""The deployment gate refuses what is not what it claims, and names the rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from ml_core.base.documents import read_document
from ml_core.base.errors import ArtefactError, ConfigError, DataError
from ml_core.base.journal import Journal
from ml_core.lab.config import ModelConfig
from ml_core.lab.judging.deployment_gate import judge_folder, validate_deployment
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.training.labelled_rows import rows_from_store
from ml_core.serve.model.bundle import (
    CALIBRATION_FILE,
    FALLBACK_FILE,
    MANIFEST_FILE,
    ONNX_FILE,
    XGBOOST_FILE,
    pack_calibration,
    read_bundle,
    verify_folder,
)
from ml_core.serve.model.prediction_sets import ConformalCalibration
from ml_core.serve.model.promotion_record import GateReport, gate_name
from tests.homes import (
    Home,
    registered_home,
    remade,
    road_config,
    road_model,
    road_rows,
    settings_in,
    table_home,
    trained,
    weak_config,
    weak_model,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    return table_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def refused_by(home) -> Callable[..., tuple[str, ...]]:
    def judged(folder: Path, config: ModelConfig | None = None) -> tuple[str, ...]:
        return judge_folder(folder, config or home.config, home.settings).failed_rules

    return judged


def recalibrated(folder: Path, to: Path, change: Callable[[ConformalCalibration], ConformalCalibration]) -> Path:
    """The model of that folder with another calibration, all hashes right."""
    bundle = read_bundle(folder)
    calibration = change(bundle.calibration)
    raw = pack_calibration(calibration, bundle.scorecard_calibration)
    remade(
        folder, to, {CALIBRATION_FILE: raw}, calibration_id=calibration.calibration_id, guarantee=calibration.guarantee
    )
    return to


def test_an_honest_model_passes_every_rule(home):
    report = judge_folder(road_model().folder, home.config, home.settings)
    assert report.failed_rules == ()
    assert {r.rule for r in report.rules} >= {
        "artefact", "promise_matches", "split_matches", "roc_auc", "brier", "brier_skill", "coverage", "coverage_class_0",
        "coverage_class_1", "coverage_ceiling_class_1", "calibration_reproduces", "scorecard_reproduces",
        "scorer_is_the_model", "test_unseen", "metrics_reproduce", "rows_class_1", "calibration_rows_class_1",
    }  # fmt: skip
    assert report.judged_on == "table v1 version 0, test subjects"


def test_a_rewritten_but_honest_bundle_passes(tmp_path, refused_by):
    remade(road_model().folder, tmp_path / "b")
    assert refused_by(tmp_path / "b") == ()


def test_a_weak_model_is_refused_for_its_auc(refused_by):
    assert "roc_auc" in refused_by(weak_model().folder)


def test_a_floor_no_honest_model_reaches_refuses(home, refused_by):
    strict = home.config.model_copy(
        update={"gate": home.config.gate.model_copy(update={"max_brier": 0.01, "min_brier_skill": 0.9})}
    )
    assert {"brier", "brier_skill"} <= set(refused_by(road_model().folder, strict))


def test_swapped_class_calibration_is_refused(tmp_path, refused_by):
    swapped = recalibrated(
        road_model().folder, tmp_path / "b", lambda c: ConformalCalibration(c.guarantee, c.scores[::-1])
    )
    failed = refused_by(swapped)
    assert "calibration_reproduces" in failed
    assert "coverage_class_1" in failed or "coverage_ceiling_class_1" in failed


def test_scores_listed_twice_are_refused(tmp_path, refused_by):
    doubled = recalibrated(
        road_model().folder,
        tmp_path / "b",
        lambda c: ConformalCalibration(c.guarantee, tuple(np.repeat(s, 2) for s in c.scores)),
    )
    assert "calibration_reproduces" in refused_by(doubled)


def test_scores_multiplied_by_two_are_refused(tmp_path, refused_by):
    doubled = recalibrated(
        road_model().folder, tmp_path / "b", lambda c: ConformalCalibration(c.guarantee, tuple(2 * s for s in c.scores))
    )
    failed = refused_by(doubled)
    assert {"calibration_reproduces", "coverage_ceiling_class_1"} <= set(failed)


def test_the_scorer_of_another_model_is_refused(tmp_path, refused_by):
    remade(road_model().folder, tmp_path / "b", {ONNX_FILE: (weak_model().folder / ONNX_FILE).read_bytes()})
    assert {"calibration_reproduces", "scorer_is_the_model", "metrics_reproduce"} <= set(refused_by(tmp_path / "b"))


def test_the_scorer_of_another_model_is_refused_without_its_xgboost_file(tmp_path, refused_by):
    files = {ONNX_FILE: (weak_model().folder / ONNX_FILE).read_bytes(), XGBOOST_FILE: b""}
    remade(road_model().folder, tmp_path / "b", files)
    assert "calibration_reproduces" in refused_by(tmp_path / "b")


def test_an_onnx_that_is_not_the_trained_model_is_refused_even_if_calibrated_for(tmp_path, refused_by):
    weak = weak_model().folder
    remade(weak, tmp_path / "b", {XGBOOST_FILE: (road_model().folder / XGBOOST_FILE).read_bytes()})
    assert "scorer_is_the_model" in refused_by(tmp_path / "b", weak_config())


def test_the_scorecard_of_another_model_is_refused(tmp_path, refused_by):
    content = json.loads((road_model().folder / FALLBACK_FILE).read_bytes())
    content["scorecard"]["coefficients"][1][0] *= -1
    remade(road_model().folder, tmp_path / "b", {FALLBACK_FILE: json.dumps(content).encode()})
    assert refused_by(tmp_path / "b") == ("scorecard_reproduces",)


@pytest.fixture(scope="module")
def leaked_model():
    """Trained on the test patients too, and packed as if it had not been."""
    rows = road_rows()
    parts = np.where(rows.parts == "test", "train", rows.parts)
    greedy = road_config(
        training={"rounds": 60, "early_stopping_rounds": 60, "params": {"max_depth": 6, "learning_rate": 0.3}}
    )
    from ml_core.lab.training import learner as training

    original = training.pack_model
    training.pack_model = lambda config, _, *rest: original(config, rows, *rest)
    try:
        return trained(greedy, replace(rows, parts=parts))
    finally:
        training.pack_model = original


def test_a_leaked_test_split_is_refused(leaked_model, refused_by):
    assert "test_unseen" in refused_by(leaked_model.folder)


def test_the_same_greedy_model_without_the_leak_is_not_accused_of_one(refused_by):
    greedy = road_config(
        training={"rounds": 60, "early_stopping_rounds": 60, "params": {"max_depth": 6, "learning_rate": 0.3}}
    )
    assert "test_unseen" not in refused_by(trained(greedy).folder)


def test_a_marginal_guarantee_that_leaves_the_readmitted_uncovered_is_refused_for_them(tmp_path, refused_by):
    marginal = road_config(conformal={"guarantee": "marginal"})
    failed = refused_by(trained(marginal).folder, marginal)
    assert "coverage_class_1" in failed
    assert "coverage" not in failed


def test_a_promise_the_configuration_does_not_make_is_refused(refused_by):
    assert "promise_matches" in refused_by(road_model().folder, road_config(conformal={"confidence_level": "0.95"}))


def test_another_split_than_the_configured_one_is_refused(refused_by):
    assert "split_matches" in refused_by(road_model().folder, road_config(split={"salt": "another"}))


def test_a_model_that_lies_about_its_split_is_refused(tmp_path, home, refused_by):
    elsewhere = road_config(split={"salt": "another"})
    other = trained(elsewhere, rows_from_store(elsewhere, home.settings))
    manifest, _, _ = verify_folder(other.folder)
    honest = manifest.training.model_copy(update={"split_salt": home.config.split.salt})
    remade(other.folder, tmp_path / "b", training=honest.model_dump())
    assert "calibration_reproduces" in refused_by(tmp_path / "b")


def test_metrics_that_flatter_are_refused(tmp_path, refused_by):
    flattering = {**road_model().bundle.manifest.metrics, "roc_auc": 0.99}
    remade(road_model().folder, tmp_path / "b", metrics=flattering)
    assert refused_by(tmp_path / "b") == ("metrics_reproduce",)


def test_a_missing_metric_refuses(tmp_path, refused_by):
    partial = {k: v for k, v in road_model().bundle.manifest.metrics.items() if k != "brier_skill"}
    remade(road_model().folder, tmp_path / "b", metrics=partial)
    assert refused_by(tmp_path / "b") == ("metrics_reproduce",)


def test_too_few_rows_of_a_class_refuse(home, refused_by):
    demanding = home.config.model_copy(update={"gate": home.config.gate.model_copy(update={"min_positives": 5_000})})
    assert refused_by(road_model().folder, demanding) == ("rows_class_0", "rows_class_1")


def test_a_flipped_byte_fails_the_artefact_rule_and_nothing_else_is_judged(tmp_path, home):
    remade(road_model().folder, tmp_path / "b")
    raw = bytearray((tmp_path / "b" / ONNX_FILE).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "b" / ONNX_FILE).write_bytes(raw)
    report = judge_folder(tmp_path / "b", home.config, home.settings)
    assert [r.rule for r in report.rules] == ["artefact"]
    assert ONNX_FILE in report.rules[0].note


def test_an_artefact_that_is_not_the_registered_one_is_refused(home):
    report = judge_folder(road_model().folder, home.config, home.settings, expected_hash="0" * 64)
    assert report.failed_rules == ("artefact",)


def test_golden_answers_that_do_not_reproduce_fail_the_artefact_rule(tmp_path, home):
    manifest, _, content = verify_folder(road_model().folder)
    golden = json.loads(content["golden.json"])
    golden[3]["prediction"] = 1 - golden[3]["prediction"]
    from ml_core.serve.model.bundle import write_bundle

    facts = {k: v for k, v in manifest.model_dump().items() if k not in ("files", "format_version")}
    write_bundle(tmp_path / "b", facts, {**content, "golden.json": json.dumps(golden).encode()})
    report = judge_folder(tmp_path / "b", home.config, home.settings)
    assert report.failed_rules == ("artefact",)
    assert "golden" in report.rules[0].note


def test_a_missing_table_is_an_error_and_no_verdict(tmp_path, home):
    with pytest.raises(DataError, match="features run"):
        judge_folder(road_model().folder, home.config, settings_in(tmp_path))


def test_calibration_scores_of_the_test_patients_are_refused(tmp_path, refused_by):
    rows = road_rows().part("test")
    scorer_proba = road_model().test_proba
    fresh = calibrate(scorer_proba, rows.y_index, 2)
    moved = recalibrated(road_model().folder, tmp_path / "b", lambda _: fresh)
    assert "calibration_reproduces" in refused_by(moved)


def test_the_report_is_kept_in_home_registry_and_journal(tmp_path):
    home = registered_home(tmp_path / "home")
    version = home.challenger()
    report = validate_deployment(home.registry, version, home.config, home.settings)
    assert report.passed
    assert read_document((home.settings.home / gate_name(version.model_hash)), GateReport) == report
    assert home.challenger().tags["gate"] == "passed"
    entry = Journal(home.settings.journal).entries()[-1]
    assert (entry["event"], entry["passed"], len(entry["rules"])) == ("gate.judged", True, len(report.rules))


def test_looking_only_keeps_nothing(tmp_path):
    home = registered_home(tmp_path / "home")
    validate_deployment(home.registry, home.challenger(), home.config, home.settings, keep=False)
    assert not home.settings.gates.exists()
    assert "gate" not in home.challenger().tags
    assert Journal(home.settings.journal).entries() == []


def test_the_configuration_of_another_model_is_an_error(tmp_path):
    home = registered_home(tmp_path / "home")
    with pytest.raises(ConfigError, match="not of readmission_risk"):
        validate_deployment(home.registry, home.challenger(), road_config(model="other"), home.settings)


def test_a_manifest_hash_is_what_the_report_is_filed_under(home):
    import hashlib

    report = judge_folder(road_model().folder, home.config, home.settings)
    assert report.model_hash == hashlib.sha256((road_model().folder / MANIFEST_FILE).read_bytes()).hexdigest()


# --- splits in time, power, proof ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_time(home) -> tuple[ModelConfig, Path]:
    """A configuration whose split is in time, and a model of it."""
    config = road_config(split={"by": "time"}, gate={"prove": True, "min_coverage_returning": 0.5})
    return config, trained(config, rows_from_store(config, home.settings)).folder


def test_a_split_in_time_is_judged_on_the_newest_rows_with_those_seen_before_by_themselves(home, in_time):
    config, folder = in_time
    report = judge_folder(folder, config, home.settings)
    rules = {rule.rule: rule for rule in report.rules}
    metrics = read_bundle(folder).manifest.metrics
    assert report.judged_on == "table v1 version 0, the newest rows"
    assert not {name for name in rules if name.startswith(("coverage_ceiling", "calibration_same_law"))}
    assert rules["coverage_returning_class_1"].value == metrics["coverage_returning_class_1"]
    n = int(metrics["n_returning_class_1"])
    assert f"{n} of the rows are of subjects seen before" in rules["coverage_class_1"].note
    assert all(name.startswith("coverage_proven") for name in report.failed_rules)


def test_each_coverage_rule_says_what_it_can_see(home, refused_by):
    rules = {rule.rule: rule for rule in judge_folder(road_model().folder, home.config, home.settings).rules}
    for name in ("coverage", "coverage_class_0", "coverage_class_1"):
        assert "truly covered 0.87 with chance 0." in rules[name].note or "with chance 1." in rules[name].note
        assert "with 80%" in rules[name].note


def test_proof_asks_for_a_lower_bound_above_the_floor(home):
    asked = home.config.model_copy(update={"gate": home.config.gate.model_copy(update={"prove": True})})
    rules = {rule.rule: rule for rule in judge_folder(road_model().folder, asked, home.settings).rules}
    proven, found = rules["coverage_proven_class_1"], rules["coverage_class_1"]
    assert proven.value < found.value
    assert proven.limit == 0.88
    assert proven.passed == (proven.value > 0.88)
    assert {"coverage_proven", "coverage_proven_class_0"} <= rules.keys()


def test_a_model_that_lies_about_what_it_has_seen_is_refused(tmp_path, home, in_time):
    config, folder = in_time
    training = verify_folder(folder)[0].training
    earlier = training.params | {"split_seen_until": training.params["split_seen_until"] - 86_400_000_000}
    remade(folder, tmp_path / "b", training=training.model_copy(update={"params": earlier}).model_dump())
    assert "split_matches" in judge_folder(tmp_path / "b", config, home.settings).failed_rules
    assert "split_matches" in judge_folder(folder, home.config, home.settings).failed_rules


def test_a_confidence_over_calibrations_is_kept_in_the_manifest_and_asked_for(tmp_path, home, refused_by):
    config = road_config(conformal={"training_conditional": "0.95"})
    folder = trained(config).folder
    manifest = read_bundle(folder).manifest
    assert manifest.confidence_level == Decimal("0.9")
    assert all(inner > manifest.confidence_level for inner in manifest.inner_levels)
    assert refused_by(folder, config) == ()
    assert refused_by(folder) == ("promise_matches",)
    assert "training_conditional" not in road_model().bundle.manifest.content()
    with pytest.raises(ArtefactError, match="inner levels are not those of its calibration"):
        remade(folder, tmp_path / "b", inner_levels=(Decimal("0.9"), Decimal("0.9")))
