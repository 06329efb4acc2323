"""Where the log lies: one folder per model name, one database per worker and day, and who may change which."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from ml_core.base.errors import LogBusy
from ml_core.base.files import FileLock, locked

__all__ = [
    "LATE_DAYS",
    "LogFile",
    "closing_day",
    "day_after",
    "day_gate",
    "day_of",
    "log_files",
    "named",
    "only_closed",
    "span_us",
    "state_of",
]

LATE_DAYS = 2
"""A row whose day was sealed before it was stored is in the file of a later day, usually at most so many days later."""

_NAME = re.compile(r"predictions-(\d{4}-\d{2}-\d{2})-w(\d{2,})(?:-([A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{8}))?\.db")
_MOST_WRITERS = 1_000


@dataclass(frozen=True, slots=True, order=True)
class LogFile:
    """One database of the log.

    Attributes
    ----------
    day : UTC, as ``2026-11-24``
    worker : number of the writer, from 1; two servers on one home count on
    folder : where it lies
    origin : of a spool, the name of its machine and a random number, so that no two have one name; else ""
    """

    day: str
    worker: int
    folder: Path
    origin: str = ""

    @property
    def name(self) -> str:
        """Names it in the whole log."""
        return f"predictions-{self.day}-w{self.worker:02d}{'-' if self.origin else ''}{self.origin}.db"

    @property
    def path(self) -> Path:
        """The database."""
        return self.folder / self.name

    @property
    def lock_path(self) -> Path:
        """Held by whoever may change what a writer of that number has of the day."""
        return self.folder / f".predictions-{self.day}-w{self.worker:02d}.db.lock"

    def spool(self, machine: str) -> LogFile:
        """The spool of the same day and writer on that machine: the one that is there, or a new one."""
        there = self.folder.glob(f"predictions-{self.day}-w{self.worker:02d}-{machine}-*.db")
        found = [file for path in sorted(there) if (file := named(path.name, self.folder)) is not None]
        own = [file for file in found if file.origin.rpartition("-")[0] == machine]
        return own[-1] if own else replace(self, origin=f"{machine}-{secrets.token_hex(4)}")


def named(name: str, folder: Path) -> LogFile | None:
    """The file of that name; None where no file of the log can have it."""
    match = _NAME.fullmatch(name)
    return None if match is None else LogFile(match[1], int(match[2]), folder, match[3] or "")


def day_of(at_us: int) -> str:
    """UTC day of a moment in microseconds since 1970."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).date().isoformat()


def span_us(day: str) -> tuple[int, int]:
    """First moment of a UTC day and of the next one, in microseconds since 1970."""
    first = round(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1_000_000
    return first, first + 86_400_000_000


def day_after(day: str) -> str:
    """The UTC day after that one."""
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def day_gate(folder: Path, day: str) -> Path:
    """Locked by whoever opens a file of that day to write (shared), and by whoever seals or removes the day."""
    return folder / f".predictions-{day}.lock"


@contextmanager
def closing_day(folder: Path, day: str) -> Iterator[None]:
    """Let nobody begin to write to that day meanwhile.

    Raises
    ------
    LogBusy
        Somebody is just opening a file of it.
    """
    try:
        with locked(day_gate(folder, day), wait=False):
            yield
    except BlockingIOError as error:
        raise LogBusy(f"the day {day}") from error


def log_files(folder: Path) -> list[LogFile]:
    """All databases of the log, oldest day first."""
    found = (named(path.name, folder) for path in folder.glob("predictions-*.db"))
    return sorted(file for file in found if file is not None)


def state_of(file: LogFile) -> tuple[int, ...] | None:
    """What changes with every change of a file that nobody writes to; None where somebody may be writing to it.

    A worker keeps a WAL file beside its database, and removes it when it closes it.
    """
    try:
        os.stat(f"{file.path}-wal")  # noqa: PTH116 - for every file of the log
    except FileNotFoundError:
        with suppress(OSError):
            found = os.stat(file.path)  # noqa: PTH116 - as above
            return found.st_ino, found.st_size, found.st_mtime_ns
    except OSError:
        pass
    return None


def free_file(folder: Path, day: str, after: int = 0) -> tuple[LogFile, FileLock]:
    """The first database of that day that no other writer has, and the lock on it.

    Raises
    ------
    OSError
        The folder cannot be written to.
    """
    for worker in range(after + 1, _MOST_WRITERS):
        file = LogFile(day, worker, folder)
        try:
            return file, FileLock(file.lock_path)
        except BlockingIOError:
            continue
    raise BlockingIOError(f"{_MOST_WRITERS} writers have the log of {day}")


@contextmanager
def only_closed(file: LogFile) -> Iterator[None]:
    """Hold a database that no worker writes to.

    Raises
    ------
    LogBusy
        A worker has it.
    """
    try:
        lock = FileLock(file.lock_path)
    except BlockingIOError as error:
        raise LogBusy(file.path.name) from error
    try:
        yield
    finally:
        lock.release()
