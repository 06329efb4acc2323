"""Rows of a spool come into the database exactly once, whatever is ended when, and answers do not wait for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.base.errors import LogUnavailable
from ml_core.serve.log.log_files import log_files
from tests.oracles import cluster_packages
from tests.postgres import Server, server
from tests.serve.log.builders import fill, ids_of, row_now, rows_now, settled, small_disk, store, until

cluster_packages()
from ml_core.serve.home.postgres import HomeDatabase, schema_of  # noqa: E402 - needs the packages
from tests.serve.log.shipped import (  # noqa: E402
    MODEL,
    check_shipped,
    shipped_files,
    shipped_ids,
    shipping_writer,
    until_shipped,
)


@pytest.fixture
def database(database_server: Server) -> Iterator[HomeDatabase]:
    found = HomeDatabase(database_server.new_database())
    yield found
    found.close()


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[Server]:
    """A server that may be ended: its commits reach the disk."""
    with server(durable=True) as found:
        yield found


def test_rows_are_shipped_once_and_leave_the_disk(tmp_path: Path, database: HomeDatabase) -> None:
    rows = rows_now(300)
    with shipping_writer(tmp_path, database) as writer:
        assert store(writer, rows) == rows
        until_shipped(writer)
        until(lambda: writer.spool is not None and writer.spool.kept <= 1, "the spool is emptied")
    assert shipped_ids(database) == [row.request_id for row in rows]
    assert log_files(tmp_path) == []
    ((name, last, is_whole),) = shipped_files(database)
    assert (last, is_whole) == (300, True)
    assert name.startswith("predictions-")
    assert "-w01-one-" in name
    check_shipped(database, tmp_path)


def test_a_writer_goes_on_in_the_spool_of_the_one_before_that_was_killed(
    tmp_path: Path, database: HomeDatabase
) -> None:
    place = database_url(database)
    first = killed_at(tmp_path, place, line=10**9, n=0, rows=40)
    assert len(first) == 40
    with shipping_writer(tmp_path, database) as writer:
        store(writer, rows_now(5, first=1_000))
        until_shipped(writer)
        assert len(log_files(tmp_path)) == 1
    assert len(shipped_files(database)) == 1
    assert len(shipped_ids(database)) == 45
    check_shipped(database, tmp_path)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_killed_before_any_line_of_what_ships_nothing_is_lost_or_doubled(
    tmp_path: Path, database: HomeDatabase, first: int
) -> None:
    """The lines of two rounds, a third of them in each case; each worker goes on where the one before was killed."""
    place, acknowledged = database_url(database), set()
    for line in range(first, 54, 3):
        acknowledged |= killed_at(tmp_path, place, line=line, n=line, rows=12)
    with shipping_writer(tmp_path, database) as writer:
        until_shipped(writer)
    found = shipped_ids(database)
    assert len(found) == len(set(found))
    assert acknowledged <= set(found)
    assert log_files(tmp_path) == []
    check_shipped(database, tmp_path)


def test_two_workers_have_a_spool_each(tmp_path: Path, database: HomeDatabase) -> None:
    with shipping_writer(tmp_path, database) as one, shipping_writer(tmp_path, database) as other:
        first, second = rows_now(50), rows_now(50, first=100)
        store(one, first)
        store(other, second)
        until_shipped(one)
        until_shipped(other)
    assert set(shipped_ids(database)) == ids_of(first) | ids_of(second)
    assert [last for _, last, _ in shipped_files(database)] == [50, 50]


def test_while_the_database_is_away_answers_go_on_and_are_shipped_once_it_is_back(
    tmp_path: Path, lasting_server: Server
) -> None:
    database = HomeDatabase(lasting_server.new_database())
    before, meanwhile = rows_now(20), rows_now(200, first=1_000)
    with shipping_writer(tmp_path, database) as writer:
        store(writer, before)
        until_shipped(writer)
        lasting_server.stop("immediate")
        try:
            assert store(writer, meanwhile) == meanwhile
            until(lambda: writer.counts.shipping.problem, "it is noticed")  # type: ignore[union-attr]
            counts = writer.counts
            assert counts.problem == ""
            assert counts.shipping is not None
            assert (counts.stored, counts.shipping.unshipped) == (220, 200)
            assert counts.shipping.at_risk >= 200
            assert counts.shipping.bytes > 0
        finally:
            lasting_server.start()
        until_shipped(writer)
    assert shipped_ids(database) == [row.request_id for row in [*before, *meanwhile]]
    check_shipped(database, tmp_path)
    database.close()


def test_strict_gives_an_answer_once_the_database_has_it_and_none_while_it_is_away(
    tmp_path: Path, lasting_server: Server
) -> None:
    database = HomeDatabase(lasting_server.new_database())
    rows = rows_now(10)
    with shipping_writer(tmp_path, database, strict=True) as writer:
        for n, row in enumerate(rows, start=1):
            assert store(writer, [row]) == [row]
            assert len(shipped_ids(database)) == n
        lasting_server.stop("immediate")
        try:
            refused = rows_now(3, first=500)
            assert [store(writer, [row]) for row in refused] == [[], [], []]
            with pytest.raises(LogUnavailable, match="HomeUnreachable"):
                asyncio.run(writer.store([row_now(600)]))
        finally:
            lasting_server.start()
        until(lambda: not writer.counts.shipping.problem, "it is noticed")  # type: ignore[union-attr]
        after = row_now(700)
        assert store(writer, [after]) == [after]
        counts = writer.counts
        assert counts.stored == 11
        assert counts.refused + counts.unanswered == 4
    found = shipped_ids(database)
    assert len(found) == len(set(found)) == 11 + counts.unanswered
    assert ids_of([*rows, after]) <= set(found) <= ids_of([*rows, *refused, after]) | set(found)
    database.close()


def test_a_database_that_is_slow_holds_up_no_answer(tmp_path: Path, database: HomeDatabase) -> None:
    with shipping_writer(tmp_path, database) as writer:
        store(writer, rows_now(5))
        until_shipped(writer)
        with database.transaction(schema_of(MODEL)) as connection:
            connection.execute("SELECT * FROM log_file FOR UPDATE")
            rows = rows_now(50, first=100)
            assert store(writer, rows) == rows
            assert writer.counts.shipping.unshipped == 50  # type: ignore[union-attr]
        until_shipped(writer)
    assert len(shipped_ids(database)) == 55


def test_a_full_spool_disk_is_emptied_once_the_database_is_back(tmp_path: Path, lasting_server: Server) -> None:
    database, folder = HomeDatabase(lasting_server.new_database()), tmp_path / "log"
    with small_disk(folder, "2m"), shipping_writer(folder, database) as writer:
        store(writer, rows_now(10))
        until_shipped(writer)
        lasting_server.stop("immediate")
        try:
            store(writer, rows_now(100, first=100))
            filler = fill(folder)
            assert len(store(writer, rows_now(50, first=1_000))) == 50  # answers are given all the same
            assert writer.counts.problem or writer.counts.pending
        finally:
            lasting_server.start()
        counts = settled(writer)  # what was shipped makes room, though the disk stays as full as it was
        assert counts.lost == 0
        until_shipped(writer)
        assert filler.exists()
    assert len(set(shipped_ids(database))) == 160
    database.close()


def test_a_spool_that_is_not_the_one_the_database_knows_is_left_and_its_rows_stored_anew(
    tmp_path: Path, database: HomeDatabase
) -> None:
    with shipping_writer(tmp_path, database) as writer:
        for row in rows_now(10):
            store(writer, [row])
        until_shipped(writer)
        with database.transaction(schema_of(MODEL)) as connection:  # put back to an older state
            connection.execute("DELETE FROM log_entry WHERE seq > 4")
            connection.execute("UPDATE log_file SET shipped = 4, head = (SELECT head FROM log_entry WHERE seq = 4)")
        more = rows_now(5, first=100)
        store(writer, more)
        until_shipped(writer)
        until(lambda: len(shipped_files(database)) == 2, "a new spool is begun")
        until_shipped(writer)
    found = shipped_ids(database)
    assert len(found) == len(set(found))
    assert ids_of(more) <= set(found)
    check_shipped(database, tmp_path)


def test_rows_of_a_day_that_was_sealed_meanwhile_go_into_the_spool_of_today(
    tmp_path: Path, database: HomeDatabase
) -> None:
    old = rows_now(6)
    killed = killed_at(tmp_path, database_url(database), line=1, n=0, rows=6, day_before=True)
    assert len(killed) == len(old)
    (file,) = log_files(tmp_path)
    with shipping_writer(tmp_path / "elsewhere", database) as writer:  # it makes the tables
        store(writer, [row_now(999)])
        until_shipped(writer)
    with database.transaction(schema_of(MODEL)) as connection:
        connection.execute("INSERT INTO log_day(day, is_sealed) VALUES(%s, true)", (file.day,))
    with shipping_writer(tmp_path, database) as writer:
        until(lambda: not file.path.exists(), "the old spool is gone")
        until_shipped(writer)
    assert killed < set(shipped_ids(database))
    assert len(shipped_ids(database)) == 7
    assert all(file.day not in name for name, last, _ in shipped_files(database) if last)


def database_url(database: HomeDatabase) -> str:
    return database._address


def killed_at(folder: Path, url: str, *, line: int, n: int, rows: int = 30, day_before: bool = False) -> set[bytes]:
    """Ids of the rows that a worker has answered for that is killed before that line of what ships them."""
    arguments = [folder, url, line, n, rows, int(day_before)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.serve.log.killed_shipping", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode in {0, -9}, done.stderr
    return {bytes.fromhex(text) for text in done.stdout.split()}


def test_a_worker_that_follows_one_whose_rows_all_arrived_says_that_nothing_waits(
    tmp_path: Path, database: HomeDatabase
) -> None:
    place = database_url(database)
    acknowledged = killed_at(tmp_path, place, line=10**5, n=0, rows=10)  # so many lines there are not: all arrives
    assert set(shipped_ids(database)) == acknowledged
    assert len(log_files(tmp_path)) == 1, "the last row stays, for the chain"
    with shipping_writer(tmp_path, database) as writer:
        until(lambda: writer.spool is not None, "to go on in that spool")
        until_shipped(writer)
