"""What tests of several rooms share: the example, walked once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.e2e.conftest import walk, written_config
from tests.e2e.workplace import Workplace
from tests.long_tests import is_long

TESTS = Path(__file__).parent
settings.register_profile("surety", settings(), deadline=None)  # no test judges how fast the machine is
settings.load_profile("surety")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make quick` leaves out."""
    for item in items:
        if item.path.is_relative_to(TESTS) and is_long(str(item.path.relative_to(TESTS)), item.name):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The synthetic example, promoted and imported."""
    place = Workplace(tmp_path_factory.mktemp("example"), "readmission_risk")
    place.surety("data", "make", "--out", "data/cohort.parquet", "--rows", "12000")
    walk(place, written_config(place, "readmission_v1.yaml"))
    return place
