"""The chain of labels, as `surety log verify` walks it, on both engines: what was changed, taken away or added is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from ml_core.lab.log_care.log_checks import check_labels
from ml_core.serve.home.table_stores import TableConnection, TableStore
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.log_records import LABELS_ERASED, LogRecords
from tests.serve.log.labelled import NOW, rid


@pytest.fixture
def settings(tmp_path: Path, either_url: str) -> Settings:
    return Settings(home=tmp_path, model_name="toy", database=either_url)


@pytest.fixture
def records(settings: Settings) -> LogRecords:
    return LogRecords(settings)


@pytest.fixture
def tables(settings: Settings) -> TableStore:
    return open_label_tables(settings, "toy")


@pytest.fixture
def store(tables: TableStore, records: LogRecords) -> LabelStore:
    found = LabelStore(tables, lambda ids: set(ids), clock=lambda: NOW, key=records.key)
    for n in range(8):
        found.add([AnswerLabel(rid(n), n % 2)], "http")
    return found


def problems(tables: TableStore, records: LogRecords, erased: set[int] | None = None) -> list[tuple[int | None, str]]:
    return [(found.row, found.problem) for found in check_labels(tables, records, erased or set())]


def test_what_was_stored_and_corrected_is_in_order(tables: TableStore, store: LabelStore, records: LogRecords) -> None:
    store.add([AnswerLabel(rid(3), 0)], "office")
    assert problems(tables, records) == []
    end = records.label_end()
    assert end is not None
    assert end[0] == 9


def test_erased_labels_are_missing_where_nobody_asked_and_tell_nothing(
    tables: TableStore, store: LabelStore, records: LogRecords
) -> None:
    told: list[int] = []
    assert store.erase([rid(2), rid(5)], told.extend) == 2
    store.sweep()
    assert problems(tables, records, set(told)) == []
    assert problems(tables, records) == [(n, "it is missing, and nobody asked for its erasure") for n in (3, 6)]
    with tables.reading() as connection:
        assert connection is not None
        assert connection.execute("SELECT label FROM label_chain WHERE salt = x''").fetchall() == [(3,), (6,)]
    store.add([AnswerLabel(rid(9), 1)], "http")
    assert problems(tables, records, set(told)) == []


Change = Callable[[TableConnection], object]


@pytest.mark.parametrize(
    ("change", "row", "problem"),
    [
        (lambda c: c.execute("UPDATE label SET label = '7' WHERE seq = 4"), 4, "it is not what was stored"),
        (lambda c: c.execute("DELETE FROM label WHERE seq = 4"), 4, "it is missing, and nobody asked"),
        (lambda c: c.execute("DELETE FROM label_chain WHERE n = 4"), 5, "labels before it are missing"),
        (lambda c: c.execute("UPDATE label_chain SET head = digest WHERE n = 4"), 4, "the chain breaks"),
        (lambda c: c.execute("UPDATE label_chain SET key = 'another' WHERE n = 4"), 4, "the chain breaks"),
    ],
)
def test_what_somebody_changed_is_named(
    tables: TableStore, store: LabelStore, records: LogRecords, change: Change, row: int, problem: str
) -> None:
    with tables.writing() as connection:
        change(connection)
    (found, *_) = problems(tables, records)
    assert found[0] == row
    assert found[1].startswith(problem)


def test_labels_from_before_the_key_are_adopted(tables: TableStore, records: LogRecords) -> None:
    LabelStore(tables, lambda ids: set(ids), clock=lambda: NOW).add([AnswerLabel(rid(n), 1) for n in range(3)], "http")
    assert problems(tables, records) == []  # there has never been a key
    assert records.label_end() is None
    records.key()
    assert problems(tables, records) == []
    assert records.label_end() is not None


def test_an_erasure_that_fails_half_way_has_erased_nothing(
    tables: TableStore, store: LabelStore, records: LogRecords
) -> None:
    def fail(_seqs: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.erase([rid(2)], fail)
    assert problems(tables, records) == []
    assert rid(2) in store.current([rid(2)])


def test_an_erasure_stands_in_the_journal_that_verify_reads(
    tables: TableStore, store: LabelStore, records: LogRecords
) -> None:
    store.erase([rid(2)], lambda seqs: records.write(LABELS_ERASED, {"labels": list(seqs)}))
    (entry,) = records.read().of(LABELS_ERASED)
    assert problems(tables, records, set(entry["labels"])) == []
