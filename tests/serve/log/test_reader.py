"""The reader finds what was answered in any file, in order, also while workers write; damaged files are named."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import LogDamaged
from ml_core.serve.log import reader
from ml_core.serve.log.database import OpenLog
from ml_core.serve.log.entries import id_text
from ml_core.serve.log.log_files import LogFile, day_of, log_files
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import PredictionLog
from tests.serve.log.builders import (
    COLUMNS,
    DAY,
    DAY_US,
    LINEAGE,
    NOON_US,
    bulk_row,
    rid,
    row,
    rows_now,
    store,
    writing,
)
from tests.serve.log.log_model import BATCH, SUBJECT, check_reading, commits, ids, played


@settings(deadline=None, max_examples=30)
@given(script=commits(), erased=st.booleans(), data=st.data())
def test_the_log_reads_like_a_plain_list(
    tmp_path_factory: pytest.TempPathFactory, script: Any, erased: bool, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("log")
    model, log = played(folder, script), PredictionLog(folder)
    if erased:
        model.erase()
    check_reading(log, model, data)
    model.close()


def test_an_answer_is_read_as_it_was_given(tmp_path: Path) -> None:
    log = OpenLog.of_day(tmp_path, DAY)
    said = row(
        5, client_request_id="visit-7", subject=SUBJECT, batch_id=rid(9), batch_index=3, input=b"[71,182.5,null]",
    )  # fmt: skip
    log.commit([said, row(6, input=None)], durable=False)
    log.close()
    whole, without = PredictionLog(tmp_path).rows()
    stored = orjson.loads(said.answer)
    assert whole == LoggedAnswer(
        request_id=id_text(rid(5)),
        at=datetime(2026, 11, 23, 12, tzinfo=UTC),
        client_request_id="visit-7",
        subject=SUBJECT,
        batch_id=id_text(rid(9)),
        batch_index=3,
        lineage=LINEAGE.facts,
        prediction=1,
        probabilities=(0.69, 0.31),
        p_values=tuple(stored["p_values"]),
        prediction_set=(0, 1),
        level="0.9",
        reason=None,
        validity="valid",
        validity_reasons=(),
        elapsed_us=80,
        input=dict(zip(COLUMNS, [71, 182.5, None], strict=True)),
        input_hash=stored["input_hash"],
        groups=None,
        group_values=None,
        explanation=None,
        file=f"predictions-{DAY}-w01.db",
    )
    assert whole.is_the_models_own
    assert without.input is None


def test_a_row_of_a_bulk_call_is_read_as_it_was_given(tmp_path: Path) -> None:
    bulk, segment = bulk_row(tmp_path, 20, 100)
    log = OpenLog.of_day(tmp_path, DAY)
    log.commit([bulk], durable=False)
    log.close()
    answers = PredictionLog(tmp_path).of_batch(id_text(bulk.request_id))
    assert [answer.batch_index for answer in answers] == list(range(20))
    for n, answer in enumerate(answers):
        assert answer == PredictionLog(tmp_path).find(id_text(rid(100 + n)))
        assert answer.batch_id == id_text(bulk.request_id)
        assert answer.probabilities == tuple(segment.probabilities[n])
        assert answer.p_values == tuple(segment.p_values[n])
        assert answer.prediction == segment.predictions[n]
        assert answer.prediction_set == tuple(k for k in (0, 1) if segment.sets[n][k])
        assert answer.lineage == segment.lineages[segment.slot_names[segment.slots[n]]]
        assert answer.reason == segment.reason_names[segment.reasons[n]]
        assert answer.input is not None
        assert list(answer.input) == ["age", "glucose", "sex", "ward", "code"]
        assert orjson.loads(orjson.dumps(answer.input)) == answer.input


def test_an_empty_log_reads_as_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        log = PredictionLog(folder)
        assert (log.files(), list(log.rows()), log.last(5), log.known([rid(1)])) == ([], [], [], set())
        assert log.after({}, 5) == ([], {})
        assert log.find(id_text(rid(1))) is None


@pytest.mark.parametrize("text", ["", "visit-7"])
def test_what_is_no_id_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        PredictionLog(tmp_path).find(text)


# --- while workers write ----------------------------------------------------------------------------------------------


def test_a_reader_follows_writers_by_a_cursor(tmp_path: Path) -> None:
    log, cursor, seen = PredictionLog(tmp_path), {}, []
    with writing(tmp_path) as one, writing(tmp_path) as two:
        for i in range(6):
            store(one, rows_now(20, first=100 * i))
            store(two, rows_now(20, first=100 * i + 50))
            while part := log.after(cursor, 15):
                answers, cursor = part
                if not answers:
                    break
                seen += ids(answers)
    assert len(seen) == len(set(seen)) == 240


def test_a_reader_that_takes_its_time_holds_nobody_up(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(reader, "_PAGE", 10)
    with writing(tmp_path) as writer:
        store(writer, rows_now(100))
        reading = PredictionLog(tmp_path).rows()
        first = [next(reading) for _ in range(5)]
        store(writer, rows_now(500, first=100), 100)
        assert writer._log is not None
        busy, _, _ = writer._log._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0  # between its pages the reader keeps no view of the file
        store(writer, rows_now(1, first=9_000))
        assert len(first) + sum(1 for _ in reading) == 601


def test_vanished_files_leave_the_cursor(tmp_path: Path) -> None:
    for day in range(2):
        log = OpenLog.of_day(tmp_path, day_of(NOON_US + day * DAY_US))
        log.commit([row(day, NOON_US + day * DAY_US)], durable=False)
        log.close()
    found, cursor = PredictionLog(tmp_path).after({}, 10)
    assert (len(found), len(cursor)) == (2, 2)
    log_files(tmp_path)[0].path.unlink()
    found, cursor = PredictionLog(tmp_path).after(cursor, 10)
    assert (found, len(cursor)) == ([], 1)


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def half(tmp_path: Path) -> PredictionLog:
    """Row 1 in a sound file, and a file of the same day that is damaged."""
    (tmp_path / f"predictions-{DAY}-w01.db").write_bytes(b"no database" * 500)
    log = OpenLog.of_day(tmp_path, DAY)
    log.commit([row(1)], durable=False)
    log.close()
    return PredictionLog(tmp_path)


def test_an_answer_in_a_sound_file_is_found_beside_a_damaged_one(half: PredictionLog) -> None:
    assert half.find(id_text(rid(1))) is not None
    assert half.known([rid(1)]) == {rid(1)}


@pytest.mark.parametrize("ask", ["find", "known", "rows", "after", "last", "by_client_request_id", "of_batch"])
def test_a_damaged_file_is_named_where_something_may_be_missing(half: PredictionLog, ask: str) -> None:
    asked: dict[str, Any] = {
        "find": lambda: half.find(id_text(rid(2))),
        "known": lambda: half.known([rid(1), rid(2)]),
        "rows": lambda: list(half.rows()),
        "after": lambda: half.after({}, 10),
        "last": lambda: half.last(10),
        "by_client_request_id": lambda: half.by_client_request_id("visit-7"),
        "of_batch": lambda: half.of_batch(id_text(BATCH)),
    }
    with pytest.raises(LogDamaged, match=f"predictions-{DAY}-w01.db"):
        asked[ask]()


@pytest.mark.parametrize(
    "change",
    ["answer = x'7b7d'", "answer = x'ff'", "input = x'5b315d'", "request_id = x'00'", "kind = 1"],
)
def test_a_row_that_is_not_what_was_stored_is_named(tmp_path: Path, change: str) -> None:
    log = OpenLog.of_day(tmp_path, DAY)
    log.commit([row(1), row(2)], durable=False)
    log.close()
    with closing(sqlite3.connect(log.file.path)) as connection:
        connection.execute(f"UPDATE entry SET {change} WHERE seq = 2")
        connection.commit()
    for ask in (lambda r: list(r.rows()), lambda r: r.after({}, 9), lambda r: r.last(9)):
        with pytest.raises(LogDamaged, match=f"{log.file.path.name}.*row 2"):
            ask(PredictionLog(tmp_path))


def test_a_missing_segment_is_named_only_where_it_matters(tmp_path: Path) -> None:
    bulk, _ = bulk_row(tmp_path, 5, 100)
    log = OpenLog.of_day(tmp_path, DAY)
    log.commit([row(1), bulk], durable=False)
    log.close()
    shutil.rmtree(tmp_path / "bulk")
    found = PredictionLog(tmp_path)
    assert found.find(id_text(rid(1))) is not None
    with pytest.raises(LogDamaged, match="bulk/"):
        found.find(id_text(rid(102)))


def test_files_that_have_only_begun_read_as_nothing(tmp_path: Path) -> None:
    LogFile(DAY, 1, tmp_path).path.touch()
    with closing(sqlite3.connect(LogFile(DAY, 2, tmp_path).path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    found = PredictionLog(tmp_path)
    assert (list(found.rows()), found.last(3), found.known([rid(1)]), found.after({}, 5)) == ([], [], set(), ([], {}))


# --- size -------------------------------------------------------------------------------------------------------------


def test_ten_thousand_ids_over_thirty_files_take_no_more_looks_than_they_need(tmp_path: Path, monkeypatch: Any) -> None:
    """Counted, not timed: each id goes to the files of its day and the neighbours; unknown ones once to every file."""
    for day in range(30):
        log = OpenLog.of_day(tmp_path, day_of(NOON_US + day * DAY_US))
        log.commit([row(n, NOON_US + day * DAY_US) for n in range(334)], durable=False)
        log.close()
    asked = [rid(n, NOON_US + day * DAY_US) for day in range(30) for n in range(334)]
    unknown = [rid(n, NOON_US - 900 * DAY_US) for n in range(500)]
    looks = 0
    true_look = reader._by_id

    def counted(connection: Any, query: str, wanted: Any) -> Any:
        nonlocal looks
        looks += len(wanted)
        return true_look(connection, query, wanted)

    monkeypatch.setattr(reader, "_by_id", counted)
    log_ = PredictionLog(tmp_path)
    assert log_.known(asked) == set(asked)
    assert looks <= 3 * len(asked)
    looks = 0
    assert log_.known([*asked, *unknown]) == set(asked)
    assert looks <= 3 * len(asked) + 30 * len(unknown)


def test_a_bulk_call_of_many_rows_comes_whole_and_once(tmp_path: Path) -> None:
    calls = [bulk_row(tmp_path, 5_000, 10_000 * i)[0] for i in range(1, 4)]
    log = OpenLog.of_day(tmp_path, DAY)
    log.commit([*calls, row(1)], durable=False)
    log.close()
    found = PredictionLog(tmp_path)
    sizes, cursor = [], {}
    while True:
        part, cursor = found.after(cursor, 1_000)
        sizes.append(len(part))
        if not part:
            break
    assert sizes == [5_000, 5_000, 5_000, 1, 0]
    assert len(found.last(7)) == 7
    assert found.known([rid(30_000 + n) for n in range(5_000)]) == {rid(30_000 + n) for n in range(5_000)}
    assert os.listdir(tmp_path / "bulk") == [DAY]
