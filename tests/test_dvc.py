"""`dvc repro` walks from raw rows to the gate once, `dvc push` and `dvc pull` carry the rows, and damage is noticed.

One tree with a small cohort, a remote in a folder, and a clone of the tree with a home of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TREE = (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml", "configs", "ml_core", "scripts")  # fmt: skip
ROWS = 6_000
CONFIG = Path("configs/readmission_v1.yaml")
STAGES = ["raw", "features", "train", "gate"]


def stages_in(said: str) -> list[str]:
    """Stages that ran, by what `dvc repro` says."""
    return [stage for stage in STAGES if f"Running stage '{stage}'" in said]


@dataclass(frozen=True)
class Tree:
    """A work tree in which commands run with its own code, its own home and nobody's settings."""

    folder: Path

    def run(self, *command: str, status: int | None = 0) -> str:
        """What a command says, stdout and stderr."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SURETY_", "MLFLOW_", "DVC_", "GIT_"))}
        here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(self.folder)}
        who = {
            f"GIT_{part}_{fact}": "ward@example.org" for part in ("AUTHOR", "COMMITTER") for fact in ("NAME", "EMAIL")
        }
        done = subprocess.run(
            command, cwd=self.folder, env={**clean, **here, **who}, capture_output=True, text=True, timeout=300
        )
        said = done.stdout + done.stderr
        assert status is None or done.returncode == status, said
        return said

    def dvc(self, *arguments: str, status: int | None = 0) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments, status=status)

    def repro(self, status: int = 0) -> list[str]:
        """Stages that ran."""
        return stages_in(self.dvc("repro", status=status))

    def receipt(self, stage: str) -> Any:
        return json.loads((self.folder / "build" / "pipeline" / f"{stage}.json").read_text())

    def configure(self, section: str, **values: object) -> None:
        path = self.folder / CONFIG
        config = yaml.safe_load(path.read_text())
        config[section] |= values
        path.write_text(yaml.safe_dump(config))

    @property
    def data(self) -> Path:
        return self.folder / "data" / "cohort.parquet"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The project's tree after `dvc repro`, committed and pushed to a remote beside it."""
    tree = Tree(tmp_path_factory.mktemp("dvc") / "origin")
    for name in TREE:
        source, target = ROOT / name, tree.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    params = (tree.folder / "params.yaml").read_text()
    assert "--rows 20000 " in params
    (tree.folder / "params.yaml").write_text(params.replace("--rows 20000 ", f"--rows {ROWS} "))
    tree.run("git", "init", "-q")
    assert tree.repro() == STAGES
    tree.run("git", "add", ".")
    tree.run("git", "commit", "-q", "-m", "reproduced")
    tree.dvc("remote", "add", "--local", "-d", "store", str(tree.folder.parent / "remote"))
    tree.dvc("push", "-q")
    return tree


@pytest.fixture
def clone(origin: Tree, tmp_path: Path) -> Tree:
    """A clone that knows the remote, and has pulled nothing yet."""
    tree = Tree(tmp_path / "clone")
    origin.run("git", "clone", "-q", str(origin.folder), str(tree.folder))
    tree.dvc("remote", "add", "--local", "-d", "store", str(origin.folder.parent / "remote"))
    return tree


def damage(path: Path) -> None:
    """Change one byte, as a bad disk would: name, size and rights stay."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    path.chmod(mode)


def stored(place: Path, tree: Tree) -> Path:
    """Where a cache or a remote keeps the raw rows."""
    lock = yaml.safe_load((tree.folder / "dvc.lock").read_text())
    md5 = lock["stages"]["raw"]["outs"][0]["md5"]
    return place / "files" / "md5" / md5[:2] / md5[2:]


def test_nothing_of_this_machine_and_no_reporting_is_configured() -> None:
    config = (ROOT / ".dvc" / "config").read_text().split()
    assert config == ["[core]", "analytics", "=", "false", "check_update", "=", "false"]


def test_git_keeps_the_lock_and_neither_rows_nor_receipts(origin: Tree) -> None:
    kept = origin.run("git", "ls-files").split()
    assert "dvc.lock" in kept
    assert not [name for name in kept if name.startswith(("data/", "build/", ".surety/"))]


def test_the_gate_has_judged_the_model_that_was_trained(origin: Tree) -> None:
    trained, judged = origin.receipt("train"), origin.receipt("gate")
    assert judged["passed"] is True
    assert judged["model_hash"] == trained["model_hash"]
    assert origin.receipt("features")["rows_in"] == ROWS
    shown = json.loads(origin.dvc("metrics", "show", "--json"))
    assert shown[""]["data"]["build/pipeline/train.json"]["data"]["metrics"]["roc_auc"] > 0.75


def test_a_clone_pulls_the_very_rows_and_has_nothing_left_to_do(origin: Tree, clone: Tree) -> None:
    clone.dvc("pull", "-q")
    assert clone.data.read_bytes() == origin.data.read_bytes()
    assert clone.repro() == []
    assert clone.run(sys.executable, "-m", "scripts.data_check", "--output", "json").count("as named") == 4


def test_another_limit_runs_the_gate_alone_in_an_empty_home_on_the_same_model(origin: Tree, clone: Tree) -> None:
    clone.dvc("pull", "-q")
    clone.configure("gate", min_roc_auc=0.99)
    assert clone.repro(status=255) == ["gate"]
    judged = clone.receipt("gate")
    assert judged["failed_rules"] == ["roc_auc"]
    assert judged["model_hash"] == origin.receipt("train")["model_hash"]


def test_what_changes_the_model_leaves_rows_and_features_alone(origin: Tree, clone: Tree) -> None:
    clone.dvc("pull", "-q")
    clone.configure("training", rounds=30)
    assert stages_in(clone.dvc("repro", "--dry")) == ["train"]  # the gate follows when there is another receipt


@pytest.mark.parametrize("damaged", ["cache", "remote"])
def test_damage_that_dvc_does_not_see_is_told_by_reading_the_rows(origin: Tree, clone: Tree, damaged: str) -> None:
    remote = clone.folder.parent / "remote"
    shutil.copytree(origin.folder.parent / "remote", remote)
    clone.dvc("remote", "modify", "--local", "store", "url", str(remote))
    if damaged == "remote":
        damage(stored(remote, clone))
    clone.dvc("pull", "-q")
    if damaged == "cache":
        damage(stored(clone.folder / ".dvc" / "cache", clone))
        clone.data.unlink()
        clone.dvc("checkout", "-q")
    assert clone.data.read_bytes() != origin.data.read_bytes()
    said = clone.run(sys.executable, "-m", "scripts.data_check", "--output", "json", status=3)
    assert "not what dvc.lock names: data/cohort.parquet. Remove it" in said
