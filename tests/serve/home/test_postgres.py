"""The database of a home: transactions that nest, locks, formats of several releases, errors that name no secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ml_core.base.errors import ConfigError, HomeTooNew, HomeTooOld, HomeUnreachable
from tests.oracles import cluster_packages
from tests.postgres import Server, server

cluster_packages()
from ml_core.serve.home.postgres import SHARED, DatabaseFormat, HomeDatabase, schema_of  # noqa: E402 - needs the packages

NOTES = DatabaseFormat("notes", {1: ["CREATE TABLE note(text text NOT NULL)"]})


@pytest.fixture
def database(database_server: Server) -> Iterator[HomeDatabase]:
    found = HomeDatabase(database_server.new_database())
    yield found
    found.close()


def notes(database: HomeDatabase, schema: str = SHARED) -> list[str]:
    with database.transaction(schema) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM note ORDER BY text")]


def write(database: HomeDatabase, text: str, schema: str = SHARED) -> None:
    with database.transaction(schema) as connection:
        connection.execute("INSERT INTO note VALUES(%s)", (text,))


def fail(*_: object) -> None:
    raise ZeroDivisionError


def fail_after(database: HomeDatabase, text: str, schema: str = SHARED) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction(schema) as connection:
        fail(connection.execute("INSERT INTO note VALUES(%s)", (text,)))


def test_what_a_block_changes_is_kept_whole_or_not_at_all(database: HomeDatabase) -> None:
    database.ready(NOTES)
    fail_after(database, "lost")
    write(database, "kept")
    assert notes(database) == ["kept"]


def test_a_block_inside_a_block_is_of_the_same_transaction(database: HomeDatabase) -> None:
    database.ready(NOTES)
    with pytest.raises(ZeroDivisionError), database.transaction():
        fail(write(database, "inner"))
    assert notes(database) == []


def test_tables_that_a_failed_block_needed_first_are_there_for_the_next(database: HomeDatabase) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction():
        fail(database.ready(NOTES), write(database, "lost"))
    write(database, "kept")
    assert notes(database) == ["kept"]


def test_an_inner_block_may_fail_alone_and_leaves_the_outer_one_its_schema(database: HomeDatabase) -> None:
    database.ready(NOTES)
    database.ready(NOTES, schema_of("m"))
    with database.transaction() as connection:
        fail_after(database, "of the model", schema_of("m"))
        with database.transaction(schema_of("m")) as inner:
            inner.execute("INSERT INTO note VALUES('kept')")
        connection.execute("INSERT INTO note VALUES('shared')")
    assert notes(database) == ["shared"]
    assert notes(database, schema_of("m")) == ["kept"]


def test_one_at_a_time_holds_a_lock(database: HomeDatabase) -> None:
    database.ready(NOTES)
    write(database, "0")

    def add() -> None:
        for _ in range(20):
            with database.transaction(lock="count") as connection:
                row = connection.execute("SELECT text FROM note").fetchone()
                assert row is not None
                connection.execute("UPDATE note SET text = %s", (str(int(row[0]) + 1),))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes(database) == ["80"]


def test_many_processes_may_make_the_tables_at_once(database_server: Server) -> None:
    url = database_server.new_database()
    problems: list[BaseException] = []

    def begin() -> None:
        mine = HomeDatabase(url)
        try:
            mine.ready(NOTES, schema_of("m"))
        except BaseException as error:  # noqa: BLE001 - told below
            problems.append(error)
        mine.close()

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_tables_of_the_release_before_are_named_and_brought_up_to_date(database: HomeDatabase) -> None:
    database.ready(NOTES)
    later = DatabaseFormat("notes", {**NOTES.steps, 2: ["ALTER TABLE note ADD COLUMN author text"]})
    with pytest.raises(HomeTooOld, match=r"notes are of version 1.*`surety home migrate`"):
        database.ready(later)
    assert database.migrate(later) == (1, 2)
    database.ready(later)
    assert database.migrate(later) == (2, 2)


def test_the_release_before_works_on_with_tables_that_only_grew(database: HomeDatabase) -> None:
    database.ready(DatabaseFormat("notes", {**NOTES.steps, 2: ["ALTER TABLE note ADD COLUMN author text"]}, oldest=1))
    database.ready(NOTES)
    write(database, "of the release before")


def test_a_release_that_must_not_touch_newer_tables_says_so(database: HomeDatabase) -> None:
    database.ready(DatabaseFormat("notes", {**NOTES.steps, 2: ["ALTER TABLE note RENAME TO remark"]}, oldest=2))
    with pytest.raises(HomeTooNew, match="of version 2, this release knows versions up to 1"):
        database.ready(NOTES)


def test_a_database_that_is_away_is_an_error_without_the_password() -> None:
    database = HomeDatabase("postgresql://surety:secret@127.0.0.1:9/home")
    with pytest.raises(HomeUnreachable) as found, database.our_errors():
        database.connect()
    assert "127.0.0.1" in str(found.value)
    assert "secret" not in str(found.value)


def test_an_address_that_is_none_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as found:
        HomeDatabase("postgresql://surety:sec ret@[::1/home")
    assert "sec ret" not in str(found.value)


def test_a_database_that_was_restarted_is_used_again() -> None:
    with server(durable=True) as own:
        database = HomeDatabase(own.new_database())
        database.ready(NOTES)
        own.stop("immediate")
        with pytest.raises(HomeUnreachable):
            write(database, "while it was away")
        own.start()
        write(database, "after")
        assert notes(database) == ["after"]
        database.close()


def test_long_names_of_models_have_schemas_of_their_own() -> None:
    names = [f"{'m' * 99}{c}" for c in "ab"] + ["readmission_risk"]
    schemas = {schema_of(name) for name in names}
    assert len(schemas) == 3
    assert all(len(schema) < 63 for schema in schemas)
