"""Rows of the prediction log, writers around a folder, disks and locks to break them with, and what files must hold."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from ml_core.base.errors import LogUnavailable
from ml_core.features.columns import Column
from ml_core.serve.log.database import genesis_head
from ml_core.serve.log.entries import ERASED, Lineage, Row, answer_json, id_text, next_head, stored_digest
from ml_core.serve.log.log_files import LogFile, day_of, log_files
from ml_core.serve.log.log_keys import LogKey
from ml_core.serve.log.prediction_store import LogCounts
from ml_core.serve.log.segments import Segment, write_segment
from ml_core.serve.log.writer import LogWriter

WAIT_S = 20.0
"""What a test waits at most for what must happen."""
DAY_US = 86_400_000_000
NOON_US = 1_795_435_200_000_000
"""2026-11-23 12:00 UTC."""
DAY = "2026-11-23"

COLUMNS = ["age", "glucose", "bmi"]
LINEAGE = Lineage.of({"model_name": "toy", "model_version": "1", "classes": [0, 1], "columns": COLUMNS})


def rid(n: int, at_us: int = NOON_US) -> bytes:
    """Id of the n-th row, a UUIDv7 of that moment."""
    return (at_us // 1_000).to_bytes(6, "big") + b"\x70\x00\x80\x00" + n.to_bytes(6, "big")


def row(n: int = 0, at_us: int = NOON_US, **changes: Any) -> Row:
    """The n-th row."""
    answer = answer_json(
        prediction=1,
        probabilities=[0.69, 0.31],
        p_values=[0.12, 0.2 + n / 1e9],
        members=[0, 1],
        level="0.9",
        reason=None,
        validity="valid",
        validity_reasons=[],
        elapsed_us=80,
        input_hash=hashlib.sha256(b"%d" % n).hexdigest(),
    )
    usual = {
        "request_id": rid(n, at_us), "at_us": at_us, "client_request_id": None, "subject": None, "batch_id": None,
        "batch_index": None, "lineage": LINEAGE, "answer": answer, "input": b"[71,182.5,%d]" % n,
        "groups": None, "group_values": None, "explanation": None,
    }  # fmt: skip
    return Row(**{**usual, **changes})


def row_now(n: int = 0, **changes: Any) -> Row:
    """The n-th row, of this moment."""
    return row(n, time.time_ns() // 1_000, **changes)


def rows_now(n: int, first: int = 0) -> list[Row]:
    """n rows of this moment."""
    return [row_now(first + i) for i in range(n)]


# --- writers ----------------------------------------------------------------------------------------------------------


@contextmanager
def writing(folder: Path, *, strict: bool | Callable[[], bool] = False, **more: Any) -> Iterator[LogWriter]:
    """A writer at work; closed afterwards, with nothing left over."""
    writer = LogWriter(folder, strict if callable(strict) else lambda: strict, **more)
    writer.start()
    try:
        yield writer
    finally:
        writer.close(2.0)
        assert writer.counts.pending == 0


def store(writer: LogWriter, rows: Sequence[Row], each: int = 1) -> list[Row]:
    """Store rows, all at once, ``each`` to a call; those that were answered for."""
    return asyncio.run(stored(writer, rows, each))


async def stored(writer: LogWriter, rows: Sequence[Row], each: int = 1) -> list[Row]:
    """As :func:`store`, inside an event loop."""

    async def one(part: Sequence[Row]) -> Sequence[Row]:
        try:
            await writer.store(part)
        except LogUnavailable:
            return []
        return part

    parts = [rows[i : i + each] for i in range(0, len(rows), each)]
    answered = await asyncio.wait_for(asyncio.gather(*map(one, parts)), WAIT_S)
    return [row for part in answered for row in part]


def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for what another thread is about to do."""
    ends, pause = time.monotonic() + WAIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < ends, f"has not happened: {what or condition}"
        pause.wait(0.005)


def failing(writer: LogWriter) -> None:
    """Wait until it has met the fault."""
    until(lambda: "Error" in writer.counts.problem, "it meets the fault")


def settled(writer: LogWriter) -> LogCounts:
    """The account once nothing waits and all is well."""
    until(lambda: not writer.counts.pending and not writer.counts.problem, "it recovers")
    return writer.counts


# --- faults -----------------------------------------------------------------------------------------------------------


@contextmanager
def held_up(folder: Path) -> Iterator[None]:
    """Somebody else holds the write lock of the newest database."""
    path = log_files(folder)[-1].path
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Callable[[str], None]]:
    """A disk of that size in place of a folder; call what comes out with ``ro``, ``rw`` or ``size=8m`` to remount it."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no room on its disk; the file that takes it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filler


def spoil(path: Path, at: int, garbage: bytes) -> None:
    """Write over a part of a file, from another process: closing it here would drop SQLite's locks on it."""
    script = (
        "import os,sys; f=os.open(sys.argv[1],os.O_WRONLY); os.pwrite(f,bytes.fromhex(sys.argv[3]),int(sys.argv[2]))"
    )
    subprocess.run(["python3", "-c", script, str(path), str(at), garbage.hex()], check=True)


# --- what lies in files -----------------------------------------------------------------------------------------------


def entries(path: Path, key: LogKey | None = None) -> list[sqlite3.Row]:
    """All rows of a database, in their order, after SQLite has found it sound and the chain of that key was recomputed."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        found = connection.execute(
            "SELECT e.*, l.digest AS lineage_digest FROM entry e JOIN lineage l ON l.id = e.lineage ORDER BY seq"
        ).fetchall()
    (file,) = (file for file in log_files(path.parent) if file.path == path)
    check_chain(file, found, key)
    return found


def check_chain(file: LogFile, rows: Sequence[sqlite3.Row], key: LogKey | None = None) -> None:
    """Every digest is that of its row, every head that of its commit, and the last row ends a commit."""
    head, digests = genesis_head(file, key), []
    for number, stored_row in enumerate(rows, start=1):
        assert stored_row["seq"] == number
        if stored_row["answer"] != ERASED:
            assert stored_digest(stored_row, stored_row["lineage_digest"]) == stored_row["digest"]
        digests.append(stored_row["digest"])
        if stored_row["head"] is not None:
            head = next_head(head, digests, key)
            assert head == stored_row["head"]
            digests = []
    assert digests == []


def ids_in(folder: Path, key: LogKey | None = None) -> list[bytes]:
    """Ids of all rows of all (sound) databases of a folder, whose chains that key makes."""
    return [found["request_id"] for file in log_files(folder) for found in entries(file.path, key)]


def ids_of(rows: Sequence[Row]) -> set[bytes]:
    """Ids of rows."""
    return {r.request_id for r in rows}


def wal_of(file: LogFile) -> Path:
    """Its WAL file."""
    return file.path.with_name(f"{file.path.name}-wal")


# --- bulk calls -------------------------------------------------------------------------------------------------------

BULK_COLUMNS = (
    Column("age", "int", "An integer.", nullable=True),
    Column("glucose", "float", "A number.", nullable=True),
    Column("sex", "category", "Text levels.", levels=("f", "m", "x"), nullable=True),
    Column("ward", "category", "Integer levels.", levels=(3, 5, 7), nullable=True),
    Column("code", "text", "A text.", pattern=".*", nullable=True),
)


def segment(
    n: int, k: int = 2, seed: int = 1, at_us: int = NOON_US, first: int = 0, *, inputs: bool = True, **changes: Any
) -> Segment:
    """The answers of a bulk call with all kinds of columns, values missing here and there."""
    rng = np.random.default_rng(seed)
    facts = {"model_name": "toy", "classes": [f"c{i}" for i in range(k)] if k > 2 else [0, 1]}
    some = rng.random((5, n)) < 0.2
    texts = np.array([f"E{i % 7}" for i in range(n)], dtype=np.object_)
    texts[some[4]] = None
    columns: dict[str, np.ndarray[Any, Any]] = {
        "age": np.where(some[0], np.nan, rng.integers(0, 120, n)),
        "glucose": np.where(some[1], np.nan, rng.random(n) * 600),
        "sex": np.where(some[2], -1, rng.integers(0, 3, n)),
        "ward": np.where(some[3], -1, rng.integers(0, 3, n)),
        "code": texts,
    }
    ids = b"".join(rid(first + i, at_us) for i in range(n))
    usual: dict[str, Any] = {
        "ids": np.frombuffer(ids, np.uint8).reshape(n, 16),
        "inputs": columns if inputs else None,
        "probabilities": rng.dirichlet(np.ones(k), n),
        "p_values": rng.random((n, k)),
        "sets": rng.random((n, k)) < 0.5,
        "predictions": rng.integers(0, k, n),
        "slots": rng.integers(0, 2, n).astype(np.int8),
        "reasons": rng.integers(0, 2, n).astype(np.int8),
        "slot_names": ["champion", "scorecard"],
        "reason_names": [None, "deadline"],
        "level": "0.9",
        "validity": "suspect",
        "validity_reasons": ["drift"],
        "input_hash": "f" * 64,
        "lineages": {"champion": facts, "scorecard": {**facts, "slot": "scorecard"}},
    }
    return Segment(**{**usual, **changes})


def bulk_row(folder: Path, n: int, number: int, at_us: int = NOON_US, **changes: Any) -> tuple[Row, Segment]:
    """The row of a bulk call of n rows whose ids begin at ``number``, its segment written."""
    found = segment(n, seed=number, at_us=at_us, first=number, **changes)
    call = rid(number + (1 << 40), at_us)
    entry = write_segment(folder, day_of(at_us), id_text(call), found, BULK_COLUMNS, durable=False, elapsed_us=70)
    answer = orjson.dumps(entry)
    return row(0, at_us, request_id=call, answer=answer, input=None, kind=1, answers=n), found
