"""The entry of the log behind an answer: where it lies, and whether its digest and the chain around it still hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ml_core.serve.log.database import ENTRIES, genesis_head, key_of
from ml_core.serve.log.entries import ERASED, id_bytes, next_head, stored_digest
from ml_core.serve.log.log_files import LogFile, named
from ml_core.serve.log.log_keys import LogKey
from ml_core.serve.log.log_places import LogPlace, LogRows

__all__ = ["LogEntry", "find_entry", "is_bulk_call"]

_LAST_HEAD = "SELECT seq, head FROM entry WHERE seq < ? AND head IS NOT NULL ORDER BY seq DESC LIMIT 1"
_NEXT_HEAD = "SELECT seq, head FROM entry WHERE seq >= ? AND head IS NOT NULL ORDER BY seq LIMIT 1"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry as it lies in the log.

    Attributes
    ----------
    file, position : name of the database, and number of the row in it
    digest : salted sha256 of what was written, hex
    digest_holds : whether what lies there still has it; None where it was erased, which leaves nothing to hash
    chain_holds : whether its commit and the next one still give the heads that were written after them; None where
        the key that made them is not here
    commit : first and last position of the commit it was part of
    lineage : the facts it refers to
    segment, segment_rows : file and answers of a bulk call; None for a single answer
    """

    file: str
    position: int
    digest: str
    digest_holds: bool | None
    chain_holds: bool | None
    commit: tuple[int, int]
    lineage: Mapping[str, Any]
    segment: str | None = None
    segment_rows: int | None = None


def find_entry(place: LogPlace, file: str, entry_id: str, keys: Mapping[str, LogKey]) -> LogEntry | None:
    """The entry of that id in that file of the log; None where it is not there.

    Parameters
    ----------
    place : where the log lies
    entry_id : ``request_id`` of a single answer, ``batch_id`` of a bulk call
    keys : of the log, by their ids

    Raises
    ------
    LogDamaged
        The file cannot be read.
    """
    found = named(file, place.folder)
    if found is None:
        return None
    with place.reading(found) as connection:
        row = connection.execute(f"{ENTRIES} WHERE e.request_id = ?", (id_bytes(entry_id),)).fetchone()
        if row is None:
            return None
        key_id = key_of(connection)
        key = keys.get(key_id)
        first, last, holds = _commit(connection, found, row["seq"], key)
        following = _commit(connection, found, last + 1, key)
    segment = orjson.loads(row["answer"]) if row["kind"] else {}
    return LogEntry(
        file=file,
        position=row["seq"],
        digest=row["digest"].hex(),
        digest_holds=_digest_holds(row),
        chain_holds=None if key_id and key is None else holds and following[2],
        commit=(first, last),
        lineage=orjson.loads(row["facts"]),
        segment=segment.get("segment"),
        segment_rows=segment.get("rows"),
    )


def is_bulk_call(place: LogPlace, file: str, batch_id: str) -> bool:
    """Whether a batch came as an Arrow stream, which is one entry, and not as JSON, which is one for each answer.

    Raises
    ------
    LogDamaged
        The file cannot be read.
    """
    found = named(file, place.folder)
    if found is None:
        return False
    with place.reading(found) as connection:
        row = connection.execute("SELECT kind FROM entry WHERE request_id = ?", (id_bytes(batch_id),)).fetchone()
    return row is not None and row["kind"] == 1


def _digest_holds(row: Any) -> bool | None:
    if row["answer"] == ERASED:
        return None
    facts: bool = hashlib.sha256(row["facts"]).digest() == row["lineage_digest"]
    return facts and stored_digest(dict(row), row["lineage_digest"]) == row["digest"]


def _commit(connection: LogRows, file: LogFile, position: int, key: LogKey | None) -> tuple[int, int, bool]:
    """First and last row of the commit around a position, and whether it gives its head; true beyond the last one."""
    before = connection.execute(_LAST_HEAD, (position,)).fetchone()
    start, head = (0, genesis_head(file, key)) if before is None else tuple(before)
    end = connection.execute(_NEXT_HEAD, (position,)).fetchone()
    if end is None:
        beyond = connection.execute("SELECT 1 FROM entry WHERE seq >= ? LIMIT 1", (position,)).fetchone()
        return start + 1, position, beyond is None
    rows = connection.execute("SELECT digest FROM entry WHERE seq > ? AND seq <= ? ORDER BY seq", (start, end["seq"]))
    return start + 1, end["seq"], next_head(head, [row["digest"] for row in rows], key) == end["head"]
