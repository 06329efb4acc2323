"""The wheel in an environment of its own: the command and the service answer from an empty folder, and nothing else is installed."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.e2e.workplace import Workplace

pytestmark = pytest.mark.e2e
RECORD = {"age": 71, "glucose": 180.5, "bmi": 31.2, "bp_systolic": 142.0}


def surety(python: Path, folder: Path, *arguments: str) -> str:
    """What the installed command prints in that folder, which is first on its path as well."""
    done = subprocess.run(
        [python.parent / "surety", *arguments],
        cwd=folder, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_one_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        tops = {name.partition("/")[0] for name in packed.namelist()}
        assert "ml_core/service.py" in packed.namelist()
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ml_core"}


def test_the_command_runs_beside_folders_of_any_name(python: Path, tmp_path: Path) -> None:
    for name in ("scripts", "web", "service", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('{name} of somebody else')")
    assert "Serve tabular classifiers" in surety(python, tmp_path, "--help")
    assert "Judge a registered version" in surety(python, tmp_path, "validate", "--help")


def test_it_serves_from_an_empty_folder(python: Path, example: Workplace, tmp_path: Path) -> None:
    home = example.copied_home(tmp_path / "home")
    (tmp_path / "empty").mkdir()
    with example.serving(
        "ml_core.service:Surety", python=str(python), cwd=tmp_path / "empty", SURETY_HOME=str(home), PYTHONPATH=""
    ) as address:
        reply = httpx.post(f"{address}/predict", json={"features": RECORD}, timeout=30)
    assert (reply.status_code, reply.json()["fallback_used"]) == (200, False)
    assert not any((tmp_path / "empty").iterdir())
