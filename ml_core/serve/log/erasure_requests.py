"""Requests to erase what the log says of a person, and the marks of whoever has done so in one database.

A database is changed by whoever holds its lock alone: a worker in the one it writes to, a command in the others. So the
command leaves a request in a folder that all look into. It names pseudonyms, never the person. Beside it lie, for each
database, first the numbers of the rows about to be erased, and once they are, the same file under another name. Killed
anywhere, the next one to look goes on, and no erased row is without somebody who asked for it.

A request counts only where a signed entry of the journal says that it was made, and none that it has been ended. The
files of numbers are signed as well. Whatever else lies there is ignored, and named when the log is verified.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.documents import Document
from ml_core.base.files import locked
from ml_core.serve.log.database import Erasable
from ml_core.serve.log.log_records import ASKED, ERASED, LogRecords

__all__ = [
    "Erasure",
    "ErasureRequest",
    "ErasureRows",
    "forged_erasures",
    "forget_ended_erasures",
    "one_at_a_time",
    "pending_erasures",
    "request_erasure",
]


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
    """Numbers of the rows that one database loses, or has lost, to one request.

    Attributes
    ----------
    key, mac : id of the key that signed it, and its signature, hex
    """

    rows: tuple[int, ...]
    key: str = ""
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Erasure:
    """One pending request.

    Attributes
    ----------
    path : of the request
    records : the journal that says that it was made
    """

    path: Path
    request: ErasureRequest
    records: LogRecords

    @property
    def pseudonyms(self) -> list[bytes]:
        """Of the person, 32 bytes each."""
        return [bytes.fromhex(text) for text in self.request.pseudonyms]

    def is_done_in(self, file: str) -> bool:
        """Whether that database has lost its rows."""
        return self._read("done", file) is not None

    def rows_in(self, file: str) -> set[int]:
        """Numbers of the rows that database has lost, or may have lost.

        Raises
        ------
        ArtefactError
            A mark cannot be read.
        """
        found = [self._read(step, file) for step in ("rows", "done")]
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
        key = self.records.key()
        said = ErasureRows(rows=tuple(sorted(rows)), key=key.id)
        said = said.model_copy(update={"mac": key.sign("erasure", self._signed(said, file))})
        documents = self.records.documents
        documents.save(mark, said)
        log.erase(self.pseudonyms)
        documents.save(self._mark("done", file), said)
        documents.remove(mark)
        return len(rows)

    def forget(self) -> None:
        """Remove the request, and then its marks: a mark alone does nothing."""
        self.records.documents.remove(_name(self.records, self.path.name))
        for file in self.request.files:
            for step in ("rows", "done"):
                self.records.documents.remove(self._mark(step, file))
        for left in (f"{self.path.stem}.*", f".{self.path.stem}.*"):  # drafts of who was killed
            for mark in self.path.parent.glob(left):
                mark.unlink(missing_ok=True)

    def _read(self, step: str, file: str) -> ErasureRows | None:
        """A file of numbers; None where there is none, or none that the log's key has signed."""
        found = self.records.documents.load(self._mark(step, file), ErasureRows)
        if found is None or not self.records.with_key:
            return found
        key = self.records.keys.all().get(found.key)
        return found if key is not None and key.has_signed("erasure", self._signed(found, file)) else None

    def _signed(self, said: ErasureRows, file: str) -> dict[str, object]:
        return {"request": self.path.stem, "file": file, "rows": list(said.rows), "mac": said.mac}

    def _mark(self, step: str, file: str) -> str:
        return _name(self.records, f"{self.path.stem}.{step}-{file}")


@contextmanager
def one_at_a_time(records: LogRecords) -> Iterator[None]:
    """Keep other commands away, and remove what one that was killed has left of a request that never was."""
    place = _place(records.folder)
    with locked(place / ".lock"):
        for draft in place.glob(".*.json.*"):
            draft.unlink(missing_ok=True)
        with records.seat("erasures"):
            yield


def request_erasure(records: LogRecords, pseudonyms: Iterable[bytes], files: Collection[str]) -> Erasure:
    """Say in the journal what is to be erased, and leave the request.

    Parameters
    ----------
    files : names of the databases to look into

    Raises
    ------
    ConfigError, OSError
        The place or the journal cannot be written to.
    """
    request = ErasureRequest(
        at=utc_text(utc_now()), pseudonyms=tuple(p.hex() for p in pseudonyms), files=tuple(sorted(files))
    )
    path = _place(records.folder) / f"{uuid.uuid4()}.json"
    records.write(ASKED, {"request": path.stem, "files": list(request.files), "sha256": _sha256(request)})
    records.documents.save(_name(records, path.name), request)
    return Erasure(path, request, records)


def pending_erasures(records: LogRecords, file: str | None = None) -> list[Erasure]:
    """Requests that nobody has ended yet, oldest first; only those that still wait for one database where it is named.

    Raises
    ------
    ArtefactError
        One cannot be read.
    ConfigError
        The log's key cannot be read.
    """
    found = [erasure for erasure, state in _requests(records) if state == "asked"]
    if file is not None:
        found = [each for each in found if file in each.request.files and not each.is_done_in(file)]
    return sorted(found, key=lambda erasure: (erasure.request.at, erasure.path))


def forged_erasures(records: LogRecords) -> list[str]:
    """Names of files of requests that no signed entry of the journal stands for; nobody obeys them.

    Raises
    ------
    ArtefactError, ConfigError
        As :func:`pending_erasures`.
    """
    return [erasure.path.name for erasure, state in _requests(records) if state == "forged"]


def forget_ended_erasures(records: LogRecords) -> None:
    """Remove what a command that was killed has left of requests that were ended."""
    for erasure, state in _requests(records):
        if state == "ended":
            erasure.forget()


def _requests(records: LogRecords) -> Iterator[tuple[Erasure, Literal["asked", "ended", "forged"]]]:
    """Each file of a request, and what the journal says of it."""
    asked: dict[str, str] | None = None
    ended: set[object] = set()
    for name in records.documents.names(_name(records)):
        if not name.endswith(".json"):
            continue
        request, path = records.documents.load(name, ErasureRequest), _place(records.folder) / Path(name).name
        if request is None:  # ended this very moment
            continue
        if asked is None:  # the journal may be long, and mostly nobody asks
            says = records.read()
            ended = {entry.get("request") for entry in says.of(ERASED)}
            asked = {entry["request"]: entry["sha256"] for entry in says.of(ASKED)}
        is_ours = asked.get(path.stem) == _sha256(request)
        yield Erasure(path, request, records), "forged" if not is_ours else "ended" if path.stem in ended else "asked"


def _sha256(request: ErasureRequest) -> str:
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()


def _place(folder: Path) -> Path:
    return folder / "erasures"


def _name(records: LogRecords, *rest: str) -> str:
    """Name of the folder of requests among the home's documents, or of a document in it."""
    return "/".join(("log", records.model, "erasures", *rest))
