"""Procedures of the runbook, carried out as they are written: restore, erasure, a silent monitor."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.workplace import ROOT, Workplace
from tests.faults.place import RECORD

pytestmark = pytest.mark.e2e

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
CHECKS = (("log", "verify"), ("replay", "--since", "400d"), ("status",))


def blocks(heading: str) -> list[str]:
    """The commands below that heading, block by block."""
    section = re.split(r"^##+ ", RUNBOOK.partition(f"### {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


@dataclass
class Machine:
    """A machine with a home, a Bento store and a folder of backups."""

    place: Workplace
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def environment(self, **more: str) -> dict[str, str]:
        own = {"SURETY_HOME": str(self.home), "BENTOML_HOME": str(self.folder / "bentoml")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return self.place.environment(**{**own, "PATH": path, **more})

    def type(self, commands: str, **more: str) -> subprocess.CompletedProcess[str]:
        """What a person sees who types that; the first command that fails is the last."""
        text = commands.replace("/backup/", f"{self.folder}/backup/")
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder, env=self.environment(**more), capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    def carry_out(self, commands: str) -> str:
        done = self.type(commands)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def answers(self) -> int:
        """Answers that the log holds."""
        return int(json.loads(self.carry_out("surety log show"))["rows"])


@pytest.fixture(scope="module")
def machine(example: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Six answers about three people were given, and the service was stopped."""
    found = Machine(example, tmp_path_factory.mktemp("machine"))
    example.copied_home(found.home)
    shutil.copytree(example.folder / "bentoml", found.folder / "bentoml", symlinks=True)
    own = {name: found.environment()[name] for name in ("SURETY_HOME", "BENTOML_HOME")}
    with example.serving(**own) as address:
        for name in ("anna", "bert", "carl") * 2:
            reply = httpx.post(f"{address}/predict", json={"features": RECORD, "subject": name})
            assert reply.status_code == 200
    return found


def test_checks_of_a_restore_fail_on_an_empty_home(machine: Machine) -> None:
    for words in CHECKS:
        done = machine.type(f"surety {' '.join(words)}", SURETY_HOME=str(machine.folder / "nothing"))
        assert (done.returncode, "empty" in done.stderr) == (4, True), words


def test_restore_as_it_is_written_restores_into_a_home_that_is_there(machine: Machine) -> None:
    back_up, restore = blocks("Back up and restore")
    machine.carry_out(back_up)
    (log,) = (machine.home / "log" / machine.place.model).glob("predictions-*.db")
    log.write_bytes(b"no database at all" * 1_000)
    (machine.home / "log" / machine.place.model / "predictions-2026-01-01-w09.db").write_bytes(b"newer than the backup")
    shutil.rmtree(machine.folder / "bentoml" / "models")
    machine.carry_out(restore)
    assert machine.answers() == 6
    assert not (machine.home / "home").exists()
    assert (machine.folder / "home.before" / "log").is_dir()


def test_restore_as_it_is_written_restores_at_another_place(machine: Machine, tmp_path: Path) -> None:
    back_up, restore = blocks("Back up and restore")
    machine.carry_out(back_up)
    other = Machine(machine.place, tmp_path)
    shutil.copytree(machine.folder / "backup", tmp_path / "backup", symlinks=True)
    hidden = machine.home.rename(machine.folder / "elsewhere")
    try:
        other.carry_out(restore)
        assert other.answers() == 6
        assert "champion" in other.carry_out("surety models list")
    finally:
        hidden.rename(machine.home)


def test_erasure_as_it_is_written_erases_each_person_of_the_list(machine: Machine) -> None:
    (commands,) = blocks("Erase a patient")
    (machine.folder / "subjects.txt").write_bytes("\ufeffanna \r\n\r\nbert\r\n".encode())
    machine.carry_out(commands)
    over = machine.type(commands.splitlines()[0])
    assert (over.returncode, [each["found"] for each in json.loads(over.stdout)["subjects"]]) == (3, [0, 0])
    assert machine.type("surety log verify").returncode == 0
    (machine.folder / "subjects.txt").write_text("carl\n")
    assert json.loads(machine.carry_out(commands.splitlines()[0]))["found"] == 2


def test_a_silent_monitor_as_it_is_written_speaks_again(machine: Machine) -> None:
    (commands,) = blocks("The monitor is dead")
    published = machine.home / "monitor" / f"{machine.place.model}.state.json"
    assert not published.exists()
    machine.carry_out(commands)
    assert json.loads(published.read_text())["models"]
