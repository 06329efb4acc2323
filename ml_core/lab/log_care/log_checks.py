"""Checks of ``surety log verify`` beside the chains of rows: labels, sealed days, and heads that were published.

Published heads come in a file as a log collector gives it back: one JSON object a line, or one inside the text or a
field of a line, with other lines between. A head that is not in the store any more tells that history was changed
after it was published.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ml_core.base.errors import DataError, LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.log_care.journal_marks import ClosedDay, Marks
from ml_core.lab.log_care.log_days import LogDay
from ml_core.serve.home.table_stores import TableConnection, TableStore
from ml_core.serve.log.label_tables import (
    CHAIN_TABLE,
    FIRST_HEAD,
    LABEL_TABLE,
    label_digest,
    next_label_head,
    open_label_tables,
)
from ml_core.serve.log.log_keys import LogKey
from ml_core.serve.log.log_places import place_of
from ml_core.serve.log.log_records import HEAD_EVENT, JOURNAL, LABELS, LogRecords, is_signed_head

__all__ = ["ChainFinding", "FindingKind", "check_closed_day", "check_heads", "check_labels", "sha256_of"]

FindingKind = Literal[
    "row", "chain", "file", "key", "unkeyed", "missing", "sealed-day", "sealed-copy", "erasure", "labels", "journal",
    "heads",
]  # fmt: skip
"""What is wrong: a stored row; rows that are not those of their commit; the file itself; a key that is not here; a file
without a key that nothing vouches for; a file that is gone; what came into, or left, a sealed day; the Parquet copy of
one; an erasure that nobody asked for; labels; the journal's entries on the log; what differs from a published head."""


@dataclass(frozen=True, slots=True)
class ChainFinding:
    """One finding.

    Attributes
    ----------
    where : name of the file
    row : number of the row, or of the line; None where it is about the file
    problem : in words; no value of an answer is quoted
    """

    kind: FindingKind
    where: str
    problem: str
    row: int | None = None

    def __str__(self) -> str:
        return f"{self.where}{'' if self.row is None else f', row {self.row}'}: {self.problem}"


def check_labels(tables: TableStore, records: LogRecords, erased: Collection[int]) -> list[ChainFinding]:
    """What is wrong with the labels; nothing where the log has never had a key.

    Parameters
    ----------
    erased : numbers of labels that the journal says were erased
    """
    keys = records.keys.all() if records.with_key else {}
    try:
        with tables.reading(snapshot=True) as connection:
            if connection is None:
                return []
            return list(_label_problems(connection, tables.name, keys, set(erased), with_key=records.with_key))
    except (LogDamaged, sqlite3.Error, TypeError, ValueError) as error:
        return [ChainFinding("labels", tables.name, f"cannot be read: {error}")]


def _label_problems(
    connection: TableConnection, name: str, keys: Mapping[str, LogKey], erased: set[int], *, with_key: bool
) -> Iterator[ChainFinding]:
    labels = {row[0]: row for row in connection.execute(LABEL_TABLE.select)}
    chain = connection.execute(f"{CHAIN_TABLE.select} ORDER BY n").fetchall()
    if not (keys or chain):
        return
    head = FIRST_HEAD
    for number, (n, seq, salt, digest, said, key_id) in enumerate(chain, start=1):
        if n != number:
            yield ChainFinding("labels", name, "labels before it are missing", seq)
            return
        stored = labels.pop(seq, None)
        if stored is None and (salt or seq not in erased):
            yield ChainFinding("labels", name, "it is missing, and nobody asked for its erasure", seq)
        elif stored is not None and label_digest(salt, stored) != digest:
            yield ChainFinding("labels", name, "it is not what was stored", seq)
        key = keys.get(key_id)
        if with_key and (key is None or next_label_head(head, n, seq, digest, key) != said):
            yield ChainFinding("labels", name, "the chain breaks: labels were changed, moved or added here", seq)
            return
        head = said
    for seq in sorted(labels):
        yield ChainFinding("labels", name, "it is in no chain: `surety log adopt` vouches for what is yours", seq)


def check_closed_day(
    day: LogDay, closed: ClosedDay, rows: Mapping[str, int], orphans: Collection[str], erasing: Collection[str]
) -> Iterator[ChainFinding]:
    """What came into the day, or left it, since it was sealed; that rows changed is seen by their chain.

    Parameters
    ----------
    rows : how many each database has, by its name
    orphans : files of bulk calls that no row names
    erasing : names of databases that an erasure is under way in; it makes the copy anew
    """
    for name, found in rows.items():
        if f"-{day.name}-" not in name:
            continue
        if name not in closed.files:
            yield ChainFinding("sealed-day", name, "came into its day after it was sealed")
        elif found > closed.files[name][0]:
            first = closed.files[name][0] + 1
            yield ChainFinding("sealed-day", name, "it and what follows came after its day was sealed", first)
    of_day = {name for name in orphans if name.startswith(f"bulk/{day.name}/")}
    for name in sorted(of_day | set(closed.orphans)):
        path = day.folder / name
        if not path.exists():
            yield ChainFinding("sealed-day", name, "was there when its day was sealed, and is missing")
        elif closed.orphans.get(name) != sha256_of(path):
            yield ChainFinding("sealed-day", name, "was not there, or was another file, when its day was sealed")
    if not any(f"-{day.name}-" in name for name in erasing):
        yield from _copy(day, closed)


def _copy(day: LogDay, closed: ClosedDay) -> Iterator[ChainFinding]:
    name = f"sealed/{day.sealed.name}"
    if not day.sealed.exists():
        if closed.copy_sha256:
            yield ChainFinding("sealed-copy", name, "is missing; surety log seal makes it again")
    elif sha256_of(day.sealed) != closed.copy_sha256:
        yield ChainFinding(
            "sealed-copy", name, "is not the file that was written; remove it, and surety log seal makes it again"
        )


def sha256_of(path: Path) -> str:
    """Of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_DEPTH = 3
"""How deep a line may lie in fields of a collector's own lines."""
_Ends = Mapping[int, str]


def check_heads(path: Path, settings: Settings, records: LogRecords, marks: Marks) -> list[ChainFinding]:
    """What differs from published heads.

    Raises
    ------
    DataError
        The file cannot be read, or holds no head of this model's log.
    """
    published: dict[str, dict[int, str]] = {}
    found: list[ChainFinding] = []
    for number, line in _lines(path):
        if line.get("model") != settings.model_name:
            continue
        if records.with_key and not is_signed_head(records, line):
            found.append(ChainFinding("heads", path.name, "this line is not signed with the log's key", number))
            continue
        before = published.setdefault(str(line["file"]), {}).setdefault(int(line["seq"]), str(line["head"]))
        if before != line["head"]:
            found.append(ChainFinding("heads", path.name, "another line names another head for the same row", number))
    if not published and not found:
        raise DataError(str(path), f"holds no published head of {settings.model_name}")
    for name, heads in published.items():
        found += _held_against(name, heads, _store(name, settings, marks))
    return found


def _held_against(name: str, heads: _Ends, stored: _Ends | None) -> Iterator[ChainFinding]:
    """The first head of a file that its chain does not have.

    Parameters
    ----------
    stored : all heads of the chain, by the number of the row each follows; None where the file is gone rightly
    """
    if stored is None:
        return
    last, good = max(stored, default=0), 0
    for seq in sorted(heads):
        if seq and seq > last:
            yield ChainFinding(
                "heads", name, f"the end is cut off: it had {seq} rows when its head was published", last + 1
            )
            return
        if stored.get(seq) != heads[seq]:
            problem = f"rows {good + 1} to {seq} are not those whose head was published: history was rewritten"
            yield ChainFinding("heads", name, problem, good + 1)
            return
        good = seq


def _store(name: str, settings: Settings, marks: Marks) -> _Ends | None:
    if name == JOURNAL:
        return marks.marks
    if name == LABELS:
        with open_label_tables(settings, settings.model_name).reading() as labels:
            rows = [] if labels is None else labels.execute("SELECT n, head FROM label_chain").fetchall()
        return {int(row[0]): row[1].hex() for row in rows}
    place = place_of(settings)
    file = next((each for each in place.files() if each.name == name), None)
    if file is None:
        return None if name in marks.pruned else {}
    try:
        with place.reading(file) as connection:
            genesis = connection.execute("SELECT value FROM fact WHERE name = 'genesis'").fetchone()
            rows = connection.execute("SELECT seq, head FROM entry WHERE head IS NOT NULL").fetchall()
    except LogDamaged:
        return None  # what is wrong with it is told by the walk through its chain
    return {int(row["seq"]): row["head"].hex() for row in rows} | ({} if genesis is None else {0: genesis["value"]})


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, start=1):
                line = _head_in(text, _DEPTH)
                if line is not None:
                    yield number, line
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror or type(error).__name__}") from error


def _head_in(text: str, depth: int) -> Mapping[str, Any] | None:
    """The head that a line tells of, where it does."""
    if HEAD_EVENT not in text or "{" not in text or not depth:
        return None
    try:
        line, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
    except (ValueError, RecursionError):
        return None
    if line.get("event") == HEAD_EVENT and {"model", "file", "seq", "head"} <= set(line):
        return line if isinstance(line["seq"], int) else None
    inner = (_head_in(value, depth - 1) for value in line.values() if isinstance(value, str))
    return next((found for found in inner if found is not None), None)
