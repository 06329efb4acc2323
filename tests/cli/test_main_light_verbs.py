"""The verbs that only look after a running service start without what trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_import_rule import NEVER_SERVED, ROOT

SCRIPT = """
import sys
from ml_core.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("MODULES", *sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["rollout", "show"],
        ["rollout", "full", "v2"],
        ["rollout", "breaker", "open"],
        ["alarms", "show"],
        ["status"],
        ["log", "show"],
    ],
    ids=" ".join,
)
def test_verb_imports_nothing_that_trains(tmp_path: Path, arguments: list[str]) -> None:
    places = {"SURETY_HOME": str(tmp_path), "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT, env={**os.environ, **places}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    modules = set(done.stdout.split("MODULES")[1].split())
    assert "ml_core" in modules
    assert not modules & NEVER_SERVED


def test_the_monitor_loads_statistics_and_nothing_that_trains(tmp_path: Path) -> None:
    places = {"SURETY_HOME": str(tmp_path), "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "monitor", "--once"],
        cwd=ROOT, env={**os.environ, **places}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    modules = set(done.stdout.split("MODULES")[1].split())
    assert not modules & {"mlflow", "mapie", "sklearn", "xgboost", "matplotlib", "deltalake"}
