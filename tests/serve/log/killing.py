"""Writers in processes of their own, killed or started together, and what they leave (F14, F21).

    python -m tests.serve.log.killing kill FOLDER TIMES SEED standard|strict
    python -m tests.serve.log.killing start FOLDER TIMES WORKERS

Everything is imported once; each victim is a fork of this process. Prints one JSON object. Raises where a promise is broken.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_core.serve.log import writer as writer_module
from ml_core.serve.log.log_files import log_files
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.writer import LogWriter
from tests.serve.log.builders import entries, row_now

ID_BYTES = 16
CALLERS = 8


def forked(work: Callable[[], None]) -> int:
    """Pid of a child that does the work and leaves with 0, or with 1 where it raised."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def acknowledge(folder: Path, pipe: int, round_: int, *, strict: bool) -> None:
    """Store rows for ever, and tell every id that was answered for."""
    writer_module.STANDARD_WAIT_S = writer_module.STRICT_WAIT_S = 60.0  # what is answered for is stored
    writer = LogWriter(folder, lambda: strict)
    writer.start()

    async def caller(number: int) -> None:
        n = 0
        while True:
            row = row_now((round_ * CALLERS + number) * 1_000_000 + n, input=b"x" * 700)
            await writer.store([row])
            os.write(pipe, row.request_id)
            n += 1

    async def callers() -> None:
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))

    asyncio.run(callers())


def kill_writers(folder: Path, times: int, seed: int, *, strict: bool) -> dict[str, Any]:
    """Every row that was answered for is there, sound and chained, after each kill; the next writer goes on behind it."""
    dice = random.Random(seed)
    answered: set[bytes] = set()
    found: list[bytes] = []
    for round_ in range(times):
        reading, writing = os.pipe()
        child = forked(lambda r=round_, w=writing: acknowledge(folder, w, r, strict=strict))  # type: ignore[misc]
        os.close(writing)
        time.sleep(dice.uniform(0.02, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = b"".join(iter(lambda r=reading: os.read(r, 1 << 16), b""))  # type: ignore[misc]
        os.close(reading)
        answered |= {told[i : i + ID_BYTES] for i in range(0, len(told) - ID_BYTES + 1, ID_BYTES)}
        if round_ % 10 == 9 or round_ == times - 1:  # the chain is walked from its beginning each time
            found = [row["request_id"] for file in log_files(folder) for row in entries(file.path)]
            missing = answered - set(found)
            assert not missing, f"{len(missing)} of {len(answered)} rows that were answered for are missing"
            assert len(set(found)) == len(found)
    days = {file.day for file in log_files(folder)}
    assert len(log_files(folder)) == len(days), "a writer did not go on in the file of the one before"
    return {"kills": times, "acknowledged": len(answered), "missing": 0, "stored": len(found)}


def start_together(folder: Path, times: int, workers: int) -> dict[str, Any]:
    """So many workers start on an empty home at once: each has a file of its own, and they share one key."""
    for number in range(times):
        home = folder / str(number)
        began, told = os.pipe()
        ended, ending = os.pipe()

        def work(home: Path = home, told: int = told, ended: int = ended, ending: int = ending) -> None:
            os.close(ending)
            writer = LogWriter(home / "log" / "toy")
            pseudonyms = Pseudonyms(home / "subject.key")
            writer.start()
            row = row_now(os.getpid(), subject=pseudonyms.of("Ann"))
            asyncio.run(writer.store([row]))
            os.write(told, b"k" if writer.counts.stored == 1 and not writer.counts.problem else b"n")
            os.read(ended, 1)  # all of them have their files until the last has one
            writer.close(5.0)
            assert (writer.counts.stored, writer.counts.pending) == (1, 0)

        children = [forked(work) for _ in range(workers)]
        os.close(told)
        os.close(ended)
        answers = b""
        while len(answers) < workers and (more := os.read(began, workers)):
            answers += more
        os.close(ending)
        statuses = [os.waitpid(child, 0)[1] for child in children]
        os.close(began)
        assert statuses == [0] * workers, statuses
        stored = [entries(file.path) for file in log_files(home / "log" / "toy")]
        assert [len(rows) for rows in stored] == [1] * workers
        assert len({rows[0]["subject"] for rows in stored}) == 1
        shutil.rmtree(home)
    return {"starts": times, "workers": workers, "errors": 0}


if __name__ == "__main__":
    what, place, count, *rest = sys.argv[1:]
    if what == "kill":
        result = kill_writers(Path(place), int(count), int(rest[0]), strict=rest[1] == "strict")
    else:
        result = start_together(Path(place), int(count), int(rest[0]))
    sys.stdout.write(json.dumps(result))
