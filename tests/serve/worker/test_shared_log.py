"""An answer that one machine gave is found, audited and erased on another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.lab.past_answers.audit import audit
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.prediction_store import ShippingCounts
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.worker.worker import Worker
from tests.homes import bento_store
from tests.postgres import Server, server
from tests.serve.answering.builders import toy_records
from tests.serve.answering.stored import Home
from tests.waiting import soon


@pytest.fixture(scope="module")
def database_server() -> Iterator[Server]:
    with server() as found:
        yield found


@pytest.fixture
def homes(database_server: Server, tmp_path: Path) -> Iterator[tuple[Home, Home]]:
    """One service as two machines have it, with keys from outside."""
    keys = {f"{name}_key_file": tmp_path / f"{name}.key" for name in ("log", "subject")}
    for n, path in enumerate(keys.values()):
        path.write_text(f"{n}5" * 32)
    url = database_server.new_database()
    with bento_store(tmp_path / "bento"):
        here, there = (Home(tmp_path / name, database=url, machine=name, **keys) for name in ("a", "b"))
        here.promote(here.v1)
        yield here, there
    for home in (here, there):
        open_home(home.settings).close()


def waiting(worker: Worker) -> ShippingCounts:
    counts = worker.log.counts
    assert counts.shipping is not None
    assert not counts.shipping.problem, counts.shipping.problem
    return counts.shipping


def test_an_answer_of_one_machine_is_known_to_the_other(homes: tuple[Home, Home]) -> None:
    here, there = homes
    worker = Worker(here.settings, ModelLoader(here.settings), bento=None, index=1)
    try:
        answer = worker.predict({"features": toy_records(1)[0], "subject": "anna", "client_request_id": "visit-1"})
        soon(lambda: worker.log.counts.stored == 1 and waiting(worker).shipped == 1)
        log = PredictionLog.of(there.settings)
        assert log.find(answer["request_id"]) is not None
        assert list(log.first_of_clients(["visit-1"])) == ["visit-1"]
        found = audit(there.settings, answer["request_id"])
        assert found is not None
        assert found.log_entry is not None
        assert (found.log_entry["digest_holds"], found.log_entry["chain_holds"]) == (True, True)
        assert "-w01-a-" in found.log_entry["file"]
    finally:
        worker.stop()
    assert not list(here.settings.log.glob("predictions-*"))  # everything was shipped
