"""recalibrate as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.journeys.challenger import train_challenger
from ml_core.lab.judging.promoter import promote_version
from ml_core.lab.registry.model_registry import ModelRegistry
from tests.cli.typing_surety import command_line
from tests.lab.journeys.test_recalibrate import strangers
from tests.lab.watching.ward import Ward
from tests.toy_models import toy_config, toy_frame


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with command_line(tmp_path, monkeypatch, capsys) as typed:
        yield typed


def written(folder: Path, **gate: float) -> str:
    path = folder / "toy.yaml"
    config = toy_config(gate={"min_roc_auc": 0.6, "min_positives": 40, **gate})
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return str(path)


def test_without_a_champion_it_says_how_to_get_one(run, tmp_path):
    told = run("recalibrate", "--config", written(tmp_path))
    assert (told.code, told.out, told.err.count("\n")) == (1, "", 1)
    assert "toy_risk" in told.err


@pytest.mark.parametrize("wrong", [("--rows", "0"), ("--rows", "many"), ("--since", "yesterday"), ()])
def test_wrong_usage(run, tmp_path, wrong):
    config = ("--config", written(tmp_path)) if wrong else ()
    assert run("recalibrate", *config, *wrong).code == 2


def test_dry_run_then_passed_then_refused(run, tmp_path):
    place = Ward(tmp_path)
    settings = place.home.settings
    config = toy_config(gate={"min_roc_auc": 0.6, "min_positives": 40})
    FeatureStore(settings.feature_store, config.model).overwrite("v1", toy_frame())
    version = train_challenger(config, settings, lambda _: None).version
    promote_version(ModelRegistry(settings), version, config, settings)
    place.answer(strangers(700, 71, younger_by=25))
    place.pass_days(31)
    place.look()

    told = run("recalibrate", "--config", written(tmp_path), "--dry-run", "--rows", "500")
    assert (told.code, told.result["outcome"], sum(told.result["rows"].values())) == (0, "possible", 500)
    assert "Nothing was made." in told.err
    nothing = run("recalibrate", "--config", written(tmp_path), "--since", "2031-01-01")
    assert (nothing.code, "none can calibrate" in nothing.err) == (1, True)
    told = run("recalibrate", "--config", written(tmp_path))
    assert (told.code, told.result["outcome"], told.result["recalibrated_from"]) == (0, "passed", "1")
    assert "surety promote" in told.err
    told = run("recalibrate", "--config", written(tmp_path, min_roc_auc=0.99))
    assert (told.code, told.result["failed_rules"]) == (3, ["roc_auc"])
    assert "is refused by the gate: roc_auc" in told.err
    place.close()
