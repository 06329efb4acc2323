"""The runbook's procedure for a home in a database, carried out as it is written: back up, restore to an older point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from ml_core.lab.home_care.copying import copy_home
from ml_core.lab.log_care.erasure import erase_person
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.log_records import LogRecords
from tests import oracles, postgres
from tests.e2e.test_runbook import blocks
from tests.e2e.workplace import ROOT
from tests.lab.home_care.lived_in import MODEL, SEEN_AT, lived_in, said_by_database
from tests.postgres import Server
from tests.serve.log.filled import row, subject

pytestmark = pytest.mark.e2e

HEADING = "Back up and restore a home in a database"
LATER = [AnswerLabel(row(5_000 + n).request_id, 1, SEEN_AT) for n in range(3)]


@pytest.fixture
def home(database_server: Server, tmp_path: Path) -> Settings:
    """A home in a database that something of everything was copied to."""
    packages = oracles.cluster_packages()
    assert packages.is_dir()
    source = lived_in(tmp_path / "old", rows=8)
    target = Settings(
        home=tmp_path / "ward-1",
        database=database_server.new_database(),
        objects=str(tmp_path / "objects"),
        model_name=MODEL,
        machine="ward-1",
        log_key_file=source.log_key,
        subject_key_file=source.subject_key,
    )
    assert copy_home(source, target).is_sound
    return target


def carry_out(commands: str, home: Settings) -> str:
    """What a person sees who types that on a machine of the home; the first command that fails is the last."""
    folder = home.home.parent
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SURETY_", "MLFLOW_", "BENTOML_", "MODEL_"))}
    programs = postgres.programs()
    environment = {
        **clean,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(programs), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(oracles.cluster_packages())]),
        "SURETY_HOME": str(home.home),
        "SURETY_DATABASE": home.database,
        "SURETY_OBJECTS": home.objects,
        "SURETY_MODEL_NAME": MODEL,
        "SURETY_MACHINE": home.machine,
        "SURETY_LOG_KEY_FILE": str(home.log_key_file),
        "SURETY_SUBJECT_KEY_FILE": str(home.subject_key_file),
        "BENTOML_HOME": str(folder / "bentoml"),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands.replace("/backup/", f"{folder}/backup/")],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def labels_of(settings: Settings) -> LabelStore:
    return LabelStore(open_label_tables(settings, MODEL), lambda ids: set(ids), key=LogRecords(settings).key)


def test_a_restore_as_it_is_written_gives_the_home_of_the_backup(home: Settings, database_server: Server) -> None:
    back_up, restore = blocks(HEADING)
    then = said_by_database(home.database, home.objects)
    carry_out(back_up, home)
    labels_of(home).add(LATER, "test")
    assert erase_person(home, [subject(home, "anna")]).answers
    after_the_backup = said_by_database(home.database, home.objects)
    assert after_the_backup != then
    Path(home.objects).rename(home.home.parent / "objects.before")
    restored = home.model_copy(update={"database": database_server.new_database()})
    carry_out(restore, restored)
    assert said_by_database(restored.database, restored.objects) == then
    # what the page says of what came later
    assert labels_of(restored).add(LATER, "test").accepted == 3
    assert labels_of(restored).add(LATER, "test").accepted == 0
    assert erase_person(restored, [subject(restored, "anna")]).answers
    assert json.loads(carry_out("surety home check", restored))["found"] == []
    assert not erase_person(restored, [subject(restored, "anna")]).answers
    assert open_home(restored).name() == open_home(home).name()
