"""Erasing a person: no byte of what was asked or answered is left, the chain holds, and workers go on."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import secrets
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ml_core.base.journal import Journal
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.log_care.erasure import erase, erase_person, find
from ml_core.lab.log_care.log_days import LogDay, log_days
from ml_core.lab.log_care.sealing import seal_day
from ml_core.lab.watching.live_performance import matured_answers
from ml_core.serve.log import database, writer
from ml_core.serve.log.database import open_for_reading
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.erasure_requests import pending_erasures, request_erasure
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import LabelStore
from ml_core.serve.log.log_files import LogFile, log_files
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.logged_answers import ErasedAnswer
from ml_core.serve.log.reader import PredictionLog
from tests.lab.watching.ward import Ward, patients
from tests.serve.log.builders import until
from tests.serve.log.filled import (
    DAY,
    NEXT,
    THIRD,
    bulk_row,
    files_with,
    fill,
    held,
    row,
    stored,
    subject,
    today,
    writing,
)

SECRET = "CANARY-7f3a"
VISIT = "visit-of-anna-9b1c"


@pytest.fixture
def quick_workers(monkeypatch):
    """Workers look for requests all the time, and not every few seconds."""
    monkeypatch.setattr(writer, "_ERASE_EVERY_S", 0.01)
    monkeypatch.setattr(writer, "_IDLE_S", 0.01)


def about(settings, name: str, n: int, day: str = DAY):
    """An answer about somebody, whose input, own id and pseudonym can be searched for."""
    facts = {"client_request_id": VISIT, "batch_id": bytes(range(16)), "batch_index": 0}
    why = f'{{"reason":"{SECRET}-{name}"}}'.encode()
    return row(n, day, subject=subject(settings, name), note=f"{SECRET}-{name}", explanation=why, **facts)


def traces(settings, name: str = "anna") -> set[str]:
    """Names of the log's files, the sealed copies' columns among them, in which something of that person is left."""
    pseudonym = subject(settings, name)
    needles = [f"{SECRET}-{name}".encode(), pseudonym, pseudonym.hex().encode()]
    found = {file for needle in needles for file in files_with(settings.log, needle)}
    for path in (settings.log / "sealed").glob("*.parquet"):
        text = str(pq.read_table(path).to_pylist())
        found |= {path.name} if f"{SECRET}-{name}" in text or pseudonym.hex() in text else set()
    return found


def events(settings, event: str = "log.erased") -> list[dict]:
    return [entry for entry in Journal(settings.journal).entries() if entry["event"] == event]


def test_what_stays_of_an_erased_row_is_number_id_time_lineage_digest_and_head(settings):
    file = fill(settings, [row(1), about(settings, "anna", 2), row(3)], together=2)
    before = stored(file)
    erase(settings, [subject(settings, "anna")])
    after = stored(file)
    seq, kind, request_id, at_us, *_, lineage, _answer, _input, _salt, digest, head, _groups, _values, why = before[1]
    assert SECRET in why.decode()
    assert after[1] == (
        seq, kind, request_id, at_us, None, None, None, None, lineage, b"", None, b"", digest, head, None, None, None,
    )  # fmt: skip
    assert (after[0], after[2]) == (before[0], before[2])
    assert verify_log(settings).is_sound


def test_no_byte_is_left_in_closed_files(settings):
    """Not where its rows lay, nor on pages that were split while SQLite kept what was moved."""
    names = [f"person-{n:03d}" for n in range(12)]
    for day in (DAY, NEXT):
        with held(settings, day) as log:
            log._connection.execute("PRAGMA secure_delete=OFF").fetchall()
            for n in range(0, 60, 3):
                log.commit([about(settings, names[(n + i) % 12], n + i, day) for i in range(3)], durable=False)
    for name in names[:4]:
        assert traces(settings, name)
        assert erase(settings, [subject(settings, name)]).answers
        assert traces(settings, name) == set()
    assert verify_log(settings).is_sound
    assert traces(settings, names[4])


def test_no_byte_is_left_in_a_live_file_either(settings, quick_workers):
    choose, names = random.Random(6), [f"person-{n:03d}" for n in range(40)]
    with writing(settings, [row(1, today())]) as live:
        asyncio.run(store_all(live, [about(settings, choose.choice(names), n, today()) for n in range(2, 500)]))
        for name in names[:6]:
            assert traces(settings, name)
            done = erase(settings, [subject(settings, name)])
            assert (done.answers > 0, done.left) == (True, {})
            assert traces(settings, name) == set()
        asyncio.run(store_all(live, [row(n, today()) for n in range(500, 510)]))
        until(lambda: live.counts.stored == 509, "a slow disk has them too")
        report = verify_log(settings)
        assert (report.is_sound, report.files[0].is_live, report.files[0].rows) == (True, True, 509)
    assert verify_log(settings).is_sound


async def store_all(live, rows) -> None:
    for some in rows:
        await live.store([some])


def test_indexes_of_a_live_file_keep_no_copies_on_pages_that_were_split(settings):
    choose, names = random.Random(7), [f"person-{n:03d}" for n in range(150)]
    with held(settings, today()) as log:
        log.commit([row(n, today()) for n in range(100)], durable=False)
        log._connection.execute("PRAGMA secure_delete=OFF").fetchall()
        for n in range(100, 1_000):
            log.commit([about(settings, choose.choice(names), n, today())], durable=False)
        for name in names[:40]:
            log.erase([subject(settings, name)])
        left = [name for name in names[:40] if files_with(settings.log, subject(settings, name))]
    assert left == []


def test_answers_about_others_are_as_they_were(settings):
    fill(settings, [*(about(settings, "bert", n) for n in range(5)), about(settings, "anna", 6), bulk_row(settings, 9)])
    others = [a for a in PredictionLog(settings.log).rows() if a.subject != subject(settings, "anna")]
    erase(settings, [subject(settings, "anna")])
    assert list(PredictionLog(settings.log).rows()) == others


def test_an_erased_answer_is_known_to_have_been(settings):
    gone = about(settings, "anna", 2)
    fill(settings, [row(1), gone])
    erase(settings, [subject(settings, "anna")])
    log = PredictionLog(settings.log)
    assert log.known([gone.request_id]) == {gone.request_id}
    assert isinstance(log.find_many([gone.request_id])[gone.request_id], ErasedAnswer)
    assert log.by_client_request_id(VISIT) == []


def test_a_person_is_found_under_every_key_that_was_ever_used(settings):
    fill(settings, [about(settings, "anna", 1)])
    old = settings.subject_key.read_text()
    settings.subject_key.write_text(secrets.token_hex(32) + "\n" + old)
    fill(settings, [about(settings, "anna", 2), row(3)])
    pseudonyms = Pseudonyms(settings.subject_key).all_of("anna")
    assert [f.rows for f in find(settings, pseudonyms)] == [2]
    assert erase(settings, pseudonyms).answers == 2
    assert len(list(PredictionLog(settings.log).rows())) == 1


def test_sealed_copies_are_written_anew_without_the_person(settings):
    fill(settings, [about(settings, "anna", 1), row(2), row(3)])
    fill(settings, [row(1, NEXT)], NEXT)
    for day in log_days(settings.log):
        seal_day(settings, day)
    untouched = LogDay(NEXT, settings.log).sealed.stat().st_ino
    assert traces(settings) == {f"predictions-{DAY}-w01.db", f"predictions-{DAY}.parquet"}
    done = erase(settings, [subject(settings, "anna")])
    assert (traces(settings), done.unsealed) == (set(), {})
    assert pq.read_metadata(LogDay(DAY, settings.log).sealed).num_rows == 2
    assert LogDay(NEXT, settings.log).sealed.stat().st_ino == untouched
    assert {seal_day(settings, day).outcome for day in log_days(settings.log)} == {"unchanged"}
    assert verify_log(settings).is_sound


def test_a_sealed_copy_that_cannot_be_written_anew_goes(settings):
    with held(settings, DAY) as first:
        second = fill(settings, [about(settings, "anna", 1)])
        first.commit([row(2)], durable=False)
    seal_day(settings, LogDay(DAY, settings.log))
    with held(settings, DAY):
        done = erase(settings, [subject(settings, "anna")], wait_s=0.0)
        assert done.left == {f"predictions-{DAY}-w01.db": "a worker writes to it, and has not done it yet"}
    done = erase(settings, [subject(settings, "bert")])
    assert (done.answers, done.earlier, traces(settings)) == (0, 1, set())
    assert second.path.exists()


def test_a_sealed_copy_goes_while_another_file_of_its_day_is_live(settings, quick_workers):
    with held(settings, DAY) as first:
        fill(settings, [about(settings, "anna", 1)])
        first.commit([row(2)], durable=False)
    day = LogDay(DAY, settings.log)
    seal_day(settings, day)
    (asked,) = [request_erasure(LogRecords(settings), [subject(settings, "anna")], [f"predictions-{DAY}-w02.db"])]
    with held(settings, DAY):
        done = erase(settings, [subject(settings, "nobody")], wait_s=0.0)
        assert (done.earlier, list(done.unsealed), day.sealed.exists(), asked.path.exists()) == (1, [DAY], False, False)
    assert traces(settings) == set()


def test_what_killed_writers_left_beside_a_database_goes_too(settings):
    file = fill(settings, [about(settings, "anna", 1)])
    shutil.copy(file.path, file.folder / f".{file.path.name}.rescue")
    day = LogDay(DAY, settings.log)
    day.sealed.parent.mkdir()
    day.sealed.with_name(f".{day.sealed.name}.draft").write_bytes(f"{SECRET}-anna".encode())
    assert len(traces(settings)) == 3
    erase(settings, [subject(settings, "anna")])
    assert traces(settings) == set()


def test_the_journal_says_how_many_where_and_never_who(settings):
    fill(settings, [about(settings, "anna", 1), row(2), about(settings, "anna", 3)])
    fill(settings, [about(settings, "anna", 1, NEXT)], NEXT)
    erase(settings, [subject(settings, "anna")])
    (entry,) = events(settings)
    assert (entry["answers"], entry["model"]) == (3, settings.model_name)
    assert entry["rows"] == {f"predictions-{DAY}-w01.db": [1, 3], f"predictions-{NEXT}-w01.db": [1]}
    text = settings.journal.read_text()
    assert not any(word in text for word in ("anna", SECRET, VISIT, subject(settings, "anna").hex()))


def test_where_nothing_is_found_nothing_is_done(settings):
    file = fill(settings, [row(n) for n in range(3)])
    before = file.path.read_bytes()
    done = erase(settings, [subject(settings, "nobody")])
    assert (done.rows, done.left, file.path.read_bytes(), events(settings)) == ({}, {}, before, [])


def test_bulk_calls_are_not_looked_at(settings):
    fill(settings, [bulk_row(settings, 1), about(settings, "anna", 2)])
    segments = [path.read_bytes() for path in (settings.log / "bulk").rglob("*.arrow")]
    erase(settings, [subject(settings, "anna")])
    assert [path.read_bytes() for path in (settings.log / "bulk").rglob("*.arrow")] == segments
    assert len(list(PredictionLog(settings.log).rows())) == 6


def test_a_file_that_cannot_be_searched_is_told_and_the_others_are_done(settings):
    fill(settings, [about(settings, "anna", 1)])
    bad = LogFile(NEXT, 1, settings.log)
    bad.path.write_bytes(b"no database" * 500)
    done = erase(settings, [subject(settings, "anna")], wait_s=0.0)
    assert (done.answers, list(done.left), traces(settings)) == (1, [bad.path.name], set())
    assert "cannot be searched" in done.left[bad.path.name]


# --- live files ---


def test_a_worker_that_does_not_answer_is_waited_for_and_told(settings):
    with held(settings, today()) as log:
        log.commit([about(settings, "anna", 1, today())], durable=False)
        shares: list[float] = []
        done = erase(settings, [subject(settings, "anna")], wait_s=0.5, step=shares.append)
        assert (done.rows, list(done.left)) == ({}, [log.file.path.name])
        assert 0 < sum(shares) <= 2
        assert verify_log(settings).is_sound
    assert traces(settings)
    done = erase(settings, [subject(settings, "anna")])
    assert (done.answers + done.earlier, done.left, traces(settings)) == (1, {}, set())
    assert verify_log(settings).is_sound


def test_a_worker_does_what_is_asked_while_it_stores(settings, quick_workers):
    anna = subject(settings, "anna")
    with writing(settings, [about(settings, "anna", n, today()) for n in range(5)]) as live:
        (file,) = log_files(settings.log)
        asked = request_erasure(LogRecords(settings), [anna], [file.path.name])
        n = 5
        while not asked.is_done_in(file.path.name):
            asyncio.run(store_all(live, [row(n, today())]))
            n += 1
        assert (asked.rows_in(file.path.name), live.counts.lost) == ({1, 2, 3, 4, 5}, 0)
        assert erase(settings, [subject(settings, "nobody")]).earlier == 5
    assert (traces(settings), verify_log(settings).is_sound) == (set(), True)


def test_a_worker_in_strict_mode_erases_as_well(settings, quick_workers):
    from ml_core.serve.log.writer import LogWriter

    live = LogWriter(settings.log, lambda: True, records=LogRecords(settings))
    live.start()
    try:
        asyncio.run(store_all(live, [about(settings, "anna", 1, today()), row(2, today())]))
        assert erase(settings, [subject(settings, "anna")]).answers == 1
        asyncio.run(store_all(live, [row(3, today())]))
    finally:
        live.close(5.0)
    assert (traces(settings), verify_log(settings).is_sound, live.counts.stored) == (set(), True, 3)


def test_a_damaged_request_keeps_a_worker_from_nothing_else(settings, quick_workers):
    with writing(settings, [row(1, today())]) as live:
        asked = request_erasure(LogRecords(settings), [subject(settings, "anna")], [f"predictions-{today()}-w01.db"])
        asked.path.write_text("{")
        asyncio.run(store_all(live, [row(n, today()) for n in range(2, 200)]))
        assert (live.counts.stored, live.counts.problem) == (199, "")


def test_a_reader_in_the_way_of_a_worker_makes_it_try_again(settings, quick_workers, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_MS", 20)
    with writing(settings, [about(settings, "anna", 1, today()), row(2, today())]):
        (file,) = log_files(settings.log)
        with closing(open_for_reading(file.path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM entry").fetchone()
            done = erase(settings, [subject(settings, "anna")], wait_s=0.5)
            assert list(done.left) == [file.path.name]
        done = erase(settings, [subject(settings, "anna")])
        assert (done.earlier, done.left, traces(settings)) == (1, {}, set())
        assert verify_log(settings).is_sound


def test_a_reader_in_the_way_of_the_command_is_told(settings, monkeypatch):
    monkeypatch.setattr(database, "_READ_BUSY_MS", 20)
    file = fill(settings, [about(settings, "anna", 1)])
    with closing(open_for_reading(file.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entry").fetchone()
        done = erase(settings, [subject(settings, "anna")], wait_s=0.0)
        assert "locked" in done.left[file.path.name]
    assert erase(settings, [subject(settings, "anna")]).left == {}
    assert (traces(settings), verify_log(settings).is_sound) == (set(), True)


# --- killed on the way ---


def killed_at(settings, pseudonym: bytes, steps: int) -> None:
    """Erase in this process, and die before one of the steps that change a file."""
    left = iter(range(steps))

    def dying(function):
        def call(*args, **kwargs):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    os.fsync, os.replace, os.unlink = dying(os.fsync), dying(os.replace), dying(os.unlink)
    database.erase_subjects, database.settle_wholly = dying(database.erase_subjects), dying(database.settle_wholly)
    erase(settings, [pseudonym])


@pytest.mark.parametrize("steps", range(20))
def test_an_erasure_that_was_killed_is_done_by_the_next_one(settings, steps):
    for day in (DAY, NEXT):
        fill(
            settings, [row(1, day), about(settings, "anna", 2, day), row(3, day), about(settings, "anna", 4, day)], day
        )
        seal_day(settings, LogDay(day, settings.log))
    fill(settings, [row(1, THIRD)], THIRD)
    anna = subject(settings, "anna")
    process = multiprocessing.get_context("fork").Process(target=killed_at, args=(settings, anna, steps))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert verify_log(settings).is_sound
    done = erase(settings, [anna])
    assert done.left == {}
    assert (traces(settings), verify_log(settings).is_sound, pending_erasures(LogRecords(settings))) == (
        set(),
        True,
        [],
    )
    assert {seal_day(settings, LogDay(day, settings.log)).outcome for day in (DAY, NEXT)} == {"unchanged"}
    rows = {file: numbers for entry in events(settings) for file, numbers in entry["rows"].items()}
    assert rows == {f"predictions-{day}-w01.db": [2, 4] for day in (DAY, NEXT)}
    assert [path for path in hidden(settings.log) if not path.name.endswith(".lock")] == []


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


# --- labels and ledger as well ---


def test_nothing_of_a_person_is_left_anywhere_and_all_of_the_others_is(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    rows = patients(200, seed=3)
    rows["patient_id"] = [f"patient-{i % 50}" for i in range(len(rows))]
    answers = ward.answer(rows)
    ward.pass_days(31)
    ward.look()
    ward.close()
    settings = ward.home.settings
    hidden = Pseudonyms(settings.subject_key).all_of("patient-7")
    his = [a.request_id for a, name in zip(answers, rows["patient_id"], strict=True) if name == "patient-7"]
    before = matured_answers(settings)
    done = erase_person(settings, hidden)
    assert (done.answers, done.labels, done.matured, done.left) == (4, 4, 4, {})
    assert all(isinstance(ward.log.find(i), ErasedAnswer) for i in his)
    after = matured_answers(settings)
    assert len(after.rows) == len(before.rows) - 4
    assert after.detectors == before.detectors
    assert (
        LabelStore(open_label_tables(settings, settings.model_name), ward.log.known).current([id_bytes(i) for i in his])
        == {}
    )
    assert all(report.problem == "" for report in verify_log(settings).files)
    files = [p for p in settings.home.rglob("*") if p.is_file() and p != settings.subject_key]
    assert not [p.name for p in files if any(raw in p.read_bytes() for raw in hidden)]
    again = erase_person(settings, hidden)
    assert (again.answers, again.labels, again.matured) == (0, 0, 0)
