"""The runbook's procedure for a full disk, carried out as it is written, on a disk that is really full."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ml_core.base.journal import Journal
from ml_core.base.reserve import keep_reserve
from ml_core.serve.rollout import changes
from tests.serve.answering.stored import Home, Worker
from tests.serve.log import filled
from tests.serve.log.builders import fill, small_disk

ROOT = Path(__file__).parents[2]
DAYS = ("2026-01-05", "2026-01-06")


def written() -> str:
    """The commands under "The disk is full"."""
    part = (ROOT / "docs" / "runbook.md").read_text().partition("### The disk is full")[2]
    found = re.search(r"```sh\n(.*?)```", part, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def home(tmp_path: Path):
    folder = tmp_path / "home"
    with small_disk(folder, "32m"):
        home = Home(folder)
        home.promote(home.v1)
        Worker(home)
        home.change(changes.full(home.v2))
        for day in DAYS:
            filled.fill(home.settings, [filled.row(n, day) for n in range(2_000)], day)
        for kept in ("shadow", "features/cache"):
            (folder / kept).mkdir(parents=True)
            (folder / kept / "old").write_bytes(b"\0" * (2 << 20))
        keep_reserve(folder)
        yield home


def free(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def test_the_procedure_frees_room_and_loses_nothing_that_was_kept(home: Home, tmp_path: Path) -> None:
    folder = home.settings.home
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "surety").write_text(f'#!/bin/sh\nexec {sys.executable} -m ml_core.cli.main "$@"\n')
    (bin_folder / "surety").chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "SURETY_HOME": str(folder),
        "SURETY_MODEL_NAME": home.settings.model_name, "BENTOML_HOME": str(tmp_path / "bento"),
    }  # fmt: skip
    fill(folder)
    assert free(folder) == 0

    def shell(commands: str, status: int = 0) -> str:
        done = subprocess.run(
            ["sh", "-e", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    shell('surety rollout breaker open --why "emergency"')
    assert home.store.read().circuits["champion"].mode == "forced_open"
    shell(written())
    assert free(folder) > 4 << 20
    assert not list(home.settings.log.glob("*.db"))  # both days are older than the log is kept
    events = [entry["event"] for entry in Journal(home.settings.journal).entries()]
    assert "rollout.changed" in events
    shell("surety log verify", status=4)  # nothing is left to verify, and nothing is missing
