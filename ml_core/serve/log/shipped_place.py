"""The log in the database of a home on many machines: what the spools of all of them have shipped."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from ml_core.base.errors import LogBusy, LogDamaged
from ml_core.serve.home.postgres import HomeDatabase, schema_of
from ml_core.serve.home.stores import Objects
from ml_core.serve.log.database import Erasable
from ml_core.serve.log.log_files import LogFile, named
from ml_core.serve.log.log_objects import LogObjects
from ml_core.serve.log.log_places import FileFacts, LogPart, LogRows
from ml_core.serve.log.shipped_spools import sealing_lock
from ml_core.serve.log.shipped_tables import partition_of, shipped_tables

__all__ = ["ShippedPlace"]

_FILES = "SELECT name, id, shipped FROM log_file"
_ONE = (
    "WITH entry AS NOT MATERIALIZED (SELECT * FROM log_entry WHERE day = %(_day)s::date AND file = %(_file)s), "
    "lineage AS NOT MATERIALIZED (SELECT id, digest, facts FROM log_lineage), "
    "fact AS NOT MATERIALIZED (SELECT 'genesis' AS name, genesis AS value FROM log_file WHERE id = %(_file)s "
    "UNION ALL SELECT 'key', key FROM log_file WHERE id = %(_file)s) "
)
_MANY = (
    "WITH entry AS NOT MATERIALIZED "
    "(SELECT e.*, f.name AS file_name FROM log_entry e JOIN log_file f ON f.id = e.file{}), "
    "lineage AS NOT MATERIALIZED (SELECT id, digest, facts FROM log_lineage) "
)
_OF_DAYS = " WHERE e.day = ANY(%(_days)s::date[])"
_SIZE = (
    "SELECT pg_total_relation_size(to_regclass(%s)) * (SELECT shipped FROM log_file WHERE name = %s) "
    "/ nullif((SELECT sum(shipped) FROM log_file WHERE day = %s), 0)"
)
_FACTS = (
    "SELECT f.name, f.shipped, coalesce((pg_total_relation_size(to_regclass('log_entry_' || to_char(f.day, "
    "'YYYY_MM_DD'))) * f.shipped / nullif(sum(f.shipped) OVER (PARTITION BY f.day), 0))::bigint, 0), NOT f.is_whole, "
    "coalesce(d.is_sealed, false) FROM log_file f LEFT JOIN log_day d ON d.day = f.day"
)
_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
_SEAL = "INSERT INTO log_day(day, is_sealed) VALUES(%s, true) ON CONFLICT(day) DO UPDATE SET is_sealed = true"
_MOVE = (
    "INSERT INTO log_client(client, at_us, request_id, day) SELECT DISTINCT ON (client_request_id) client_request_id, "
    "at_us, request_id, day FROM log_entry WHERE day BETWEEN %(day)s::date AND %(last)s::date "
    "AND client_request_id IN (SELECT client FROM gone) ORDER BY client_request_id, at_us, request_id"
)
_REMOVE = (
    "CREATE TEMP TABLE gone ON COMMIT DROP AS SELECT client FROM log_client WHERE day = %(day)s",
    "DELETE FROM log_client WHERE day = %(day)s",
    _MOVE,
    "DELETE FROM log_file WHERE day = %(day)s",
    "DROP TABLE gone",
)
"""Names of the day whose request was repeated within so many days belong to the repeat from now on."""
_REPEATED_DAYS = 30
_IS_ABOUT = "day = %(day)s AND file = %(file)s AND subject = ANY(%(about)s)"
_ABOUT = f"SELECT request_id FROM log_entry WHERE {_IS_ABOUT}"  # noqa: S608 - text of ours
_VALUE = re.compile(r"\?|(?<![:\w]):(\w+)|x''")
_CHUNK = 1_000


class ShippedPlace:
    """The log of one model in a database.

    Parameters
    ----------
    folder : of bulk calls and sealed copies, as far as this machine has them
    objects : keep them; None where each machine keeps its own
    """

    def __init__(self, database: HomeDatabase, model: str, folder: Path, objects: Objects | None = None) -> None:
        self.folder = folder
        self._beside = LogObjects(objects, model, folder)
        self._database = database
        self._schema = schema_of(model)
        self._numbers: dict[str, int] = {}
        self._ends: dict[str, int] = {}

    def files(self) -> list[LogFile]:
        """Its spools, oldest day first."""
        return sorted(file for file, _, _ in self._known())

    @contextmanager
    def reading(self, file: LogFile) -> Iterator[LogRows]:
        """The rows of one spool; none where there is no such spool.

        Raises
        ------
        HomeUnreachable
            The database cannot be asked.
        """
        scope = {"_day": file.day, "_file": self._number(file)}
        with self._reading() as connection:
            yield _Scoped(connection, _ONE, scope)

    def parts(self, days: Collection[str] | None = None) -> list[LogPart]:
        """All spools of these days at once."""
        prefix = _MANY.format("" if days is None else _OF_DAYS)
        scope = {} if days is None else {"_days": sorted(days)}

        @contextmanager
        def opened() -> Iterator[LogRows]:
            with self._reading() as connection:
                yield _Scoped(connection, prefix, scope)

        return [] if days is not None and not days else [LogPart("", "", opened)]

    def grown(self, files: list[LogFile], seen: Mapping[str, int]) -> list[LogFile]:
        """Those that had been shipped further when the files were last asked for."""
        return [file for file in files if self._ends.get(file.name, 0) > seen.get(file.name, 0)]

    def first_of_clients(self, texts: Collection[str]) -> dict[str, bytes]:
        """From the names that are kept beside the rows."""
        wanted, found = sorted(texts), {}
        for start in range(0, len(wanted), _CHUNK):
            with self._reading() as connection:
                part = wanted[start : start + _CHUNK]
                query = "SELECT client, request_id FROM log_client WHERE client = ANY(%s)"
                found.update({client: bytes(raw) for client, raw in connection.execute(query, (part,))})
        return found

    def fetch(self, name: str) -> None:
        """From the object store."""
        self._beside.fetch(name)

    def keep(self, name: str) -> None:
        """In the object store."""
        self._beside.keep(name)

    def discard(self, name: str) -> None:
        """From the object store."""
        self._beside.remove(name)

    def at_a_glance(self) -> list[FileFacts]:
        """One question for all; each has its share of the room that its day takes."""
        with self._reading() as connection:
            rows = connection.execute(_FACTS).fetchall()
        facts = ((named(name, self.folder), *rest) for name, *rest in rows)
        found = [FileFacts(file, *rest) for file, *rest in facts if file is not None]
        return sorted(found, key=lambda each: each.file)

    def forget_clients(self) -> None:
        """Whoever erases or removes rows has done so."""

    def snapshot(self, file: LogFile) -> AbstractContextManager[LogRows]:
        """The rows of one spool. Rows are only ever added to it, and what is erased of one has left the digest."""
        return self.reading(file)

    def damage(self, file: LogFile, rows: LogRows, /) -> str:
        """Whether rows are missing at its end that were shipped."""
        last = rows.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()[0]
        shipped = next((shipped for known, _, shipped in self._known() if known == file), 0)
        return "" if shipped <= last else f"the end is cut off: {shipped} rows were shipped"

    def is_live(self, file: LogFile) -> bool:
        """Whether its machine has not said that all of it was shipped."""
        with self._reading() as connection:
            found = connection.execute("SELECT is_whole FROM log_file WHERE name = %s", (file.name,)).fetchone()
        return found is not None and not found[0]

    def give_up(self, file: LogFile, /) -> bool:
        """Its machine may come back all the same: what it ships then is taken in, if the day is not sealed by then."""
        with self._reading() as connection:
            connection.execute("UPDATE log_file SET is_whole = true WHERE name = %s", (file.name,))
        return True

    def size_of(self, file: LogFile) -> int:
        """Its share of the room that its day takes."""
        with self._reading() as connection:
            found = connection.execute(_SIZE, (partition_of(file.day), file.name, file.day)).fetchone()
        return int(found[0] or 0)

    @contextmanager
    def holding(self, day: str) -> Iterator[list[LogFile]]:
        """Hold the day: nobody ships to it meanwhile. It is busy while a machine may have more of it."""
        with self._database.transaction(self._schema) as connection:
            name = sealing_lock(self._schema, day)
            if not connection.execute(_TRY_LOCK, (name,)).fetchone()[0]:
                raise LogBusy(f"the day {day}")
            files = [file for file in self.files() if file.day == day]
            for file in files:
                if self.is_live(file):
                    raise LogBusy(file.name)
            yield files

    def settle(self, file: LogFile) -> None:
        """There is nothing to be done."""

    def rebuild(self, file: LogFile) -> None:
        """Whoever erases rows does so, by :meth:`purge`."""

    def seal(self, day: str) -> None:
        """Nothing is shipped into the day from now on; what comes late goes into a later one."""
        with self._reading() as connection:
            connection.execute(_SEAL, (day,))

    def remove(self, day: str) -> None:
        """Remove the day's table, and what is known of its spools."""
        with self._reading() as connection:
            if connection.execute("SELECT to_regclass(%s)", (partition_of(day),)).fetchone() != (None,):
                connection.execute(f"DROP TABLE {partition_of(day)}")
            for statement in _REMOVE:
                connection.execute(statement, {"day": day, "last": _later(day, _REPEATED_DAYS)})
        self._numbers.clear()

    @contextmanager
    def erasing(self, file: LogFile) -> Iterator[Erasable]:
        """A spool of which all was shipped."""
        if self.is_live(file):
            raise LogBusy(file.name)
        yield _ShippedFile(self, file)

    def rows_of(self, file: LogFile, pseudonyms: Sequence[bytes]) -> list[int]:
        """Numbers of the rows of a spool that are about any of these pseudonyms."""
        with self.reading(file) as rows:
            query = "SELECT seq FROM entry WHERE subject = ANY(?) ORDER BY seq"
            return [int(row[0]) for row in rows.execute(query, (list(pseudonyms),))]

    def erase_rows(self, file: LogFile, pseudonyms: Sequence[bytes]) -> int:
        """Erase what those rows say; copies lie in the database's files until :meth:`purge`."""
        with self._reading() as connection:
            scope = {"day": file.day, "file": self._number(file), "about": list(pseudonyms)}
            ids = [row[0] for row in connection.execute(_ABOUT, scope)]
            connection.execute("DELETE FROM log_client WHERE request_id = ANY(%s)", (ids,))
            return int(connection.execute(f"{shipped_tables().erase} {_IS_ABOUT}", scope).rowcount)

    def purge(self, day: str) -> None:
        """Write a day's table and the names beside it anew; what was erased is nowhere in the database's files then."""
        connection = self._database.connect()
        try:
            with self._database.our_errors():
                quoted = '"{}"'.format(self._schema.replace('"', '""'))
                connection.execute(f"VACUUM (FULL) {quoted}.{partition_of(day)}")
                connection.execute(f"VACUUM (FULL) {quoted}.log_client")
        finally:
            connection.close()

    def _number(self, file: LogFile) -> int:
        if file.name not in self._numbers:
            self._known()
        return self._numbers.get(file.name, -1)

    def _known(self) -> list[tuple[LogFile, int, int]]:
        with self._reading() as connection:
            rows = connection.execute(_FILES).fetchall()
        found = []
        for name, number, shipped in rows:
            file = named(name, self.folder)
            if file is None:
                raise LogDamaged(name, "is no name of a spool")
            self._numbers[name], self._ends[name] = int(number), int(shipped)
            found.append((file, int(number), int(shipped)))
        return found

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        self._database.ready(shipped_tables().format, self._schema)
        with self._database.transaction(self._schema) as connection:
            yield connection


class _Scoped:
    """A connection on which ``entry``, ``lineage`` and ``fact`` are what a part of the log has."""

    def __init__(self, connection: Any, prefix: str, scope: Mapping[str, Any]) -> None:
        self._connection = connection
        self._prefix = prefix
        self._scope = scope

    def execute(self, statement: str, values: Any = (), /) -> Any:
        """As ``sqlite3.Connection.execute``, for a SELECT."""
        given = dict(values) if isinstance(values, Mapping) else {f"p{n}": value for n, value in enumerate(values)}
        cursor = self._connection.cursor(row_factory=_row_factory)
        return cursor.execute(f"{self._prefix}{_translated(statement)}", {**self._scope, **given})


@lru_cache(maxsize=512)
def _translated(statement: str) -> str:
    """A statement of ours in the words of PostgreSQL."""
    number = iter(range(1 << 30))

    def value(match: re.Match[str]) -> str:
        if match[0] == "x''":
            return "''::bytea"
        return f"%(p{next(number)})s" if match[0] == "?" else f"%({match[1]})s"

    return _VALUE.sub(value, statement.replace("%", "%%"))


def _row_factory(cursor: Any) -> Any:
    description = cursor.description
    return _row_class(tuple(column.name for column in description)) if description else tuple


@lru_cache(maxsize=128)
def _row_class(names: tuple[str, ...]) -> type:
    """Rows that know their columns' names, as ``sqlite3.Row`` does."""
    at = {name: n for n, name in enumerate(names)}

    class Row(tuple[Any, ...]):
        __slots__ = ()

        def __getitem__(self, key: Any) -> Any:
            return tuple.__getitem__(self, at[key] if isinstance(key, str) else key)

        def keys(self) -> Sequence[str]:
            return names

    return Row


class _ShippedFile:
    """One spool, held for change."""

    def __init__(self, place: ShippedPlace, file: LogFile) -> None:
        self._place = place
        self._file = file

    def rows_of(self, pseudonyms: Sequence[bytes]) -> list[int]:
        """Numbers of the rows that are about any of these pseudonyms."""
        return self._place.rows_of(self._file, pseudonyms)

    def erase(self, pseudonyms: Sequence[bytes]) -> int:
        """Erase what those rows say; how many there were."""
        return self._place.erase_rows(self._file, pseudonyms)


def _later(day: str, days: int) -> str:
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()
