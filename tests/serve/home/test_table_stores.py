"""Tables on both engines: the same statements, transactions, numbers in order, versions, and nothing left of the erased."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

import pytest

from ml_core.base.errors import HomeTooOld, HomeUnreachable, LabelsNotStored, LogBusy, LogDamaged
from ml_core.serve.home.table_stores import TableStore, open_tables
from ml_core.serve.home.tables import FileFormat, StoredTable, TableField
from tests.oracles import cluster_packages
from tests.postgres import Server

cluster_packages()
from ml_core.serve.home.postgres import HomeDatabase, schema_of  # noqa: E402 - needs the packages
from ml_core.serve.home.postgres_tables import database_format  # noqa: E402 - needs the packages

NUMBER = TableField("n", "INTEGER PRIMARY KEY AUTOINCREMENT", is_numbered=True)
ID = "id BLOB NOT NULL UNIQUE CHECK (length(id) = 4)"
THING = StoredTable("thing", (NUMBER, ID, "share REAL", TableField("name", "TEXT", index="thing_name")))
FORM = FileFormat("box", 7, [THING])
LATER = FileFormat(
    "box",
    7,
    [
        StoredTable("thing", (*THING.fields, TableField("size", "INTEGER", since=2))),
        StoredTable("lid", ("a TEXT NOT NULL", "b INTEGER NOT NULL"), key="a, b", since=2),
    ],
)
Opening = Callable[..., TableStore]


@pytest.fixture
def database(either_url: str) -> Iterator[HomeDatabase | None]:
    if not either_url:
        yield None
        return
    found = HomeDatabase(either_url)
    yield found
    found.close()


ONLY_DATABASE = pytest.mark.parametrize("either_url", ["database"], indirect=True)


@pytest.fixture
def opening(database: HomeDatabase | None, tmp_path: Path) -> Opening:
    def opened(form: FileFormat = FORM, model: str = "toy", busy_s: float = 5.0) -> TableStore:
        return open_tables(form, tmp_path / "boxes" / f"{model}.db", database, model, busy_s=busy_s)

    return opened


def add(store: TableStore, *names: str) -> None:
    with store.writing() as connection:
        rows = [(crc32(name.encode()).to_bytes(4), 0.5, name) for name in names]
        connection.executemany("INSERT INTO thing(id, share, name) VALUES(?,?,?)", rows)


def names(store: TableStore) -> list[str]:
    with store.reading() as connection:
        return [] if connection is None else [row[0] for row in connection.execute("SELECT name FROM thing ORDER BY n")]


def fail(*_: object) -> None:
    raise ZeroDivisionError


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_before_something_is_written_there_is_nothing_and_nothing_is_made(opening: Opening, tmp_path: Path) -> None:
    store = opening()
    with store.reading() as connection:
        assert connection is None
    store.sweep(["thing"])
    assert not store.is_made()
    assert list(tmp_path.iterdir()) == []


def test_values_come_back_as_they_were(opening: Opening) -> None:
    store = opening()
    with store.writing() as connection:
        connection.execute(
            "INSERT INTO thing(id, share, name) VALUES(:id, :share, :name)",
            {"id": b"\0\1\2\xff", "share": 0.1, "name": "30 % é"},
        )
        connection.execute("INSERT INTO thing(id, share, name) VALUES(x'00000001', ?, '100 % of? :it')", (None,))
    with store.reading() as connection:
        assert connection is not None
        assert connection.execute(THING.select).fetchall() == [
            (1, b"\0\1\2\xff", 0.1, "30 % é"),
            (2, b"\0\0\0\1", None, "100 % of? :it"),
        ]


def test_texts_are_in_the_order_of_their_characters(opening: Opening) -> None:
    store = opening()
    add(store, "b", "B", "a", "_", "é", "~")
    with store.reading() as connection:
        assert connection is not None
        found = [row[0] for row in connection.execute("SELECT name FROM thing WHERE name >= ? ORDER BY name", ("B",))]
    assert found == sorted(found) == ["B", "_", "a", "b", "~", "é"]


def test_the_order_does_not_hang_on_the_database(database_server: Server) -> None:
    url = database_server.new_database("-T", "template0", "--locale-provider", "icu", "--icu-locale", "en")
    other = HomeDatabase(url)
    store = open_tables(FORM, Path(), other, "toy", busy_s=1.0)
    add(store, "b", "B", "a")
    with other.transaction() as connection:
        assert connection.execute("SELECT 'a' < 'B' COLLATE \"default\"").fetchone() == (True,)
    with store.reading() as reading:
        assert reading is not None
        assert [row[0] for row in reading.execute("SELECT name FROM thing ORDER BY name")] == ["B", "a", "b"]
    other.close()


def test_rows_that_were_changed_are_counted(opening: Opening) -> None:
    store = opening()
    add(store, "a", "b", "c")
    with store.writing() as connection:
        assert connection.executemany("DELETE FROM thing WHERE name = ?", [("a",), ("c",), ("d",)]).rowcount == 2


def test_models_have_tables_of_their_own(opening: Opening) -> None:
    add(opening(), "mine")
    assert names(opening(model="another")) == []


@pytest.mark.parametrize("row", [(b"123", 0.5, "short"), (crc32(b"a").to_bytes(4), 0.5, "twice")])
def test_what_the_tables_refuse_is_refused_in_words_without_values(opening: Opening, row: Sequence[object]) -> None:
    store = opening()
    add(store, "a")
    with pytest.raises(LogDamaged) as refused, store.writing() as connection:
        connection.execute("INSERT INTO thing(id, share, name) VALUES(?,?,?)", row)
    assert not any(str(value) in str(refused.value).partition(":")[2] for value in (row[2], "313233"))
    assert names(store) == ["a"]


# --- transactions -----------------------------------------------------------------------------------------------------


def test_what_fails_in_the_middle_leaves_nothing(opening: Opening) -> None:
    store = opening()
    add(store, "kept")
    with pytest.raises(ZeroDivisionError), store.writing() as connection:
        fail(connection.execute("INSERT INTO thing(id, name) VALUES(?, 'lost')", (b"lost",)))
    assert names(store) == ["kept"]


def test_a_reader_changes_nothing(opening: Opening) -> None:
    store = opening()
    add(store, "kept")

    def change() -> None:
        with store.reading(snapshot=True) as connection:
            assert connection is not None
            connection.execute("DELETE FROM thing")

    with pytest.raises((LogDamaged, HomeUnreachable)):
        change()
    assert names(store) == ["kept"]


@ONLY_DATABASE
def test_a_snapshot_shows_one_moment_and_keeps_no_writer_waiting(opening: Opening) -> None:
    store = opening()
    add(store, "a")
    with store.reading(snapshot=True) as connection:
        assert connection is not None
        assert connection.execute("SELECT count(*) FROM thing").fetchone() == (1,)
        in_a_thread(lambda: add(store, "b"))
        assert connection.execute("SELECT count(*) FROM thing").fetchone() == (1,)
    assert names(store) == ["a", "b"]


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_who_waits_too_long_for_a_writer_says_so_in_the_words_of_the_caller(opening: Opening) -> None:
    store, other = opening(), opening(busy_s=0.05)
    problems: list[BaseException] = []

    def write() -> None:
        try:
            with other.writing(LabelsNotStored):
                pass
        except BaseException as error:  # noqa: BLE001 - told below
            problems.append(error)

    with store.writing():
        in_a_thread(write)
    assert [type(problem) for problem in problems] == [LabelsNotStored]


def test_who_reads_on_from_a_number_misses_nothing_of_many_writers(opening: Opening) -> None:
    store = opening(busy_s=60.0)
    add(store, "first")
    writers, rows = 4, 25
    done = threading.Event()
    seen: list[int] = []

    def write(writer: int) -> None:
        for n in range(rows):
            add(store, f"{writer}/{n}", f"{writer}/{n}+")

    def read_on() -> None:
        while True:
            last_look = done.is_set()
            with store.reading() as connection:
                assert connection is not None
                found = connection.execute("SELECT n FROM thing WHERE n > ? ORDER BY n", (seen[-1] if seen else 0,))
                seen.extend(row[0] for row in found)
            if last_look:
                return

    reader = threading.Thread(target=read_on)
    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in (reader, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    assert len(seen) == len(set(seen)) == len(names(store)) == 1 + writers * rows * 2


# --- versions ---------------------------------------------------------------------------------------------------------


def columns(database: HomeDatabase) -> list[tuple[str, ...]]:
    query = (
        "SELECT table_name, column_name, data_type, is_nullable, collation_name FROM information_schema.columns"
        " WHERE table_schema = %s ORDER BY 1, 2"
    )
    with database.transaction() as connection:
        indexes = connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE schemaname = %s ORDER BY 1", (schema_of("toy"),)
        )
        return [*indexes.fetchall(), *connection.execute(query, (schema_of("toy"),)).fetchall()]


@ONLY_DATABASE
def test_a_database_that_went_through_the_steps_is_as_a_new_one(
    opening: Opening, database: HomeDatabase, database_server: Server
) -> None:
    add(opening(), "old")
    with pytest.raises(HomeTooOld, match="box are of version 1"):
        names(opening(LATER))
    assert database.migrate(database_format(LATER), schema_of("toy")) == (1, 2)
    new = HomeDatabase(database_server.new_database())
    add(open_tables(LATER, Path(), new, "toy", busy_s=1.0), "new")
    assert columns(database) == columns(new)
    assert names(opening(LATER)) == names(opening()) == ["old"]
    add(opening(), "by the release before")
    new.close()


# --- what is erased ---------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(either_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], bytes]:
    """Gives all that lies where the tables do."""
    if either_url:
        server: Server = request.getfixturevalue("database_server")
        return lambda: server.stored(either_url)
    return lambda: b"".join(path.read_bytes() for path in (tmp_path / "boxes").iterdir())


def test_what_was_erased_has_left_no_copy_where_the_tables_lie(
    opening: Opening, database: HomeDatabase | None, stored: Callable[[], bytes]
) -> None:
    store = opening()
    add(store, *(f"{n:03}" for n in range(500)))
    with store.writing() as connection:
        connection.execute(
            "INSERT INTO thing(id, name) VALUES(?, 'of a person whose name is long')", (b"\xa7\x0c\x3e\x91",)
        )
    if database is not None:
        with database.transaction(schema_of("toy")) as connection:
            connection.execute("ANALYZE thing (id)")
    assert b"of a person whose name" in stored()
    with store.writing() as connection:
        connection.execute("DELETE FROM thing WHERE id = ?", (b"\xa7\x0c\x3e\x91",))
    store.sweep(["thing"])
    left = stored()
    assert b"of a person whose name" not in left
    assert b"\xa7\x0c\x3e\x91" not in left
    assert len(names(store)) == 500


@ONLY_DATABASE
def test_a_sweep_waits_for_who_may_still_see_what_was_erased(opening: Opening, database: HomeDatabase) -> None:
    store = opening(busy_s=0.2)
    add(store, "gone")
    older = HomeDatabase(database._address)
    with older.transaction(snapshot=True) as connection:
        connection.execute("SELECT 1")
        with store.writing() as writing:
            writing.execute("DELETE FROM thing")
        with pytest.raises(LogBusy, match="pg_stat_activity"):
            store.sweep(["thing"])
    store.sweep(["thing"])
    older.close()
