"""The engine of a home on one machine: files in a folder, swapped whole, locked by the system."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ml_core.base.errors import ArtefactError, SeatLost
from ml_core.base.files import FileLock, clear_drafts, locked, write_whole
from ml_core.serve.home.stores import DOCUMENT_PLACES, Documents, Glimpse, ProcessReport

__all__ = ["FolderDocuments", "FolderHeartbeats", "FolderSeat"]

_MODE = 0o600
_MOST_BYTES = 1 << 26


class FolderDocuments(Documents):
    """Each document is a file of its name.

    Parameters
    ----------
    folder : the home
    mode : permissions of its files
    """

    def __init__(self, folder: Path, mode: int = _MODE) -> None:
        self._folder = folder
        self._mode = mode

    def read(self, name: str) -> bytes | None:
        """As :meth:`Documents.read`."""
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArtefactError(name.rpartition("/")[2], "cannot be read") from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
                raise ArtefactError(name.rpartition("/")[2], f"is no plain file of at most {_MOST_BYTES} bytes")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)

    def write(self, name: str, content: bytes, *, durable: bool = True) -> None:
        """As :meth:`Documents.write`; a durable one also removes drafts of processes that were killed."""
        path = self._folder / name
        if durable:
            clear_drafts(path.parent, f".{path.name}.*")
        with write_whole(path, durable=durable, mode=self._mode) as draft:
            draft.write_bytes(content)
            if self._mode != _MODE:
                draft.chmod(self._mode)  # whatever the umask is

    def remove(self, name: str) -> None:
        """As :meth:`Documents.remove`."""
        (self._folder / name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """As :meth:`Documents.names`; documents are the files that end in ``.json``."""
        return [f"{folder}/{path.name}" for path in sorted((self._folder / folder).glob("[!.]*.json"))]

    def every(self) -> list[str]:
        """As :meth:`Documents.every`."""
        found = (path for place in DOCUMENT_PLACES for path in self._folder.glob(place) if path.is_file())
        return sorted(path.relative_to(self._folder).as_posix() for path in found if path.suffix != ".lock")

    def locked(self, name: str) -> AbstractContextManager[object]:
        """As :meth:`Documents.locked`."""
        return locked(self._folder / name)

    def glimpse(self, name: str) -> Glimpse:
        """As :meth:`Documents.glimpse`."""
        return Glimpse(self.read(name), None, 0.0)

    def wait(self, timeout_s: float, stopping: threading.Event) -> None:
        """As :meth:`Documents.wait`; nobody tells of changed files."""
        stopping.wait(timeout_s)


class FolderHeartbeats:
    """Each report is a file; the monotonic clock of this machine stands in it.

    Parameters
    ----------
    folder : of the reports of one model
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def beat(self, process: str, report: bytes, *, last: bool = False) -> None:  # noqa: ARG002 - a file is there at once
        """As :meth:`Heartbeats.beat`; not flushed to disk, since a report is worth nothing after a power cut."""
        with write_whole(self._folder / f"{process}.json", mode=_MODE) as draft:
            draft.write_bytes(report)

    def reports(self) -> list[ProcessReport]:
        """As :meth:`Heartbeats.reports`; what cannot be read is passed over."""
        return list(self.by_process().values())

    local_reports = reports

    def by_process(self) -> dict[str, ProcessReport]:
        """The reports by the names of their processes."""
        found = {}
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                found[path.stem] = ProcessReport(path.read_bytes(), None)
            except OSError:
                continue
        return found

    def clear(self, processes: Sequence[str]) -> None:
        """As :meth:`Heartbeats.clear`; drafts of processes that were killed go too."""
        clear_drafts(self._folder, ".*.json.*")
        for process in processes:
            (self._folder / f"{process}.json").unlink(missing_ok=True)


class FolderSeat:
    """A locked file, which the system gives up when its holder dies.

    Parameters
    ----------
    path : of the file
    name : of the seat, for messages
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._lock: FileLock | None = None

    def take(self) -> bool:
        """As :meth:`Seat.take`."""
        if self._lock is not None and self._lock.is_there():
            return True
        self.leave()
        try:
            self._lock = FileLock(self._path)
        except BlockingIOError:
            return False
        return True

    @contextmanager
    def acting(self) -> Iterator[None]:
        """As :meth:`Seat.acting`."""
        if self._lock is None:
            raise SeatLost(self._name)
        yield

    def leave(self) -> None:
        """As :meth:`Seat.leave`."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
