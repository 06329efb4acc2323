"""Logs with rows in them, of whatever days, closed or written to by a real writer."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ml_core.base.clock import utc_now
from ml_core.base.settings import Settings
from ml_core.features.columns import Column
from ml_core.serve.log.database import OpenLog
from ml_core.serve.log.entries import Lineage, Row, answer_json
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.segments import Segment, write_segment
from ml_core.serve.log.writer import LogWriter
from tests.serve.log.builders import WAIT_S

NAME = "toy_risk"
DAY, NEXT, THIRD = "2026-01-05", "2026-01-06", "2026-01-07"
COLUMNS = [
    Column("age", "int", "Age.", low=0, high=120),
    Column("ward", "category", "Ward.", levels=("east", "west"), nullable=True),
    Column("note", "text", "Note.", pattern=".*", nullable=True, examples=("calm",)),
]
FACTS: dict[str, Any] = {
    "model_name": NAME,
    "model_version": "1",
    "model_hash": "ab" * 32,
    "feature_version": "v1",
    "calibration_id": "cd" * 32,
    "slot": "champion",
    "bento": None,
    "served_by": {"home": "home-0a1b2c3d", "machine": "ward-1"},
    "classes": [0, 1],
    "level": "0.9",
    "columns": [column.name for column in COLUMNS],
}
LINEAGE = Lineage.of(FACTS)
CANARY_LINEAGE = Lineage.of({**FACTS, "model_version": "2", "slot": "challenger"})


def settings_in(home: Path) -> Settings:
    return Settings(home=home, model_name=NAME)


def with_key_of(settings: Settings, home: Path) -> Settings:
    """Another home whose log has the same key."""
    home.mkdir(parents=True)
    LogRecords(settings).key()
    shutil.copy(settings.log_key, home / "log.key")
    return settings_in(home)


def today() -> str:
    return utc_now().date().isoformat()


def row(n: int, day: str = DAY, **facts: Any) -> Row:
    """The n-th answer of a day; ids of other days differ. ``note`` is a value of its input, ``answer`` what it says."""
    at = datetime.combine(datetime.fromisoformat(day).date(), datetime.min.time(), UTC) + timedelta(hours=9, seconds=n)
    note, p = facts.pop("note", f"note {n}"), round(0.1 + 0.8 * (n % 17) / 17, 3)
    given = {
        "request_id": uuid.uuid5(uuid.NAMESPACE_URL, f"{day}/{n}").bytes,
        "at_us": round(at.timestamp() * 1e6),
        "client_request_id": f"visit-{n}" if n % 3 == 0 else None,
        "subject": None,
        "batch_id": None,
        "batch_index": None,
        "lineage": LINEAGE if n % 4 else CANARY_LINEAGE,
        "answer": answer_json(
            prediction=n % 2,
            probabilities=[1 - p, p],
            p_values=[p / 2, 1 - p / 2],
            members=[0, 1] if n % 5 else [1],
            level="0.9",
            reason=None if n % 7 else "circuit_open",
            validity="ok",
            validity_reasons=[] if n % 6 else ["drift: age"],
            elapsed_us=100 + n,
            input_hash=f"{n:064x}",
        ),
        "input": orjson.dumps([40 + n % 50, "east" if n % 2 else None, note]),
        "groups": None,
        "group_values": None,
        "explanation": None,
    }
    return Row(**{**given, **facts})


def fill(settings: Settings, rows: Sequence[Row], day: str = DAY, *, together: int = 4) -> LogFile:
    """Store rows in the day's first free database, some of them together, and close it."""
    with held(settings, day) as log:
        for start in range(0, len(rows), together):
            log.commit(rows[start : start + together], durable=False)
    return log.file


@contextmanager
def held(settings: Settings, day: str) -> Iterator[OpenLog]:
    """A database as its worker holds it."""
    settings.log.mkdir(parents=True, exist_ok=True)
    log = OpenLog.of_day(settings.log, day, key=LogRecords(settings).key())
    try:
        yield log
    finally:
        log.close()


@contextmanager
def writing(settings: Settings, rows: Sequence[Row]) -> Iterator[LogWriter]:
    """A live worker's writer that has stored rows, one call each."""
    records = LogRecords(settings)
    records.key()
    writer = LogWriter(settings.log, records=records)
    writer.start()

    async def store() -> None:
        for n, some in enumerate(rows, start=1):
            await writer.store([some])
            due = sum(each.answers for each in rows[:n])
            while writer.counts.stored < due:  # noqa: ASYNC110 - a thread counts; each is a commit of its own
                await asyncio.sleep(0.001)

    try:
        asyncio.run(asyncio.wait_for(store(), WAIT_S))
        yield writer
    finally:
        writer.close(5.0)


def bulk_row(settings: Settings, n: int, day: str = DAY, answers: int = 6) -> Row:
    """The n-th bulk call of a day, its segment written."""
    batch = uuid.uuid5(uuid.NAMESPACE_URL, f"{day}/bulk/{n}")
    ids = [uuid.uuid5(batch, str(i)).bytes for i in range(answers)]
    p = np.linspace(0.1, 0.9, answers)
    segment = Segment(
        ids=np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16),
        inputs={
            "age": np.arange(answers, dtype=np.float64) + 30,
            "ward": np.arange(answers) % 3 - 1,
            "note": np.array([f"bulk {i}" if i % 2 else None for i in range(answers)], dtype=np.object_),
        },
        probabilities=np.stack([1 - p, p], axis=1),
        p_values=np.stack([p / 2, 1 - p / 2], axis=1),
        sets=np.stack([p < 0.8, p > 0.3], axis=1),
        predictions=(p > 0.5).astype(np.int64),
        slots=np.zeros(answers, np.int8),
        reasons=np.zeros(answers, np.int8),
        slot_names=("champion",),
        reason_names=(None,),
        level="0.9",
        validity="ok",
        validity_reasons=[],
        input_hash=f"{n:064x}",
        lineages={"champion": FACTS},
    )
    entry = write_segment(settings.log, day, str(batch), segment, COLUMNS, durable=False, elapsed_us=900)
    plain = row(n, day)
    return plain._replace(
        request_id=batch.bytes, client_request_id=None, lineage=LINEAGE, answer=orjson.dumps(entry), input=None,
        kind=1, answers=answers,
    )  # fmt: skip


def subject(settings: Settings, name: str) -> bytes:
    """The pseudonym of a subject, as a worker makes it."""
    return Pseudonyms(settings.subject_key).of(name)


@contextmanager
def tampering(file: LogFile) -> Iterator[sqlite3.Connection]:
    """A connection that can change anything, as whoever has the file can."""
    with closing(sqlite3.connect(file.path, isolation_level=None)) as connection:
        yield connection


def stored(file: LogFile) -> list[tuple[Any, ...]]:
    """All rows as they lie there."""
    with closing(sqlite3.connect(f"file:{file.path}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT * FROM entry ORDER BY seq").fetchall()


def head_of(file: LogFile) -> bytes:
    """The head that the last row ends with."""
    with closing(sqlite3.connect(f"file:{file.path}?mode=ro", uri=True)) as connection:
        (head,) = connection.execute("SELECT head FROM entry ORDER BY seq DESC LIMIT 1").fetchone()
    return bytes(head)


def files_with(folder: Path, needle: bytes) -> list[str]:
    """Names of all files below a folder whose bytes hold that, hidden ones too.

    Another process reads them: to close a database in this one would drop the locks that SQLite has on it here.
    """
    done = subprocess.run(
        [sys.executable, "-ISc", _SEARCH, str(folder), needle.hex()], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


_SEARCH = """
import pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*")):
    if path.is_file() and bytes.fromhex(sys.argv[2]) in path.read_bytes():
        print(path.name)
"""
