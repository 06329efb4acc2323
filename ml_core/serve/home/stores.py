"""What a home offers, whichever engine it is made of: small documents, the journal, reports, a seat, objects.

Two engines have these: a folder on one machine, and a database with an object store for many. One suite of tests runs
over both.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ml_core.base.documents import Document, document_bytes, parsed_document

__all__ = [
    "DOCUMENT_PLACES",
    "Documents",
    "Glimpse",
    "Heartbeats",
    "JournalEntries",
    "Objects",
    "ProcessReport",
    "Seat",
]

DOCUMENT_PLACES = (
    "home.json",
    "home_copy.json",
    "home_copy_files.json",
    "known_keys.json",
    *(f"{folder}/[!.]*.json" for folder in ("trust", "gates", "promotions", "rollout", "monitor", "labels", "retrain")),
    "log/*/erasures/[!.]*",
)
"""Where documents lie in a home that is a folder, in which other files are somebody's own."""

_D = TypeVar("_D", bound=Document)


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a process that looks often knows of a document.

    Attributes
    ----------
    content : of the document when it was seen last; None where there was none
    age_s : seconds since it was written, by the clock of its home; None where it is not there, or where the home has no
        clock of its own: then it was written on this machine, and what stands in it tells
    seen_s : seconds since the home was last asked with success; 0 for a folder, infinite where it never answered
    """

    content: bytes | None
    age_s: float | None
    seen_s: float


class Documents(Protocol):
    """Small documents by name, such as ``rollout/readmission_risk.json``; each is read whole and written whole."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Content of a document, None where there is none.

        Raises
        ------
        ArtefactError
            It is there and cannot be read.
        HomeUnreachable
            The home cannot be asked now.
        """

    @abstractmethod
    def write(self, name: str, content: bytes, *, durable: bool = True) -> None:
        """Make or replace a document.

        Parameters
        ----------
        durable : it must survive a power cut

        Raises
        ------
        HomeUnreachable, OSError
            It was not written.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Take a document away, where it is there."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names of the documents in a folder such as ``gates``, in order."""

    @abstractmethod
    def every(self) -> list[str]:
        """Names of all documents of a home, in order; those in a folder lie in ``DOCUMENT_PLACES``."""

    @abstractmethod
    def locked(self, name: str) -> AbstractContextManager[object]:
        """Keep all other processes out of a block under the same name, such as ``trust/keys.lock``.

        On a database, all that the block writes (documents, journal, tables) is one transaction.

        Raises
        ------
        HomeUnreachable, OSError
            The lock cannot be had.
        """

    @abstractmethod
    def glimpse(self, name: str) -> Glimpse:
        """What is known of a document, without waiting: from memory where the home is far away.

        Only the first glimpse of a document asks the home.

        Raises
        ------
        ArtefactError
            It is there and cannot be read.
        """

    @abstractmethod
    def wait(self, timeout_s: float, stopping: threading.Event) -> None:
        """Return after that time, or as soon as one is told that a document which was glimpsed has changed.

        Parameters
        ----------
        stopping : set where nobody is to wait any more
        """

    def load(self, name: str, kind: type[_D]) -> _D | None:
        """A document of that kind, None where there is none.

        Raises
        ------
        ArtefactError
            It cannot be read, or is of another kind.
        HomeUnreachable
            As :meth:`read`.
        """
        raw = self.read(name)
        return None if raw is None else parsed_document(raw, name.rpartition("/")[2], kind)

    def save(self, name: str, document: Document, *, durable: bool = True) -> None:
        """Make or replace a document; raises as :meth:`write`."""
        self.write(name, document_bytes(document), durable=durable)


class JournalEntries(Protocol):
    """Every decision with its numbers: only ever appended to."""

    def append(self, event: str, facts: Mapping[str, Any]) -> None:
        """Add an entry ``{"at", "event", "by", **facts}`` and return once it is safe.

        Raises
        ------
        HomeUnreachable, OSError
            It was not written.
        """

    def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first.

        Raises
        ------
        HomeUnreachable, OSError
            They cannot be read.
        """

    def texts(self) -> list[str]:
        """All entries as they were written, JSON on one line each, oldest first; raises as :meth:`entries`."""

    def take(self, texts: Sequence[str]) -> None:
        """Append entries of another journal as they are, with their times and authors: all of them, or none.

        Raises
        ------
        HomeUnreachable, OSError
            They were not written.
        """


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """The last report of a process.

    Attributes
    ----------
    age_s : seconds since it was written by the clock of the home; None where it was written on this machine, whose
        clock stands in the report
    """

    content: bytes
    age_s: float | None


class Heartbeats(Protocol):
    """Reports that the processes of one model write about themselves, each in the place of its last one."""

    def beat(self, process: str, report: bytes, *, last: bool = False) -> None:
        """Replace the report of a process. Never waits for a home that is far away: it gets the newest report soon.

        Parameters
        ----------
        process : a name that no other process has, fit for a file
        last : the process ends, so the home must have the report before this returns

        Raises
        ------
        HomeUnreachable, OSError
            It was not written.
        """

    def reports(self) -> list[ProcessReport]:
        """All reports. While the home cannot be reached: those of this machine, and what was last known of others.

        Raises
        ------
        HomeUnreachable
            It has never been reached by this process, which does not report itself.
        """

    def local_reports(self) -> list[ProcessReport]:
        """The reports of the processes on this machine, without waiting for a home that is far away."""

    def clear(self, processes: Sequence[str]) -> None:
        """Take away the reports of these processes.

        Raises
        ------
        HomeUnreachable, OSError
            Some may still be there.
        """


class Seat(Protocol):
    """A place that one process holds at a time, while others stand by for it."""

    def take(self) -> bool:
        """Whether this process holds it, after trying to where it does not. Never waits for the holder.

        Raises
        ------
        HomeUnreachable, OSError
            It cannot be known now; this process does not hold it.
        """

    def acting(self) -> AbstractContextManager[None]:
        """A block in which this process acts as the holder.

        On a database, a write in it is refused once another has taken the seat, even if this process has not noticed.

        Raises
        ------
        SeatLost
            This process does not hold the seat, or does no longer.
        """

    def leave(self) -> None:
        """Give it up."""


class Objects(Protocol):
    """Large things by name, such as ``models/3f…/model.onnx``: written once, read whole or in part."""

    def put(self, name: str, content: bytes, *, replace: bool = False) -> bool:
        """Store an object; False where one of that name is there and ``replace`` is off.

        Raises
        ------
        HomeUnreachable, OSError
            It was not stored.
        """

    def get(self, name: str, limit: int) -> bytes | None:
        """An object's content, None where there is none.

        Raises
        ------
        ArtefactError
            It has more than ``limit`` bytes.
        HomeUnreachable, OSError
            It cannot be read now.
        """

    def names(self, prefix: str) -> Iterator[str]:
        """Names of the objects below a prefix, in order."""

    def remove(self, name: str) -> None:
        """Take an object away, where it is there."""
