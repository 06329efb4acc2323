"""A canary of a service on many machines: judged on what all of them have counted, and taken back everywhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.base.errors import SeatLost
from ml_core.base.settings import Settings
from ml_core.lab.watching.canary_monitor import Monitor
from ml_core.serve.home.homes import open_home
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_state import GuardLimits
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import read_reports, write_worker_report
from tests.postgres import server
from tests.serve.answering.builders import slot_report, worker_report
from tests.waiting import soon

V1, V2 = "risk:v1-0a1b2c3d", "risk:v2-0a1b2c3d"


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, Settings]]:
    with server() as own:
        url = own.new_database()
        found = {
            name: Settings(home=tmp_path / name, database=url, machine=name, model_name="risk")
            for name in ("a", "b", "c")
        }
        RolloutStore(found["a"]).begin(V1, "", why="start")
        RolloutStore(found["a"]).change(changes.canary(V2, 0.1, GuardLimits(set_size=1.5)), why="try")
        yield found
        for each in found.values():
            open_home(each).close()


def count(settings: Settings, pid: int, *, failures: int, beat_s: float = 1e9) -> None:
    """A process of that machine reports 100 answers of the canary, by a clock that says nothing on another machine."""
    slots = [slot_report(answers=100, calls=100, failures=failures, set_sizes={"1": 100})]
    report = worker_report(pid, beat_s, *slots, stage=2, generation=2)
    write_worker_report(open_home(settings).heartbeats("risk"), report, last=True)


def test_a_canary_that_fails_on_one_machine_of_three_is_taken_back_on_all(machines: dict[str, Settings]) -> None:
    for pid, (name, settings) in enumerate(machines.items(), 1):
        beat_s = time.monotonic() if name == "c" else 1e9  # the monitor runs on c
        count(settings, pid, failures=60 if name == "b" else 0, beat_s=beat_s)
    stores = {name: RolloutStore(settings) for name, settings in machines.items()}
    assert all(store.glimpse() is not None for store in stores.values())
    seat = open_home(machines["c"]).seat("monitor/risk")
    assert seat.take()
    with seat.acting():
        look = Monitor(machines["c"]).look()
    assert look.challenger is not None
    assert (look.challenger.answers, look.challenger.failures) == (300, 60)
    assert look.alive == 3
    assert "guard error_share" in look.rolled_back
    for store in stores.values():
        soon(lambda store=store: (state := store.glimpse()) is not None and state.mode == "off")  # type: ignore[misc]
    assert len(read_reports(open_home(machines["a"]).heartbeats("risk"))) == 3
    seat.leave()


def test_a_monitor_whose_place_was_taken_takes_nothing_back(machines: dict[str, Settings]) -> None:
    count(machines["b"], 1, failures=90)
    first, second = (open_home(machines[name]).seat("monitor/risk") for name in ("a", "b"))
    assert first.take()
    home = open_home(machines["a"])
    assert home.database is not None
    with home.database.transaction() as connection:  # as the next holder does it
        connection.execute("UPDATE seat SET epoch = epoch + 1")
    monitor = Monitor(machines["a"])
    with first.acting(), pytest.raises(SeatLost):
        monitor.look()
    assert second.take()
    with second.acting():
        assert Monitor(machines["b"]).look().rolled_back
    changed = [e for e in home.journal.entries() if e["event"] == "rollout.changed"]
    assert [e["who"] for e in changed].count("monitor") == 1
    second.leave()
