"""What tests of several rooms share: the example, a database server and an object store, each made once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import settings

from ml_core.serve.home import folder_home, homes
from ml_core.serve.home.stores import DOCUMENT_PLACES
from tests import chance
from tests.e2e.conftest import walk, written_config
from tests.e2e.workplace import Workplace
from tests.long_tests import is_long
from tests.object_server import Bucketeer, object_server
from tests.postgres import Server, server

TESTS = Path(__file__).parent
# no test judges how fast the machine is; the examples are the same in every run, and others with this profile's name
settings.register_profile("surety", settings(), deadline=None, derandomize=True)
settings.register_profile("explore", settings(), deadline=None)
settings.load_profile("surety")
chance.fix()


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "other keys, salts and ids than those of every run, and other draws in statistical tests; any text"
    parser.addoption("--chance", default=chance.USUAL, help=told)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Iterator[Any]:
    """What a fixture draws hangs on its own name and on whom it is for."""
    chance.begin(request.config.getoption("chance"), f"{request.node.nodeid}::{fixturedef.argname}")
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """What a test draws hangs on its own name."""
    chance.begin(item.config.getoption("chance"), item.nodeid)
    return (yield)


@pytest.fixture(scope="module")
def seeds(request: pytest.FixtureRequest) -> Iterator[None]:
    """The draws of a statistical test, others with ``--chance N``."""
    with chance.other_seeds(request.config.getoption("chance")):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make quick` leaves out."""
    for item in items:
        if item.path.is_relative_to(TESTS) and is_long(str(item.path.relative_to(TESTS)), item.name):
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def listed_documents(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever writes a document of a home writes it where ``surety home copy`` finds it; tests of the home itself may not."""
    if (TESTS / "serve" / "home") in request.path.parents:
        return
    whole = folder_home.FolderDocuments.write

    def write(self: folder_home.FolderDocuments, name: str, content: bytes, *, durable: bool = True) -> None:
        is_of_home = self._mode == folder_home._MODE  # otherwise a file of keys that somebody named
        assert not is_of_home or any(PurePosixPath(name).match(place) for place in DOCUMENT_PLACES), name
        whole(self, name, content, durable=durable)

    monkeypatch.setattr(folder_home.FolderDocuments, "write", write)


@pytest.fixture(scope="session")
def database_server() -> Iterator[Server]:
    """One server for all tests that need no other."""
    with server() as found:
        yield found


@pytest.fixture(scope="session")
def one_database(database_server: Server) -> str:
    return database_server.new_database()


@pytest.fixture
def database_url(database_server: Server, one_database: str) -> Iterator[str]:
    """Address of a database that holds nothing yet; homes that were opened on it are closed after the test."""
    yield one_database
    for place, home in list(homes._opened.items()):
        if one_database in place:
            home.close()
            del homes._opened[place]
    database_server.empty(one_database)


@pytest.fixture(params=["folder", "database"])
def either_url(request: pytest.FixtureRequest) -> str:
    """What ``SURETY_DATABASE`` says of a home on each engine: nothing, or the address of an empty database."""
    return "" if request.param == "folder" else str(request.getfixturevalue("database_url"))


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The synthetic example, promoted and imported."""
    place = Workplace(tmp_path_factory.mktemp("example"), "readmission_risk")
    place.surety("data", "make", "--out", "data/cohort.parquet", "--rows", "12000")
    walk(place, written_config(place, "readmission_v1.yaml"))
    return place


@pytest.fixture(scope="session")
def bucketeer() -> Iterator[Bucketeer]:
    """An S3 server; each test takes a bucket of its own."""
    with object_server() as found:
        yield found
