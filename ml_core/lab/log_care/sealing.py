"""Seals days that are over: the chain is verified, a flat copy is written, and the journal says what the day holds.

From then on the day is closed: what comes later is found, and never sealed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import orjson

from ml_core.base.clock import utc_now
from ml_core.base.errors import LogBusy
from ml_core.base.settings import Settings
from ml_core.lab.log_care.chain_check import ChainReport, verify_files
from ml_core.lab.log_care.journal_marks import read_marks
from ml_core.lab.log_care.log_checks import sha256_of
from ml_core.lab.log_care.log_days import LogDay, log_days
from ml_core.lab.log_care.sealed_copy import write_copy
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.log_places import LogPlace, place_of
from ml_core.serve.log.log_records import SEALED, LogRecords, publish_heads
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.log.segments import SegmentEntry, read_segment

__all__ = ["SealedDay", "days_to_seal", "seal_day"]


@dataclass(frozen=True, slots=True)
class SealedDay:
    """What became of a day.

    Attributes
    ----------
    day : UTC
    outcome : sealed now; sealed before, as it is; not sealed, because somebody uses it, or because it is not sound
    answers : in it, erased ones left out
    detail : which file, and what is wrong with it
    heads : lines to publish, see ``log_records``
    """

    day: str
    outcome: Literal["sealed", "unchanged", "busy", "broken"]
    answers: int = 0
    detail: str = ""
    heads: tuple[Mapping[str, Any], ...] = ()


def days_to_seal(settings: Settings, before: date | None = None) -> list[LogDay]:
    """Days that are over and have answers, oldest first.

    Parameters
    ----------
    before : only days before that one
    """
    now = utc_now()
    limit = now.date() if before is None else min(before, now.date())
    return [day for day in log_days(place_of(settings)) if date.fromisoformat(day.name) < limit and day.files]


def seal_day(
    settings: Settings, day: LogDay, step: Callable[[float], None] = lambda _share: None, *, renew: bool = False
) -> SealedDay:
    """Seal a day; killed anywhere, it can be sealed again, and a day that is sealed as it is stays untouched.

    Parameters
    ----------
    step : told of progress; shares add up to one
    renew : write the copy anew, since rows in it were erased

    Raises
    ------
    OSError
        The copy cannot be written.
    LogDamaged, ArtefactError, ConfigError
        The journal, a pending erasure or the log's key cannot be read.
    """
    records = LogRecords(settings)
    day, place = LogDay(day.name, settings.log, records.place), records.place
    try:
        with day.held() as files:
            for file in files:
                place.settle(file)
            place.fetch(day.sealed_name)
            records.key()  # before anything is verified: what is there without a key is adopted then
            report = verify_files(records, files, day.name, lambda share: step(share / 2))
            makes_copy = renew or not day.sealed.exists()
            findings = [f for f in report.findings if not (f.kind == "sealed-copy" and makes_copy)]
            if findings:
                return SealedDay(day.name, "broken", detail="; ".join(map(str, findings)))
            closed = read_marks(records).closed.get(day.name)
            answers = sum(r.answers for r in report.files)
            if closed is not None and not makes_copy:
                place.seal(day.name)  # a command that was killed may not have done it
                return SealedDay(day.name, "unchanged", answers)
            heads = _sealed(records, day, files, report, step)
            place.seal(day.name)
            return SealedDay(day.name, "sealed", answers, heads=heads)
    except LogBusy as busy:
        return SealedDay(day.name, "busy", detail=str(busy))
    except sqlite3.OperationalError as error:
        return SealedDay(day.name, "busy", detail=f"it cannot be written anew: {error}")


def _sealed(
    records: LogRecords, day: LogDay, files: Sequence[LogFile], report: ChainReport, step: Callable[[float], None]
) -> tuple[Mapping[str, Any], ...]:
    """Write the copy and the journal's entry; the heads to publish."""
    place = records.place
    state = [
        {"file": r.file, "rows": r.rows, "head": r.head.hex(), "erased": list(r.erased)} for r in report.files
    ]  # fmt: skip
    answers = sum(r.answers for r in report.files)
    with_erased = {found.file for found in report.files if found.erased}
    for file in files:
        if file.name in with_erased:
            place.rebuild(file)
    write_copy(
        day.sealed,
        _answers(place, files),
        state,
        labels_are_whole=all(_labels_are_whole(place, file) for file in files),
        step=lambda rows: step(rows / answers / 2),
    )
    place.keep(day.sealed_name)
    facts = {
        "day": day.name,
        "files": [
            {"file": r.file, "rows": r.rows, "answers": r.answers, "head": r.head.hex(), "key": r.key}
            for r in report.files
        ],
        "bulk": sum(len(r.segments) for r in report.files),
        "orphans": {name: sha256_of(day.folder / name) for name in report.orphans},
        "sealed": day.sealed.name,
        "copy_sha256": sha256_of(day.sealed),
    }
    records.write(SEALED, facts)
    return tuple(publish_heads(records, {r.file: (r.rows, r.head.hex()) for r in report.files}))


def _answers(place: LogPlace, files: Sequence[LogFile]) -> Iterator[tuple[LoggedAnswer, bytes]]:
    log = PredictionLog(place)
    for file in files:
        yield from log.of_file(file)


def _labels_are_whole(place: LogPlace, file: LogFile) -> bool:
    """Whether all labels that a file's answers choose from are whole numbers."""
    with place.reading(file) as rows:
        query = "SELECT facts FROM lineage WHERE id IN (SELECT lineage FROM entry)"
        facts = [orjson.loads(row["facts"]) for row in rows.execute(query)]
        bulk = rows.execute("SELECT answer FROM entry WHERE kind = 1").fetchall()
    for row in bulk:
        place.fetch(orjson.loads(row["answer"])["segment"])
        facts += read_segment(place.folder, SegmentEntry(**orjson.loads(row["answer"]))).lineages.values()
    return all(isinstance(label, int) for found in facts for label in found["classes"])
