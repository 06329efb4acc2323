"""Measures the cost of storing an answer before it is sent: `python -m benchmarks.prediction_log [SECONDS]`.

Two processes with one writer each store rows in one folder. The rows have the size of the hospital model's (about 700 bytes
of input). They arrive at a fixed rate, without waiting for earlier rows. The time is how long ``store`` delays an answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import uuid_utils
import uvloop

from ml_core.serve.log.entries import Lineage, Row, answer_json
from ml_core.serve.log.log_files import log_files
from ml_core.serve.log.writer import LogWriter

WRITERS = 2
RATE = 1_000
"""Rows per second that are offered to each writer."""
SECONDS = 20.0
CALLERS = 64
"""Callers of each writer in the test of the highest rate."""
N_FEATURES = 44
_TICK_S = 0.001

Store = Callable[[list[Row]], Awaitable[None]]


def a_row() -> Row:
    """One answer to a record of the size of the hospital model's."""
    dice = random.Random(1)
    values = [round(dice.uniform(0, 1_000), 12) if i % 3 else f"level {i}" for i in range(N_FEATURES)]
    answer = answer_json(
        prediction=1,
        probabilities=[dice.random(), dice.random()],
        p_values=[dice.random(), dice.random()],
        members=[0, 1],
        level="0.9",
        reason=None,
        validity="valid",
        validity_reasons=[],
        elapsed_us=81,
        input_hash="a" * 64,
    )
    lineage = Lineage.of({"model_name": "readmission", "classes": [0, 1], "columns": [f"c{i}" for i in range(44)]})
    return Row(b"", 0, None, None, None, None, lineage, answer, orjson.dumps(values))


def fresh(row: Row) -> Row:
    """The same answer with the present time, a new id and a subject."""
    return row._replace(request_id=uuid_utils.uuid7().bytes, at_us=time.time_ns() // 1_000, subject=os.urandom(32))


async def nothing(_rows: list[Row]) -> None:
    """Stores nothing; measures the cost of the callers alone."""


async def offered(store: Store, rate: int, seconds: float) -> tuple[list[float], float]:
    """Milliseconds of ``store`` for each row, and the longest delay of a call behind its schedule."""
    row, took, tasks = a_row(), [], set()
    latest = 0.0

    async def one() -> None:
        began = time.perf_counter()
        await store([fresh(row)])
        took.append((time.perf_counter() - began) * 1_000)

    loop = asyncio.get_running_loop()
    began, number = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        while number < now * rate:
            latest = max(latest, now - number / rate)
            task = loop.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.sleep(_TICK_S)
    await asyncio.gather(*tasks)
    return took, latest * 1_000


async def driven(store: Store, seconds: float) -> int:
    """Rows that this many callers store when each sends its next row after the last is stored."""
    row, ends, n = a_row(), time.monotonic() + seconds, 0

    async def caller() -> None:
        nonlocal n
        while time.monotonic() < ends:
            await store([fresh(row)])
            n += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return n


def work(folder: Path, mode: str, seconds: float) -> dict[str, Any]:
    """Measurements of one writer's process."""
    writer = LogWriter(folder, lambda: mode == "strict")
    writer.start()
    time.sleep(0.2)
    sys.stdin.readline()  # all processes start at the same time
    found: dict[str, Any] = {}
    began = time.monotonic()
    if mode == "most":
        found["rows"] = uvloop.run(driven(writer.store, seconds))
    else:
        cpu = time.process_time()
        uvloop.run(offered(nothing, RATE, seconds / 4))
        idle = (time.process_time() - cpu) / (seconds / 4)
        cpu = time.process_time()
        took, late = uvloop.run(offered(writer.store, RATE, seconds))
        spent = (time.process_time() - cpu) / seconds - idle
        found |= {"took": took, "late_ms": late, "cpu_us": spent / RATE * 1e6, "rows": len(took)}
    writer.close(10.0)
    found["seconds"] = time.monotonic() - began
    counts = writer.counts
    assert (counts.stored, counts.lost, counts.refused, counts.pending) == (found["rows"], 0, 0, 0), counts
    return found


def measured(mode: str, seconds: float) -> list[dict[str, Any]]:
    """Measurements of all writers together."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.prediction_log", "work", folder, mode, str(seconds)]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(WRITERS)
        ]
        time.sleep(2)
        found = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            out, _ = process.communicate(timeout=30 * seconds + 60)
            assert process.returncode == 0
            found.append(json.loads(out))
        assert len(log_files(Path(folder))) == WRITERS
        return found


def figures(seconds: float = SECONDS) -> list[tuple[str, str, str, str]]:
    rows = []
    for mode in ("standard", "strict"):
        found = measured(mode, seconds)
        took = sorted(ms for one in found for ms in one["took"])
        p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
        goals = ("<= 1", "<= 10", ">= 2000") if mode == "standard" else ("", "", "")
        cpu = sum(one["cpu_us"] for one in found) / len(found)
        rows += [
            (f"log, {mode}: rows/s", f"{len(took) / seconds:,.0f}", goals[2], f"{WRITERS} writers, {RATE:,} offered each"),
            ("  added ms, p50", f"{p50:.2f}", goals[0], "one row a call"),
            ("  added ms, p99", f"{p99:.2f}", goals[1], f"max {took[-1]:.1f}"),
            ("  CPU us a row", f"{cpu:.0f}", "", "without what the callers cost"),
        ]  # fmt: skip
    total = sum(one["rows"] / one["seconds"] for one in measured("most", seconds / 2))
    rows.append(("log, most rows/s", f"{total:,.0f}", "", f"{WRITERS} writers, {CALLERS} callers each, standard"))
    return rows


def main() -> None:
    if sys.argv[1:2] == ["work"]:
        folder, mode, seconds = sys.argv[2:]
        print(json.dumps(work(Path(folder), mode, float(seconds))))
        return
    for row in figures(*map(float, sys.argv[1:2])):
        print(" | ".join(row))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
