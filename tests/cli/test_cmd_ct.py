"""A turn of continuous training as a scheduler runs it: exit status, result, summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from ml_core.cli.cmd_ct import command, main
from ml_core.lab.config import RetrainConfig
from ml_core.lab.data.feature_store import FeatureStore
from tests.homes import bento_store
from tests.lab.watching.ward import Ward, patients
from tests.toy_models import toy_config, toy_frame


@pytest.fixture
def ward(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SURETY_HOME", str(tmp_path / "home"))
    with bento_store(tmp_path / "bento"):
        place = Ward(tmp_path)
        FeatureStore(place.home.settings.feature_store).overwrite("v1", toy_frame())
        place.answer(patients(400, seed=61))
        place.pass_days(31)
        place.look()
        yield place
        place.close()


def written(folder: Path, **gate: Any) -> str:
    retraining = RetrainConfig(min_new_labels=100, live_rows=400)
    config = toy_config(retrain=retraining, gate={"min_positives": 20, "min_roc_auc": 0.6, **gate})
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return str(path)


def run(folder: Path, *arguments: str, gate: dict[str, Any] | None = None, **environment: str) -> Result:
    return CliRunner().invoke(command, ["--config", written(folder, **(gate or {})), *arguments], env=environment)


@pytest.mark.parametrize("force", ["", "false", "0"])
def test_nothing_advised_is_done_with_status_zero(ward, tmp_path, force):
    done = run(tmp_path, FORCE_RETRAIN=force)
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["outcome"] == "not advised"
    assert "Nothing was trained" in done.stderr


def test_forced_by_the_environment_it_trains_and_the_summary_tells_it(ward, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    done = run(tmp_path, FORCE_RETRAIN="true", GITHUB_STEP_SUMMARY=str(summary))
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["outcome"] == "passed"
    told = summary.read_text().splitlines()
    assert told[:2] == ["before", "### toy_risk: passed"]
    assert "(forced) has learnt from 400 more answers, has passed the gate and is the challenger" in told[3]


def test_a_refusal_is_a_sound_no(ward, tmp_path):
    done = run(tmp_path, "--force-retrain", "true", gate={"min_roc_auc": 0.99})
    assert done.exit_code == 3
    assert "is refused by the gate: roc_auc. The champion stays" in done.stderr


def test_a_word_that_is_no_truth_is_wrong_usage(tmp_path):
    assert run(tmp_path, FORCE_RETRAIN="perhaps").exit_code == 2


def test_what_is_broken_is_one_line_and_status_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SURETY_HOME", str(tmp_path / "nothing"))
    monkeypatch.setattr("sys.argv", ["ct", "--config", written(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (1, "")
    assert told.err == "surety: the live log: nothing of toy_risk is live: start the service first\n"
