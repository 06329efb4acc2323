"""Labels of one service on many machines: what a plain list says, whoever writes and whatever goes away in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_core.base.errors import HomeTooNew, HomeUnreachable, LabelsNotStored, LogDamaged
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelCounts
from ml_core.serve.log.log_keys import LogKey
from tests.oracles import cluster_packages
from tests.postgres import Server
from tests.serve.log.labelled import NOW, Ledger, PlacedLabels, rid, store_in

cluster_packages()
import psycopg  # noqa: E402 - needs the packages

from ml_core.serve.home import postgres  # noqa: E402 - needs the packages
from ml_core.serve.home.postgres import SHARED, schema_of  # noqa: E402 - needs the packages

NOWHERE = "postgresql://surety:secret@127.0.0.1:9/home"
EMPTY = ("DELETE FROM label", "DELETE FROM label_chain", "ALTER TABLE label ALTER COLUMN seq RESTART")
labels = st.builds(AnswerLabel, st.integers(0, 4).map(rid), st.sampled_from([0, 1, "0", "a"]))


@pytest.fixture
def on(database_url: str, tmp_path: Path) -> Callable[..., PlacedLabels]:
    """The store as a machine of that name has it."""

    def opened(machine: str = "a", **options: object) -> PlacedLabels:
        return store_in(Settings(home=tmp_path / machine, database=database_url), **options)

    return opened


def everything(store: PlacedLabels) -> list[tuple[int, bytes, int | str, str]]:
    return [(s.seq, s.request_id, s.label, s.outcome) for s in store.since(0, 10_000)]


@given(st.lists(st.lists(labels, max_size=6), max_size=6), st.sets(st.integers(0, 4).map(rid)))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_store_says_what_a_plain_list_says_whichever_machine_is_asked(
    on: Callable[..., PlacedLabels], calls: list[list[AnswerLabel]], known: set[bytes]
) -> None:
    machines, plain = [on("a", known=known), on("b", known=known)], Ledger(known)
    with machines[0]._tables.writing() as connection:
        for statement in EMPTY:
            connection.execute(statement)
    for n, call in enumerate(calls):
        assert machines[n % 2].add(call, "x") == plain.add(call)
    assert everything(machines[0]) == [(i, *row) for i, row in enumerate(plain.rows, 1)]
    assert {i: label.label for i, label in machines[1].current([rid(n) for n in range(5)]).items()} == plain.holds
    assert sum(machines[1].counts().values()) == len(plain.rows)


def test_machines_that_write_at_once_count_each_label_once_and_a_reader_misses_none(
    on: Callable[..., PlacedLabels],
) -> None:
    key = LogKey(bytes(range(32)))
    known = set(map(rid, range(60)))
    counts: list[LabelCounts] = []
    seen: list[bytes] = []
    done = threading.Event()

    def write(machine: str) -> None:
        store = on(machine, known=known, busy_s=60.0, key=lambda: key)
        calls = ([AnswerLabel(rid(n), 1) for n in range(first, first + 6)] for first in range(0, 60, 6))
        counts.extend(store.add(call, machine) for call in calls)

    def read_on() -> None:
        store, last = on("reader"), 0
        while True:
            is_last = done.is_set()
            while more := store.since(last, 7):
                seen.extend(label.request_id for label in more)
                last = more[-1].seq
            if is_last:
                return

    reader = threading.Thread(target=read_on)
    writers = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert sum(counts, LabelCounts()) == LabelCounts(accepted=60, duplicate=120)
    assert sorted(seen) == sorted(known)


# --- what goes away ---------------------------------------------------------------------------------------------------


def test_a_database_that_goes_away_in_the_middle_keeps_nothing_half_and_is_used_again(
    on: Callable[..., PlacedLabels], database_url: str, database_server: Server
) -> None:
    store = on(known={rid(1)})
    store.add([AnswerLabel(rid(1), 1)], "http")

    def goes_away() -> object:  # the time is asked for within the transaction
        database_server.end_sessions(database_url)
        return NOW

    with pytest.raises(LabelsNotStored, match="none of these labels was stored"):
        on("b", clock=goes_away).add([AnswerLabel(rid(n), 0) for n in range(50)], "http")
    assert everything(store) == [(1, rid(1), 1, "accepted")]
    assert store.add([AnswerLabel(rid(2), 0)], "http").unknown == 1


def test_a_database_that_is_away_is_told_to_callers_without_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_WAIT_S", 0.2)
    store = store_in(Settings(home=tmp_path, database=NOWHERE))
    with pytest.raises(LabelsNotStored, match=r"label store of toy: .*safe") as refused:
        store.add([AnswerLabel(rid(1), 1)], "http")
    assert "127.0.0.1" not in str(refused.value)
    for ask in (lambda: store.current([rid(1)]), lambda: store.since(0, 1), store.counts):
        with pytest.raises(HomeUnreachable, match="database is away"):
            ask()


def test_tables_of_a_later_release_are_left_alone(
    on: Callable[..., PlacedLabels], tmp_path: Path, database_url: str
) -> None:
    store = on()
    store.add([AnswerLabel(rid(1), 1)], "http")
    home = open_home(Settings(home=tmp_path / "a", database=database_url))
    assert home.database is not None
    with home.database.transaction() as connection:
        connection.execute(f"UPDATE {SHARED}.format SET version = 99, oldest = 99")
    later = on("later")
    with pytest.raises(HomeTooNew, match="version 99"):
        later.counts()
    with pytest.raises(LabelsNotStored, match="version 99"):
        later.add([AnswerLabel(rid(2), 1)], "http")
    assert len(everything(store)) == 1
    home.close()


def test_tables_that_somebody_changed_by_hand_are_told(on: Callable[..., PlacedLabels], database_url: str) -> None:
    store = on()
    store.add([AnswerLabel(rid(1), 1)], "http")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'DROP TABLE "{schema_of("toy")}".label_chain, "{schema_of("toy")}".label')
    with pytest.raises(LogDamaged, match="label store of toy: cannot be read"):
        store.counts()


# --- what is erased ---------------------------------------------------------------------------------------------------


def test_erased_labels_leave_nothing_in_the_database(
    on: Callable[..., PlacedLabels], database_url: str, database_server: Server
) -> None:
    key = LogKey(bytes(range(32)))
    store = on(key=lambda: key)
    store.add([AnswerLabel(rid(n), n % 2) for n in range(300)], "http")
    store.add([AnswerLabel(rid(7), 0)], "office")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ANALYZE")
    gone = [rid(n) for n in range(0, 300, 7)]
    stored = database_server.stored(database_url)
    assert all(each in stored for each in gone)
    told: list[int] = []
    assert store.erase(gone, told.extend) == len(told) == len(gone) + 1
    store.sweep()
    stored = database_server.stored(database_url)
    assert not any(each in stored for each in gone)
    assert store.current(gone) == {}
    assert len(everything(store)) == 300 - len(gone)
    assert store.add([AnswerLabel(rid(0), 1)], "http").unknown == 1


def test_models_of_one_database_have_labels_of_their_own(
    on: Callable[..., PlacedLabels], tmp_path: Path, database_url: str
) -> None:
    store = on()
    store.add([AnswerLabel(rid(1), 1)], "http")
    place = Settings(home=tmp_path / "a", database=database_url)
    assert open_label_tables(place, "toy").is_made()
    assert not open_label_tables(place, "another").is_made()
