"""Removes whole days of the log once they are older than they need be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from ml_core.base.clock import utc_now
from ml_core.base.errors import LogBusy
from ml_core.base.settings import Settings
from ml_core.lab.log_care.journal_marks import Marks, read_marks
from ml_core.lab.log_care.log_days import LogDay, log_days, named_later
from ml_core.serve.log.database import end_of
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.log_places import place_of
from ml_core.serve.log.log_records import PRUNED, LogRecords

__all__ = ["OldDay", "old_days", "prune_day"]


@dataclass(frozen=True, slots=True)
class OldDay:
    """A day that is older than the log is kept.

    Attributes
    ----------
    state : goes; or stays, because it is not sealed as it is, or because a worker writes to it
    files : names of its databases
    rows : in them, as far as they can be read
    bytes : of everything that goes with them
    """

    day: LogDay
    state: Literal["goes", "unsealed", "busy"]
    files: tuple[str, ...]
    rows: int
    bytes: int


_Ends = Mapping[str, tuple[int | None, str | None]]
"""Last row and head of databases, by name; None where that cannot be read."""


def old_days(settings: Settings, older_than_days: float, *, unsealed: bool) -> list[OldDay]:
    """Days that ended longer ago than that, oldest first.

    Parameters
    ----------
    unsealed : days go that are not sealed, too

    Raises
    ------
    LogDamaged
        The journal cannot be read.
    """
    marks = read_marks(LogRecords(settings))
    limit = utc_now() - timedelta(days=older_than_days)
    return [_judged(day, marks, unsealed=unsealed) for day in log_days(place_of(settings)) if day.ends <= limit]


def prune_day(settings: Settings, day: LogDay, *, unsealed: bool) -> OldDay:
    """Remove a day, after its last heads are in the journal; killed anywhere, it can be removed again.

    What is returned says whether it went.

    Raises
    ------
    OSError
        Something of it cannot be removed.
    LogDamaged
        The journal cannot be read.
    """
    records = LogRecords(settings)
    day = LogDay(day.name, settings.log, records.place)
    judged = _judged(day, read_marks(records), unsealed=unsealed)
    if judged.state != "goes":
        return judged
    try:
        with day.held() as files:
            ends = _ends(day, files)
            if not unsealed and not _are_sealed(ends, read_marks(records)):
                return OldDay(day, "unsealed", judged.files, judged.rows, judged.bytes)
            for name, (rows, head) in ends.items():
                records.write(PRUNED, {"day": day.name, "file": name, "rows": rows, "head": head})
            late = {day.folder / name for name in named_later(day)}  # they go with the day whose rows name them
            if not late:
                day.place.discard(f"bulk/{day.name}/")
            day.place.discard(day.sealed_name)
            day.place.remove(day.name)
            for path in day.beside():
                if path not in late:
                    path.unlink(missing_ok=True)
            if not late:
                with suppress(FileNotFoundError):
                    day.bulk.rmdir()
    except LogBusy:
        return OldDay(day, "busy", judged.files, judged.rows, judged.bytes)
    return judged


def _judged(day: LogDay, marks: Marks, *, unsealed: bool) -> OldDay:
    size = day.bytes()
    ends = _ends(day, day.files)
    state: Literal["goes", "unsealed", "busy"] = "goes"
    try:
        with day.held():
            pass
    except LogBusy:
        state = "busy"
    if state == "goes" and not unsealed and not _are_sealed(ends, marks):
        state = "unsealed"
    return OldDay(day, state, tuple(ends), sum(rows or 0 for rows, _ in ends.values()), size)


def _ends(day: LogDay, files: Sequence[LogFile]) -> _Ends:
    return {file.name: end_of(file, day.place.reading) for file in files}


def _are_sealed(ends: _Ends, marks: Marks) -> bool:
    return all(
        rows is not None and head is not None and marks.may_go(name, rows, head)
        for name, (rows, head) in ends.items()
    )  # fmt: skip
