"""The prediction log under faults: kills, torn files, races (F14, F15, F21), and in real servers (F7, F8, F19)."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.log_files import log_files
from ml_core.serve.log.log_keys import LogKey, LogKeys
from ml_core.serve.rollout import changes
from tests.faults.figures import record
from tests.faults.load import Load, Seen, answered, failed, percentile
from tests.faults.place import RECORDS, FaultPlace, Served, until
from tests.serve.log.builders import entries, fill, ids_in, small_disk
from tests.serve.log.test_database import run_killing, torn

BODIES = [{"features": r} for r in RECORDS]
WORKERS = 2
BATCH = {"records": [RECORDS[i % len(RECORDS)] for i in range(1_000)]}
Remounted = Callable[[str], None]


# --- one machine, no server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["standard", "strict"])
def test_f14_rows_that_were_answered_for_outlive_two_hundred_kills(tmp_path: Path, mode: str) -> None:
    found = run_killing("kill", str(tmp_path), "200", "14", mode)
    assert found["kills"] == 200
    record(
        f"F14 kill -9 of a log writer at work ({mode} mode)",
        "every row that was answered for is there, the database sound and its chain whole, the next writer goes on",
        found,
    )


def test_f15_a_tail_torn_at_every_sector_leaves_a_prefix_of_whole_commits(tmp_path: Path) -> None:
    record(
        "F15 WAL of the log truncated at every 512th byte",
        "opens; holds a prefix of whole commits; the next writer chains on",
        torn(tmp_path, 512),
    )


def test_f21_four_workers_start_at_once_on_a_hundred_empty_homes(tmp_path: Path) -> None:
    found = run_killing("start", str(tmp_path), "100", "4")
    record("F21 four log writers start at once on an empty home", "a file each, one key, no error", found)


# --- real servers -----------------------------------------------------------------------------------------------------


def log_of(place: FaultPlace) -> Path:
    return place.home / "log" / place.model


def key_of(place: FaultPlace) -> LogKey:
    """The key that chains the place's log."""
    return LogKeys.of(place.settings).used()[0]


def stored_ids(place: FaultPlace) -> list[bytes]:
    return ids_in(log_of(place), key_of(place))


def outcomes(served: Served) -> dict[str, int]:
    """Numbers of answers by outcome, from the metrics."""
    return {
        outcome: int(served.metric("surety_log_rows_total", outcome=outcome))
        for outcome in ("stored", "lost", "refused", "unanswered")
    }


def all_settled(served: Served, answers: int) -> dict[str, int]:
    """The metrics when no row waits and this many answers are counted."""
    until(lambda: served.metric("surety_log_pending") == 0 == served.metric("surety_log_problem"), 20, "nothing waits")
    until(lambda: sum(outcomes(served).values()) == answers, 5, f"{answers} answers are accounted for")
    return outcomes(served)


def first_failure(served: Served) -> float:
    """When a worker first could not store, Unix seconds."""
    return min(datetime.fromisoformat(line["time"]).timestamp() for line in served.logged("log.not_stored"))


def given(seen: Sequence[Seen]) -> set[bytes]:
    """Ids of the answers that callers got."""
    return {id_bytes(s.request_id) for s in answered(seen)}


def memory_mb(served: Served) -> float:
    return sum(process.memory_info().rss for process in served.processes()) / 1e6


@pytest.fixture
def small_log(place: FaultPlace) -> Iterator[Remounted]:
    """The log on a separate disk of 1 MB."""
    with small_disk(place.home / "log") as remounted:
        yield remounted


@pytest.fixture
def two_workers(place: FaultPlace) -> Iterator[Served]:
    with place.served(SURETY_WORKERS=str(WORKERS)) as served:
        until(lambda: len(place.reports()) == WORKERS, 15, "the workers report")
        yield served


def test_f7_full_disk_costs_no_request_and_what_is_lost_is_counted(
    place: FaultPlace, small_log: Remounted, two_workers: Served
) -> None:
    served = two_workers
    warming, calls = 8, 24  # batches of 1,000 rows: 24 of them are more than the queues of both workers take
    small_log("size=64m")
    statuses = [served.post("/predict_batch", BATCH).status_code for _ in range(warming)]
    before_mb = memory_mb(served)
    with Load(served.address, bodies=BODIES, rate=100, connections=16) as load:
        time.sleep(0.5)
        fill(place.home / "log")
        until(lambda: served.metric("surety_log_problem") >= 1, 10, "the alarm")
        alarm_s = time.time() - first_failure(served)
        with ThreadPoolExecutor(2) as pool:
            statuses += pool.map(lambda _: served.post("/predict_batch", BATCH).status_code, range(calls))
        until(lambda: outcomes(served)["lost"] > 0, 5, "rows are lost, and counted")
        grown_mb = memory_mb(served) - before_mb
        small_log("size=256m")
        back_at = time.monotonic()
        until(lambda: served.metric("surety_log_problem") == 0, 15, "it recovers")
        back_s = time.monotonic() - back_at
        time.sleep(0.5)
    answers = len(load.seen) + (warming + calls) * len(BATCH["records"])
    found = all_settled(served, answers)
    assert set(statuses) == {200}
    assert failed(load.seen) == []
    assert found["refused"] == found["unanswered"] == 0
    assert found["stored"] + found["lost"] == answers
    assert len(stored_ids(place)) == found["stored"]
    assert grown_mb < 50
    assert alarm_s < 2
    record(
        "F7 disk of the log full, standard mode, two workers",
        "answers go on, lost rows are counted, alarm within 1 s (workers report once a second), recovers by itself; "
        "answered - stored - lost = 0",
        {
            "requests": len(load.seen) + warming + calls,
            "failed": 0,
            "answers": answers,
            "stored": found["stored"],
            "lost": found["lost"],
            "difference": answers - found["stored"] - found["lost"],
            "alarm_s": round(alarm_s, 2),
            "recovered_s": round(back_s, 2),
            "rss_growth_mb": round(grown_mb, 1),
            "p99_ms": percentile([s.latency_ms for s in load.seen], 0.99),
        },
    )


def test_f7_full_disk_in_strict_mode_gives_no_answer_that_is_not_stored(
    place: FaultPlace, small_log: Remounted, two_workers: Served
) -> None:
    served = two_workers
    place.surety("rollout", "flag", "log_mode=strict")
    with Load(served.address, bodies=BODIES, rate=100, connections=16) as load:
        time.sleep(0.5)
        fill(place.home / "log")
        tried = [served.post("/predict", BODIES[0])]
        until(lambda: tried[-1].status_code == 503 or tried.append(served.post("/predict", BODIES[0])), 5, "503")
        refusal = tried[-1]
        time.sleep(3)
        small_log("size=128m")
        back_at = time.monotonic()
        until(lambda: served.metric("surety_log_problem") == 0, 10, "it recovers")
        back_s = time.monotonic() - back_at
        time.sleep(1)
    refused = failed(load.seen)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "log_unavailable")
    assert int(refusal.headers["retry-after"]) >= 1
    assert {s.status for s in refused} == {503}
    assert all(s.retry_after >= 1 for s in refused)
    assert load.seen[-1].status == 200
    found, stored = all_settled(served, len(load.seen) + len(tried)), stored_ids(place)
    assert given(load.seen) <= set(stored)
    assert len(stored) == found["stored"] + found["unanswered"]
    assert found["lost"] == 0
    record(
        "F7 disk of the log full (1 MB), strict mode, two workers",
        "503 with Retry-After, never an answer that is not stored, recovers by itself",
        {
            "requests": len(load.seen),
            "answered": len(answered(load.seen)),
            "answered_not_stored": len(given(load.seen) - set(stored)),
            "503": len(refused),
            "recovered_s": round(back_s, 2),
            "p99_ms_of_503": percentile([s.latency_ms for s in refused], 0.99),
        },
    )


def test_f8_log_deleted_while_open_loses_no_row(place: FaultPlace, two_workers: Served) -> None:
    served, deletions = two_workers, 5
    with Load(served.address, bodies=BODIES, rate=150, connections=16) as load:
        for number in range(deletions):
            time.sleep(0.7)
            if number % 2:
                shutil.rmtree(log_of(place))
            else:
                for file in log_files(log_of(place)):
                    file.path.unlink()
        time.sleep(1)
    found = all_settled(served, len(load.seen))
    stored = stored_ids(place)
    assert failed(load.seen) == []
    assert given(load.seen) == set(stored)
    assert len(stored) == len(load.seen) == found["stored"]
    record(
        "F8 databases or folder of the log deleted while open, two workers at 150/s",
        "answers go on, every row is in the log afterwards",
        {"requests": len(load.seen), "failed": 0, "deletions": deletions, "missing": 0},
    )


def test_f8_log_locked_for_half_a_minute_is_caught_up_with(place: FaultPlace, two_workers: Served) -> None:
    served, locked_s = two_workers, 30.0
    served.predict()
    with Load(served.address, bodies=BODIES, rate=100, connections=16) as load:
        until(lambda: len(log_files(log_of(place))) == WORKERS, 5, "both write")
        time.sleep(0.5)
        before_mb = memory_mb(served)
        locks = [sqlite3.connect(file.path, isolation_level=None, timeout=5) for file in log_files(log_of(place))]
        for lock in locks:
            lock.execute("BEGIN IMMEDIATE")
        time.sleep(locked_s)
        grown_mb = memory_mb(served) - before_mb
        pending = served.metric("surety_log_pending")
        for lock in locks:
            lock.close()
        time.sleep(1)
    found = all_settled(served, len(load.seen) + 1)
    assert failed(load.seen) == []
    assert found == {"stored": len(load.seen) + 1, "lost": 0, "refused": 0, "unanswered": 0}
    assert given(load.seen) <= set(stored_ids(place))
    assert grown_mb < 50
    record(
        "F8 log locked by others for 30 s, two workers at 100/s",
        "answers go on, the queue is bounded, every row is stored afterwards",
        {
            "requests": len(load.seen),
            "failed": 0,
            "waiting_at_the_end": int(pending),
            "lost": 0,
            "rss_growth_mb": round(grown_mb, 1),
            "p99_ms": percentile([s.latency_ms for s in load.seen], 0.99),
        },
    )


def test_f8_log_read_only_at_start_is_used_once_it_can_be_written(place: FaultPlace, small_log: Remounted) -> None:
    small_log("size=64m")
    small_log("ro")
    with place.served(SURETY_WORKERS=str(WORKERS)) as served:
        until(lambda: len(place.reports()) == WORKERS, 15, "the workers report")
        with Load(served.address, bodies=BODIES, rate=100, connections=16) as load:
            until(lambda: served.metric("surety_log_problem") == WORKERS, 5, "both say so")
            time.sleep(2)
            small_log("rw")
            time.sleep(2)
        found = all_settled(served, len(load.seen))
        assert failed(load.seen) == []
        assert found["stored"] == len(load.seen)
        assert given(load.seen) == set(stored_ids(place))
    record(
        "F8 log read-only at start, two workers at 100/s",
        "answers go on, every row is stored once the place can be written",
        {"requests": len(load.seen), "failed": 0, "missing": 0},
    )


@pytest.mark.parametrize("mode", ["standard", "strict"])
def test_f19_answers_given_before_the_end_are_in_the_log(place: FaultPlace, mode: str) -> None:
    with place.served(SURETY_WORKERS=str(WORKERS)) as served:
        until(lambda: len(place.reports()) == WORKERS, 15, "the workers report")
        place.obeyed(place.change(changes.flags({"log_mode": mode})), workers=WORKERS)
        with Load(served.address, bodies=BODIES, rate=200, connections=32) as load:
            time.sleep(2)
            arbiter = psutil.Process(served.pid)
            arbiter.send_signal(signal.SIGTERM)
            status = arbiter.wait(30)
    stored = set(stored_ids(place))
    assert status == 0
    assert len(answered(load.seen)) > 100
    assert given(load.seen) <= stored
    assert [path.name for path in log_of(place).iterdir() if path.name.endswith("-wal")] == []
    record(
        f"F19 SIGTERM under load, {mode} mode: the log",
        "every answer that was given is in the log, and its files are closed",
        {"answered": len(answered(load.seen)), "missing": len(given(load.seen) - stored), "exit_status": status},
    )


def test_f14_killed_worker_of_a_server_loses_no_answer_that_was_given(place: FaultPlace, two_workers: Served) -> None:
    served, kills = two_workers, 3
    with Load(served.address, bodies=BODIES, rate=150, connections=16) as load:
        for _ in range(kills):
            time.sleep(1)
            victim = served.processes()[0]
            victim.send_signal(signal.SIGKILL)
            until(lambda pid=victim.pid: pid not in {r.pid for r in place.reports()}, 6, "the loss is seen")  # type: ignore[misc]
            until(lambda: len(place.reports()) == WORKERS, 15, "two workers again")
        time.sleep(1)
    subprocess.run(["sync"], check=True)
    files = log_files(log_of(place))
    stored = {row["request_id"] for file in files for row in entries(file.path, key_of(place))}
    assert given(load.seen) <= stored
    assert len(files) == WORKERS
    with closing(sqlite3.connect(files[0].path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    record(
        "F14 kill -9 of a worker under load: the log",
        "every answer that was given is in the log; the next worker goes on in the same file",
        {"kills": kills, "answered": len(answered(load.seen)), "missing": 0, "files": len(files)},
    )
