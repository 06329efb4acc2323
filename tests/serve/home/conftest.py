"""One database server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import Server, server


@pytest.fixture(scope="session")
def database_server() -> Iterator[Server]:
    with server() as found:
        yield found
