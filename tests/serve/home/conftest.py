"""A home on each engine, as several machines open it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from ml_core.serve.home.homes import Home, open_home

OpenOn = Callable[[str], Home]
"""The home as the machine of that name opens it."""


@pytest.fixture(params=["folder", "database"])
def on_machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenOn]:
    """Opens one home for several processes: on one machine, or on machines of their own."""
    opened: list[Home] = []
    url = request.getfixturevalue("database_server").new_database() if request.param == "database" else ""

    def open_on(machine: str) -> Home:
        folder = tmp_path / (machine if url else "home")
        opened.append(open_home(Settings(home=folder, database=url, machine=machine)))
        return opened[-1]

    yield open_on
    for home in opened:
        home.close()


@pytest.fixture
def home(on_machine: OpenOn) -> Home:
    return on_machine("a")


@pytest.fixture
def other(on_machine: OpenOn, home: Home) -> Home:
    """The same home as another process has it."""
    return on_machine("b")
