"""Spools that are shipped to a database, and what lies there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_core.serve.home.postgres import HomeDatabase, schema_of
from ml_core.serve.log.log_files import named
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.shipping import Shipping
from ml_core.serve.log.writer import LogWriter
from tests.serve.log.builders import check_chain, until

MODEL = "toy"


@contextmanager
def shipping_writer(
    folder: Path,
    database: HomeDatabase,
    *,
    strict: bool | Callable[[], bool] = False,
    machine: str = "one",
    records: LogRecords | None = None,
) -> Iterator[LogWriter]:
    """A writer whose rows are shipped; closed afterwards, with nothing left over where the database can be used."""
    shipping = Shipping(database, MODEL, machine, folder, records)
    writer = LogWriter(folder, strict if callable(strict) else lambda: strict, records, shipping)
    writer.start()
    try:
        yield writer
    finally:
        writer.close(5.0)


def shipped_ids(database: HomeDatabase) -> list[bytes]:
    """Ids of all entries in the database, file after file."""
    query = "SELECT request_id FROM log_entry e JOIN log_file f ON f.id = e.file ORDER BY f.name, e.seq"
    with database.transaction(schema_of(MODEL)) as connection:
        if connection.execute("SELECT to_regclass('log_entry')").fetchone() == (None,):
            return []
        return [bytes(row[0]) for row in connection.execute(query)]


def shipped_files(database: HomeDatabase) -> list[tuple[Any, ...]]:
    """Name, number of the last row, and whether it is whole, of all spools."""
    with database.transaction(schema_of(MODEL)) as connection:
        return connection.execute("SELECT name, shipped, is_whole FROM log_file ORDER BY name").fetchall()


def until_shipped(writer: LogWriter) -> None:
    """Wait until nothing is left to store or to ship."""

    def is_done() -> bool:
        counts, shipping = writer.counts, writer.counts.shipping
        assert shipping is not None
        return not (counts.pending or counts.problem or shipping.unshipped or shipping.problem)

    try:
        until(is_done, "to ship everything")
    except AssertionError as error:
        raise AssertionError(f"{error}: {writer.counts}") from error


def shipped_entries(database: HomeDatabase) -> dict[str, list[dict[str, Any]]]:
    """All entries in the database by the name of their spool, in their order, with the digest of their lineage."""
    query = (
        "SELECT f.name AS file_name, l.digest AS lineage_digest, e.* FROM log_entry e JOIN log_file f ON f.id = e.file "
        "JOIN log_lineage l ON l.id = e.lineage ORDER BY f.name, e.seq"
    )
    found: dict[str, list[dict[str, Any]]] = {}
    with database.transaction(schema_of(MODEL)) as connection:
        cursor = connection.execute(query)
        names = [column.name for column in cursor.description or ()]
        for row in cursor:
            entry = dict(zip(names, row, strict=True))
            found.setdefault(entry["file_name"], []).append(entry)
    return found


def check_shipped(database: HomeDatabase, folder: Path) -> None:
    """Every chain in the database is whole."""
    for name, entries in shipped_entries(database).items():
        file = named(name, folder)
        assert file is not None
        check_chain(file, entries)  # type: ignore[arg-type]  # it takes rows by their names alone
