"""A project whose features are a Python file of its own: served, built into a bento, and served from that."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from tests.e2e.workplace import Workplace

pytestmark = pytest.mark.e2e

COLUMNS = """\
columns:
  stone: {dtype: text, role: group, doc: Which stone.}
  carat: {dtype: float, low: 0, high: 20, doc: Its weight.}
  depth: {dtype: float, low: 0, high: 100, nullable: true, doc: "Its depth, %."}
  cut: {dtype: category, role: label, levels: [fair, ideal], doc: The grade.}
"""
MODULE = '''\
"""Two features that the standard transform has not."""

import numpy as np

FEATURE_NAMES = ("log_carat", "depth_off")


def transform(columns):
    """(n, 2), float32."""
    return np.column_stack([np.log1p(columns["carat"]), np.abs(columns["depth"] - 61.5)]).astype(np.float32)
'''
CONFIG = """\
model: stones
columns: columns.yaml
module: stone_logs.py
subjects: stones
data: {source: stones.parquet}
training: {rounds: 20, early_stopping_rounds: 5, params: {max_depth: 2, learning_rate: 0.3}}
gate: {min_roc_auc: 0.6, min_positives: 50}
"""
RECORDS = [{"carat": 0.3, "depth": 61.0}, {"carat": 2.5, "depth": 70.5}, {"carat": 1.0, "depth": None}]


@dataclass
class Made:
    """A promoted model of a project with a module."""

    place: Workplace
    project: Path
    feature_version: str
    answers: list[dict[str, object]]


def answers_at(address: str) -> list[dict[str, object]]:
    replies = [httpx.post(f"{address}/predict", json={"features": record}, timeout=30) for record in RECORDS]
    assert {reply.status_code for reply in replies} == {200}, replies[0].text
    assert not any(reply.json()["fallback_used"] for reply in replies)
    return [{name: reply.json()[name] for name in ("probability", "p_values", "prediction_set")} for reply in replies]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = Workplace(tmp_path_factory.mktemp("stones"), "stones")
    project = place.run / "stones"
    project.mkdir()
    rng = np.random.default_rng(4)
    carat, depth = rng.gamma(2.0, 0.5, 2_000).round(2).clip(0.01, 19), rng.normal(61.5, 4, 2_000).round(1)
    ideal = np.abs(depth - 61.5) + rng.normal(0, 1.5, 2_000) < 2.5
    rows = {
        "stone": [f"S{i}" for i in range(2_000)],
        "carat": carat,
        "depth": depth,
        "cut": np.where(ideal, "ideal", "fair"),
    }
    pd.DataFrame(rows).to_parquet(project / "stones.parquet")
    for name, content in (("columns.yaml", COLUMNS), ("stone_logs.py", MODULE), ("model.yaml", CONFIG)):
        (project / name).write_text(content)
    ran = place.surety("run", str(project))
    assert ran["status"] == "ready"
    version = place.surety("models", "list", "--model", "stones")[0]["feature_version"]
    with place.serving(SURETY_FEATURE_MODULES=str(project / "stone_logs.py")) as address:
        return Made(place, project, version, answers_at(address))


def test_the_bento_holds_the_module_and_answers_without_the_project(made: Made, tmp_path: Path) -> None:
    built = made.place.surety("build", str(made.project))
    assert (built["module"], built["bento"].partition(":")[0]) == ("stone_logs.py", "surety")
    assert built["model"].startswith("stones:v1-")
    assert made.feature_version.startswith("stone_logs_")
    held = Path(made.place.bentoml("get", built["bento"], "-o", "path").strip()) / "src"
    assert (held / "surety_features" / "stone_logs.py").read_bytes() == (made.project / "stone_logs.py").read_bytes()
    assert not (held / "ml_core" / "lab").exists()
    elsewhere = tmp_path / "home"
    with made.place.serving(built["bento"], cwd=tmp_path, SURETY_HOME=str(elsewhere), PYTHONPATH="") as address:
        assert answers_at(address) == made.answers
        assert httpx.get(f"{address}/status").json()["models"][0]["feature_version"] == made.feature_version


def test_another_file_of_that_name_is_not_built_in(made: Made) -> None:
    file = made.project / "stone_logs.py"
    try:
        file.write_text(MODULE.replace("61.5", "60.0"))
        done = subprocess.run(
            [sys.executable, "-m", "ml_core.cli.main", "build", str(made.project)], cwd=made.place.run, env=made.place.environment(),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        file.write_text(MODULE)
    assert done.returncode == 1
    assert "feature" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_wheel_has_what_a_build_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        assert {"ml_core/bento/bentofile.yaml", "ml_core/bento/serve.lock"} <= set(packed.namelist())


def test_an_installed_wheel_builds_and_the_bento_answers(made: Made, python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [python.parent / "surety", "build", str(made.project), "--output", "json"],
        cwd=tmp_path, env=made.place.environment(PYTHONPATH=""), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bento = json.loads(done.stdout)["bento"]
    home = str(tmp_path / "home")
    with made.place.serving(bento, python=str(python), cwd=tmp_path, SURETY_HOME=home, PYTHONPATH="") as address:
        assert answers_at(address) == made.answers
