"""retrain as a person types it, where a sound no is exit status 3, and as a scheduler runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_core.lab.config import RetrainConfig
from ml_core.lab.data.feature_store import FeatureStore
from tests.cli.typing_surety import command_line
from tests.lab.watching.ward import Ward, patients
from tests.toy_models import toy_config, toy_frame


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    for name in ("MLFLOW_TRACKING_URI", "FORCE_RETRAIN", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    with command_line(tmp_path, monkeypatch, capsys) as typed:
        yield typed


@pytest.fixture
def config(tmp_path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_config().model_dump(mode="json")))
    return str(path)


def test_nothing_new_is_a_sound_no(run, config):
    told = run("retrain", "--config", config, "--if-drift")
    assert (told.code, told.result["retrained"]) == (3, False)
    assert told.result["against"] == [
        "0 new labels have matured, 500 are wanted",
        "neither drift, nor lost skill, nor an alarm",
    ]


def test_a_dry_run_decides_and_trains_nothing(run, config, tmp_path):
    told = run("retrain", "--config", config, "--force", "--dry-run")
    assert (told.code, told.result["retrained"], told.result["new_labels"]) == (0, False, 0)


def test_without_training_rows_it_says_how_to_get_them(run, config):
    told = run("retrain", "--config", config, "--force")
    assert (told.code, "surety features run" in told.err or "no such table" in told.err) == (1, True)


def test_a_missing_configuration_is_named(run, tmp_path):
    told = run("retrain", "--config", str(tmp_path / "none.yaml"))
    assert (told.code, "none.yaml" in told.err) == (1, True)
    assert run("retrain").code == 2


# --- unattended: what a scheduler runs ------------------------------------------------------------------------------


@pytest.fixture
def ward(run, tmp_path) -> Iterator[Ward]:
    place = Ward(tmp_path)
    FeatureStore(place.home.settings.feature_store, place.home.settings.model_name).overwrite("v1", toy_frame())
    place.answer(patients(400, seed=61))
    place.pass_days(31)
    place.look()
    yield place
    place.close()


def unattended(folder: Path, **gate: Any) -> tuple[str, ...]:
    retraining = RetrainConfig(min_new_labels=100, live_rows=400)
    config = toy_config(retrain=retraining, gate={"min_positives": 20, "min_roc_auc": 0.6, **gate})
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return "retrain", "--unattended", "--config", str(path)


@pytest.mark.parametrize("force", ["", "false", "0"])
def test_nothing_advised_is_done_with_status_zero(ward, run, tmp_path, monkeypatch, force):
    monkeypatch.setenv("FORCE_RETRAIN", force)
    told = run(*unattended(tmp_path))
    assert (told.code, told.result["outcome"], told.result["model"]) == (0, "not advised", "toy_risk")
    assert "Nothing was trained" in told.err


def test_forced_by_the_environment_it_trains_and_the_summary_tells_it(ward, run, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("FORCE_RETRAIN", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    told = run(*unattended(tmp_path))
    assert (told.code, told.result["outcome"]) == (0, "passed")
    lines = summary.read_text().splitlines()
    assert lines[:2] == ["before", "### toy_risk: passed"]
    assert "was trained on 400 more answers, has passed the gate and is the challenger" in lines[3]


def test_a_refusal_is_a_sound_no(ward, run, tmp_path):
    told = run(*unattended(tmp_path, min_roc_auc=0.99), "--force")
    assert told.code == 3
    assert "is refused by the gate: roc_auc. The champion stays" in told.err


def test_a_word_that_is_no_truth_is_wrong_usage(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_RETRAIN", "perhaps")
    assert run(*unattended(tmp_path)).code == 2


def test_drift_that_cannot_be_judged_is_one_line_and_status_one(run, tmp_path):
    told = run(*unattended(tmp_path))
    assert (told.code, told.out) == (1, "")
    assert told.err == "surety: the live log: nothing of toy_risk is live: start the service first\n"
