"""retrain as a person types it: a refusal is exit status 3."""

from __future__ import annotations

import pytest
import yaml

from tests.toy_models import toy_config


@pytest.fixture
def config(tmp_path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_config().model_dump(mode="json")))
    return str(path)


def test_nothing_new_is_a_sound_no(run, config):
    told = run("retrain", "--config", config, "--if-drift")
    assert (told.code, told.result["retrained"]) == (3, False)
    assert told.result["against"] == ["0 new labels have matured, 500 are wanted", "neither drift nor an alarm"]


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
