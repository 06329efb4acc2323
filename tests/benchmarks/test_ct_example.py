"""`make ct` without a home: real processes, from nothing to each of the three ends that a turn can have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import ct_example
from ml_core.base.settings import Settings
from ml_core.lab.registry.model_registry import ModelRegistry

pytestmark = pytest.mark.e2e

Turn = tuple[int, dict[str, Any], Path]
RETRAIN = ("ml_core.cli.main", "retrain", "--unattended", "--config")
OURS = ("SURETY_", "MLFLOW_", "BENTOML_", "MODEL_", "EXAMPLE_", "FORCE_", "GITHUB_")


def outside() -> dict[str, str]:
    """The environment without anything that would say where to look, or what to do."""
    return {k: v for k, v in os.environ.items() if not k.startswith(OURS)}


def turn(place: Path, module: str, *arguments: str, **environment: str) -> Turn:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ct_example.ROOT, env={**outside(), **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), place / "home"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path, Path]:
    """Environment, configuration and folder of an example whose patients are as ever."""
    place = tmp_path_factory.mktemp("quiet")
    with pytest.MonkeyPatch.context() as patched:
        for name in set(os.environ) - set(outside()):
            patched.delenv(name)
        environment, config = ct_example.prepare(place, drift=False)
    return environment, config, place


def versions(home: Path) -> int:
    return len(ModelRegistry(Settings(home=home)).versions("readmission_risk"))


def test_without_drift_nothing_is_advised_until_it_is_forced(quiet: tuple[dict[str, str], Path, Path]) -> None:
    environment, config, place = quiet
    code, found, home = turn(place, *RETRAIN, str(config), **environment)
    assert (code, found["outcome"], found["version"], versions(home)) == (0, "not advised", None, 1)
    assert (found["drift"]["rows"], found["new_labels"]) == (ct_example.LATER_ROWS, ct_example.LATER_ROWS)
    code, found, home = turn(place, *RETRAIN, str(config), **environment, FORCE_RETRAIN="true")
    assert (code, found["outcome"], found["gate"], versions(home)) == (0, "passed", "passed", 2)


def test_with_drift_it_is_advised_trained_and_judged(tmp_path: Path) -> None:
    code, found, home = turn(tmp_path, "benchmarks.ct_example", "--place", str(tmp_path), EXAMPLE_DRIFT="true")
    assert (code, found["outcome"], found["gate"], versions(home)) == (0, "passed", "passed", 2)
    assert found["reasons"][0].startswith("drift: age, glucose (")
    assert found["rows_added"] == ct_example.LATER_ROWS


def test_it_never_touches_a_real_registry(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.touch()
    environment = {"MLFLOW_TRACKING_URI": "http://mlflow.example"}
    done = CliRunner().invoke(ct_example.main, ["--place", str(tmp_path)], env=environment)
    assert (done.exit_code, "set SURETY_HOME" in done.stderr, kept.exists()) == (2, True, True)
