"""The one list of what the log stores of an answer, and everything that follows from it.

Table, insert, erasure, digest, reading and sealed copy are made from :data:`FIELDS`. A new field is one more line,
with ``since`` one above the present version, and an attribute of ``Row`` and of ``LoggedAnswer``; a test fails where
one of the three is forgotten. Files of earlier versions are read as if the field were empty, and get its column when
somebody writes to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

from ml_core.serve.home.tables import FileFormat, StoredTable, TableField

__all__ = ["FIELDS", "KEY_FACT", "LAYOUT", "LogLayout", "StoredField", "ValueKind"]

ValueKind = Literal[
    "id", "hash", "text", "whole", "moment", "label", "labels", "reals", "texts", "record", "object", "bytes"
]
"""What a field holds. ``label`` is stored as a position in the lineage's classes, ``record`` as the values of its
columns, ``object`` as JSON with its names; ``moment`` is in microseconds since 1970."""

_SQL: Mapping[ValueKind, str] = {
    "id": "BLOB", "hash": "BLOB", "text": "TEXT", "whole": "INTEGER", "moment": "INTEGER", "record": "BLOB",
    "object": "BLOB", "bytes": "BLOB",
}  # fmt: skip
_APPLICATION_ID = 0x53724C67
KEY_FACT = "key"
"""Fact of a database: id of the key that makes its chain, "" where none does."""


@dataclass(frozen=True, slots=True)
class StoredField:
    """One field of an answer in the log.

    Attributes
    ----------
    name : of the column, of the key in the answer's JSON, or of the fact in the lineage
    kind : what it holds
    place : where it lies
    attribute : its name in ``LoggedAnswer`` and in the sealed copy where that is another; None where it is in neither
    sql : further words on the column
    is_written_by : the row that the writer brings, or the database itself
    is_by_caller : whether the caller sends it beside the record; a bulk call has one for all its rows
    in_digest : whether the row's digest covers it
    left : what stays in the column when the row's subject is erased; "keep" leaves it as it is
    is_sealed : whether the sealed copy shows it
    index, is_unique : name of an index on the column, and whether a value may come once only
    since : first version of the log's files that has it
    """

    name: str
    kind: ValueKind
    place: Literal["column", "answer", "lineage"] = "column"
    attribute: str | None = ""
    sql: str = ""
    is_written_by: Literal["row", "database"] = "row"
    is_by_caller: bool = False
    in_digest: bool = True
    left: Literal["keep", "NULL", "x''"] = "NULL"
    is_sealed: bool = True
    index: str = ""
    is_unique: bool = False
    since: int = 1

    @property
    def shown_as(self) -> str:
        """Its name in ``LoggedAnswer`` and in the sealed copy."""
        return self.attribute or self.name

    @property
    def column(self) -> TableField:
        """The column it lies in."""
        sql = f"{_SQL[self.kind]} {self.sql}".strip()
        return TableField(self.name, sql, self.since, index=self.index, is_unique=self.is_unique)


def _own(name: str, kind: ValueKind, sql: str, **more: Any) -> StoredField:
    """A column that the log needs for itself."""
    usual = {"is_written_by": "database", "in_digest": False, "left": "keep"}
    return StoredField(name, kind, attribute=None, sql=sql, is_sealed=False, **{**usual, **more})


def _fact(name: str, kind: ValueKind = "text") -> StoredField:
    """A fact of the lineage that the sealed copy shows in a column of its own."""
    return StoredField(name, kind, "lineage", None, left="keep")


def _said(name: str, kind: ValueKind = "text", attribute: str = "") -> StoredField:
    """A key of the answer's JSON, which is hashed and erased as a whole."""
    return StoredField(name, kind, "answer", attribute)


FIELDS = (
    _own("seq", "whole", "PRIMARY KEY"),
    _own("kind", "whole", "NOT NULL", is_written_by="row"),
    StoredField("request_id", "id", sql="NOT NULL", left="keep", index="entry_request", is_unique=True),
    StoredField("at_us", "moment", attribute="at", sql="NOT NULL", left="keep"),
    StoredField("client_request_id", "text", is_by_caller=True, index="entry_client"),
    StoredField("subject", "hash", is_by_caller=True, index="entry_subject"),
    StoredField("batch_id", "id", index="entry_batch"),
    StoredField("batch_index", "whole"),
    _own("lineage", "whole", "NOT NULL REFERENCES lineage(id)", in_digest=True),
    *map(_fact, ("model_name", "model_version", "model_hash", "feature_version", "calibration_id", "slot", "bento")),
    _fact("served_by", "object"),
    _fact("classes", "labels"),
    _own("answer", "bytes", "NOT NULL", is_written_by="row", in_digest=True, left="x''"),
    _said("prediction", "label"),
    _said("probabilities", "reals"),
    _said("p_values", "reals"),
    _said("members", "labels", "prediction_set"),
    _said("level"),
    _said("reason"),
    _said("validity"),
    _said("validity_reasons", "texts"),
    _said("elapsed_us", "whole"),
    StoredField("input", "record"),
    _said("input_hash"),
    StoredField("groups", "object", since=3),
    StoredField("group_values", "object", since=3),
    StoredField("explanation", "object", since=4),
    _own("salt", "bytes", "NOT NULL", left="x''"),
    _own("digest", "bytes", "NOT NULL"),
    _own("head", "bytes", ""),
)  # fmt: skip
"""What the log stores of an answer, in the order of the table and of the sealed copy."""


def _values_of(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Takes the attributes of these names out of an object, always as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda row: tuple(getattr(row, name) for name in names)


class LogLayout:
    """Tables and statements of the log's databases, made once from the list of fields.

    Attributes
    ----------
    fields : the list
    format : the databases' tables and versions
    insert : a row from ``OWN`` values and those that ``given`` takes from the writer's row
    erase : erases rows, up to the condition
    erased_indexes : of columns that are erased
    shown_columns, shown_keys : fields that ``LoggedAnswer`` has of the columns, and of the answer's JSON
    sealed : fields of the sealed copy
    by_caller : fields that callers send beside a record
    later_in_digest : names of fields that the digest covers and that came after version 1
    later_of, none_later : takes their values out of the writer's row; and what it takes of a row that has none
    """

    OWN = ("seq", "lineage", "salt", "digest", "head")

    def __init__(self, fields: Sequence[StoredField]) -> None:
        self.fields = tuple(fields)
        columns = [each for each in fields if each.place == "column"]
        given = [each.name for each in columns if each.is_written_by == "row"]
        erased = [each for each in columns if each.left != "keep"]
        self.given: Callable[[Any], tuple[Any, ...]] = attrgetter(*given)
        names = (*self.OWN, *given)
        self.insert = f"INSERT INTO entry({', '.join(names)}) VALUES({','.join('?' * len(names))})"
        self.erase = f"UPDATE entry SET {', '.join(f'{each.name} = {each.left}' for each in erased)} WHERE"  # noqa: S608 - names of ours
        self.erased_indexes = [each.index for each in erased if each.index]
        self._erased = {each.name: None if each.left == "NULL" else b"" for each in erased}
        self.shown_columns = [each for each in columns if each.attribute is not None]
        self.shown_keys = [each for each in fields if each.place == "answer"]
        self.sealed = [each for each in fields if each.is_sealed]
        self.by_caller = [each for each in fields if each.is_by_caller]
        self.later_in_digest = [each.name for each in columns if each.in_digest and each.since > 1]
        self.later_of, self.none_later = _values_of(self.later_in_digest), (None,) * len(self.later_in_digest)
        self.format = FileFormat(
            "prediction log",
            _APPLICATION_ID,
            [
                StoredTable("fact", ["name TEXT PRIMARY KEY", "value TEXT NOT NULL"]),
                StoredTable(
                    "lineage", ["id INTEGER PRIMARY KEY", "digest BLOB NOT NULL UNIQUE", "facts BLOB NOT NULL"]
                ),
                StoredTable("entry", [each.column for each in columns]),
            ],
            {
                1: ["CREATE INDEX entry_segment ON entry(at_us) WHERE kind = 1"],
                2: [f"INSERT OR IGNORE INTO fact VALUES('{KEY_FACT}', '')"],  # files of version 1 have no key
            },
        )

    def not_erased(self, row: Mapping[str, Any]) -> list[str]:
        """Columns of an erased row that still hold what they must have lost."""
        return [name for name, left in self._erased.items() if row[name] != left]


LAYOUT = LogLayout(FIELDS)
"""The layout that this release writes. Use it as ``fields.LAYOUT``, so that a test can put another in its place."""
