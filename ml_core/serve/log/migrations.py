"""Versions of SQLite files: numbered steps bring an older file up to date, and a newer one is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ml_core.base.errors import LogDamaged
from ml_core.serve.log.tables import StoredTable

__all__ = ["FileFormat", "Transaction"]


class Transaction:
    """Keeps all changes of a block together: committed at its end, undone on any error.

    A class, since a generator would cost each answer a microsecond more.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One kind of SQLite file. Its version stands in ``PRAGMA user_version``.

    Step n brings a file from version n - 1 to n, and a new file goes through all of them. So a file that was brought up
    to date is the same as a new one. The first step makes the tables, a later one adds the fields that begin with it.

    Attributes
    ----------
    kind : what the file is, for messages
    application_id : what SQLite files of this kind carry; 0 for none
    tables : in the order they are made
    more : further statements of a step, by its number
    """

    kind: str
    application_id: int
    tables: Sequence[StoredTable]
    more: Mapping[int, Sequence[str]] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The version that this release writes."""
        return max(max(self.more, default=1), *(each.since for table in self.tables for each in table.fields))

    def version_of(self, connection: sqlite3.Connection, name: str) -> int:
        """Version of a file, or 0 where it is new and empty.

        Parameters
        ----------
        name : of the file, for the message

        Raises
        ------
        LogDamaged
            The file is of a newer version, or of another kind.
        """
        alone = not connection.in_transaction
        if alone:  # all of it as of one moment: another process may be making the tables
            connection.execute("BEGIN")
        try:
            version, application, tables = (
                connection.execute(question).fetchone()[0]
                for question in ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
            )
        finally:
            if alone and connection.in_transaction:
                connection.execute("ROLLBACK")
        if version == application == tables == 0:
            return 0
        if application != self.application_id or version < 1:
            raise LogDamaged(name, f"is a database of something else, and no {self.kind}: move it away")
        if version > self.version:
            raise LogDamaged(
                name,
                f"is a {self.kind} of version {version}, and this release knows versions up to {self.version}: "
                "use the release that wrote it, or a newer one, or move the file away",
            )
        return int(version)

    def bring_up_to_date(self, connection: sqlite3.Connection, name: str) -> int:
        """Apply the steps that a file lacks, in the transaction of the caller, who may write; the version it had.

        Raises
        ------
        LogDamaged
            As :meth:`version_of`.
        """
        found = self.version_of(connection, name)
        for version in range(found + 1, self.version + 1):
            for table in self.tables:
                for statement in table.step(version):
                    connection.execute(statement)
            for statement in self.more.get(version, ()):
                connection.execute(statement)
        if found < self.version:
            connection.execute(f"PRAGMA application_id={self.application_id}")
            connection.execute(f"PRAGMA user_version={self.version}")
        return found

    def open(self, connection: sqlite3.Connection, name: str, *, may_write: bool) -> bool:
        """Make a file of an older version usable as one of today's; False where it is new and empty.

        Parameters
        ----------
        may_write : bring the file up to date; otherwise the connection alone shows later fields, which are empty

        Raises
        ------
        LogDamaged
            As :meth:`version_of`.
        """
        found = self.version_of(connection, name)
        if found in (0, self.version):
            return found > 0
        if may_write:
            with Transaction(connection):
                self.bring_up_to_date(connection, name)
            return True
        for table in self.tables:
            for statement in table.shown_in(found):
                connection.execute(statement)
        return True
