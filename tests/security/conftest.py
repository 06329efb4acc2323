"""Each of the two deployables with its processes watched, on a home of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.workplace import Workplace
from tests.security.served import Watched, watched


@pytest.fixture(scope="module")
def home(example: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's home without what it has answered elsewhere."""
    return example.copied_home(tmp_path_factory.mktemp("secured") / "home")


@pytest.fixture(scope="module", params=["Surety", "SuretyIsolated"])
def server(
    request: pytest.FixtureRequest, example: Workplace, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """A running server of each kind."""
    with watched(example, request.param, tmp_path_factory.mktemp("audit"), SURETY_HOME=str(home)) as running:
        yield running
