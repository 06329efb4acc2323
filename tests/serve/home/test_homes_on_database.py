"""What only a home on a database promises: all or nothing, order by one clock, a fence, and life without the database."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.base.errors import HomeUnreachable, RolloutConflict, SeatLost
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import Home, open_home
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.rollout_store import RolloutStore
from tests.oracles import ROOT, cluster_packages
from tests.postgres import Server, server
from tests.waiting import soon

MODEL = "toy"
V1, V2 = "toy:v1-0a1b2c3d", "toy:v2-0a1b2c3d"


@pytest.fixture
def machines(database_server: Server, tmp_path: Path) -> Iterator[tuple[Settings, Settings]]:
    """The settings of two machines on one database."""
    url = database_server.new_database()
    found = (_settings(url, tmp_path, "a"), _settings(url, tmp_path, "b"))
    yield found
    for each in found:
        open_home(each).close()


def _settings(url: str, folder: Path, machine: str) -> Settings:
    return Settings(home=folder / machine, database=url, machine=machine, model_name=MODEL)


@pytest.fixture
def a(machines: tuple[Settings, Settings]) -> Home:
    return open_home(machines[0])


@pytest.fixture
def b(machines: tuple[Settings, Settings]) -> Home:
    return open_home(machines[1])


def write_and_fail(home: Home) -> None:
    home.documents.write("x.json", b"1")
    home.journal.append("changed", {})
    raise ZeroDivisionError


# --- all or nothing -----------------------------------------------------------------------------------------------


def test_what_is_written_under_a_lock_comes_true_together_or_not_at_all(a: Home, b: Home) -> None:
    with pytest.raises(ZeroDivisionError), a.documents.locked("x.lock"):
        write_and_fail(a)
    assert b.documents.read("x.json") is None
    assert b.journal.entries() == []
    with a.documents.locked("x.lock"):
        a.documents.write("x.json", b"1")
        a.journal.append("changed", {})
        assert b.documents.read("x.json") is None
    assert b.documents.read("x.json") == b"1"
    assert len(b.journal.entries()) == 1


def test_what_is_written_together_is_kept_together(a: Home, b: Home) -> None:
    with pytest.raises(ZeroDivisionError), a.together():
        write_and_fail(a)
    assert (b.documents.read("x.json"), b.journal.entries()) == (None, [])


@pytest.mark.parametrize(
    "statement",
    ["UPDATE journal SET entry = '{}'", "DELETE FROM journal", "TRUNCATE journal", "DELETE FROM journal WHERE false"],
)
def test_the_journal_refuses_every_change_of_what_is_in_it(a: Home, statement: str) -> None:
    from psycopg.errors import RaiseException

    a.journal.append("decided", {"x": 1})
    assert a.database is not None
    with pytest.raises(RaiseException, match="only ever appended"), a.database.transaction() as connection:
        connection.execute(statement)
    assert [entry["x"] for entry in a.journal.entries()] == [1]


def test_entries_of_many_at_once_are_all_there_each_process_in_its_order(a: Home, b: Home) -> None:
    def decide(home: Home) -> None:
        for n in range(10):
            home.journal.append("decided", {"home": home.machine, "n": n})

    threads = [threading.Thread(target=decide, args=(home,)) for home in (a, b)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(entry["home"], entry["n"], entry["at"]) for entry in a.journal.entries()]
    for machine in ("a", "b"):
        of_one = [(n, at) for name, n, at in found if name == machine]
        assert [n for n, _ in of_one] == list(range(10))
        assert of_one == sorted(of_one)


def test_an_entry_of_a_long_transaction_keeps_nobody_waiting(a: Home, b: Home) -> None:
    with a.together():
        a.journal.append("begun", {})
        b.journal.append("meanwhile", {})
    assert sorted(entry["event"] for entry in b.journal.entries()) == ["begun", "meanwhile"]


# --- operators ----------------------------------------------------------------------------------------------------


def test_of_two_operators_one_wins_and_the_other_is_told(machines: tuple[Settings, Settings]) -> None:
    mine, theirs = map(RolloutStore, machines)
    mine.begin(V1, "", why="start")
    for _ in range(10):
        seen = mine.read()
        assert seen is not None
        change = changes.rollback() if seen.mode == "shadow" else changes.shadow(V2)
        told: list[str] = []

        def decide(store: RolloutStore, change: changes.Change = change, n: int = seen.generation) -> None:
            try:
                store.change(change, why="race", expected=n)
                told.append("won")  # noqa: B023 - the threads end within the turn
            except RolloutConflict:
                told.append("told")  # noqa: B023

        threads = [threading.Thread(target=decide, args=(store,)) for store in (mine, theirs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(told) == ["told", "won"]
    entries = [e for e in open_home(machines[0]).journal.entries() if e["event"] == "rollout.changed"]
    assert [e["generation"] for e in entries] == list(range(1, 12))


def test_a_hundred_changes_are_seen_on_the_other_machine(machines: tuple[Settings, Settings]) -> None:
    mine, theirs = map(RolloutStore, machines)
    mine.begin(V1, "", why="start")
    for n in range(100):
        _, after = mine.change(changes.rollback() if n % 2 else changes.shadow(V2), why="again")
        soon(lambda after=after: theirs.glimpse() == after)  # type: ignore[misc]
    assert theirs.silence_s < 60


# --- the seat -----------------------------------------------------------------------------------------------------


def test_a_holder_that_has_not_noticed_writes_nothing_any_more(a: Home, b: Home) -> None:
    first, second = a.seat("monitor/toy"), b.seat("monitor/toy")
    assert first.take()
    end_connections_of_seats(b)
    soon(second.take)
    with first.acting(), pytest.raises(SeatLost):
        a.documents.write("x.json", b"late")
    assert b.documents.read("x.json") is None
    with second.acting():
        b.documents.write("x.json", b"mine")
    assert not first.take()
    assert a.documents.read("x.json") == b"mine"
    second.leave()


def test_the_next_holder_waits_for_what_is_being_written(a: Home, b: Home) -> None:
    first, second = a.seat("monitor/toy"), b.seat("monitor/toy")
    assert first.take()
    taken: list[bool] = []
    with first.acting(), a.documents.locked("x.lock"):
        a.documents.write("x.json", b"1")
        end_connections_of_seats(b)
        taker = threading.Thread(target=lambda: soon(lambda: taken.append(second.take()) or taken[-1]))
        taker.start()
        soon(lambda: waits_for_a_lock(b))
        assert not any(taken)
    taker.join()
    assert taken[-1]
    assert b.documents.read("x.json") == b"1"
    second.leave()


def test_other_threads_write_while_one_acts(a: Home) -> None:
    seat = a.seat("monitor/toy")
    assert seat.take()
    with seat.acting():
        seat.leave()
        writer = threading.Thread(target=a.documents.write, args=("x.json", b"1"))
        writer.start()
        writer.join()
    assert a.documents.read("x.json") == b"1"


def end_connections_of_seats(home: Home) -> None:
    """As the database does when it notices that a machine has gone."""
    assert home.database is not None
    with home.database.transaction() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database d ON d.oid = database "
            "WHERE locktype = 'advisory' AND datname = current_database() AND pid != pg_backend_pid() AND granted "
            "AND virtualtransaction NOT IN (SELECT virtualtransaction FROM pg_locks WHERE mode = 'RowShareLock')"
        )


def waits_for_a_lock(home: Home) -> bool:
    assert home.database is not None
    with home.database.transaction() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return row is not None and row[0] > 0


# --- reports and clocks -------------------------------------------------------------------------------------------


def test_ages_are_by_the_clock_of_the_database(a: Home, b: Home) -> None:
    a.heartbeats(MODEL).beat("a-1", b"1", last=True)
    b.heartbeats(MODEL).beat("b-1", b"2", last=True)
    ages = {report.content: report.age_s for report in b.heartbeats(MODEL).reports()}
    assert ages[b"2"] is None  # its own clock stands in it
    age = ages[b"1"]
    assert age is not None
    assert 0 <= age < 60
    a.documents.write("x.json", b"1")
    seen = b.documents.glimpse("x.json")
    assert seen.age_s is not None
    assert 0 <= seen.age_s < 60


# --- the database is away -----------------------------------------------------------------------------------------


def test_what_is_known_stays_known_while_the_database_is_away_and_is_followed_when_it_is_back(tmp_path: Path) -> None:
    with server(durable=True) as own:
        url = own.new_database()
        here, there = _settings(url, tmp_path, "here"), _settings(url, tmp_path, "there")
        home, mine, theirs = open_home(here), RolloutStore(here), RolloutStore(there)
        theirs.begin(V1, "", why="start")
        first = mine.glimpse()
        assert first is not None
        reports = home.heartbeats(MODEL)
        open_home(there).heartbeats(MODEL).beat("there-1", b"there", last=True)
        assert [r.content for r in reports.reports()] == [b"there"]

        own.stop("immediate")
        soon(lambda: mine.glimpse() == first and mine.silence_s > 0.9)
        assert home.documents.glimpse("unknown.json").seen_s == math.inf
        with pytest.raises(HomeUnreachable):
            theirs.change(changes.shadow(V2), why="while it is away")
        reports.beat("here-1", b"old")
        reports.beat("here-1", b"new")
        soon(lambda: sorted(r.content for r in reports.reports()) == [b"new", b"there"])
        assert [r.content for r in reports.local_reports()] == [b"new"]

        own.start()
        soon(lambda: home.documents.glimpse("unknown.json").seen_s < 0.9)
        _, after = theirs.change(changes.shadow(V2), why="back")
        soon(lambda: mine.glimpse() == after)
        soon(lambda: b"new" in [r.content for r in open_home(there).heartbeats(MODEL).reports()])
        for each in (here, there):
            open_home(each).close()


def test_a_process_that_starts_while_the_database_is_away_finds_it_later(tmp_path: Path) -> None:
    with server(durable=True) as own:
        url = own.new_database()
        RolloutStore(_settings(url, tmp_path, "there")).begin(V1, "", why="start")
        own.stop()
        mine = RolloutStore(_settings(url, tmp_path, "here"))
        assert mine.glimpse() is None
        assert mine.silence_s == math.inf
        own.start()
        soon(lambda: isinstance(mine.glimpse(), RolloutState))
        for machine in ("here", "there"):
            open_home(_settings(url, tmp_path, machine)).close()


# --- a home in a folder -------------------------------------------------------------------------------------------


def test_a_worker_of_a_home_in_a_folder_imports_nothing_of_a_database(tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "import ml_core.serve.worker.worker\n"
        "from ml_core.base.settings import load_settings\n"
        "from ml_core.serve.home.homes import open_home\n"
        "from ml_core.serve.rollout.rollout_store import RolloutStore\n"
        "home = open_home(load_settings())\n"
        "home.name(), home.seat('monitor/toy').take(), home.heartbeats('toy').reports(), home.journal.entries()\n"
        "RolloutStore(load_settings()).begin('toy:v1-0a1b2c3d', '', why='start')\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    environment = {"SURETY_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert "ml_core.serve.home.folder_home" in loaded
    databases = ("psycopg", "obstore", "ml_core.serve.home.database", "ml_core.serve.home.postgres")
    assert [name for name in loaded if name.startswith(databases)] == []


# --- a service begins while the database is away --------------------------------------------------------------------


def test_a_service_that_starts_while_the_database_is_away_goes_on_with_what_its_machine_knew(tmp_path: Path) -> None:
    with server(durable=True) as own:
        url = own.new_database()
        first = open_home(_settings(url, tmp_path, "a"))
        first.remember()
        first.documents.write("rollout/toy.json", b"1")
        first.documents.write("gates/x.signed.json", b"2")
        assert first.documents.read("gates/x.signed.json") == b"2"
        assert first.documents.glimpse("rollout/toy.json").content == b"1"
        assert first.documents.read("promotions/toy.json") is None
        own.stop("immediate")
        first.close()
        code = (
            "import sys, math; from pathlib import Path; from ml_core.base.errors import HomeUnreachable\n"
            "from ml_core.base.settings import Settings; from ml_core.serve.home.homes import open_home\n"
            "home = open_home(Settings(home=Path(sys.argv[1]), database=sys.argv[2], machine='a'))\n"
            "try:\n    home.documents.read('rollout/toy.json'); sys.exit('a command must not read what it knew')\n"
            "except HomeUnreachable: home.remember()\n"
            "assert home.documents.read('rollout/toy.json') == b'1'\n"
            "assert home.documents.read('promotions/toy.json') is None\n"
            "assert home.documents.names('gates') == ['gates/x.signed.json']\n"
            "found = home.documents.glimpse('rollout/toy.json')\n"
            "assert (found.content, found.age_s, found.seen_s) == (b'1', math.inf, math.inf), found\n"
            "try:\n    home.documents.write('rollout/toy.json', b'3'); sys.exit('nothing can be written')\n"
            "except HomeUnreachable: print('as promised')\n"
        )
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(cluster_packages())])}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a"), url], capture_output=True, text=True, env=env
        )
        assert done.stdout.strip() == "as promised", done.stderr
