"""The model that a bento came with stays in the home, for the day when another bento is to go back to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bentoml
import pytest
import yaml

from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.model_home import home_folder
from ml_core.serve.worker.startup import keep_bundled
from tests.e2e.workplace import ROOT
from tests.homes import bento_store
from tests.serve.answering.stored import Home, Worker
from tests.toy_models import NAME


@pytest.fixture
def home(tmp_path: Path):
    """A home without models; v1 is in the Bento store."""
    with bento_store(tmp_path / "bento-store"):
        home = Home(tmp_path / "home")
        with bentoml.models.create(home.v1) as stored:
            shutil.copytree(home.folder(home.v1), stored.path, dirs_exist_ok=True)
        shutil.rmtree(home.settings.models)
        yield home


@pytest.fixture
def bento(tmp_path: Path, home: Home) -> Path:
    """An unpacked bento that was built around v1."""
    folder = tmp_path / "bento"
    folder.mkdir()
    (folder / "bento.yaml").write_text(yaml.safe_dump({"models": [{"tag": home.v1}]}))
    return folder


def kept(home: Home) -> Path:
    return home_folder(home.v1, home.settings)


def test_kept_model_answers_when_the_next_bento_no_longer_holds_it(home: Home, bento: Path) -> None:
    loader = ModelLoader(home.settings, bento)
    keep_bundled(home.settings, loader)
    before = loader.load(home.v1)
    shutil.rmtree(bentoml.models.get(home.v1).path)
    after = ModelLoader(home.settings).load(home.v1)
    assert after.model_hash == before.model_hash
    assert kept(home).is_dir()


def test_what_is_there_already_is_left_alone(home: Home, bento: Path) -> None:
    keep_bundled(home.settings, ModelLoader(home.settings, bento))
    before = {path: path.stat().st_mtime_ns for path in kept(home).rglob("*")}
    keep_bundled(home.settings, ModelLoader(home.settings, bento))
    assert {path: path.stat().st_mtime_ns for path in kept(home).rglob("*")} == before


def test_outside_of_a_bento_nothing_is_copied(home: Home) -> None:
    keep_bundled(home.settings, ModelLoader(home.settings))
    assert not home.settings.models.exists()


@pytest.mark.parametrize("broken", ["no model", "no bento.yaml", "a file in its place"])
def test_what_cannot_be_kept_is_said_and_keeps_no_server_from_starting(
    home: Home, bento: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    if broken == "no model":
        shutil.rmtree(bentoml.models.get(home.v1).path)
    elif broken == "no bento.yaml":
        (bento / "bento.yaml").unlink()
    else:
        home.settings.models.parent.mkdir(parents=True, exist_ok=True)
        home.settings.models.write_text("in the way")
    keep_bundled(home.settings, ModelLoader(home.settings, bento))
    assert [r.message for r in caplog.records] == ["model.not_kept"]


def test_whoever_starts_the_service_reads_why_something_was_not_taken_up(tmp_path: Path) -> None:
    """As BentoML starts it, in a process of its own: its log form shows the event alone."""
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    Worker(home)  # the rollout begins with v1
    home.promote(home.v2, "2026-02-01T00:00:00Z")
    home.pass_gate(home.v2, passed=False)
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SURETY_", "BENTOML_", "PROMETHEUS_"))
        },
        "SURETY_HOME": str(home.settings.home),
        "SURETY_MODEL_NAME": NAME,
        "BENTOML_HOME": str(tmp_path / "bentoml"),
    }
    code = "import bentoml, service; service.Surety.inner.prepare()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    reasons = {line["event"]: line.get("reason") for line in lines}
    assert "its gate said no" in str(reasons["promotion.not_taken_up"])
