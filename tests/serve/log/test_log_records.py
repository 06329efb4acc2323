"""Signed entries of the journal: one chain, whoever writes, and what is not signed is not believed."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from ml_core.base.journal import Journal
from ml_core.serve.log.database import OpenLog
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.log_records import ADOPTED, ERASED, PRUNED, SEALED, LogRecords
from tests.serve.log.filled import DAY, NAME, row, settings_in

FILE = f"predictions-{DAY}-w01.db"


@pytest.fixture
def records(tmp_path: Path) -> LogRecords:
    return LogRecords(settings_in(tmp_path / "home"))


def _write(home: Path, who: int) -> None:
    records = LogRecords(settings_in(home))
    for n in range(10):
        records.write(SEALED, {"who": who, "n_of_his": n})


def test_entries_of_several_writers_are_one_chain(tmp_path: Path, records: LogRecords) -> None:
    records.key()
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path / "home", who)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    says = records.read()
    assert (len(says.entries), says.problems, list(says.marks)) == (30, (), list(range(1, 31)))


def test_what_is_not_signed_is_not_believed_once_there_is_a_key(tmp_path: Path, records: LogRecords) -> None:
    journal = Journal(tmp_path / "home" / "journal.jsonl")
    journal.append(PRUNED, {"model": NAME, "file": "before"})
    assert [entry["file"] for entry in records.read().entries] == ["before"]
    records.key()  # which pins down what was there
    journal.append(PRUNED, {"model": NAME, "file": "forged"})
    journal.append(PRUNED, {"model": "another", "file": "of another model"})
    says = LogRecords(settings_in(tmp_path / "home")).read()
    assert [entry["file"] for entry in says.of(PRUNED)] == ["before"]
    assert says.problems == ("1 entries without a signature are not believed: log.pruned",)


def test_what_was_there_before_the_key_is_named_with_its_end(records: LogRecords) -> None:
    log = OpenLog.of_day(records.folder, DAY)
    log.commit([row(1), row(2)], durable=False)
    log.close()
    settings = settings_in(records.folder.parent.parent)
    LabelStore(open_label_tables(settings, settings.model_name), lambda _: set()).add(
        [AnswerLabel(row(1).request_id, 1)], "x"
    )
    assert records.label_end() is None
    records.key()
    (entry,) = records.read().of(ADOPTED)
    assert (entry["files"], entry["labels"], entry["unsigned"]) == ({FILE: [2, log.head.hex()]}, 1, 0)
    end = records.label_end()
    assert end is not None
    assert end[0] == 1


def test_a_new_home_has_nothing_to_adopt(records: LogRecords) -> None:
    records.key()
    assert records.read().entries == ()


def test_a_file_that_cannot_be_read_is_not_adopted_and_holds_up_nothing(records: LogRecords) -> None:
    records.folder.mkdir(parents=True)
    (records.folder / FILE).write_bytes(b"no database" * 500)
    records.key()
    records.write(ERASED, {"rows": {}})
    assert [entry["event"] for entry in records.read().entries] == [ERASED]
