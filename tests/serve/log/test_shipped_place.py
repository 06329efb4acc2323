"""The log in a database reads as the files do that were shipped to it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ml_core.serve.log.log_files import log_files
from ml_core.serve.log.reader import PredictionLog
from tests.oracles import cluster_packages
from tests.postgres import Server
from tests.serve.log.log_model import check_reading, commits, played

cluster_packages()
from ml_core.serve.home.postgres import HomeDatabase, schema_of  # noqa: E402 - needs the packages
from ml_core.serve.log.shipped_place import ShippedPlace  # noqa: E402
from ml_core.serve.log.shipped_spools import ShippedSpools  # noqa: E402

_NUMBERS = count(1)


@pytest.fixture(scope="module")
def database(database_server: Server) -> Iterator[HomeDatabase]:
    found = HomeDatabase(database_server.new_database())
    yield found
    found.close()


@settings(deadline=None, max_examples=12, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(script=commits(), erased=st.booleans(), data=st.data())
def test_the_log_in_a_database_reads_like_a_plain_list(
    tmp_path_factory: pytest.TempPathFactory, database: HomeDatabase, script: Any, erased: bool, data: st.DataObject
) -> None:
    folder, name = tmp_path_factory.mktemp("log"), f"toy{next(_NUMBERS)}"
    model = played(folder, script)
    if erased:
        model.erase()
    model.close()
    spools = ShippedSpools(database, schema_of(name))
    for file in log_files(folder):
        assert spools.take_file(file) == spools.take_file(file)  # taken in again, it changes nothing
    spools.close()
    check_reading(PredictionLog(ShippedPlace(database, name, folder)), model, data)
