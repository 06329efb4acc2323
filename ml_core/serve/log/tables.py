"""Tables of SQLite files, each described by one list of its fields, from which all its statements are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["StoredTable", "TableField"]


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
    is_numbered : SQLite gives the value itself
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


class StoredTable:
    """A table, and the statements that follow from its fields.

    Parameters
    ----------
    fields : one for each column; a text such as ``"at_us INTEGER NOT NULL"`` is a field that has nothing more to it
    key : columns of the primary key, where it is more than one

    Attributes
    ----------
    insert : one row, of the values that :meth:`values` gives
    select : all fields of all rows, ready for a WHERE
    """

    def __init__(self, name: str, fields: Sequence[TableField | str], key: str = "") -> None:
        self.name = name
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

    def step(self, version: int) -> Iterator[str]:
        """Statements that bring the table from the version before to that one."""
        new = [each for each in self.fields if each.since == version]
        if version == 1:
            columns = [f"{each.name} {each.sql}" for each in new] + ([f"PRIMARY KEY({self._key})"] if self._key else [])
            yield f"CREATE TABLE {self.name}({', '.join(columns)}) STRICT"
        else:
            yield from (f"ALTER TABLE {self.name} ADD COLUMN {each.name} {each.sql}" for each in new)
        for each in new:
            yield from each.indexed(self.name)

    def shown_in(self, version: int) -> Iterator[str]:
        """A view in front of the table of an older version, in which later fields are empty."""
        later = [f"NULL AS {each.name}" for each in self.fields if each.since > version]
        if later:
            yield f"CREATE TEMP VIEW {self.name} AS SELECT *, {', '.join(later)} FROM main.{self.name}"  # noqa: S608 - names of ours


def _field(text: str) -> TableField:
    name, _, sql = text.partition(" ")
    return TableField(name, sql)
