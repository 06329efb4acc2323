"""Where the log lies: one folder per model name, one database per worker and day, and who may change which."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ml_core.base.errors import LogBusy

__all__ = ["FileLock", "LogFile", "day_of", "log_files", "only_closed"]

_NAME = re.compile(r"predictions-(\d{4}-\d{2}-\d{2})-w(\d{2,})\.db")
_MOST_WRITERS = 1_000


@dataclass(frozen=True, slots=True, order=True)
class LogFile:
    """One database of the log.

    Attributes
    ----------
    day : UTC, as ``2026-11-24``
    worker : number of the writer, from 1; two servers on one home count on
    folder : where it lies
    """

    day: str
    worker: int
    folder: Path

    @property
    def path(self) -> Path:
        """The database."""
        return self.folder / f"predictions-{self.day}-w{self.worker:02d}.db"

    @property
    def lock_path(self) -> Path:
        """Held by whoever may change the database."""
        return self.folder / f".{self.path.name}.lock"


class FileLock:
    """An exclusive lock on a file, given up when the process dies; raises ``BlockingIOError`` where it is taken."""

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        self._path = path
        if descriptor is not None:
            self._descriptor = descriptor
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = _locked(path)
        while not self.is_there():  # whoever had it has removed the file since we opened it
            os.close(self._descriptor)
            self._descriptor = _locked(path)

    def again(self) -> FileLock:
        """The same lock for somebody else to hold as well; it is given up once both have done so."""
        return FileLock(self._path, os.dup(self._descriptor))

    def is_there(self) -> bool:
        """Whether others still find the file that is locked here."""
        try:
            found, held = self._path.stat(), os.fstat(self._descriptor)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def release(self) -> None:
        """Give it up."""
        os.close(self._descriptor)


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def day_of(at_us: int) -> str:
    """UTC day of a moment in microseconds since 1970."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).date().isoformat()


def log_files(folder: Path) -> list[LogFile]:
    """All databases of the log, oldest day first."""
    found = []
    for path in folder.glob("predictions-*.db"):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found.append(LogFile(match[1], int(match[2]), folder))
    return sorted(found)


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
