"""Tables that are copied hold the same rows and give the same next number, whichever engine they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from ml_core.lab.home_care.table_copies import TablesSeen, copy_tables, see_tables
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.table_stores import TableStore, open_tables
from ml_core.serve.home.tables import FileFormat, StoredTable, TableField

FORM = FileFormat(
    "boxes",
    9,
    [
        StoredTable(
            "box", [TableField("n", "INTEGER PRIMARY KEY AUTOINCREMENT", is_numbered=True), "name TEXT", "raw BLOB"]
        ),
        StoredTable("thing", ["box INTEGER NOT NULL", "name TEXT NOT NULL", "size REAL"], key="box, name"),
    ],
)


@pytest.fixture(params=["file to database", "database to file"])
def stores(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> tuple[TableStore, TableStore]:
    database = open_home(Settings(home=tmp_path, database=database_url)).database
    in_file = open_tables(FORM, tmp_path / "boxes.db", None, "toy", busy_s=1.0)
    in_database = open_tables(FORM, tmp_path / "unused.db", database, "toy", busy_s=1.0)
    return (in_file, in_database) if request.param == "file to database" else (in_database, in_file)


def fill(store: TableStore, first: int, last: int) -> None:
    with store.writing() as connection:
        for n in range(first, last):
            connection.execute("INSERT INTO box(name, raw) VALUES(?, ?)", (f"é{n}" if n % 3 else None, b"\x00" * n))
            connection.execute("INSERT INTO thing VALUES(?, ?, ?)", (n % 4, f"t{n}", n / 3 if n % 2 else None))


def rows(store: TableStore) -> list[object]:
    with store.reading() as connection:
        assert connection is not None
        return [[tuple(row) for row in connection.execute(f"{t.select} ORDER BY {t.order}")] for t in FORM.tables]


def test_nothing_is_copied_of_nothing(stores: tuple[TableStore, TableStore]) -> None:
    assert copy_tables(FORM, *stores) == see_tables(FORM, stores[1]) == TablesSeen()


def test_rows_come_over_as_they_are_and_again_changes_nothing(stores: tuple[TableStore, TableStore]) -> None:
    source, target = stores
    fill(source, 0, 4_500)
    done = copy_tables(FORM, source, target)
    assert done == see_tables(FORM, source) == see_tables(FORM, target)
    assert done.rows == 9_000
    assert rows(target) == rows(source)
    assert copy_tables(FORM, source, target) == done


def test_what_changed_and_went_in_the_source_changes_and_goes(stores: tuple[TableStore, TableStore]) -> None:
    source, target = stores
    fill(source, 0, 20)
    copy_tables(FORM, source, target)
    with source.writing() as connection:
        connection.execute("DELETE FROM box WHERE n > 15")
        connection.execute("UPDATE thing SET size = 7.5 WHERE box = 1")
    fill(source, 30, 33)
    copy_tables(FORM, source, target)
    assert rows(target) == rows(source)


def test_a_number_of_a_removed_row_is_not_given_again(stores: tuple[TableStore, TableStore]) -> None:
    source, target = stores
    fill(source, 0, 5)
    with source.writing() as connection:
        connection.execute("DELETE FROM box WHERE n >= 4")
    copy_tables(FORM, source, target)
    for store in stores:
        fill(store, 50, 51)
    assert rows(target) == rows(source)
    assert rows(target)[0][-1][0] == 6  # type: ignore[index]
