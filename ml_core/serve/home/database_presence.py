"""Who is there, by the database's clock: reports of processes on all machines, and seats that one of them holds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from ml_core.base.errors import HomeUnreachable, SeatLost
from ml_core.serve.home.database_tables import BEAT, PRESENCE
from ml_core.serve.home.database_watch import Watcher
from ml_core.serve.home.folder_home import FolderHeartbeats
from ml_core.serve.home.postgres import SHARED, HomeDatabase
from ml_core.serve.home.stores import ProcessReport

__all__ = ["DatabaseHeartbeats", "DatabaseSeat"]


class DatabaseHeartbeats:
    """Each report is a row, and a file on its own machine, which so knows its processes while it is cut off.

    Parameters
    ----------
    watcher : sends reports without making their process wait
    local : the files of this machine
    """

    def __init__(
        self, database: HomeDatabase, watcher: Watcher, model_name: str, machine: str, local: FolderHeartbeats
    ) -> None:
        self._database = database
        self._watcher = watcher
        self._model = model_name
        self._machine = machine
        self._local = local
        self._known: tuple[float, list[tuple[str, bytes, float]]] | None = None

    def beat(self, process: str, report: bytes, *, last: bool = False) -> None:
        """As :meth:`Heartbeats.beat`."""
        self._local.beat(process, report)
        if not last:
            self._watcher.beat(self._model, process, self._machine, report)
            return
        self._watcher.forget(self._model, process)
        self._database.ready(PRESENCE)
        with self._database.transaction() as connection:
            connection.execute(BEAT, (self._model, process, self._machine, report))

    def reports(self) -> list[ProcessReport]:
        """As :meth:`Heartbeats.reports`."""
        local = self._local.by_process()
        asked_at, rows = self._rows()
        later = time.monotonic() - asked_at
        others = [ProcessReport(content, age + later) for process, content, age in rows if process not in local]
        return [*local.values(), *others]

    def local_reports(self) -> list[ProcessReport]:
        """As :meth:`Heartbeats.local_reports`."""
        return self._local.reports()

    def clear(self, processes: Sequence[str]) -> None:
        """As :meth:`Heartbeats.clear`."""
        self._local.clear(processes)
        if processes:
            self._database.ready(PRESENCE)
            with self._database.transaction() as connection:
                connection.execute(
                    "DELETE FROM heartbeat WHERE model = %s AND process = ANY(%s)", (self._model, list(processes))
                )

    def _rows(self) -> tuple[float, list[tuple[str, bytes, float]]]:
        """All rows with their ages, and when they were asked for: now, or before the database went away."""
        known = self._known
        if self._watcher.is_cut_off:
            return (0.0, []) if known is None else known
        try:
            self._database.ready(PRESENCE)
            asked_at = time.monotonic()
            with self._database.transaction() as connection:
                rows = connection.execute(
                    "SELECT process, report, extract(epoch FROM clock_timestamp() - beat_at)::float8 FROM heartbeat "
                    "WHERE model = %s ORDER BY process",
                    (self._model,),
                ).fetchall()
        except HomeUnreachable:
            if known is None:
                raise
            return known
        self._known = known = (asked_at, [(process, bytes(report), age) for process, report, age in rows])
        return known


class DatabaseSeat:
    """A lock that a connection of its own holds, and an epoch that refuses the writes of an earlier holder.

    The database gives the lock up when the connection ends, which it notices within about five seconds where the
    holder's machine is gone. Until then nobody else gets it.

    Parameters
    ----------
    name : of the seat
    holder : who is said to hold it
    """

    def __init__(self, database: HomeDatabase, name: str, holder: str) -> None:
        self._database = database
        self._name = name
        self._holder = holder
        self._connection: psycopg.Connection[Any] | None = None
        self._epoch: int | None = None

    def take(self) -> bool:
        """As :meth:`Seat.take`."""
        try:
            with self._database.our_errors():
                return self._take()
        except HomeUnreachable:
            self.leave()
            raise

    def _take(self) -> bool:
        if self._connection is None:
            self._database.ready(PRESENCE)
            self._connection = self._database.connect()
        if self._epoch is not None:
            self._connection.execute("SELECT 1")  # the lock is held as long as this connection lives
            return True
        place = (f"{SHARED}/seat/{self._name}",)
        row = self._connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", place).fetchone()
        if row is None or not row[0]:
            return False
        self._epoch = self._next_epoch()
        return True

    @contextmanager
    def acting(self) -> Iterator[None]:
        """As :meth:`Seat.acting`."""
        epoch = self._epoch
        if epoch is None:
            raise SeatLost(self._name)

        def check(connection: psycopg.Connection[Any]) -> None:
            """The share lock keeps the next holder from taking over in the middle of what is being written."""
            found = connection.execute(
                f"SELECT epoch FROM {SHARED}.seat WHERE name = %s FOR SHARE",  # noqa: S608 - a name of ours
                (self._name,),
            ).fetchone()
            if found is None or found[0] != epoch:
                self.leave()
                raise SeatLost(self._name)

        with self._database.fenced(check):
            yield

    def leave(self) -> None:
        """As :meth:`Seat.leave`."""
        connection, self._connection, self._epoch = self._connection, None, None
        if connection is not None:
            with suppress(psycopg.Error), connection:  # the end of a connection is noticed later than an unlocking
                connection.execute("SELECT pg_advisory_unlock_all()")

    def _next_epoch(self) -> int:
        with self._database.transaction() as connection:
            row = connection.execute(
                "INSERT INTO seat AS s(name, epoch, holder, taken_at) VALUES(%s, 1, %s, clock_timestamp()) "
                "ON CONFLICT(name) DO UPDATE SET epoch = s.epoch + 1, holder = EXCLUDED.holder, "
                "taken_at = EXCLUDED.taken_at RETURNING s.epoch",
                (self._name, self._holder),
            ).fetchone()
        assert row is not None  # RETURNING gives the row that was written
        return int(row[0])
