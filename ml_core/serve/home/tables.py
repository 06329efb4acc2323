"""Tables: one list of fields each, from which all statements are made, and numbered steps (migrations).

The steps bring a file of an earlier version up to date. A file of a newer version is refused. The same lists make the
tables of a database, in another dialect (``postgres_tables``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ml_core.base.errors import LogDamaged

__all__ = ["SQLITE", "Dialect", "FileFormat", "StoredTable", "TableField", "Transaction"]


@dataclass(frozen=True, slots=True)
class TableField:
    """One column of a table.

    Attributes
    ----------
    name : of the column
    sql : its type and constraints
    since : first version of the file that has the column; one that is added later must allow NULL
    attribute : name of the value in Python objects, where it is another
    write, read : turn the Python value into the stored one, and back; None where they are the same
    is_numbered : the engine gives the value itself
    index : name of an index over the column alone, "" for none; rows without a value are not in it
    is_unique : whether that index allows a value once only
    """

    name: str
    sql: str
    since: int = 1
    attribute: str = ""
    write: Callable[[Any], Any] | None = None
    read: Callable[[Any], Any] | None = None
    is_numbered: bool = False
    index: str = ""
    is_unique: bool = False

    def indexed(self, table: str) -> Iterator[str]:
        """The statement that makes its index, where it has one."""
        if self.index:
            where = "" if "NOT NULL" in self.sql else f" WHERE {self.name} IS NOT NULL"
            yield f"CREATE {'UNIQUE ' * self.is_unique}INDEX {self.index} ON {table}({self.name}){where}"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one engine writes a table down.

    Attributes
    ----------
    column : type and constraints of a column
    ending : of a statement that makes a table
    more : further statements for a new column, from the name of its table
    """

    column: Callable[[TableField], str]
    ending: str = ""
    more: Callable[[str, TableField], Iterator[str]] = lambda _table, _field: iter(())


SQLITE = Dialect(column=lambda each: each.sql, ending=" STRICT")
"""What the fields are written in."""


class StoredTable:
    """A table, and the statements that follow from its fields.

    Parameters
    ----------
    fields : one for each column; a text such as ``"at_us INTEGER NOT NULL"`` is a field that has nothing more to it
    key : columns of the primary key, where it is more than one
    since : first version of the file that has the table

    Attributes
    ----------
    insert : one row, of the values that :meth:`values` gives
    select : all fields of all rows, ready for a WHERE
    """

    def __init__(self, name: str, fields: Sequence[TableField | str], key: str = "", since: int = 1) -> None:
        self.name = name
        self.since = since
        self.fields = [_field(each) if isinstance(each, str) else each for each in fields]
        self._key = key
        self._given = [each for each in self.fields if not each.is_numbered]
        given = ", ".join(each.name for each in self._given)
        self.insert = f"INSERT INTO {name}({given}) VALUES({','.join('?' * len(self._given))})"
        self.select = f"SELECT {', '.join(each.name for each in self.fields)} FROM {name}"  # noqa: S608 - names of ours

    def values(self, row: Any) -> tuple[Any, ...]:
        """The values to store of an object."""
        found = ((each, getattr(row, each.attribute or each.name)) for each in self._given)
        return tuple(value if each.write is None or value is None else each.write(value) for each, value in found)

    def read(self, stored: Sequence[Any]) -> dict[str, Any]:
        """A row of :attr:`select` as the attributes of an object."""
        return {
            each.attribute or each.name: value if each.read is None or value is None else each.read(value)
            for each, value in zip(self.fields, stored, strict=True)
        }

    def step(self, version: int, dialect: Dialect = SQLITE) -> Iterator[str]:
        """Statements that bring the table from the version before to that one."""
        new = [each for each in self.fields if max(each.since, self.since) == version]
        if version == self.since:
            keys = [f"PRIMARY KEY({self._key})"] if self._key else []
            columns = ", ".join([f"{each.name} {dialect.column(each)}" for each in new] + keys)
            yield f"CREATE TABLE {self.name}({columns}){dialect.ending}"
        else:
            yield from (f"ALTER TABLE {self.name} ADD COLUMN {each.name} {dialect.column(each)}" for each in new)
        for each in new:
            yield from each.indexed(self.name)
            yield from dialect.more(self.name, each)

    def shown_in(self, version: int) -> Iterator[str]:
        """A view in front of the table of an older version, with later fields, or all of a later table, empty."""
        if version < self.since:
            nothing = ", ".join(f"NULL AS {each.name}" for each in self.fields)
            yield f"CREATE TEMP VIEW {self.name} AS SELECT {nothing} WHERE 0"
            return
        later = [f"NULL AS {each.name}" for each in self.fields if each.since > version]
        if later:
            yield f"CREATE TEMP VIEW {self.name} AS SELECT *, {', '.join(later)} FROM main.{self.name}"  # noqa: S608 - names of ours


def _field(text: str) -> TableField:
    name, _, sql = text.partition(" ")
    return TableField(name, sql)


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
    """Tables of one kind: those of a SQLite file, whose version stands in ``PRAGMA user_version``.

    Step n brings a file from version n - 1 to n, and a new file goes through all of them. So a file that was brought up
    to date is the same as a new one. A step makes the tables and adds the fields that begin with it.

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
        since = (max(table.since, each.since) for table in self.tables for each in table.fields)
        return max(max(self.more, default=1), *since)

    def step(self, version: int, dialect: Dialect = SQLITE) -> Iterator[str]:
        """Statements that bring the tables from the version before to that one."""
        for table in self.tables:
            yield from table.step(version, dialect)
        yield from self.more.get(version, ())

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
            for statement in self.step(version):
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
