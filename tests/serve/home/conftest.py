"""One database server and one object store for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.object_server import Bucketeer, object_server
from tests.postgres import Server, server


@pytest.fixture(scope="session")
def database_server() -> Iterator[Server]:
    with server() as found:
        yield found


@pytest.fixture(scope="session")
def bucketeer() -> Iterator[Bucketeer]:
    with object_server() as found:
        yield found
