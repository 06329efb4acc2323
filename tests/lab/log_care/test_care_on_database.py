"""The log in a home's database is verified, sealed, pruned and erased from as the one in files is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from ml_core.base.errors import SpoolForked
from ml_core.base.settings import Settings
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.log_care.erasure import erase
from ml_core.lab.log_care.log_days import log_days
from ml_core.lab.log_care.log_overview import give_up, overview
from ml_core.lab.log_care.retention import prune_day
from ml_core.lab.log_care.sealing import days_to_seal, seal_day
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.database import OpenLog
from ml_core.serve.log.entries import Row, id_text
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.log_places import place_of
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.logged_answers import ErasedAnswer
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.log.writer import LogWriter, shipping_of
from tests.oracles import ROOT, cluster_packages
from tests.postgres import Server, server
from tests.serve.log.builders import store
from tests.serve.log.filled import DAY, NAME, NEXT, bulk_row, fill, row, subject, today

cluster_packages()
from ml_core.serve.home.postgres import schema_of  # noqa: E402 - needs the packages
from ml_core.serve.log.shipped_place import ShippedPlace  # noqa: E402
from ml_core.serve.log.shipped_spools import ShippedSpools  # noqa: E402
from tests.serve.log.shipped import until_shipped  # noqa: E402


@pytest.fixture(scope="module")
def database_server() -> Iterator[Server]:
    with server() as found:
        yield found


@pytest.fixture
def settings(tmp_path: Path, database_server: Server) -> Settings:
    return Settings(home=tmp_path / "home", model_name=NAME, database=database_server.new_database())


def ship(settings: Settings, rows: Sequence[Row], day: str = DAY, *, together: int = 4) -> LogFile:
    """Rows that a machine has shipped, all of its spool."""
    file = fill(settings, rows, day, together=together)
    spools = spools_of(settings)
    spools.take_file(file)
    spools.close()
    file.path.unlink()
    return file


def spools_of(settings: Settings) -> ShippedSpools:
    database = open_home(settings).database
    assert database is not None
    return ShippedSpools(database, schema_of(NAME))


def change(settings: Settings, *statements: str) -> None:
    """What who may write to the database can do."""
    database = open_home(settings).database
    assert database is not None
    with database.transaction(schema_of(NAME)) as connection:
        for statement in statements:
            connection.execute(statement)


def kinds(settings: Settings) -> set[str]:
    return {finding.kind for finding in verify_log(settings).findings}


def seal(settings: Settings, name: str = DAY) -> str:
    (day,) = (day for day in log_days(place_of(settings)) if day.name == name)
    return seal_day(settings, day).outcome


def test_what_was_shipped_verifies_and_is_shown(settings: Settings) -> None:
    ship(settings, [row(n) for n in range(10)])
    ship(settings, [bulk_row(settings, 20), row(21, NEXT)], NEXT)
    report = verify_log(settings)
    assert report.findings == ()
    assert [(found.rows, found.answers, found.is_live) for found in report.files] == [(10, 10, False), (2, 7, False)]
    facts = overview(settings)
    assert [(found.file.day, found.rows, found.is_live, found.is_sealed) for found in facts] == [
        (DAY, 10, False, False),
        (NEXT, 2, False, False),
    ]
    assert all(found.bytes > 0 for found in facts)


def test_a_day_is_sealed_once_and_what_comes_later_goes_elsewhere(settings: Settings) -> None:
    ship(settings, [row(n) for n in range(10)])
    assert [day.name for day in days_to_seal(settings)] == [DAY]
    assert (seal(settings), seal(settings)) == ("sealed", "unchanged")
    assert [found.is_sealed for found in overview(settings)] == [True]
    late = OpenLog.of_day(settings.log, DAY, key=LogRecords(settings).key(), machine="two")
    late.commit([row(30)], durable=False)
    late.close()
    with pytest.raises(SpoolForked, match="is sealed"):
        spools_of(settings).take_file(late.file)
    assert verify_log(settings).findings == ()


def test_a_day_is_not_sealed_while_a_machine_may_have_more_of_it(settings: Settings) -> None:
    file = ship(settings, [row(n) for n in range(10)])
    change(settings, "UPDATE log_file SET is_whole = false")
    (day,) = log_days(place_of(settings))
    sealed = seal_day(settings, day)
    assert (sealed.outcome, file.name in sealed.detail) == ("busy", True)


def test_a_pruned_day_is_gone_and_nothing_misses_it(settings: Settings) -> None:
    ship(settings, [row(n) for n in range(10)])
    ship(settings, [row(n, NEXT) for n in range(4)], NEXT)
    seal(settings)
    for day in log_days(place_of(settings)):
        assert prune_day(settings, day, unsealed=False).state == ("goes" if day.name == DAY else "unsealed")
    assert [file.day for file in PredictionLog.of(settings).files()] == [NEXT]
    assert verify_log(settings).findings == ()
    assert PredictionLog.of(settings).first_of_clients(["visit-3", "visit-0"]).keys() == {"visit-3", "visit-0"}
    change(settings, f"SELECT 1 / (to_regclass('log_entry_{DAY.replace('-', '_')}') IS NULL)::int")


def test_an_erased_person_leaves_no_byte_in_the_databases_files(settings: Settings, database_server: Server) -> None:
    anna = subject(settings, "anna")
    canary = "c4nary-of-anna"
    about = row(3, subject=anna, note=canary, client_request_id=f"{canary}-visit")
    ship(settings, [row(1), about, row(2)])
    ship(settings, [row(n, NEXT) for n in range(4)], NEXT)
    seal(settings)
    checkpoint(database_server)
    assert files_with(database_server.folder / "data" / "base", canary)
    done = erase(settings, [anna])
    assert (done.rows, done.left, done.unsealed) == ({f"predictions-{DAY}-w01.db": [2]}, {}, {})
    found = PredictionLog.of(settings).find_many([about.request_id])[about.request_id]
    assert isinstance(found, ErasedAnswer)
    assert verify_log(settings).findings == ()
    assert seal(settings) == "unchanged"
    checkpoint(database_server)
    assert files_with(database_server.folder / "data" / "base", canary) == []
    assert files_with(settings.home, canary) == []


def test_an_erasure_asked_on_one_machine_reaches_the_spool_of_another(
    settings: Settings, tmp_path: Path, database_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_core.serve.log.shipping._ERASE_EVERY_S", 0.05)
    anna, canary, now = subject(settings, "anna"), "c4nary-of-anna-again", today()
    records = LogRecords(settings)
    other = settings_of(settings, tmp_path / "other")
    writer = LogWriter(settings.log, records=records, shipping=shipping_of(settings, records))
    writer.start()
    try:
        rows = [
            row(1, now),
            row(2, now, subject=anna, note=canary),
            row(3, now),
            row(4, now, subject=anna, note=canary),
        ]
        store(writer, rows, 4)
        until_shipped(writer)
        done = erase(other, [anna])
        assert (done.answers, done.left) == (2, {})
        assert verify_log(other).findings == ()
        found = PredictionLog.of(other).find_many([each.request_id for each in rows])
        assert [isinstance(found[each.request_id], ErasedAnswer) for each in rows] == [False, True, False, True]
        checkpoint(database_server)
        assert files_with(database_server.folder / "data" / "base", canary) == []
        assert files_with(settings.home, canary) == []
    finally:
        writer.close(5.0)
    assert verify_log(other).findings == ()


def test_a_machine_that_is_gone_is_given_up(settings: Settings) -> None:
    log = OpenLog.of_day(settings.log, DAY, key=LogRecords(settings).key(), machine="ward-3")
    log.commit([row(1)], durable=False)
    log.close()
    spools_of(settings).take_file(log.file)
    change(settings, "UPDATE log_file SET is_whole = false")
    assert seal(settings) == "busy"
    assert give_up(settings, "ward-4") == []
    assert give_up(settings, "ward-3") == [log.file.name]
    assert seal(settings) == "sealed"
    assert verify_log(settings).findings == ()


def test_a_bulk_call_is_read_on_a_machine_that_did_not_answer_it(settings: Settings, tmp_path: Path) -> None:
    objects, database = Kept(), open_home(settings).database
    assert database is not None
    bulk = bulk_row(settings, 20)
    file = fill(settings, [row(1), bulk])
    here = ShippedPlace(database, NAME, settings.log, objects)
    ShippedSpools(database, schema_of(NAME), here.keep).take_file(file)
    assert not list((settings.log / "bulk" / DAY).iterdir())
    there = ShippedPlace(database, NAME, tmp_path / "other", objects)
    assert len(PredictionLog(there).of_batch(id_text(bulk.request_id))) == 6
    assert list(objects.names(f"log/{NAME}/bulk")) == [f"log/{NAME}/{orjson.loads(bulk.answer)['segment']}"]
    there.discard(f"bulk/{DAY}/")
    assert objects.content == {}


class Kept:
    """Objects in memory."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def put(self, name: str, content: bytes, *, replace: bool = False) -> bool:
        is_new = name not in self.content
        if is_new or replace:
            self.content[name] = content
        return is_new or replace

    def get(self, name: str, limit: int) -> bytes | None:
        found = self.content.get(name)
        assert found is None or len(found) <= limit
        return found

    def names(self, prefix: str) -> Iterator[str]:
        return iter(sorted(name for name in self.content if name.startswith(f"{prefix}/")))

    def remove(self, name: str) -> None:
        self.content.pop(name, None)


def settings_of(settings: Settings, home: Path) -> Settings:
    """Settings of another machine of the same home."""
    return settings.model_copy(
        update={"home": home, "log_key_file": settings.log_key, "subject_key_file": settings.subject_key}
    )


def checkpoint(database_server: Server) -> None:
    """Have what was written reach the files."""
    at = ("-h", str(database_server.folder), "-p", str(database_server.port), "-U", "postgres")
    database_server.run("psql", *at, "-c", "CHECKPOINT")


# ruff: noqa: ISC004 - statements and kinds side by side
MANIPULATIONS: dict[str, tuple[str, str]] = {
    "a row's input is changed": ("UPDATE log_entry SET input = '[1]' WHERE seq = 3", "row"),
    "a row's answer is changed": ("UPDATE log_entry SET answer = answer || ' ' WHERE seq = 3", "row"),
    "a row's time is changed": ("UPDATE log_entry SET at_us = at_us + 1 WHERE seq = 3", "row"),
    "a row's id is changed": ("UPDATE log_entry SET request_id = sha256(request_id) WHERE seq = 3", "row"),
    "a row is given another lineage": (
        "UPDATE log_entry SET lineage = (SELECT max(id) FROM log_lineage WHERE id <> lineage) WHERE seq = 3", "row"),
    "facts of a lineage are changed": ("UPDATE log_lineage SET facts = facts || ' '", "row"),
    "a row's salt is changed": ("UPDATE log_entry SET salt = substr(sha256(salt), 1, 16) WHERE seq = 3", "row"),
    "a digest is changed": ("UPDATE log_entry SET digest = sha256(digest) WHERE seq = 3", "row"),
    "a head is changed": ("UPDATE log_entry SET head = sha256(head) WHERE seq = 4", "chain"),
    "a head is removed": ("UPDATE log_entry SET head = NULL WHERE seq = 4", "chain"),
    "a row is removed": ("DELETE FROM log_entry WHERE seq = 3", "row"),
    "a row is removed, and the others are numbered anew": (
        "DELETE FROM log_entry WHERE seq = 3; UPDATE log_entry SET seq = seq + 99 WHERE seq > 3; "
        "UPDATE log_entry SET seq = seq - 100 WHERE seq > 99; UPDATE log_file SET shipped = 11", "chain"),
    "two rows are swapped": (
        "UPDATE log_entry SET seq = 99 WHERE seq = 1; UPDATE log_entry SET seq = 1 WHERE seq = 2; "
        "UPDATE log_entry SET seq = 2 WHERE seq = 99", "chain"),
    "the end is cut off": ("DELETE FROM log_entry WHERE seq > 8", "file"),
    "the end is cut off, and nobody shipped it": (
        "WITH gone AS (DELETE FROM log_entry WHERE seq > 8) UPDATE log_file SET shipped = 8", ""),
    "the file is said to have no key": ("UPDATE log_file SET key = ''", "chain"),
    "the file is said to be another": ("UPDATE log_file SET name = replace(name, 'w01', 'w07')", "chain"),
    "a row is erased by hand": (
        "UPDATE log_entry SET answer = '', input = NULL, salt = '', client_request_id = NULL, subject = NULL, "
        "batch_id = NULL, batch_index = NULL, groups = NULL, group_values = NULL WHERE seq = 3", "erasure"),
    "a spool is removed": ("WITH gone AS (DELETE FROM log_file) DELETE FROM log_entry", ""),
}  # fmt: skip


def test_the_document_has_the_table() -> None:
    rows = [f"| {name} | {f'`{kind}`' if kind else 'no'} |" for name, (_, kind) in MANIPULATIONS.items()]
    assert "\n".join(rows) in (ROOT / "docs" / "log.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MANIPULATIONS)
def test_what_who_may_write_to_the_database_changes_is_noticed(settings: Settings, name: str) -> None:
    statement, kind = MANIPULATIONS[name]
    ship(settings, [row(n) for n in range(12)])
    assert kinds(settings) == set()
    change(settings, statement)
    assert kinds(settings) == ({kind} if kind else set())


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        (MANIPULATIONS["the end is cut off, and nobody shipped it"][0], "row"),
        (MANIPULATIONS["a spool is removed"][0], "missing"),
    ],
)
def test_what_an_open_day_cannot_show_a_sealed_one_does(settings: Settings, statement: str, kind: str) -> None:
    ship(settings, [row(n) for n in range(12)])
    seal(settings)
    change(settings, statement)
    assert kinds(settings) == {kind}


def files_with(folder: Path, text: str) -> list[str]:
    """Names of files below a folder that hold a text."""
    found = subprocess.run(
        [sys.executable, "-ISc", _SEARCH, str(folder), text], capture_output=True, text=True, check=True
    )
    return found.stdout.split()


_SEARCH: Any = """
import pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*")):
    if path.is_file() and sys.argv[2].encode() in path.read_bytes():
        print(path.name)
"""
