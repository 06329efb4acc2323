"""A table's statements follow from its list of fields, and objects come back as they were stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any

import pytest

from ml_core.lab.watching import ledger
from ml_core.serve.home.tables import StoredTable, TableField
from ml_core.serve.log.label_tables import LABEL_TABLE
from ml_core.serve.log.labels import StoredLabel

BOXES = StoredTable(
    "box",
    (
        TableField("n", "INTEGER PRIMARY KEY", is_numbered=True),
        TableField("name", "TEXT NOT NULL", index="box_name", is_unique=True),
        TableField("at_us", "INTEGER", attribute="at", write=lambda s: s * 1_000_000, read=lambda us: us // 1_000_000),
        "colour TEXT",
        TableField("size", "INTEGER", index="box_size"),
    ),
)


@dataclass(frozen=True)
class Box:
    name: str
    at: int | None
    colour: str | None
    size: int | None


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as opened:
        for statement in BOXES.step(1):
            opened.execute(statement)
        yield opened


def read(stored: tuple[Any, ...]) -> Box:
    found = BOXES.read(stored)
    found.pop("n")
    return Box(**found)


def test_objects_come_back_as_they_were_stored(connection: sqlite3.Connection) -> None:
    boxes = [Box("a", 3, None, 7), Box("b", None, "red", None)]
    connection.executemany(BOXES.insert, map(BOXES.values, boxes))
    stored = connection.execute(f"{BOXES.select} ORDER BY n").fetchall()
    assert stored == [(1, "a", 3_000_000, None, 7), (2, "b", None, "red", None)]
    assert [read(row) for row in stored] == boxes


def test_an_index_may_be_unique_and_leaves_out_what_has_no_value(connection: sqlite3.Connection) -> None:
    connection.execute(BOXES.insert, BOXES.values(Box("a", 1, None, 7)))
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(BOXES.insert, BOXES.values(Box("a", 2, None, 8)))
    made = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index'"))
    assert made["box_size"].endswith("WHERE size IS NOT NULL")
    assert "WHERE" not in made["box_name"]


@pytest.mark.parametrize(
    ("table", "kind"),
    [(LABEL_TABLE, StoredLabel), (ledger._MATURED, ledger.MaturedRow), (ledger._WAITING, ledger.Waiting)],
)
def test_what_is_stored_of_labels_and_matured_answers_is_what_their_objects_have(table: StoredTable, kind: Any) -> None:
    listed = [each.attribute or each.name for each in table.fields if each.name != "n"]
    assert [each.name for each in fields(kind)] == listed
