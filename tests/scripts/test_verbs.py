"""The scripts of a checkout: each runs the verb of its name, as a file and as a module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ml_core.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {path: path.read_text() for path in sorted((ROOT / "scripts").glob("*.py")) if "run_verb" in path.read_text()}


def test_each_runs_the_verb_of_its_name() -> None:
    assert {"train", "validate", "promote", "import_model", "retrain"} <= {path.stem for path in SCRIPTS}
    for path, text in SCRIPTS.items():
        assert re.findall(r'run_verb\("([\w-]+)"\)', text) == [path.stem.replace("_", "-")]
        assert path.stem.replace("_", "-") in VERBS


@pytest.mark.parametrize("how", [["scripts/validate.py"], ["-m", "scripts.validate"]])
def test_it_runs_from_the_top_of_a_checkout(how: list[str]) -> None:
    mine = {**os.environ, "PYTHONPATH": str(ROOT)}  # as an editable install has it
    done = subprocess.run(
        [sys.executable, *how, "--help"], cwd=ROOT, env=mine, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: surety validate ")
