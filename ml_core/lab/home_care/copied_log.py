"""The prediction log of one model, from one home to another: every row of every file, and its chain, as they are.

In a database each file stays what it was, under its name, so its chain holds there with the same key, and so do the
marks in the journal that name files.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ml_core.base.errors import ConfigError, LogDamaged
from ml_core.base.files import write_whole
from ml_core.base.settings import Settings
from ml_core.lab.home_care.still_files import still_copy
from ml_core.lab.log_care.journal_marks import read_marks
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.object_stores import objects_of
from ml_core.serve.home.tables import Transaction
from ml_core.serve.log import fields
from ml_core.serve.log.database import open_for_reading
from ml_core.serve.log.log_files import LogFile, log_files
from ml_core.serve.log.log_places import LogRows, place_of
from ml_core.serve.log.log_records import LogRecords

__all__ = ["LogSeen", "check_arrived", "copy_log"]

_ROWS_AT_A_TIME = 2_000
_ENTRY = fields.LAYOUT.format.tables[2]
_USED_LINEAGES = "SELECT id, digest, facts FROM lineage WHERE id IN (SELECT DISTINCT lineage FROM entry)"
_WAL = b"\x02\x02"
"""At byte 18 of a SQLite file that wants a WAL file beside it."""


@dataclass(frozen=True, slots=True)
class _FileSeen:
    """How far a file goes.

    Attributes
    ----------
    head : of the chain after its last row, hex
    erased : numbers of rows whose subject was erased
    """

    rows: int
    head: str
    erased: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LogSeen:
    """What a log holds.

    Attributes
    ----------
    rows : a bulk call is one
    sha256 : over the names of all files, their numbers of rows, their heads, and the numbers of erased rows
    changed : files that were not there as they are in the source
    """

    files: int
    rows: int
    sha256: str
    changed: int = 0


def copy_log(source: Settings, target: Settings, draft: Path, *, live: bool) -> LogSeen:
    """Bring the rows of every file to the target, and say there which days are sealed; what it holds then.

    Parameters
    ----------
    draft : folder for a copy of one file at a time, where that is needed to read it
    live : workers may be writing

    Raises
    ------
    ConfigError
        A machine has not shipped all its rows, or the target has files that the source has not.
    LogDamaged, HomeUnreachable, OSError
        A file cannot be read, or one of the two homes cannot be used now.
    """
    if open_home(target).database is None:
        return _to_folder(source, target, live=live)
    return _to_database(source, target, draft, live=live)


def check_arrived(source: Settings, there: LogSeen, draft: Path, *, live: bool) -> bool:
    """Whether the source holds what was copied, and no more."""
    if open_home(source).database is not None:
        return _of_all(_in_database(source)).sha256 == there.sha256
    found = {}
    for file in log_files(source.log):
        with _still(file, draft, live=live) as still, closing(open_for_reading(still.path)) as connection:
            found[file.path.name] = _of_one(connection)
    return _of_all(found).sha256 == there.sha256


# --- from a folder ----------------------------------------------------------------------------------------------------


def _to_database(source: Settings, target: Settings, draft: Path, *, live: bool) -> LogSeen:
    from ml_core.serve.home.postgres import schema_of  # needs the extra, as what ships does
    from ml_core.serve.log.shipped_spools import ShippedSpools

    files = log_files(source.log)
    database, before = open_home(target).database, _in_database(target) if files or _has_log(target) else {}
    assert database is not None  # whoever calls knows
    _check_known({file.path.name for file in files}, before)
    spools = ShippedSpools(database, schema_of(target.model_name))
    try:
        for file in files:
            with _still(file, draft, live=live) as still:
                spools.take_file(still)
                _erase_there(still, target, before.get(file.path.name))
    finally:
        spools.close()
    for day in sorted(read_marks(LogRecords(source, with_key=False)).closed) if files else ():
        place_of(target).seal(day)
    after = _in_database(target) if files else {}
    changed = sum(before.get(name) != seen for name, seen in after.items())
    return replace(_of_all(after), changed=changed)


def _has_log(settings: Settings) -> bool:
    from ml_core.serve.home.postgres import schema_of  # needs the extra
    from ml_core.serve.log.shipped_tables import shipped_tables

    database = open_home(settings).database
    assert database is not None  # whoever calls knows
    return database.format_of(shipped_tables().format, schema_of(settings.model_name)) is not None


def _erase_there(file: LogFile, target: Settings, before: _FileSeen | None) -> None:
    """Erase in the target the rows that were erased in the source since they were copied."""
    if before is None:
        return
    with closing(open_for_reading(file.path)) as connection:
        gone = set(_of_one(connection).erased) - set(before.erased)
    if not gone:
        return
    from ml_core.serve.log.shipped_place import ShippedPlace  # needs the extra

    database = open_home(target).database
    assert database is not None  # whoever calls knows
    place = ShippedPlace(database, target.model_name, target.log, objects_of(target))
    with place.reading(file) as rows:
        about = {seq: subject for seq, subject in rows.execute("SELECT seq, subject FROM entry") if seq in gone}
    place.erase_rows(file, sorted({bytes(subject) for subject in about.values() if subject is not None}))
    place.purge(file.day)


@contextmanager
def _still(file: LogFile, draft: Path, *, live: bool) -> Iterator[LogFile]:
    """The file itself where reading it leaves nothing beside it, else a copy."""
    if not live and _is_settled(file.path):
        yield file
        return
    with still_copy(file.path, draft, is_live=live) as still:
        yield replace(file, folder=still.parent)


def _is_settled(path: Path) -> bool:
    if any(Path(f"{path}{ending}").exists() for ending in ("-wal", "-journal")):
        return False
    with path.open("rb") as content:
        return content.read(20)[18:] != _WAL


# --- to a folder ------------------------------------------------------------------------------------------------------


def _to_folder(source: Settings, target: Settings, *, live: bool) -> LogSeen:
    place = place_of(source)
    files = place.files()
    waiting = [file for file in files if place.is_live(file)]
    if waiting and not live:
        problem = "has rows that a machine has not shipped: start a service there, or `surety log give-up MACHINE`"
        raise ConfigError(waiting[0].name, problem)
    before = _in_folder(target)
    _check_known({file.name for file in files}, before)
    after: dict[str, _FileSeen] = {}
    for file in files:
        with place.reading(file) as rows:
            after[file.name] = _of_one(rows)
            if before.get(file.name) != after[file.name]:
                _write_file(rows, target.log / file.name, file.name)
    found = _in_folder(target)
    if found != after:
        raise LogDamaged(str(target.log), "holds other rows than were written: copy once more")
    return replace(_of_all(found), changed=sum(before.get(name) != seen for name, seen in found.items()))


def _write_file(rows: LogRows, path: Path, name: str) -> None:
    """Make a file of the log anew from its rows, whole or not at all."""
    form = fields.LAYOUT.format
    with (
        write_whole(path, durable=True, mode=0o600) as draft,
        closing(sqlite3.connect(draft, isolation_level=None)) as connection,
        Transaction(connection),
    ):
        form.bring_up_to_date(connection, name)
        for fact in rows.execute("SELECT name, value FROM fact").fetchall():
            connection.execute("INSERT OR REPLACE INTO fact VALUES(?, ?)", tuple(fact))
        lineages = rows.execute(_USED_LINEAGES).fetchall()
        connection.executemany("INSERT INTO lineage VALUES(?, ?, ?)", [tuple(row) for row in lineages])
        for page in _pages(rows):
            connection.executemany(_INSERT, page)


_COLUMNS = ", ".join(f'"{each.name}"' for each in _ENTRY.fields)
_INSERT = f"INSERT INTO entry({_COLUMNS}) VALUES({','.join('?' * len(_ENTRY.fields))})"
_PAGE = f"SELECT seq, {_COLUMNS} FROM entry WHERE seq > ? ORDER BY seq LIMIT {_ROWS_AT_A_TIME}"  # noqa: S608 - names of ours


def _pages(rows: LogRows) -> Iterator[list[tuple[Any, ...]]]:
    last = -1
    while page := rows.execute(_PAGE, (last,)).fetchall():
        last = int(page[-1][0])
        yield [tuple(row)[1:] for row in page]


# --- what is there ----------------------------------------------------------------------------------------------------


def _in_database(settings: Settings) -> dict[str, _FileSeen]:
    place = place_of(settings)
    found = {}
    for file in place.files():
        with place.reading(file) as rows:
            found[file.name] = _of_one(rows)
    return found


def _in_folder(settings: Settings) -> dict[str, _FileSeen]:
    found = {}
    for file in log_files(settings.log):
        with closing(open_for_reading(file.path)) as connection:
            found[file.path.name] = _of_one(connection)
    return found


def _of_one(rows: LogRows) -> _FileSeen:
    last = rows.execute("SELECT seq, head FROM entry ORDER BY seq DESC LIMIT 1").fetchone()
    erased = rows.execute("SELECT seq FROM entry WHERE answer = x'' ORDER BY seq").fetchall()
    n = rows.execute("SELECT count(*) FROM entry").fetchone()[0]
    head = b"" if last is None or last[1] is None else bytes(last[1])
    return _FileSeen(int(n), head.hex(), tuple(int(row[0]) for row in erased))


def _of_all(found: Mapping[str, _FileSeen]) -> LogSeen:
    told = repr([(name, seen.rows, seen.head, seen.erased) for name, seen in sorted(found.items())])
    return LogSeen(len(found), sum(seen.rows for seen in found.values()), hashlib.sha256(told.encode()).hexdigest())


def _check_known(wanted: set[str], before: Mapping[str, _FileSeen]) -> None:
    if others := sorted(before.keys() - wanted):
        raise ConfigError("--to", f"has files of the log that the source has not, such as {others[0]}")
