"""What tests of several rooms share: the example, walked once a session."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import walk, written_config
from tests.e2e.workplace import Workplace


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The synthetic example, promoted and imported."""
    place = Workplace(tmp_path_factory.mktemp("example"), "readmission_risk")
    place.surety("data", "make", "--out", "data/cohort.parquet", "--rows", "12000")
    walk(place, written_config(place, "readmission_v1.yaml"))
    return place
