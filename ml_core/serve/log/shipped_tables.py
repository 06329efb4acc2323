"""Tables of the prediction log in the database of a home on many machines, made from the one list of what is stored.

The rows of all spools lie in one table, a partition for each day, so that a day can be sealed, erased from and removed
alone. What a spool is, and how far it was shipped, is one row of ``log_file``. The first answer under each name that
callers gave stands beside, so that a repeated request is found without a look into every day.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from ml_core.serve.home.postgres import DatabaseFormat, HomeDatabase
from ml_core.serve.log import fields
from ml_core.serve.log.fields import LogLayout, StoredField

__all__ = ["ShippedTables", "make_partition", "partition_of", "shipped_tables"]

_FIRST = 3
"""Version of the log's files whose fields the first version of these tables has."""
_SQL: Mapping[str, str] = {"BLOB": "bytea", "TEXT": "text", "INTEGER": "bigint"}
_KEPT = ["digest bytea NOT NULL UNIQUE", "facts bytea NOT NULL"]
_FILE = [
    "name text NOT NULL UNIQUE", "day date NOT NULL", "key text NOT NULL", "genesis text NOT NULL",
    "shipped bigint NOT NULL DEFAULT 0", "head bytea", "is_whole boolean NOT NULL DEFAULT false",
    "shipped_at timestamptz NOT NULL DEFAULT clock_timestamp()",
]  # fmt: skip
_CLIENT = ["client text PRIMARY KEY", "at_us bigint NOT NULL", "request_id bytea NOT NULL", "day date NOT NULL"]
_NUMBERED = "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"


class ShippedTables:
    """Tables and statements that follow from the list of fields.

    Attributes
    ----------
    format : the tables and their versions
    columns : of an entry as a spool has it, in the order of ``SELECT *``
    copy : takes entries in, with day, number of the file, and number of the lineage first
    types : of what ``copy`` takes
    erase : erases entries, up to the condition
    uncounted : keeps what can be erased out of the planner's statistics, which nobody erases; of an ALTER TABLE
    """

    def __init__(self, layout: LogLayout) -> None:
        self.columns = [each for each in layout.fields if each.place == "column"]
        named = [f'"{each.name}"' for each in self.columns if each.name != "lineage"]
        self.copy = f"COPY log_entry(day, file, lineage, {', '.join(named)}) FROM STDIN (FORMAT BINARY)"
        self.types = ["date", "int8", "int8", *(_type(each) for each in self.columns if each.name != "lineage")]
        erased = [each for each in self.columns if each.left != "keep"]
        lost = ", ".join(f'"{each.name}" = {_left(each)}' for each in erased)
        self.uncounted = ", ".join(f'ALTER COLUMN "{each.name}" SET STATISTICS 0' for each in erased)
        self.erase = f"UPDATE log_entry SET {lost} WHERE"  # noqa: S608 - names of ours
        last = max(each.since for each in self.columns)
        steps = {1: list(self._first())}
        steps |= {since - _FIRST + 1: list(self._added(since)) for since in range(_FIRST + 1, last + 1)}
        self.format = DatabaseFormat("prediction log", steps)

    def _first(self) -> Iterator[str]:
        yield f"CREATE TABLE log_lineage({', '.join([_NUMBERED, *_KEPT])})"
        yield f"CREATE TABLE log_file({', '.join([_NUMBERED, *_FILE])})"
        yield "CREATE INDEX log_file_day ON log_file(day)"
        yield "CREATE TABLE log_day(day date PRIMARY KEY, is_sealed boolean NOT NULL)"
        yield f"CREATE TABLE log_client({', '.join(_CLIENT)})"
        yield "CREATE INDEX log_client_day ON log_client(day)"
        yield "ALTER TABLE log_client ALTER COLUMN client SET STATISTICS 0"
        first = [each for each in self.columns if each.since <= _FIRST]
        own = ["day date NOT NULL", "file bigint NOT NULL", *map(_column, first), "PRIMARY KEY(day, file, seq)"]
        yield f"CREATE TABLE log_entry({', '.join(own)}) PARTITION BY LIST(day)"
        yield "CREATE INDEX log_entry_segment ON log_entry(at_us) WHERE kind = 1"
        for each in first:
            yield from _index(each)

    def _added(self, since: int) -> Iterator[str]:
        for each in self.columns:
            if each.since == since:
                yield f"ALTER TABLE log_entry ADD COLUMN {_column(each)}"
                yield from _index(each)


@lru_cache(maxsize=2)
def _tables(layout: LogLayout) -> ShippedTables:
    return ShippedTables(layout)


def shipped_tables() -> ShippedTables:
    """The tables of this release."""
    return _tables(fields.LAYOUT)


def partition_of(day: str) -> str:
    """Name of the table that has the rows of a day (as ``2026-11-24``)."""
    return f"log_entry_{day.replace('-', '_')}"


def make_partition(database: HomeDatabase, schema: str, day: str) -> None:
    """Make the partition of a day (as ``2026-11-24``) where it is not there.

    It is made beside the table and attached, which holds up nobody who reads or writes other days.

    Raises
    ------
    HomeUnreachable
        As ``HomeDatabase.transaction``.
    """
    name = partition_of(day)
    with database.transaction(schema, lock="log partitions") as connection:
        if connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() == (None,):
            connection.execute(f"CREATE TABLE {name}(LIKE log_entry INCLUDING ALL)")
            connection.execute(f"ALTER TABLE {name} {shipped_tables().uncounted}")
            connection.execute(f"ALTER TABLE log_entry ATTACH PARTITION {name} FOR VALUES IN ('{day}')")


def _type(field: StoredField) -> str:
    return {"bytea": "bytea", "text": "text", "bigint": "int8"}[_SQL[field.column.sql.split()[0]]]


def _column(field: StoredField) -> str:
    must = " NOT NULL" if "NOT NULL" in field.sql or "PRIMARY KEY" in field.sql else ""
    return f'"{field.name}" {_SQL[field.column.sql.split()[0]]}{must}'


def _index(field: StoredField) -> Iterator[str]:
    if field.index:
        where = "" if "NOT NULL" in field.sql else f' WHERE "{field.name}" IS NOT NULL'
        yield f'CREATE INDEX log_{field.index} ON log_entry("{field.name}"){where}'


def _left(field: StoredField) -> Any:
    return "NULL" if field.left == "NULL" else "''::bytea"
