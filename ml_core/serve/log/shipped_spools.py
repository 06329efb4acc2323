"""Takes rows of spools into the home's database: each exactly once, in the order of their numbers.

The number of the last row that is there stands beside the rows and changes in the same transaction. So whoever ships
asks for it, sends what comes after, and need not know whether an earlier try has succeeded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

import orjson

from ml_core.base.errors import HomeUnreachable, LogDamaged, SpoolForked
from ml_core.serve.home.postgres import HomeDatabase
from ml_core.serve.log.database import open_for_reading
from ml_core.serve.log.fields import KEY_FACT
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.shipped_tables import make_partition, shipped_tables

__all__ = ["ShippedSpool", "ShippedSpools", "SpoolRows", "rows_after", "sealing_lock"]

_FIND = "SELECT id, shipped, head FROM log_file WHERE name = %s"
_BEGIN = "INSERT INTO log_file(name, day, key, genesis) VALUES(%s, %s, %s, %s) ON CONFLICT(name) DO NOTHING"
_STEP = (
    "UPDATE log_file SET shipped = %s, head = %s, is_whole = false, shipped_at = clock_timestamp() "
    "WHERE id = %s AND shipped = %s"
)
_NOT_SEALED = (
    "SELECT pg_advisory_xact_lock_shared(hashtextextended(%s, 0)), "
    "EXISTS(SELECT 1 FROM log_day WHERE day = %s AND is_sealed)"
)
_LINEAGE = "INSERT INTO log_lineage(digest, facts) VALUES(%s, %s) ON CONFLICT(digest) DO NOTHING"
_CLIENTS = (
    "INSERT INTO log_client(client, at_us, request_id, day) SELECT DISTINCT ON (client_request_id) client_request_id, "
    "at_us, request_id, day FROM log_entry WHERE day = %s AND file = %s AND seq > %s AND client_request_id IS NOT NULL "
    "ORDER BY client_request_id, at_us, request_id ON CONFLICT(client) DO UPDATE SET at_us = EXCLUDED.at_us, "
    "request_id = EXCLUDED.request_id, day = EXCLUDED.day "
    "WHERE (EXCLUDED.at_us, EXCLUDED.request_id) < (log_client.at_us, log_client.request_id)"
)
_ROWS_AT_A_TIME = 2_000


def sealing_lock(schema: str, day: str) -> str:
    """Name of the lock that whoever ships to a day shares, and whoever seals it holds alone."""
    return f"{schema}/log day {day}"


@dataclass(frozen=True, slots=True)
class ShippedSpool:
    """How far a spool is in the database.

    Attributes
    ----------
    id : its number there
    shipped : number of its last row that is there
    head : of its chain after that row; None before the first
    """

    id: int
    shipped: int
    head: bytes | None


@dataclass(frozen=True, slots=True)
class SpoolRows:
    """Rows of whole commits as a spool has them.

    Attributes
    ----------
    rows : lineage's number in the spool first, then the other columns in their order
    last, head : number of the last row, and head of the chain after it
    has_clients : whether any of them has a ``client_request_id``
    segments : names of the files of bulk calls
    """

    rows: Sequence[Sequence[Any]]
    last: int
    head: bytes
    has_clients: bool
    segments: Sequence[str]


def rows_after(connection: sqlite3.Connection, seq: int, most: int = _ROWS_AT_A_TIME) -> SpoolRows | None:
    """The next rows of a spool, about so many, up to the end of a commit; None where there is none."""
    names = [each.name for each in shipped_tables().columns if each.name != "lineage"]
    end = connection.execute(
        "SELECT seq, head FROM entry WHERE seq > ? AND head IS NOT NULL AND seq >= coalesce((SELECT seq FROM entry "
        "WHERE seq > ? ORDER BY seq LIMIT 1 OFFSET ?), (SELECT max(seq) FROM entry)) ORDER BY seq LIMIT 1",
        (seq, seq, most - 1),
    ).fetchone()
    if end is None:
        return None
    columns = ", ".join(f'"{name}"' for name in names)
    query = f"SELECT lineage, {columns} FROM entry WHERE seq > ? AND seq <= ? ORDER BY seq"  # noqa: S608 - names of ours
    rows = [tuple(row) for row in connection.execute(query, (seq, end[0]))]
    client, kind, answer = (1 + names.index(name) for name in ("client_request_id", "kind", "answer"))
    segments = [orjson.loads(row[answer])["segment"] for row in rows if row[kind]]
    return SpoolRows(rows, int(end[0]), bytes(end[1]), any(row[client] is not None for row in rows), segments)


class ShippedSpools:
    """The spools in the database, for one thread of one process.

    Parameters
    ----------
    schema : of the model
    keep : given the name of each file of a bulk call before its row, which must be nowhere without it
    """

    def __init__(self, database: HomeDatabase, schema: str, keep: Callable[[str], None] = lambda _name: None) -> None:
        self._keep = keep
        self._database = database
        self._schema = schema
        self._connection: Any = None
        self._lineages: dict[bytes, int] = {}
        self._days: set[str] = set()

    def close(self) -> None:
        """Give up the connection; the next call makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def begin(self, file: LogFile, spool: sqlite3.Connection) -> ShippedSpool:
        """How far that spool was shipped; it is made known where it is new.

        Raises
        ------
        HomeUnreachable, HomeTooOld, HomeTooNew
            The database cannot be used.
        SpoolForked
            It has other rows than the database has of it, or lacks some that the database needs.
        """
        with self._connected() as connection:
            found = connection.execute(_FIND, (file.name,)).fetchone()
            if found is None:
                facts = dict(spool.execute("SELECT name, value FROM fact").fetchall())
                begun = (file.name, file.day, facts.get(KEY_FACT, ""), facts["genesis"])
                with connection.transaction():
                    lock = connection.execute(_NOT_SEALED, (sealing_lock(self._schema, file.day), file.day))
                    _refuse(file, is_sealed=lock.fetchone()[1], is_next=True)
                    connection.execute(_BEGIN, begun)
                found = connection.execute(_FIND, (file.name,)).fetchone()
        known = ShippedSpool(*found)
        first, last = spool.execute("SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM entry").fetchone()
        if last < known.shipped or first > known.shipped + 1:
            raise SpoolForked(file.name, f"has rows {first} to {last}, and {known.shipped} are in the database")
        here = spool.execute("SELECT head FROM entry WHERE seq = ?", (known.shipped,)).fetchone()
        if here is not None and here[0] != known.head:
            raise SpoolForked(file.name, f"row {known.shipped} is another one in the database")
        return known

    def take(
        self, file: LogFile, known: ShippedSpool, some: SpoolRows, lineages: Mapping[int, tuple[bytes, bytes]]
    ) -> ShippedSpool:
        """Take rows in that follow what is there.

        Parameters
        ----------
        lineages : digest and facts by their numbers in the spool

        Raises
        ------
        HomeUnreachable
            The database cannot be used. Whether the rows are there is not known: begin again.
        SpoolForked
            Their day was sealed meanwhile, or somebody else has shipped this spool: begin again.
        """
        tables, day = shipped_tables(), date.fromisoformat(file.day)
        for segment in some.segments:
            self._keep(segment)
        if file.day not in self._days:
            with self._connected():
                make_partition(self._database, self._schema, file.day)
            self._days.add(file.day)
        numbers = {number: self._lineage(*lineages[number]) for number in {row[0] for row in some.rows}}
        try:
            with self._connected() as connection:
                with connection.pipeline():
                    connection.execute("BEGIN")
                    lock = connection.execute(_NOT_SEALED, (sealing_lock(self._schema, file.day), day))
                    step = connection.execute(_STEP, (some.last, some.head, known.id, known.shipped))
                _refuse(file, is_sealed=lock.fetchone()[1], is_next=step.rowcount == 1)
                with connection.cursor().copy(tables.copy) as copy:
                    copy.set_types(tables.types)
                    for row in some.rows:
                        copy.write_row((day, known.id, numbers[row[0]], *row[1:]))
                if some.has_clients:
                    connection.execute(_CLIENTS, (day, known.id, known.shipped))
                connection.execute("COMMIT")
        except BaseException:  # what has become of it is asked anew
            self.close()
            self._days.discard(file.day)
            raise
        return ShippedSpool(known.id, some.last, some.head)

    def take_file(self, file: LogFile) -> ShippedSpool:
        """Take all of a file in that nobody writes to. It stays as it is, and taken in again it changes nothing.

        Raises
        ------
        HomeUnreachable, LogDamaged, SpoolForked
            As :meth:`begin` and :meth:`take`.
        """
        with closing(open_for_reading(file.path)) as connection:
            connection.row_factory = None
            lineages = {n: (digest, facts) for n, digest, facts in connection.execute("SELECT * FROM lineage")}
            known = self.begin(file, connection)
            while some := rows_after(connection, known.shipped):
                known = self.take(file, known, some, lineages)
        self.is_whole(known)
        return known

    def try_out(self) -> None:
        """See whether the database can be used.

        Raises
        ------
        HomeUnreachable
            It cannot.
        """
        with self._connected() as connection:
            connection.execute("SELECT 1")

    def is_whole(self, known: ShippedSpool) -> None:
        """Say that nothing more will come of a spool.

        Raises
        ------
        HomeUnreachable
            The database cannot be used.
        """
        with self._connected() as connection:
            connection.execute("UPDATE log_file SET is_whole = true WHERE id = %s", (known.id,))

    def known_ids(self, ids: Sequence[bytes]) -> set[bytes]:
        """Those ids of entries that the database has.

        Raises
        ------
        HomeUnreachable
            The database cannot be used.
        """
        with self._connected() as connection:
            found = connection.execute("SELECT request_id FROM log_entry WHERE request_id = ANY(%s)", (list(ids),))
            return {bytes(row[0]) for row in found}

    def _lineage(self, digest: bytes, facts: bytes) -> int:
        """Number of a lineage; one that is new is there from now on, whatever becomes of the rows."""
        if digest not in self._lineages:
            with self._connected() as connection:
                connection.execute(_LINEAGE, (digest, facts))
                found = connection.execute("SELECT id, facts FROM log_lineage WHERE digest = %s", (digest,)).fetchone()
            self._lineages[digest] = int(found[0])
        return self._lineages[digest]

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """A connection of our own, ready for the model's tables; given up where something goes wrong."""
        try:
            with self._database.our_errors():
                if self._connection is None:
                    self._database.ready(shipped_tables().format, self._schema)
                    self._connection = self._database.connect()
                    path = '"{}"'.format(self._schema.replace('"', '""'))
                    self._connection.execute("SELECT set_config('search_path', %s, false)", (path,))
                yield self._connection
        except (HomeUnreachable, LogDamaged):
            self.close()
            raise


def _refuse(file: LogFile, *, is_sealed: bool, is_next: bool) -> None:
    if is_sealed:
        raise SpoolForked(file.name, f"{file.day} is sealed")
    if not is_next:
        raise SpoolForked(file.name, "somebody else has shipped it")
