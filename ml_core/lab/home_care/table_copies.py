"""Copies tables of one kind and one model between a file and a database, or compares them: rows, and given numbers.

A copy is one transaction, so a process that is killed leaves the tables as they were, or wholly copied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from ml_core.serve.home.sqlite_tables import SqliteTables
from ml_core.serve.home.table_stores import TableConnection, TableStore
from ml_core.serve.home.tables import FileFormat, StoredTable

__all__ = ["TablesSeen", "copy_tables", "see_tables"]

_ROWS_AT_A_TIME = 2_000


@dataclass(frozen=True, slots=True)
class TablesSeen:
    """What tables held at one moment.

    Attributes
    ----------
    rows : of all tables together
    last_numbers : the last number that was given, by table that gives numbers; 0 before the first
    sha256 : of all rows and last numbers, hex
    """

    rows: int = 0
    last_numbers: tuple[tuple[str, int], ...] = ()
    sha256: str = ""


def see_tables(form: FileFormat, store: TableStore) -> TablesSeen:
    """What the tables hold; :class:`TablesSeen` without anything where they have never held a row.

    Raises
    ------
    LogDamaged, HomeUnreachable, HomeTooOld, HomeTooNew
        As ``TableStore.reading``.
    """
    with store.reading(snapshot=True) as connection:
        if connection is None:
            return TablesSeen()
        digest, rows = hashlib.sha256(), 0
        for table in form.tables:
            digest.update(f"\n{table.name}\n".encode())
            for row in _rows(table, connection):
                digest.update(orjson.dumps([value.hex() if isinstance(value, bytes) else value for value in row]))
                rows += 1
        numbers = tuple((t.name, _last_number(t, connection, store)) for t in form.tables if _number_of(t))
        if not rows and not any(last for _, last in numbers):
            return TablesSeen()
        digest.update(repr(numbers).encode())
        return TablesSeen(rows, numbers, digest.hexdigest())


def copy_tables(form: FileFormat, source: TableStore, target: TableStore) -> TablesSeen:
    """Put what the tables of the source hold into those of the target, in place of what is there; what that is.

    Numbers stay what they are, and a number that was given there is not given again.

    Raises
    ------
    LogDamaged, LogBusy, HomeUnreachable, HomeTooOld, HomeTooNew
        As ``TableStore.reading``, ``writing`` and ``sweep``.
    """
    wanted, found = see_tables(form, source), see_tables(form, target)
    if wanted == found:
        return wanted
    with source.reading(snapshot=True) as old, target.writing() as new:
        for table in reversed(form.tables):
            new.execute(f"DELETE FROM {table.name}")  # noqa: S608 - names of ours
        for table in form.tables:
            if old is None:
                continue
            names = [each.name for each in table.fields]
            insert = f"INSERT INTO {table.name}({', '.join(names)}) VALUES({','.join('?' * len(names))})"
            rows = _rows(table, old)
            while some := list(islice(rows, _ROWS_AT_A_TIME)):
                new.executemany(insert, some)
            if _number_of(table):
                _go_on_after(table, new, target, _last_number(table, old, source))
    if found.rows:  # what was erased in the source since it was copied leaves no copy here
        target.sweep([table.name for table in form.tables])
    return see_tables(form, target)


def _rows(table: StoredTable, connection: TableConnection) -> Iterator[Sequence[Any]]:
    """All rows in their order, a page at a time: there may be more than the memory holds."""
    columns = table.order.split(", ")
    at = [[each.name for each in table.fields].index(name) for name in columns]
    after = f" WHERE ({table.order}) > ({','.join('?' * len(columns))})"
    end = f" ORDER BY {table.order} LIMIT {_ROWS_AT_A_TIME}"
    page = connection.execute(table.select + end).fetchall()
    while page:
        yield from page
        page = connection.execute(table.select + after + end, [page[-1][place] for place in at]).fetchall()


def _number_of(table: StoredTable) -> str:
    """The column whose values the engine gives, "" where there is none."""
    return next((each.name for each in table.fields if each.is_numbered), "")


def _last_number(table: StoredTable, connection: TableConnection, store: TableStore) -> int:
    """The last number given; where a file may give the number of a removed last row again: the greatest there is."""
    name = _number_of(table)
    largest = int(connection.execute(f"SELECT coalesce(max({name}), 0) FROM {table.name}").fetchone()[0])  # noqa: S608 - names of ours
    if not _is_never_given_twice(table):
        return largest
    if isinstance(store, SqliteTables):
        found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table.name,)).fetchone()
        return largest if found is None else max(largest, int(found[0]))
    sequence = connection.execute("SELECT pg_get_serial_sequence(?, ?)", (table.name, name)).fetchone()[0]
    last, is_given = connection.execute(f"SELECT last_value, is_called FROM {sequence}").fetchone()  # noqa: S608 - a name of the database's own
    return max(largest, int(last) if is_given else 0)


def _go_on_after(table: StoredTable, connection: TableConnection, store: TableStore, last: int) -> None:
    """Let the next number be greater than that one."""
    if isinstance(store, SqliteTables):
        if _is_never_given_twice(table):
            connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
            connection.execute("INSERT INTO sqlite_sequence(name, seq) VALUES(?, ?)", (table.name, last))
        return
    statement = "SELECT setval(pg_get_serial_sequence(?, ?), ?, ?)"
    connection.execute(statement, (table.name, _number_of(table), max(last, 1), last > 0))


def _is_never_given_twice(table: StoredTable) -> bool:
    return any("AUTOINCREMENT" in each.sql for each in table.fields)
