"""Labels under faults (F22): a hundred thousand in every order, killed writers, many writers, a full disk."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.errors import LabelsNotStored
from ml_core.base.settings import Settings
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelCounts, LabelStore, StoredLabel, due_at
from tests.faults.figures import record
from tests.serve.log.labelled import NOW, Ledger, rid, store_in

PREDICTIONS, CALL, HORIZON_DAYS = 100_000, 1_000, 30.0
FORK = multiprocessing.get_context("fork")


# --- every order --------------------------------------------------------------------------------------------------


def arrivals(dice: random.Random) -> tuple[dict[bytes, datetime], list[tuple[datetime, AnswerLabel]]]:
    """The time of each answer, and every label with its time, over half a year before now."""
    predicted: dict[bytes, datetime] = {}
    coming: list[tuple[datetime, AnswerLabel]] = []
    for n in range(PREDICTIONS):
        at = NOW - timedelta(days=dice.uniform(0, 180))
        fate, truth = dice.random(), dice.randrange(2)
        if fate < 0.97:  # the rest are labels of nobody
            predicted[rid(n)] = at
        if fate < 0.05:
            continue  # no label ever
        # readmissions are known early, the others when the month is over; some come late, some before their answer
        comes = at + timedelta(days=dice.uniform(0, 30) if truth else 30)
        if fate < 0.10:
            comes = at + timedelta(days=90)
        elif fate < 0.13:
            comes = at - timedelta(hours=1)
        coming.append((comes, AnswerLabel(rid(n), truth, comes)))
        if 0.20 < fate < 0.30:
            coming.append((comes + timedelta(days=dice.uniform(0, 3)), AnswerLabel(rid(n), truth)))
        if 0.28 < fate < 0.35:
            coming.append((comes + timedelta(days=dice.uniform(0, 60)), AnswerLabel(rid(n), 1 - truth)))
    coming = [(at, label) for at, label in coming if at <= NOW]
    return predicted, sorted(coming, key=lambda event: event[0])


def test_f22_a_hundred_thousand_labels_in_every_order_join_exactly(tmp_path: Path) -> None:
    dice = random.Random(22)
    predicted, coming = arrivals(dice)
    moment = [NOW]
    store = LabelStore(
        open_label_tables(Settings(home=tmp_path), "toy"),
        lambda ids: {i for i in ids if predicted.get(i, NOW) < moment[0]},
        clock=lambda: moment[0],
    )
    ledger, total = Ledger(()), LabelCounts()
    for first in range(0, len(coming), CALL):
        call = coming[first : first + CALL]
        moment[0] = call[-1][0]
        labels = [label for _, label in call]
        ledger.known = {i for i in predicted if predicted[i] < moment[0]}
        for _ in range(2 if dice.random() < 0.1 else 1):  # a caller that got no reply sends once more
            counts = store.add(labels, "http")
            assert counts == ledger.add(labels)
            total += counts
    moment[0] = NOW

    due = [i for i, at in predicted.items() if due_at(at, HORIZON_DAYS) <= NOW]
    joined = {i: label.label for i, label in store.current(due).items()}
    assert joined == {i: ledger.holds[i] for i in due if i in ledger.holds}
    seen = store.since(0, CALL)
    while more := store.since(seen[-1].seq, CALL):
        seen += more
    assert [(s.request_id, s.label, s.outcome) for s in seen] == ledger.rows
    assert min(total.accepted, total.duplicate, total.conflict, total.unknown) > CALL
    record(
        "F22 labels early, late, twice, contrary and of nobody",
        "every count, the history and the join with matured answers equal a plain list's",
        {
            "labels": len(coming),
            "joined": len(joined),
            "accepted": total.accepted,
            "duplicate": total.duplicate,
            "conflict": total.conflict,
            "unknown": total.unknown,
        },
    )


# --- killed writers -----------------------------------------------------------------------------------------------

KILLS, BATCH = 200, 40


def batch(n: int) -> list[AnswerLabel]:
    return [AnswerLabel(rid(n * BATCH + i), n % 2) for i in range(BATCH)]


def killed_writer(store: LabelStore, first: int, delay_s: float) -> int:
    """Kill a process that adds batch after batch; the number of batches that were confirmed to it."""
    reading, telling = os.pipe()
    child = os.fork()
    if child == 0:
        for n in range(first, first + 10_000):
            store.add(batch(n), "http")
            os.write(telling, b".")
        os._exit(0)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(telling)
    with os.fdopen(reading, "rb") as pipe:
        return len(pipe.read())


def test_f22_kill_9_of_writers_loses_no_label_that_was_confirmed_and_leaves_no_half_call(tmp_path: Path) -> None:
    dice, confirmed, unconfirmed, journals = random.Random(9), 0, 0, 0
    for home in range(KILLS // 10):  # ten kills in a row on one file, the first while it is made
        store, first = store_in(tmp_path / str(home), busy_s=5.0), 0
        for _ in range(10):
            told = killed_writer(store, first, dice.uniform(0.0, 0.03))
            journal = store.path.with_name(f"{store.path.name}-journal")
            journals += journal.exists() and journal.stat().st_size > 0
            found = [s.request_id for s in store.since(0, 1_000_000)]
            whole, rest = divmod(len(found), BATCH)
            assert rest == 0
            assert found == [label.request_id for n in range(whole) for label in batch(n)]
            assert whole - (first + told) in {0, 1}  # at most the one whose confirmation was on its way
            confirmed, unconfirmed, first = confirmed + told, unconfirmed + whole - first - told, whole
        if store.path.exists():
            with closing(sqlite3.connect(store.path)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert confirmed > 0
    record(
        "F22 kill -9 of a writer of labels",
        "every confirmed label is there, no call is half stored, readers undo what was begun",
        {
            "kills": KILLS,
            "confirmed_calls": confirmed,
            "stored_and_not_confirmed": unconfirmed,
            "undone_by_readers": journals,
        },
    )


# --- many writers -------------------------------------------------------------------------------------------------


def in_processes(work: Callable[[int], Any], n: int, meanwhile: Callable[[], None] = lambda: None) -> list[Any]:
    """The results of ``work`` in n processes; ``meanwhile`` is called repeatedly until all have ended."""

    def told(worker: int, telling: Connection) -> None:
        telling.send(work(worker))

    pipes = [FORK.Pipe(duplex=False) for _ in range(n)]
    processes = [FORK.Process(target=told, args=(i, telling)) for i, (_, telling) in enumerate(pipes)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        meanwhile()
    assert [process.exitcode for process in processes] == [0] * n
    return [reading.recv() for reading, _ in pipes]


IDS, CALLS, EACH = 300, 60, 50


@pytest.mark.parametrize("writers", [2, 4])
def test_f22_processes_that_label_the_same_answers_agree_on_one_history(tmp_path: Path, writers: int) -> None:
    store = store_in(tmp_path, map(rid, range(IDS)), busy_s=30.0)
    seen: list[StoredLabel] = []

    def add_to_the_same(worker: int) -> LabelCounts:
        dice, total = random.Random(worker), LabelCounts()
        for _ in range(CALLS):
            total += store.add(
                [AnswerLabel(rid(dice.randrange(IDS)), dice.randrange(2)) for _ in range(EACH)], str(worker)
            )
        return total

    def read_on() -> None:
        seen.extend(store.since(seen[-1].seq if seen else 0, 100))

    total = sum(in_processes(add_to_the_same, writers, read_on), LabelCounts())
    while len(seen) < sum(store.counts().values()):
        read_on()
    ledger = Ledger(map(rid, range(IDS)))
    assert [ledger.add([AnswerLabel(s.request_id, s.label)]) for s in seen].count(LabelCounts(duplicate=1)) == 0
    assert [(s.request_id, s.label, s.outcome) for s in seen] == ledger.rows
    assert [s.seq for s in seen] == list(range(1, len(seen) + 1))
    assert store.counts() == {"accepted": total.accepted, "conflict": total.conflict, "unknown": 0}
    assert total.accepted + total.conflict + total.duplicate + total.over_limit == writers * CALLS * EACH
    assert {i: label.label for i, label in store.current([rid(n) for n in range(IDS)]).items()} == ledger.holds


def test_f22_a_single_label_is_not_starved_by_imports(tmp_path: Path) -> None:
    store, ends = store_in(tmp_path, busy_s=5.0), time.monotonic() + 12

    def send(worker: int) -> int:
        """Process 0 sends single labels; the others send large calls without a pause."""
        calls, rows = 0, 1 if worker == 0 else 1_000
        while time.monotonic() < ends:
            first = worker * 10_000_000 + calls * rows
            store.add([AnswerLabel(rid(first + i), 1) for i in range(rows)], "x")
            calls += 1
        return calls

    calls = in_processes(send, 4, lambda: time.sleep(0.05))
    record(
        "F22 single labels beside three imports without a pause",
        "no caller waits longer than the five seconds allowed",
        {"single_calls": calls[0], "calls_of_1000": sum(calls[1:]), "refused": 0},
    )


STARTS, TOGETHER = 100, 4


def start_together(folder: Path, barriers: list[Barrier], worker: int) -> None:
    for start, barrier in enumerate(barriers):
        store = store_in(folder / str(start), busy_s=5.0)
        barrier.wait(60)
        counts = store.add([AnswerLabel(rid(worker), 1), AnswerLabel(rid(99), 1)], str(worker))
        assert counts.unknown + counts.duplicate == 2


def test_f21_processes_that_start_at_once_on_an_empty_home_make_one_file(tmp_path: Path) -> None:
    barriers = [FORK.Barrier(TOGETHER) for _ in range(STARTS)]
    processes = [FORK.Process(target=start_together, args=(tmp_path, barriers, w)) for w in range(TOGETHER)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * TOGETHER
    for start in range(STARTS):
        store = store_in(tmp_path / str(start))
        assert {s.request_id for s in store.since(0, 100)} == {rid(99), *map(rid, range(TOGETHER))}
        assert store.counts()["unknown"] == TOGETHER + 1
    record(
        "F21 four processes bring the first labels to an empty home at once",
        "one file, no error, no label lost",
        {"starts": STARTS, "errors": 0},
    )


# --- the disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_f22_full_and_read_only_disk_refuse_labels_whole_and_take_them_afterwards(small_disk: Path) -> None:
    store, kept = store_in(small_disk, busy_s=1.0), 0
    refused = None
    for n in range(1_000):
        try:
            store.add(batch(n), "http")
        except LabelsNotStored as error:
            refused = error
            break
        kept = n + 1
    assert refused is not None
    assert "full" in str(refused)
    assert len(store.since(0, 1_000_000)) == kept * BATCH
    assert store.add(batch(0), "http") == LabelCounts(duplicate=BATCH)  # what is there needs no room

    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert store.add(batch(kept), "http") == LabelCounts(unknown=BATCH)

    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(LabelsNotStored, match=r"readonly|read-only|Read-only|unable to open"):
        store.add(batch(kept + 1), "http")
    assert len(store.since(0, 1_000_000)) == (kept + 1) * BATCH
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert store.add(batch(kept + 1), "http") == LabelCounts(unknown=BATCH)
    record(
        "F22 disk of the labels full, then read-only",
        "a call is refused whole, can be sent again, and is taken once there is room",
        {"calls_stored": kept + 2, "half_stored": 0},
    )
