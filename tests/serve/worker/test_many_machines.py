"""Workers of several machines with one database: all obey, each tells of all, and one that is cut off is careful."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.serve.home.homes import open_home
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.worker_reports import clear_lost, read_reports
from ml_core.serve.worker.startup import take_up_promotion
from ml_core.serve.worker.status import ServiceStatus
from tests.homes import bento_store
from tests.postgres import Server, server
from tests.serve.answering.builders import ask
from tests.serve.answering.stored import Home, Worker
from tests.waiting import soon


@pytest.fixture(scope="module")
def database_server() -> Iterator[Server]:
    with server(durable=True) as found:
        yield found


@pytest.fixture
def homes(database_server: Server, tmp_path: Path) -> Iterator[tuple[Home, Home]]:
    """One service as two machines have it, each with the models in its own store."""
    url = database_server.new_database()
    with bento_store(tmp_path / "bento"):
        found = tuple(Home(tmp_path / name, database=url, machine=name) for name in ("a", "b"))
        found[0].promote(found[0].v1)
        yield found  # type: ignore[misc]
    for home in found:
        open_home(home.settings).close()


def worker_of(home: Home) -> Worker:
    found = Worker(home)
    found.follower._identity = found.follower._identity.__class__(
        f"server-{home.settings.machine}", "api", 1, 1_001, "t", home.settings.machine
    )
    return found


def status_of(worker: Worker, home: Home) -> dict:
    return ServiceStatus(home.settings, worker.service, worker.follower).report()


def test_a_change_on_one_machine_is_obeyed_on_the_other(homes: tuple[Home, Home]) -> None:
    here, there = homes
    first, second = worker_of(here), worker_of(there)
    assert second.tags() == {"champion": here.v1}
    after = here.change(changes.full(here.v2))
    soon(lambda: second.look().live.generation == after.generation)
    assert second.tags() == {"champion": here.v2, "previous": here.v1}
    assert first.look().problem == ""


def test_every_answer_says_which_machine_of_which_home_gave_it(homes: tuple[Home, Home]) -> None:
    workers = [worker_of(home) for home in homes]
    served_by = [ask(worker.live).lineage.served_by for worker in workers]
    name = open_home(homes[0].settings).name()
    assert name
    told = [worker.service.responder.served_by["home"] for worker in workers]
    assert told == [name, name]
    assert all(set(each) == {"home", "machine"} for each in served_by)


def test_each_machine_tells_of_all(homes: tuple[Home, Home]) -> None:
    here, there = homes
    first, second = worker_of(here), worker_of(there)
    second.look()

    def both() -> bool:
        first.look()
        return [m["machine"] for m in status_of(first, here)["home"]["machines"]] == ["a", "b"]

    soon(both)
    told = status_of(first, here)
    assert [p["pid"] for p in told["workers"]["processes"]] == [1_001]  # of this server
    assert [m["alive"] for m in told["home"]["machines"]] == [1, 1]
    assert (told["home"]["machine"], told["home"]["silence_s"] < 60) == ("a", True)


def test_a_machine_that_is_cut_off_gives_a_canarys_share_to_the_champion_until_it_is_back(
    homes: tuple[Home, Home], database_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = homes
    worker = worker_of(there)
    here.change(changes.canary(here.v2, 0.5, None))
    soon(lambda: worker.look().live.mode == "canary")
    assert not worker.live.is_held
    monkeypatch.setattr("ml_core.serve.worker.rollout_follower.HOME_SILENCE_S", 1.0)
    monkeypatch.setattr("ml_core.serve.worker.rollout_follower._SAY_HOME_AWAY_S", 0.5)
    database_server.stop("immediate")
    try:
        soon(lambda: worker.look().live.is_held)
        assert worker.problem == ""
        told = status_of(worker, there)
        assert told["rollout"]["canary_held"]
        assert told["home"]["silence_s"] > 0.9
        assert any("the home has not been reached" in note for note in told["notes"])
        assert any("the home cannot be reached: the champion answers" in note for note in told["notes"])
        assert [p["pid"] for p in told["workers"]["processes"]] == [1_001]
    finally:
        database_server.start()
    soon(lambda: not worker.look().live.is_held)
    after = here.change(changes.rollback())
    soon(lambda: worker.look().live.generation == after.generation)


def test_a_worker_that_starts_while_the_database_is_away_answers_once_it_is_back(
    homes: tuple[Home, Home], database_server: Server
) -> None:
    here, there = homes
    worker_of(here)
    open_home(there.settings).close()
    cut_off = there.settings.model_copy(update={"machine": "c"})  # a process that has never reached it
    database_server.stop("immediate")
    try:
        worker = Worker(there, settings=cut_off)
        assert worker.service.live is None
        assert "cannot be reached" in worker.problem
    finally:
        database_server.start()
    soon(lambda: worker.look(retry=True).service.live is not None)
    assert worker.tags() == {"champion": here.v1}
    open_home(cut_off).close()


def test_a_machine_that_starts_takes_up_a_promotion_only_where_no_other_serves(homes: tuple[Home, Home]) -> None:
    here, there = homes
    worker_of(here).look()
    here.promote(here.v2, "2026-02-02T00:00:00Z")
    loader = ModelLoader(there.settings)
    soon(lambda: len(read_reports(open_home(there.settings).heartbeats(there.settings.model_name))) == 1)
    take_up_promotion(there.settings, loader)
    assert there.store.read().champion == here.v1
    for report in read_reports(open_home(here.settings).heartbeats(here.settings.model_name)):
        clear_lost(open_home(there.settings).heartbeats(there.settings.model_name), [report], 0, report.beat_s + 90_000)
    take_up_promotion(there.settings, loader)
    assert there.store.read().champion == here.v2
