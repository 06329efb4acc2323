"""One cluster for all tests of this folder: each breaks it in its own way, and leaves it well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.forms import LONG, SHORT, Form
from tests.cluster.running import Running, running


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def service(_cluster: Running) -> Iterator[Running]:
    """The running service, well before and after the test."""
    _cluster.get_well()
    yield _cluster
    _cluster.get_well()


@pytest.fixture(params=[SHORT, pytest.param(LONG, marks=pytest.mark.slow)], ids=lambda form: form.name)
def form(request: pytest.FixtureRequest) -> Form:
    """How long and how often the fault of the test lasts."""
    found: Form = request.param
    return found
