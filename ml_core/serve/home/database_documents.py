"""Small documents and the journal as rows of a database, in schema ``surety``."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC
from typing import Any

import orjson

from ml_core.base.clock import utc_text
from ml_core.base.errors import HomeUnreachable
from ml_core.base.journal import who
from ml_core.serve.home.database_tables import CHANGED, DOCUMENTS, JOURNAL
from ml_core.serve.home.database_watch import Watcher
from ml_core.serve.home.last_known import LastKnown
from ml_core.serve.home.postgres import HomeDatabase
from ml_core.serve.home.stores import Documents, Glimpse

__all__ = ["DatabaseDocuments", "DatabaseJournal"]

_WRITE = (
    "INSERT INTO document AS d(name, content, generation, written_at) "
    "VALUES(%s, %s, nextval('document_generation'), clock_timestamp()) ON CONFLICT(name) DO UPDATE "
    "SET content = EXCLUDED.content, generation = EXCLUDED.generation, written_at = EXCLUDED.written_at"
)
_TELL = "SELECT pg_notify(%s, %s)"


class DatabaseDocuments(Documents):
    """Each document is a row, with a generation that no other document or edition has.

    Parameters
    ----------
    watcher : knows the documents that were glimpsed at

    Attributes
    ----------
    last_known : what is read while the database is away; None: then nothing can be read
    """

    def __init__(self, database: HomeDatabase, watcher: Watcher) -> None:
        self._database = database
        self._watcher = watcher
        self.last_known: LastKnown | None = None

    def read(self, name: str) -> bytes | None:
        """As :meth:`Documents.read`."""
        try:
            self._database.ready(DOCUMENTS)
            with self._database.transaction() as connection:
                row = connection.execute("SELECT content FROM document WHERE name = %s", (name,)).fetchone()
        except HomeUnreachable:
            if self.last_known is None:
                raise
            return self.last_known.read(name)
        content = None if row is None else bytes(row[0])
        if self.last_known is not None:
            self.last_known.keep(name, content)
        return content

    def write(self, name: str, content: bytes, *, durable: bool = True) -> None:  # noqa: ARG002 - commits always are
        """As :meth:`Documents.write`."""
        self._database.ready(DOCUMENTS)
        with self._database.transaction() as connection:
            connection.execute(_WRITE, (name, content))
            connection.execute(_TELL, (CHANGED, name))

    def remove(self, name: str) -> None:
        """As :meth:`Documents.remove`."""
        self._database.ready(DOCUMENTS)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM document WHERE name = %s", (name,))
            connection.execute(_TELL, (CHANGED, name))

    def names(self, folder: str) -> list[str]:
        """As :meth:`Documents.names`."""
        try:
            self._database.ready(DOCUMENTS)
            with self._database.transaction() as connection:
                rows = connection.execute(
                    "SELECT name FROM document WHERE starts_with(name, %s) AND position('/' IN substr(name, %s)) = 0 "
                    'ORDER BY name COLLATE "C"',
                    (f"{folder}/", len(folder) + 2),
                ).fetchall()
        except HomeUnreachable:
            if self.last_known is None:
                raise
            return self.last_known.names(folder)
        return [str(name) for (name,) in rows]

    def locked(self, name: str) -> AbstractContextManager[object]:
        """As :meth:`Documents.locked`."""
        self._database.ready(DOCUMENTS)
        return self._database.transaction(lock=name)

    def glimpse(self, name: str) -> Glimpse:
        """As :meth:`Documents.glimpse`."""
        found = self._watcher.glimpse(name)
        if self.last_known is None:
            return found
        if found.seen_s < math.inf:
            self.last_known.keep(name, found.content)
            return found
        kept = self.last_known.read(name)
        return Glimpse(kept, None if kept is None else math.inf, math.inf)

    def wait(self, timeout_s: float, stopping: threading.Event) -> None:
        """As :meth:`Documents.wait`; it may wait on for ``timeout_s`` once nobody is to wait."""
        if not stopping.is_set():
            self._watcher.wait(timeout_s)


class DatabaseJournal:
    """A table that takes new rows and refuses every other change; times are the database's."""

    def __init__(self, database: HomeDatabase) -> None:
        self._database = database

    def append(self, event: str, facts: Mapping[str, Any]) -> None:
        """As :meth:`JournalEntries.append`. Nobody waits for a transaction that has appended and goes on for long."""
        self._database.ready(JOURNAL)
        with self._database.transaction() as connection:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
            assert row is not None  # a SELECT without FROM gives one row
            entry = {"at": utc_text(row[0].astimezone(UTC)), "event": event, "by": who(), **facts}
            text = orjson.dumps(entry, default=str, option=orjson.OPT_SERIALIZE_NUMPY).decode()
            connection.execute("INSERT INTO journal(at, event, entry) VALUES(%s, %s, %s)", (row[0], event, text))

    def entries(self) -> list[dict[str, Any]]:
        """As :meth:`JournalEntries.entries`."""
        self._database.ready(JOURNAL)
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT entry FROM journal ORDER BY n").fetchall()
        return [json.loads(entry) for (entry,) in rows]
