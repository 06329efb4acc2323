"""Requests to erase what the log says of a person, and the marks of whoever has done so in one database.

A database is changed by whoever holds its lock alone: a worker in the one it writes to, a command in the others. So the
command leaves a request in a folder that all look into. It names pseudonyms, never the person. Beside it lie, for each
database, first the numbers of the rows about to be erased, and once they are, the same file under another name. Killed
anywhere, the next one to look goes on, and no erased row is without somebody who asked for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import StringConstraints

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.documents import Document, read_document, write_document
from ml_core.base.files import locked

__all__ = [
    "Erasable",
    "Erasure",
    "ErasureRequest",
    "ErasureRows",
    "request_erasure",
    "one_at_a_time",
    "pending_erasures",
]


class Erasable(Protocol):
    """A database held for change."""

    def rows_of(self, pseudonyms: Sequence[bytes]) -> list[int]:
        """Numbers of the rows that are about any of these pseudonyms."""

    def erase(self, pseudonyms: Sequence[bytes]) -> int:
        """Erase what those rows say; how many there were."""


class ErasureRequest(Document):
    """What is to be erased.

    Attributes
    ----------
    at : when it was asked for, UTC
    pseudonyms : keyed HMACs of the person under every key that was ever used, hex
    files : names of the databases to look into
    """

    at: str
    pseudonyms: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")], ...]
    files: tuple[str, ...]


class ErasureRows(Document):
    """Numbers of the rows that one database loses, or has lost, to one request."""

    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Erasure:
    """One pending request.

    Attributes
    ----------
    path : of the request
    """

    path: Path
    request: ErasureRequest

    @property
    def pseudonyms(self) -> list[bytes]:
        """Of the person, 32 bytes each."""
        return [bytes.fromhex(text) for text in self.request.pseudonyms]

    def is_done_in(self, file: str) -> bool:
        """Whether that database has lost its rows."""
        return self._mark("done", file).exists()

    def rows_in(self, file: str) -> set[int]:
        """Numbers of the rows that database has lost, or may have lost.

        Raises
        ------
        ArtefactError
            A mark cannot be read.
        """
        found = [read_document(self._mark(step, file), ErasureRows) for step in ("rows", "done")]
        return {row for mark in found if mark is not None for row in mark.rows}

    def carry_out(self, log: Erasable, file: str) -> int:
        """Erase the rows in a database that the caller holds; how many they are.

        Raises
        ------
        sqlite3.Error, OSError, ArtefactError
            It is not done, or not known to be: do it again.
        """
        rows = self.rows_in(file) | set(log.rows_of(self.pseudonyms))
        mark = self._mark("rows", file)
        write_document(mark, ErasureRows(rows=tuple(sorted(rows))))
        log.erase(self.pseudonyms)
        mark.replace(self._mark("done", file))
        return len(rows)

    def forget(self) -> None:
        """Remove the request, and then its marks: a mark alone does nothing."""
        self.path.unlink(missing_ok=True)
        for left in (f"{self.path.stem}.*", f".{self.path.stem}.*"):
            for mark in self.path.parent.glob(left):
                mark.unlink(missing_ok=True)

    def _mark(self, step: str, file: str) -> Path:
        return self.path.with_name(f"{self.path.stem}.{step}-{file}")


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other commands away, and remove what one that was killed has left of a request that never was.

    Parameters
    ----------
    folder : of the log
    """
    place = _place(folder)
    with locked(place / ".lock"):
        for draft in place.glob(".*.json.*"):
            draft.unlink(missing_ok=True)
        yield


def request_erasure(folder: Path, pseudonyms: Iterable[bytes], files: Collection[str]) -> Erasure:
    """Leave a request.

    Parameters
    ----------
    folder : of the log
    files : names of the databases to look into

    Raises
    ------
    OSError
        The place cannot be written to.
    """
    request = ErasureRequest(
        at=utc_text(utc_now()), pseudonyms=tuple(p.hex() for p in pseudonyms), files=tuple(sorted(files))
    )
    path = _place(folder) / f"{uuid.uuid4()}.json"
    write_document(path, request)
    return Erasure(path, request)


def pending_erasures(folder: Path, file: str | None = None) -> list[Erasure]:
    """Requests that nobody has ended yet, oldest first; only those that still wait for one database where it is named.

    Raises
    ------
    ArtefactError
        One cannot be read.
    """
    found: list[Erasure] = []
    for path in sorted(_place(folder).glob("*.json")):
        request = read_document(path, ErasureRequest)
        if request is None:  # ended this very moment
            continue
        erasure = Erasure(path, request)
        if file is None or (file in request.files and not erasure.is_done_in(file)):
            found.append(erasure)
    return sorted(found, key=lambda erasure: (erasure.request.at, erasure.path))


def _place(folder: Path) -> Path:
    return folder / "erasures"
