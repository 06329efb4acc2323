"""Typing `surety` commands in a home of the test's own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.journal import Journal
from ml_core.cli.main import main
from ml_core.serve.rollout.worker_reports import write_worker_report
from tests.folder_files import heartbeats, rollout_file
from tests.homes import bento_store
from tests.serve.answering.builders import worker_report
from tests.serve.answering.stored import Home
from tests.toy_models import NAME


class Told:
    """What a command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def result(self) -> Any:
        return json.loads(self.out)


@contextmanager
def command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Told]]:
    """A function that types a command."""
    monkeypatch.setenv("SURETY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SURETY_MODEL_NAME", NAME)
    monkeypatch.chdir(tmp_path)

    def typed(*arguments: str) -> Told:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        said = capsys.readouterr()
        return Told(int(caught.value.code or 0), said.out, said.err)

    with bento_store(tmp_path / "bento"):
        yield typed


def report(home: Home, **facts: Any) -> None:
    """A worker that is alive says what it has done."""
    write_worker_report(heartbeats(home.settings), worker_report(1, time.monotonic(), **facts))


def everything(home: Home) -> tuple[bytes, bytes]:
    """The rollout state and the journal, byte by byte."""
    return rollout_file(home.settings).read_bytes(), home.settings.journal.read_bytes()


def last_entry(home: Home) -> dict[str, Any]:
    """The latest decision."""
    return Journal(home.settings.journal).entries()[-1]
