"""What a home offers, whichever engine it is made of: small documents, the journal, reports, a seat, objects.

Two engines have these: a folder on one machine, and a database with an object store for many. One suite of tests runs
over both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Documents", "Glimpse", "Heartbeats", "JournalEntries", "Objects", "Seat"]


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a process that looks often knows of a document.

    Attributes
    ----------
    content : of the document when it was seen last; None where there was none
    version : differs whenever the document was written anew
    age_s : seconds since the document was written, by the clock of its home; None where it is not there
    seen_s : seconds since the home was last asked with success; 0 for a folder
    """

    content: bytes | None
    version: object
    age_s: float | None
    seen_s: float


class Documents(Protocol):
    """Small documents by name, such as ``rollout/readmission_risk.json``; each is read whole and written whole."""

    def read(self, name: str) -> bytes | None:
        """Content of a document, None where there is none.

        Raises
        ------
        HomeUnreachable
            The home cannot be asked now.
        """

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

    def remove(self, name: str) -> None:
        """Take a document away, where it is there."""

    def names(self, folder: str) -> list[str]:
        """Names of the documents in a folder such as ``gates``, in order."""

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Keep all other processes out of a block under the same name; what is written inside comes true together.

        On a database, all that the block writes (documents and journal) is one transaction.
        """

    def glimpse(self, name: str) -> Glimpse:
        """What is known of a document, without waiting: from memory where the home is far away."""


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
        """All entries, oldest first."""


class Heartbeats(Protocol):
    """Reports that processes write about themselves, each in the place of its last one."""

    def beat(self, process: str, report: bytes) -> None:
        """Replace the report of a process.

        Raises
        ------
        HomeUnreachable, OSError
            It was not written.
        """

    def reports(self) -> Sequence[tuple[str, bytes, float]]:
        """All reports: machine, content, and seconds since they were written by the clock of the home."""

    def clear(self, processes: Sequence[str]) -> None:
        """Take away the reports of these processes."""


class Seat(Protocol):
    """A place that one process holds at a time, while others stand by for it."""

    def take(self) -> bool:
        """Whether this process holds it, after trying to where it does not. Never waits for the holder."""

    def holds(self) -> bool:
        """Whether this process still holds it; asked before each thing that only the holder may do."""

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
