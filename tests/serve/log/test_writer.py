"""The writer stores every answer it lets out, or counts it; strict mode lets out none that is not stored."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ml_core.base.errors import LogUnavailable
from ml_core.base.settings import Settings
from ml_core.serve.log import writer as writer_module
from ml_core.serve.log.database import OpenLog, open_for_reading
from ml_core.serve.log.entries import Row
from ml_core.serve.log.log_files import LogFile, day_of, log_files
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.prediction_store import MOST_WAITING_ROWS
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.log.writer import LogWriter
from tests.serve.log.builders import (
    DAY,
    DAY_US,
    NOON_US,
    entries,
    failing,
    fill,
    held_up,
    ids_in,
    ids_of,
    row,
    row_now,
    rows_now,
    settled,
    small_disk,
    spoil,
    store,
    stored,
    until,
    wal_of,
    writing,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the log lies; not there yet."""
    return tmp_path / "home" / "log" / "toy"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers wait no longer than they do in earnest."""
    monkeypatch.setattr("ml_core.serve.log.writer.STANDARD_WAIT_S", 0.1)
    monkeypatch.setattr("ml_core.serve.log.writer.STRICT_WAIT_S", 0.2)


def the_file(folder: Path) -> LogFile:
    (file,) = log_files(folder)
    return file


# --- the account ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("each", [1, 7])
def test_rows_are_in_the_file_when_store_returns(folder: Path, strict: bool, each: int) -> None:
    with writing(folder, strict=strict) as writer:
        rows = rows_now(70)
        answered = store(writer, rows, each)
        assert answered == rows
        assert set(ids_in(folder)) == ids_of(rows)
        assert (writer.counts.stored, writer.counts.pending, writer.counts.problem) == (70, 0, "")


def test_an_empty_call_stores_nothing(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, [], 1)
        asyncio.run(writer.store([]))
        assert writer.counts.stored == 0
        assert store(writer, rows_now(1))


def test_a_bulk_call_counts_as_its_answers_and_takes_the_room_of_one_row(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, rows_now(1))
        with held_up(folder):
            bulk = row_now(1, kind=1, answers=100_000)
            assert store(writer, [bulk, *rows_now(50, first=2)])
            assert writer.counts.pending == 100_050
            assert writer.counts.lost == 0
        assert settled(writer).stored == 100_051


def test_many_tasks_of_several_event_loops_are_all_answered(folder: Path) -> None:
    n_loops, n_rows = 4, 250
    with writing(folder) as writer:
        answered: list[int] = []
        threads = [
            threading.Thread(target=lambda i=i: answered.append(len(store(writer, rows_now(n_rows, first=i * n_rows)))))
            for i in range(n_loops)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answered == [n_rows] * n_loops
        assert settled(writer).stored == n_loops * n_rows
    assert len(set(ids_in(folder))) == n_loops * n_rows


def test_a_row_whose_event_loop_has_ended_is_stored_all_the_same(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, rows_now(1))
        with held_up(folder):
            loop = asyncio.new_event_loop()
            task = loop.create_task(writer.store([row_now(1)]))
            loop.run_until_complete(asyncio.sleep(0))
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            loop.close()
        assert settled(writer).stored == 2


@pytest.mark.parametrize("strict", [False, True])
def test_rows_of_cancelled_callers_are_stored_and_counted(folder: Path, strict: bool) -> None:
    async def gone(writer: LogWriter) -> None:
        tasks = [asyncio.create_task(writer.store([row_now(i)])) for i in range(1, 51)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in found)

    with writing(folder, strict=strict) as writer:
        store(writer, rows_now(1))
        with held_up(folder):
            asyncio.run(gone(writer))
        counts = settled(writer)
        assert (counts.stored, counts.refused, counts.unanswered) == (51, 0, 0)
    assert len(ids_in(folder)) == 51


@pytest.mark.parametrize(("strict", "outcome"), [(False, "lost"), (True, "refused")])
def test_a_closed_writer_stores_nothing_and_says_so(folder: Path, strict: bool, outcome: str) -> None:
    with writing(folder, strict=strict) as writer:
        store(writer, rows_now(3))
        writer.close(1.0)
        writer.close(1.0)
        answered = store(writer, rows_now(4, first=3))
    assert len(answered) == (0 if strict else 4)
    assert (writer.counts.stored, getattr(writer.counts, outcome), writer.counts.pending) == (3, 4, 0)
    assert len(ids_in(folder)) == 3


@pytest.mark.parametrize("strict", [False, True])
def test_answers_whose_rows_cannot_be_brought_are_counted(folder: Path, strict: bool) -> None:
    with writing(folder, strict=strict) as writer:
        if strict:
            with pytest.raises(LogUnavailable, match="no room"):
                writer.missed(500, "no room")
        else:
            writer.missed(500, "no room")
        assert (writer.counts.lost, writer.counts.refused) == ((0, 500) if strict else (500, 0))


# --- the place fails (F7, F8) -----------------------------------------------------------------------------------------


class Place:
    """A log whose place can be broken and mended."""

    def __init__(self, folder: Path, break_: Callable[[], None], mend: Callable[[], None]) -> None:
        self.folder, self.break_, self.mend = folder, break_, mend


@pytest.fixture(params=["disk full", "locked"])
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    """Broken while the writer is at work."""
    if request.param == "disk full":
        with small_disk(folder, "2m"):
            yield Place(folder, lambda: fill(folder) and None, lambda: (folder / "filler").unlink())
        return
    lock = None

    def break_() -> None:
        nonlocal lock
        lock = held_up(folder)
        lock.__enter__()

    yield Place(folder, break_, lambda: lock.__exit__(None, None, None))  # type: ignore[union-attr]


def test_f7_f8_standard_mode_answers_while_the_place_fails_and_stores_later(place: Place) -> None:
    with writing(place.folder) as writer:
        before, during = rows_now(20), rows_now(300, first=20)
        store(writer, before)
        place.break_()
        assert store(writer, during, 3) == during
        failing(writer)
        counts = writer.counts
        assert counts.stored + counts.pending == 320
        assert counts.pending > 0
        place.mend()
        counts = settled(writer)
        assert (counts.stored, counts.lost, counts.refused) == (320, 0, 0)
        assert set(ids_in(place.folder)) == ids_of(before + during)


def test_f7_f8_strict_mode_refuses_while_the_place_fails_and_stores_nothing_it_refused(place: Place) -> None:
    with writing(place.folder, strict=True) as writer:
        before = store(writer, rows_now(20))
        place.break_()
        during = [r for i in range(5) for r in store(writer, rows_now(20, first=100 * (i + 1)))]
        problem = writer.counts.problem
        place.mend()
        settled(writer)
        after = store(writer, rows_now(20, first=900))
        counts = writer.counts
    assert problem
    assert len(after) == 20
    found = ids_in(place.folder)
    assert ids_of([*before, *during, *after]) <= set(found)
    assert counts.stored == len(before) + len(during) + len(after)
    assert counts.refused + counts.unanswered == 100 - len(during) > 0
    assert len(found) == counts.stored + counts.unanswered


def test_f8_strict_mode_recovers_without_anybody_asking(folder: Path) -> None:
    with writing(folder, strict=True) as writer:
        store(writer, rows_now(1))
        with held_up(folder):
            assert store(writer, rows_now(1, first=1)) == []
            assert writer.counts.problem
        assert settled(writer).refused == 1


def test_f8_strict_mode_gives_up_on_a_slow_store_and_counts_what_was_stored_after_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(OpenLog):
        def commit(self, *args, **kwargs) -> None:
            go_on.wait()
            super().commit(*args, **kwargs)

    go_on = threading.Event()
    with writing(folder, strict=True) as writer:
        go_on.set()
        assert store(writer, rows_now(1))
        assert writer._log is not None
        writer._log.__class__ = Slow
        go_on.clear()
        monkeypatch.setattr("ml_core.serve.log.writer.STRICT_WAIT_S", 0.2)
        assert store(writer, rows_now(5, first=1)) == []
        go_on.set()
        counts = settled(writer)
    # The first of them was with the store when its caller gave up; the others may have been behind it.
    assert counts.unanswered >= 1
    assert (counts.stored, counts.unanswered + counts.refused) == (1, 5)
    assert len(ids_in(folder)) == 1 + counts.unanswered


def test_f8_standard_mode_does_not_wait_again_and_again_for_a_store_that_hangs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync meets a disk that hangs first, and from then on the event loop leaves the commits to the thread."""
    hangs, go_on, commit = threading.Event(), threading.Event(), OpenLog.commit

    def hung_commit(log: OpenLog, rows: list[Row], **more: bool) -> None:
        if hangs.is_set():
            assert threading.current_thread() is not threading.main_thread()
            go_on.wait()
        commit(log, rows, **more)

    async def ask(writer: LogWriter) -> int:
        await writer.store([row_now(1)])  # waits, in vain
        task = asyncio.create_task(writer.store([row_now(2)]))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    monkeypatch.setattr(OpenLog, "sync_ahead", lambda _: go_on.wait())
    monkeypatch.setattr(OpenLog, "commit", hung_commit)
    with writing(folder) as writer:
        store(writer, rows_now(1))
        until(lambda: writer._is_syncing, "it syncs")
        hangs.set()
        monkeypatch.setattr("ml_core.serve.log.writer.STANDARD_WAIT_S", 0.1)
        turns = asyncio.run(ask(writer))
        assert writer.counts.problem
        go_on.set()
        assert settled(writer).stored == 3
    assert turns <= 3


@pytest.mark.usefixtures("impatient")
def test_f8_callers_who_come_as_fast_as_they_can_are_slowed_before_rows_are_lost(folder: Path) -> None:
    async def caller(writer: LogWriter, number: int, ended: threading.Event) -> int:
        n = 0
        while not ended.is_set():
            await writer.store([row_now(1_000_000 * (number + 1) + n)])
            n += 1
        return n

    async def callers(writer: LogWriter) -> int:
        ended = threading.Event()
        asyncio.get_running_loop().call_later(1.5, ended.set)
        return sum(await asyncio.gather(*(caller(writer, i, ended) for i in range(32))))

    with writing(folder) as writer:
        store(writer, rows_now(1))
        with held_up(folder):
            given = asyncio.run(callers(writer))
        counts = settled(writer)
    assert (counts.stored, counts.lost) == (given + 1, 0)
    assert given > MOST_WAITING_ROWS / 2


@pytest.mark.usefixtures("impatient")
def test_f8_the_queue_is_bounded_and_what_does_not_fit_is_counted(folder: Path) -> None:
    more = 1_500
    with writing(folder) as writer:
        store(writer, rows_now(1))
        with held_up(folder):
            rows = rows_now(MOST_WAITING_ROWS + more, first=1)
            assert len(store(writer, rows)) == len(rows)
            counts = writer.counts
            assert (counts.pending, counts.lost) == (MOST_WAITING_ROWS, more)
        counts = settled(writer)
        assert (counts.stored, counts.lost) == (1 + MOST_WAITING_ROWS, more)
    assert set(ids_in(folder)) == ids_of(rows[:-more]) | set(ids_in(folder)[:1])


def test_f8_answers_already_given_wait_on_when_strict_mode_begins(folder: Path) -> None:
    strict = False
    with writing(folder, strict=lambda: strict) as writer:
        store(writer, rows_now(1))
        with held_up(folder):
            given = store(writer, rows_now(30, first=1))
            failing(writer)
            strict = True
            assert store(writer, rows_now(30, first=100)) == []
        counts = settled(writer)
        assert (len(given), counts.stored, counts.lost, counts.refused) == (30, 31, 0, 30)


@pytest.mark.parametrize("strict", [False, True])
def test_f8_read_only_place_at_start_is_used_once_it_can_be_written(folder: Path, strict: bool) -> None:
    with small_disk(folder) as remounted:
        remounted("ro")
        with writing(folder, strict=strict) as writer:
            answered = store(writer, rows_now(25))
            failing(writer)
            remounted("rw")
            counts = settled(writer)
            answered += store(writer, rows_now(25, first=25))
        assert len(answered) == (25 if strict else 50)
        assert (counts.stored, counts.refused) == ((0, 25) if strict else (25, 0))
        assert set(ids_in(folder)) == ids_of(answered)


def test_f8_place_that_is_no_folder_is_used_once_it_can_be_one(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    with writing(folder) as writer:
        rows = rows_now(25)
        store(writer, rows)
        failing(writer)
        folder.unlink()
        assert settled(writer).stored == 25
    assert set(ids_in(folder)) == ids_of(rows)


@pytest.mark.usefixtures("impatient")
def test_close_stores_what_waits_when_the_place_is_back_in_time(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, rows_now(1))
        lock = held_up(folder)
        lock.__enter__()
        store(writer, rows_now(2_500, first=1))
        threading.Timer(0.5, lock.__exit__, (None, None, None)).start()
        writer.close(10.0)
    assert (writer.counts.stored, writer.counts.lost) == (2_501, 0)
    assert len(ids_in(folder)) == 2_501


@pytest.mark.usefixtures("impatient")
def test_close_counts_as_lost_what_cannot_be_stored_in_time(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, rows_now(1))
        with held_up(folder):
            store(writer, rows_now(2_500, first=1))
            writer.close(0.3)
            assert (writer.counts.stored, writer.counts.lost, writer.counts.pending) == (1, 2_500, 0)
    assert len(ids_in(folder)) == 1


def test_a_problem_is_said_once_and_its_end_too(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with writing(folder) as writer:
        store(writer, rows_now(1))
        with held_up(folder):
            for i in range(4):
                store(writer, rows_now(10, first=10 + 10 * i))
                failing(writer)
        settled(writer)
    assert [record.message for record in caplog.records] == ["log.not_stored", "log.recovered"]


# --- rows that cannot be stored ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"request_id": row_now(0).request_id}, id="id twice"),
        pytest.param({"subject": "Ann"}, id="wrong type"),
        pytest.param({"kind": "bulk"}, id="wrong type for SQLite alone"),
        pytest.param({"client_request_id": "\ud800"}, id="no text"),
        pytest.param({"batch_index": 1 << 70, "batch_id": b"x" * 16}, id="number too large"),
        pytest.param({"at_us": 1 << 62}, id="no date"),
        pytest.param({"answer": None}, id="no answer"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_row_that_cannot_be_stored_does_not_hold_up_the_others(folder: Path, bad: dict, strict: bool) -> None:
    with writing(folder, strict=strict) as writer:
        first = row_now(0, **({"request_id": bad["request_id"]} if "request_id" in bad else {}))
        store(writer, [first])
        rows = rows_now(20, first=1)
        answered = store(writer, [*rows[:10], row_now(99)._replace(**bad), *rows[10:]])
        counts = settled(writer)
        assert len(answered) == (20 if strict else 21)
        assert (counts.stored, counts.lost, counts.refused) == ((21, 0, 1) if strict else (21, 1, 0))
    assert set(ids_in(folder)) == ids_of([first, *rows])


def test_a_row_that_cannot_be_stored_among_rows_that_wait_for_the_place_is_the_only_one_lost(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, rows_now(1))
        with held_up(folder):
            rows = rows_now(20, first=1)
            store(writer, [*rows, row_now(99, subject=7)])
            failing(writer)
        counts = settled(writer)
        assert (counts.stored, counts.lost) == (21, 1)


# --- files that vanish or break while open (F8) -----------------------------------------------------------------------


def remove_database(file: LogFile) -> None:
    file.path.unlink()


def remove_wal(file: LogFile) -> None:
    wal_of(file).unlink()


def remove_both(file: LogFile) -> None:
    file.path.unlink()
    wal_of(file).unlink()


def remove_everything(file: LogFile) -> None:
    shutil.rmtree(file.folder.parent.parent)


def move_away(file: LogFile) -> None:
    file.folder.rename(file.folder.with_name("away"))


def replace_by_garbage(file: LogFile) -> None:
    beside = file.folder / "garbage"
    beside.write_bytes(b"no database at all" * 1000)
    beside.replace(file.path)


def replace_by_a_log(file: LogFile) -> None:
    other = OpenLog.of_day(file.folder / "other", file.day)
    other.commit([FOREIGN], durable=False)
    other.close()
    (file.folder / "other" / file.path.name).replace(file.path)


FOREIGN = row(999)
VANISHING = [
    remove_database, remove_wal, remove_both, remove_everything, move_away, replace_by_garbage, replace_by_a_log,
]  # fmt: skip


def whole(folder: Path, kind: Callable[[LogFile], None]) -> list[bytes]:
    """Ids in all files, without the rows of the one that was put in our place on purpose."""
    found: list[bytes] = []
    for file in log_files(folder):
        if kind is replace_by_garbage and file.path.read_bytes()[:11] == b"no database":
            continue
        found += [r["request_id"] for r in entries(file.path) if r["request_id"] != FOREIGN.request_id]
    return found


def all_there(folder: Path, kind: Callable[[LogFile], None], rows: list[Row]) -> bool:
    """The thread sees within a moment that the files have gone, and writes them again."""
    try:
        return sorted(whole(folder, kind)) == sorted(ids_of(rows))
    except sqlite3.Error:  # half of the files are there
        return False


@pytest.mark.parametrize("kind", VANISHING)
@pytest.mark.parametrize("strict", [False, True])
def test_f8_nothing_is_lost_when_the_files_vanish_under_the_writer(
    folder: Path, kind: Callable[[LogFile], None], strict: bool
) -> None:
    with writing(folder, strict=strict) as writer:
        before = store(writer, rows_now(300), 3)
        kind(the_file(folder))
        after = store(writer, rows_now(100, first=300))
        assert len(after) == 100
        assert settled(writer).stored == 400
        until(lambda: all_there(folder, kind, before + after), "all rows are there")
    assert sorted(whole(folder, kind)) == sorted(ids_of(before + after))


@pytest.mark.parametrize("kind", VANISHING)
def test_f8_vanished_files_are_written_again_also_when_nothing_comes(
    folder: Path, kind: Callable[[LogFile], None]
) -> None:
    def rescued() -> bool:
        try:
            return ids_of(before) <= set(whole(folder, kind))
        except sqlite3.Error:  # half of the files are there
            return False

    with writing(folder) as writer:
        before = store(writer, rows_now(30))
        kind(the_file(folder))
        until(rescued, "the rows are there again")
        assert writer.counts.problem == ""


def test_f8_nothing_is_lost_while_somebody_deletes_again_and_again(folder: Path) -> None:
    dice, ended, rows = random.Random(8), threading.Event(), []

    async def callers(one: LogWriter, two: LogWriter) -> None:
        while not ended.is_set():
            part = [rows_now(3, first=len(rows) + 3 * i) for i in range(4)]
            rows.extend(row for three in part for row in three)
            await asyncio.gather(
                *(writer.store(three) for writer, three in zip((one, one, two, two), part, strict=True))
            )

    def delete() -> None:
        for _ in range(60):
            ended.wait(dice.uniform(0, 0.02))
            if dice.random() < 0.5:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for file in log_files(folder):
                with suppress(FileNotFoundError):
                    (file.path if dice.random() < 0.5 else wal_of(file)).unlink()
        ended.set()

    with writing(folder) as one, writing(folder) as two:
        store(one, rows_now(1, first=1_000_000))
        store(two, rows_now(1, first=2_000_000))
        deleting = threading.Thread(target=delete)
        deleting.start()
        asyncio.run(callers(one, two))
        deleting.join()
        assert settled(one).stored + settled(two).stored == len(rows) + 2
    found = ids_in(folder)
    assert len(found) == len(set(found)) == len(rows) + 2
    assert ids_of(rows) <= set(found)


def test_f8_vanished_files_are_written_again_at_the_end(folder: Path) -> None:
    with writing(folder) as writer:
        before = store(writer, rows_now(30))
        remove_everything(the_file(folder))
        writer.close(1.0)
    assert set(ids_in(folder)) == ids_of(before)


def test_f8_vanished_files_are_written_again_before_the_next_day_begins(folder: Path) -> None:
    with writing(folder) as writer:
        before = store(writer, rows_now(30))
        file = the_file(folder)
        remove_everything(file)
        tomorrow = row(99, before[0].at_us + DAY_US)
        store(writer, [tomorrow])
        assert set(ids_in(folder)) == ids_of([*before, tomorrow])
        assert len(log_files(folder)) == 2


def test_f8_rows_wait_in_memory_and_in_the_vanished_file_while_the_place_cannot_be_written(folder: Path) -> None:
    with writing(folder) as writer:
        before = store(writer, rows_now(30))
        shutil.rmtree(folder)
        folder.write_text("in the way")
        during = store(writer, rows_now(30, first=30))
        failing(writer)
        folder.unlink()
        assert settled(writer).stored == 60
    assert set(ids_in(folder)) == ids_of(before + during)


def test_f8_a_number_that_another_writer_has_taken_meanwhile_is_left_to_it(folder: Path) -> None:
    with writing(folder) as writer:
        before = store(writer, rows_now(30))
        shutil.rmtree(folder)
        with writing(folder) as other:
            theirs = store(other, rows_now(30, first=100))
            after = store(writer, rows_now(30, first=200))
            assert len(store(other, rows_now(5, first=300))) == 5
            until(lambda: set(ids_in(folder)) >= ids_of(before + theirs + after), "all rows are there")
    assert len(ids_in(folder)) == 95
    assert sorted(file.worker for file in log_files(folder)) == [1, 2]


def test_f8_a_page_that_breaks_while_open_ends_the_use_of_the_file(folder: Path) -> None:
    with writing(folder) as writer:
        before = store(writer, rows_now(300))
        file = the_file(folder)
        assert writer._log is not None
        writer._log.checkpoint()
        with closing(sqlite3.connect(file.path, isolation_level=None)) as other:
            page = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entry'").fetchone()[0]
            size = other.execute("PRAGMA page_size").fetchone()[0]
            spoil(file.path, (page - 1) * size, b"\xff" * size)
            other.execute("INSERT INTO fact VALUES('another', 'write')")  # so that the writer reads its pages again
        after = store(writer, rows_now(100, first=300))
        assert settled(writer).stored == 400
        assert [f.worker for f in log_files(folder)] == [1, 2]
        assert {r["request_id"] for r in entries(log_files(folder)[1].path)} == ids_of(after)
    assert len(before) == 300


def test_f8_tables_that_vanish_end_the_use_of_the_file(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, rows_now(3))
        with closing(sqlite3.connect(the_file(folder).path)) as other:
            other.execute("DROP TABLE entry")
        after = store(writer, rows_now(10, first=3))
        settled(writer)
        assert {r["request_id"] for r in entries(log_files(folder)[1].path)} == ids_of(after)


def test_a_file_that_somebody_else_has_written_to_is_used_no_more(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, rows_now(3))
        file = the_file(folder)
        with closing(sqlite3.connect(file.path)) as other:
            other.execute("DELETE FROM entry WHERE seq = 3")
            other.commit()
        after = store(writer, rows_now(10, first=3))
        settled(writer)
        assert {r["request_id"] for r in entries(log_files(folder)[1].path)} == ids_of(after)


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 4080])
def test_damaged_file_at_start_is_left_as_it_is_and_the_next_number_used(folder: Path, content: bytes) -> None:
    rows = rows_now(10)
    folder.mkdir(parents=True)
    damaged = LogFile(day_of(rows[0].at_us), 1, folder).path
    damaged.write_bytes(content)
    with writing(folder) as writer:
        store(writer, rows)
        assert settled(writer).stored == 10
    assert damaged.read_bytes() == content
    assert {r["request_id"] for r in entries(log_files(folder)[1].path)} == ids_of(rows)


# --- days -------------------------------------------------------------------------------------------------------------


def test_the_next_day_closes_the_file_and_begins_another(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, [row_now(i) for i in range(5)])
        (first,) = log_files(folder)
        assert wal_of(first).exists()
        store(writer, [row(10 + i, row_now().at_us + DAY_US) for i in range(5)])
        today, tomorrow = log_files(folder)
        assert today == first
        assert not wal_of(today).exists()
        assert not today.path.with_name(f"{today.path.name}-shm").exists()
        assert [len(entries(file.path)) for file in (today, tomorrow)] == [5, 5]


def test_a_day_that_is_over_is_closed_also_when_nothing_comes(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, [row(0)])
        file = LogFile(DAY, 1, folder)
        until(lambda: not wal_of(file).exists(), "it is closed")
        store(writer, [row(1)])
        assert len(entries(file.path)) == 2


def test_f13_rows_of_any_day_land_in_its_file_however_the_clock_jumps(folder: Path) -> None:
    days = [0, 0, 1, 0, 1, 1, -365, 0, 1, 365, 0, -1, 0]
    with writing(folder) as writer:
        rows: list[Row] = []
        for step, day in enumerate(days):
            part = [row(100 * step + i, NOON_US + day * DAY_US - i * 1_000_000) for i in range(6)]
            store(writer, part)
            rows += part
        jumbled = [row(5_000 + i, NOON_US + (i % 3) * DAY_US) for i in range(60)]
        store(writer, jumbled)
        rows += jumbled
        assert settled(writer).stored == len(rows)
    assert sorted(ids_in(folder)) == sorted(ids_of(rows))
    found = {file.day: {day_of(stored["at_us"]) for stored in entries(file.path)} for file in log_files(folder)}
    assert {day: days for day, days in found.items() if days} == {day: {day} for day in {day_of(r.at_us) for r in rows}}
    assert set(PredictionLog(folder).find_many(ids_of(rows))) == ids_of(rows)


# --- neighbours -------------------------------------------------------------------------------------------------------


def test_two_writers_on_one_home_take_different_files(folder: Path) -> None:
    with writing(folder) as one:
        store(one, rows_now(10))
        with writing(folder) as two:
            store(two, rows_now(10, first=10))
            store(one, rows_now(10, first=20))
            assert [(file.worker, len(entries(file.path))) for file in log_files(folder)] == [(1, 20), (2, 10)]


def test_a_writer_opens_its_file_before_the_first_row_and_says_early_what_is_wrong(folder: Path) -> None:
    with writing(folder) as writer:
        until(lambda: len(log_files(folder)) == 1, "it has its file")
        assert writer.counts.stored == 0
    shutil.rmtree(folder)
    folder.write_text("in the way")
    with writing(folder) as writer:
        failing(writer)
        folder.unlink()
        settled(writer)
        assert len(log_files(folder)) == 1


def test_the_next_writer_goes_on_in_the_same_file(folder: Path) -> None:
    for i in range(3):
        with writing(folder) as writer:
            store(writer, rows_now(10, first=10 * i))
    assert len(entries(the_file(folder).path)) == 30


def test_a_long_read_neither_blocks_the_writer_nor_sees_what_came_later(folder: Path) -> None:
    with writing(folder) as writer:
        store(writer, rows_now(10))
        file = the_file(folder)
        with closing(open_for_reading(file.path)) as reading:
            reading.execute("BEGIN")
            before = reading.execute("SELECT count(*) FROM entry").fetchone()[0]
            assert len(store(writer, rows_now(5_000, first=10), 50)) == 5_000
            assert settled(writer).stored == 5_010
            assert reading.execute("SELECT count(*) FROM entry").fetchone()[0] == before == 10
            reading.execute("COMMIT")
            assert reading.execute("SELECT count(*) FROM entry").fetchone()[0] == 5_010


def test_the_wal_file_stays_small_under_load(folder: Path) -> None:
    async def load(writer: LogWriter) -> None:
        for i in range(400):
            await stored(writer, rows_now(50, first=50 * i))

    with writing(folder) as writer:
        asyncio.run(load(writer))
        assert wal_of(the_file(folder)).stat().st_size < the_file(folder).path.stat().st_size
        assert settled(writer).stored == 20_000


# --- on the event loop, and on the thread -----------------------------------------------------------------------------


def committed_by(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Name of the thread and number of rows of each commit from now on."""
    seen: list[tuple[str, int]] = []
    commit = OpenLog.commit

    def watched(log: OpenLog, rows: list[Row], **more: bool) -> None:
        commit(log, rows, **more)
        seen.append((threading.current_thread().name, len(rows)))

    monkeypatch.setattr(OpenLog, "commit", watched)
    monkeypatch.setattr(OpenLog, "sync_ahead", lambda _: None)  # how long that takes is the disk's affair
    return seen


def test_what_comes_in_one_turn_of_the_event_loop_is_one_commit_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the thread has the file at that very moment, so it is tried again."""
    seen = committed_by(monkeypatch)
    here = threading.current_thread().name
    with writing(folder) as writer:
        until(lambda: bool(log_files(folder)), "it opens its file")
        for n in range(50):
            writer._away_until = 0.0
            assert len(store(writer, rows_now(20, first=20 * n))) == 20
            if (here, 20) in seen:
                break
    assert seen[-1] == (here, 20)
    assert sum(n for _, n in seen) % 20 == 0


def test_strict_mode_and_large_calls_are_the_threads_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = committed_by(monkeypatch)
    with writing(folder, strict=True) as writer:
        assert len(store(writer, rows_now(3))) == 3
    with writing(folder) as writer:
        assert len(store(writer, rows_now(2_000, first=10), 2_000)) == 2_000
    assert {name for name, _ in seen} == {"surety-log"}


def test_after_a_commit_that_took_long_the_thread_commits_for_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = committed_by(monkeypatch)
    with writing(folder) as writer:
        until(lambda: bool(log_files(folder)), "it opens its file")

        async def calls() -> None:
            await stored(writer, rows_now(1))
            writer._note_time(1.0)
            await stored(writer, rows_now(1, first=1))
            assert seen[-1][0] == "surety-log"
            for n in range(2, 52):
                writer._away_until = 0.0
                await stored(writer, rows_now(1, first=n))
                if seen[-1][0] != "surety-log":
                    break

        asyncio.run(calls())
    assert seen[-1][0] == threading.current_thread().name


def test_the_event_loop_never_waits_for_somebody_who_holds_the_file(folder: Path) -> None:
    """The thread waits instead, and the answers are given meanwhile."""
    with writing(folder) as writer:
        until(lambda: bool(log_files(folder)), "it opens its file")

        async def calls() -> list[Row]:
            loop, longest = asyncio.get_running_loop(), 0.0
            task = asyncio.ensure_future(stored(writer, rows_now(5)))
            while not task.done():
                began = loop.time()
                await asyncio.sleep(0)
                longest = max(longest, loop.time() - began)
            assert longest < 0.2  # the thread's patience, which the event loop must not share, is longer
            return await task

        with held_up(folder):
            assert len(asyncio.run(calls())) == 5
        assert settled(writer).stored == 5


def test_the_event_loop_never_looks_at_the_files_and_a_look_that_hangs_does_not_hold_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, goes_on, here = threading.Event(), threading.Event(), threading.current_thread()

    def hanging(_: OpenLog) -> bool:
        assert threading.current_thread() is not here
        looking.set()
        goes_on.wait()
        return False

    with writing(folder) as writer:
        until(lambda: bool(log_files(folder)), "it opens its file")
        monkeypatch.setattr(OpenLog, "is_gone", hanging)
        try:
            assert looking.wait(10)
            assert len(store(writer, rows_now(5))) == 5  # while the thread hangs
        finally:
            goes_on.set()
        assert settled(writer).stored == 5
        seen = committed_by(monkeypatch)
        for n in range(50):
            writer._away_until = 0.0
            store(writer, rows_now(1, first=10 + n))
        assert here.name in {name for name, _ in seen}


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, AttributeError, RecursionError])
@pytest.mark.parametrize("where", ["take", "checkpoint", "is_gone", "pending_erasures"])
def test_no_error_ends_the_thread(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str, kind: type[Exception]
) -> None:
    """Each row is stored in the end, and the log of the service tells of the problem."""
    met: list[Exception] = []

    def broken(function):
        def call(*args, **kwargs):
            if len(met) < 3:
                met.append(kind("nobody foresaw this"))
                raise met[-1]
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr("ml_core.serve.log.writer._SETTLE_IDLE_ROWS", 1)
    monkeypatch.setattr("ml_core.serve.log.writer._ERASE_EVERY_S", 0.0)
    records = LogRecords(Settings(home=folder.parent / "home"))
    with writing(folder, records=records) as writer:
        store(writer, rows_now(1))
        owner = {"take": writer._backlog, "pending_erasures": writer_module}.get(where, OpenLog)
        monkeypatch.setattr(owner, where, broken(getattr(owner, where)))
        store(writer, rows_now(10, first=1))
        until(lambda: len(met) == 3, "it meets the fault")
        assert settled(writer).stored == 11
        assert writer._thread.is_alive()
    assert any(f"{kind.__name__}: nobody foresaw this" == getattr(record, "reason", "") for record in caplog.records)
