"""What tests of commands share: somebody who types them, a ward that is watched, a home whose v1 is live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.typing_surety import Told, command_line
from tests.lab.watching.ward import Ward
from tests.serve.answering.stored import Home, Worker


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Told]]:
    """Types a command and gives back what was printed, in a home and a Bento store of its own."""
    with command_line(tmp_path, monkeypatch, capsys) as typed:
        yield typed


@pytest.fixture
def ward(tmp_path: Path, run: Callable[..., Told]) -> Iterator[Ward]:
    """A place with a live model, its log, its labels and a monitor."""
    ward = Ward(tmp_path)
    yield ward
    ward.close()


@pytest.fixture
def empty(tmp_path: Path, run: Callable[..., Told]) -> Home:
    """A home with models, of which none is live."""
    return Home(tmp_path / "home")


@pytest.fixture
def home(empty: Home) -> Home:
    """A home whose v1 is live."""
    empty.promote(empty.v1)
    Worker(empty)
    empty.watch()
    return empty
