"""Sealing days that are over: the copy says what the log says, and a kill anywhere does no harm."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from contextlib import closing
from datetime import UTC, date, datetime, timedelta

import orjson
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ml_core.base.journal import Journal
from ml_core.lab.log_care import sealed_copy
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.log_care.erasure import erase
from ml_core.lab.log_care.log_days import LogDay, log_days
from ml_core.lab.log_care.sealing import days_to_seal, seal_day
from ml_core.serve.log.database import open_for_reading
from ml_core.serve.log.entries import Lineage
from ml_core.serve.log.erasure_requests import request_erasure
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.reader import PredictionLog
from tests.serve.log.filled import (
    DAY,
    FACTS,
    NEXT,
    THIRD,
    bulk_row,
    files_with,
    fill,
    head_of,
    held,
    row,
    stored,
    subject,
    tampering,
    today,
    with_key_of,
)


def day_in(settings, name: str = DAY) -> LogDay:
    return LogDay(name, settings.log)


def sealings(settings) -> list[dict]:
    return [entry for entry in Journal(settings.journal).entries() if entry["event"] == "log.sealed"]


def as_copied(answer) -> dict:
    """An answer as the copy has it."""
    facts = ("model_name", "model_version", "model_hash", "feature_version", "calibration_id", "slot", "bento")
    kept = ("request_id", "at", "client_request_id", "batch_id", "batch_index", "prediction", "level", "reason", "file")
    return {
        **{name: getattr(answer, name) for name in (*kept, "validity", "elapsed_us", "input_hash")},
        **{name: answer.lineage[name] for name in facts},
        **{
            name: list(getattr(answer, name))
            for name in ("probabilities", "p_values", "prediction_set", "validity_reasons")
        },
        "served_by": answer.lineage["served_by"],
        "classes": answer.lineage["classes"],
        "subject": None if answer.subject is None else answer.subject.hex(),
        "input": answer.input,
        "groups": answer.groups,
        "group_values": answer.group_values,
        "explanation": answer.explanation,
    }


def copied(settings, day: str = DAY) -> list[dict]:
    """Rows of the copy, its JSON read."""
    rows = pq.read_table(day_in(settings, day).sealed).to_pylist()
    as_json = ("input", "groups", "group_values", "explanation", "served_by")
    return [{**r, **{name: None if r[name] is None else orjson.loads(r[name]) for name in as_json}} for r in rows]


def test_the_copy_has_the_rows_of_the_log_to_the_bit(settings):
    anna = subject(settings, "anna")
    rows = [row(n, subject=anna if n % 5 == 0 else None) for n in range(30)]
    rows[3] = rows[3]._replace(batch_id=bytes(range(16)), batch_index=7)
    rows[4] = rows[4]._replace(input=None)
    fill(settings, [*rows, bulk_row(settings, 900)])
    assert seal_day(settings, day_in(settings)).outcome == "sealed"
    found = copied(settings)
    expected = list(PredictionLog(settings.log).rows())
    assert len(found) == 36
    assert [{k: v for k, v in r.items() if k != "digest"} for r in found] == [as_copied(answer) for answer in expected]


def test_the_copy_names_the_digest_of_every_row(settings):
    file = fill(settings, [row(0), row(1), bulk_row(settings, 2, answers=3)])
    seal_day(settings, day_in(settings))
    digests = [r[12].hex() for r in stored(file)]
    assert [r["digest"] for r in copied(settings)] == [digests[0], digests[1], *[digests[2]] * 3]


def test_pandas_reads_the_copy(settings):
    fill(settings, [row(n) for n in range(20)])
    seal_day(settings, day_in(settings))
    frame = pd.read_parquet(day_in(settings).sealed)
    assert (len(frame), str(frame["at"].dtype), frame["prediction"].dtype.kind) == (20, "datetime64[us, UTC]", "i")
    assert frame.loc[3, "at"] == pd.Timestamp(f"{DAY}T09:00:03Z")
    assert frame["reason"].notna().sum() == 3


def test_all_files_of_a_day_are_in_one_copy(settings):
    with held(settings, DAY) as first:
        first.commit([row(1), row(2)], durable=False)
        fill(settings, [row(3)])
    seal_day(settings, day_in(settings))
    assert [r["file"][-7:] for r in copied(settings)] == ["-w01.db"] * 2 + ["-w02.db"]


def test_labels_of_text_are_text(settings):
    lineage = Lineage.of({**FACTS, "classes": ["stays", "returns"]})
    fill(settings, [row(1), row(3, lineage=lineage)])
    seal_day(settings, day_in(settings))
    assert [r["prediction"] for r in copied(settings)] == ["1", "returns"]
    assert copied(settings)[0]["prediction_set"] == ["0", "1"]


def test_a_day_without_rows_has_a_copy_without_rows(settings):
    with held(settings, DAY):
        pass
    assert (seal_day(settings, day_in(settings)).outcome, copied(settings)) == ("sealed", [])


def test_heads_go_into_the_journal(settings):
    file = fill(settings, [row(n) for n in range(10)])
    seal_day(settings, day_in(settings))
    (entry,) = sealings(settings)
    (sealed,) = entry["files"]
    assert (entry["model"], sealed["file"], sealed["rows"]) == (settings.model_name, file.path.name, 10)
    assert sealed["head"] == head_of(file).hex()


def test_what_is_sealed_as_it_is_stays_untouched(settings):
    fill(settings, [row(n) for n in range(10)])
    seal_day(settings, day_in(settings))
    before = day_in(settings).sealed.stat()
    again = seal_day(settings, day_in(settings))
    after = day_in(settings).sealed.stat()
    assert (again.outcome, len(sealings(settings))) == ("unchanged", 1)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_came_into_a_sealed_day_is_named_and_not_sealed(settings):
    file = fill(settings, [row(n) for n in range(10)])
    seal_day(settings, day_in(settings))
    fill(settings, [row(10)])
    found = seal_day(settings, day_in(settings))
    expected = f"{file.path.name}, row 11: it and what follows came after its day was sealed"
    assert (found.outcome, found.detail) == ("broken", expected)
    assert (len(copied(settings)), len(sealings(settings))) == (10, 1)


def test_a_copy_that_is_lost_is_made_again(settings):
    fill(settings, [row(n) for n in range(10)])
    seal_day(settings, day_in(settings))
    day_in(settings).sealed.unlink()
    assert not verify_log(settings).is_sound
    assert (seal_day(settings, day_in(settings)).outcome, len(copied(settings))) == ("sealed", 10)
    assert verify_log(settings).is_sound


def test_a_copy_that_was_changed_is_named_and_left_as_it_is(settings):
    fill(settings, [row(n) for n in range(10)])
    seal_day(settings, day_in(settings))
    day_in(settings).sealed.write_bytes(b"PAR1" * 40)
    found = seal_day(settings, day_in(settings))
    assert (found.outcome, "is not the file that was written" in found.detail) == ("broken", True)
    assert day_in(settings).sealed.read_bytes() == b"PAR1" * 40


def test_a_day_that_is_not_sound_is_not_sealed(settings):
    file = fill(settings, [row(n) for n in range(10)])
    with tampering(file) as connection:
        connection.execute("UPDATE entry SET at_us = at_us + 1 WHERE seq = 5")
    found = seal_day(settings, day_in(settings))
    assert (found.outcome, f"{file.path.name}, row 5" in found.detail) == ("broken", True)
    assert (day_in(settings).sealed.exists(), sealings(settings)) == (False, [])


def test_a_day_with_a_missing_file_is_not_sealed_again(settings):
    with held(settings, DAY) as first:
        first.commit([row(1)], durable=False)
        second = fill(settings, [row(2)])
    seal_day(settings, day_in(settings))
    second.path.unlink()
    found = seal_day(settings, day_in(settings))
    assert (found.outcome, found.detail) == ("broken", f"{second.path.name}: is missing, and was not pruned")


def test_a_day_that_a_worker_writes_to_is_left_alone(settings):
    with held(settings, DAY) as log:
        log.commit([row(1)], durable=False)
        found = seal_day(settings, day_in(settings))
        assert (found.outcome, log.file.path.name in found.detail) == ("busy", True)
    assert (day_in(settings).sealed.exists(), sealings(settings)) == (False, [])


def test_only_days_that_are_over_are_sealed(settings):
    for name in (DAY, NEXT, today()):
        fill(settings, [row(1, name)], name)
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    assert [day.name for day in days_to_seal(settings)] == [DAY, NEXT]
    assert [day.name for day in days_to_seal(settings, date.fromisoformat(NEXT))] == [DAY]
    assert [day.name for day in days_to_seal(settings, tomorrow)] == [DAY, NEXT]


def test_what_a_killed_worker_left_in_the_wal_file_is_sealed_and_moved_into_the_database(settings, tmp_path):
    other = with_key_of(settings, tmp_path / "copy")
    with held(settings, DAY) as log:
        log.commit([row(n) for n in range(5)], durable=False)
        other.log.mkdir(parents=True)
        for part in ("", "-wal"):
            (other.log / f"{log.file.path.name}{part}").write_bytes(
                (settings.log / f"{log.file.path.name}{part}").read_bytes()
            )
    assert (seal_day(other, day_in(other)).outcome, len(copied(other))) == ("sealed", 5)
    assert not list(other.log.glob("*-wal"))


def test_a_reader_in_the_way_holds_up_nothing(settings):
    file = fill(settings, [row(n) for n in range(5)])
    with closing(open_for_reading(file.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entry").fetchone()
        assert seal_day(settings, day_in(settings)).outcome == "sealed"


def test_erased_answers_are_not_in_the_copy(settings):
    anna = subject(settings, "anna")
    fill(settings, [row(n, subject=anna if n == 2 else None) for n in range(6)])
    erase(settings, [anna])
    assert (seal_day(settings, day_in(settings)).answers, len(copied(settings))) == (5, 5)
    assert seal_day(settings, day_in(settings)).outcome == "unchanged"


def test_files_with_erased_rows_are_written_anew_so_that_no_page_keeps_a_copy(settings):
    """A worker that erases in its own file does not do that: it would hold up answers."""
    anna = subject(settings, "anna")
    with held(settings, DAY) as log:
        log._connection.execute("PRAGMA secure_delete=OFF").fetchall()
        for n in range(60):
            log.commit([row(n, subject=anna if n == 2 else None)], durable=False)
        asked = request_erasure(LogRecords(settings), [anna], [log.file.path.name])
        asked.carry_out(log, log.file.path.name)
    assert files_with(log.file.folder, b'"note 2"') == [log.file.path.name]
    assert seal_day(settings, day_in(settings)).outcome == "sealed"
    assert files_with(log.file.folder, b'"note 2"') == []


def test_a_few_rows_are_in_memory_at_a_time(settings, monkeypatch):
    monkeypatch.setattr(sealed_copy, "_BATCH_ROWS", 7)
    fill(settings, [row(n) for n in range(30)])
    shares: list[float] = []
    seal_day(settings, day_in(settings), shares.append)
    metadata = pq.read_metadata(day_in(settings).sealed)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [7, 7, 7, 7, 2]
    assert sum(shares) == pytest.approx(1.0)


def test_a_failure_while_writing_leaves_the_copy_that_was_there(settings, monkeypatch):
    fill(settings, [row(n) for n in range(10)])
    seal_day(settings, day_in(settings))
    monkeypatch.setattr(sealed_copy, "_columns", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        seal_day(settings, day_in(settings), renew=True)
    assert (len(copied(settings)), day_in(settings).drafts) == (10, [])


def killed_at(settings, steps: int) -> None:
    """Seal in this process, and die after so many of the steps that change a file or the journal."""
    left = iter(range(steps))

    def dying(function):
        def call(*args, **kwargs):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    os.fsync = dying(os.fsync)
    os.replace = dying(os.replace)
    sealed_copy._columns = dying(sealed_copy._columns)
    Journal.append = dying(Journal.append)
    for day in log_days(settings.log):
        seal_day(settings, day)


@pytest.mark.parametrize("steps", range(6))
def test_a_seal_that_was_killed_is_done_by_the_next_one(settings, steps):
    for name in (DAY, NEXT, THIRD):
        fill(settings, [row(n, name) for n in range(random.Random(name).randrange(3, 9))], name)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=killed_at, args=(settings, steps))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert verify_log(settings).is_sound
    assert {seal_day(settings, day).outcome for day in log_days(settings.log)} <= {"sealed", "unchanged"}
    expected = [answer.request_id for answer in PredictionLog(settings.log).rows()]
    assert [r["request_id"] for name in (DAY, NEXT, THIRD) for r in copied(settings, name)] == expected
    assert {file["file"] for entry in sealings(settings) for file in entry["files"]} == {
        f.path.name for f in PredictionLog(settings.log).files()
    }
    assert not [path for path in settings.log.rglob("*") if "draft" in path.name]
