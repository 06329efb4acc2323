"""The walk along the chain: what was stored is sound, and every change of it is found and named."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from ml_core.base.errors import LogDamaged
from ml_core.base.journal import Journal
from ml_core.lab.log_care.chain_check import ChainReport, FileReport, verify_file, verify_log
from ml_core.lab.log_care.erasure import erase
from ml_core.lab.log_care.log_days import log_days
from ml_core.lab.log_care.retention import prune_day
from ml_core.lab.log_care.sealing import seal_day
from ml_core.serve.log.log_files import LogFile, log_files
from ml_core.serve.log.log_keys import LogKeys
from tests.serve.log.filled import (
    DAY,
    NEXT,
    THIRD,
    bulk_row,
    fill,
    head_of,
    held,
    row,
    stored,
    subject,
    tampering,
    today,
    with_key_of,
    writing,
)

ROWS = 24
TOGETHER = 4
RANDOM_CHANGES = 240


def one(report: ChainReport) -> FileReport:
    """The report of the only file."""
    (found,) = report.files
    return found


def seal_all(settings) -> None:
    for day in log_days(settings.log):
        assert seal_day(settings, day).outcome in {"sealed", "unchanged"}


def test_what_was_stored_is_sound_and_counted(settings):
    file = fill(settings, [*(row(n) for n in range(ROWS)), bulk_row(settings, 900)], together=TOGETHER)
    found = one(verify_log(settings))
    assert (found.is_sound, found.row, found.problem, found.is_live) == (True, None, "", False)
    assert (found.rows, found.answers, found.commits) == (ROWS + 1, ROWS + 6, 7)
    assert found.head == head_of(file)


def test_the_head_of_an_empty_file_names_the_file(settings):
    with held(settings, DAY), held(settings, DAY):
        pass
    first, second = verify_log(settings).files
    assert (first.is_sound, second.is_sound, first.rows, first.head == second.head) == (True, True, 0, False)


def test_a_file_that_was_only_just_begun_is_sound(settings):
    settings.log.mkdir(parents=True)
    LogFile(DAY, 1, settings.log).path.touch()
    assert one(verify_log(settings)).is_sound


def test_no_log_has_nothing_to_find(settings):
    assert verify_log(settings) == ChainReport(())


def test_a_live_file_is_walked_while_its_writer_goes_on(settings):
    with writing(settings, [row(n, today()) for n in range(30)]):
        found = one(verify_log(settings))
    assert (found.is_sound, found.is_live, found.rows) == (True, True, 30)


def test_the_rows_of_a_writer_that_was_killed_are_walked(settings, tmp_path):
    """What lies in the WAL file alone counts: a copy of both files, taken while they were written to."""
    other = with_key_of(settings, tmp_path / "copy")
    with held(settings, DAY) as log:
        log.commit([row(n) for n in range(5)], durable=False)
        shutil.copytree(settings.log, other.log)
    assert (one(verify_log(other)).rows, one(verify_log(other)).is_sound) == (5, True)


def test_only_the_files_of_one_day_are_walked_where_it_is_named(settings):
    fill(settings, [row(1)])
    fill(settings, [row(1, NEXT)], NEXT)
    assert [found.file for found in verify_log(settings, NEXT).files] == [f"predictions-{NEXT}-w01.db"]


def test_progress_adds_up_to_the_whole(settings):
    for day in (DAY, NEXT, THIRD):
        fill(settings, [row(1, day)], day)
    shares: list[float] = []
    verify_log(settings, step=shares.append)
    assert sum(shares) == pytest.approx(1.0)


# --- changes with SQL, as whoever has the file can make them ---


CHANGES = {
    "answer": "UPDATE entry SET answer = CAST(replace(answer, '0.9', '0.8') AS BLOB) WHERE seq = 10",
    "answer emptied": "UPDATE entry SET answer = x'' WHERE seq = 10",
    "input": "UPDATE entry SET input = CAST(replace(input, 'note', 'nota') AS BLOB) WHERE seq = 10",
    "input removed": "UPDATE entry SET input = NULL WHERE seq = 10",
    "input emptied": "UPDATE entry SET input = x'' WHERE seq = 10",
    "id": "UPDATE entry SET request_id = randomblob(16) WHERE seq = 10",
    "id made longer": "UPDATE entry SET request_id = CAST(request_id || x'00' AS BLOB) WHERE seq = 10",
    "time": "UPDATE entry SET at_us = at_us + 1 WHERE seq = 10",
    "client's id": "UPDATE entry SET client_request_id = 'another' WHERE seq = 10",
    "client's id removed": "UPDATE entry SET client_request_id = NULL WHERE seq = 10",
    "subject": "UPDATE entry SET subject = randomblob(32) WHERE seq = 10",
    "batch": "UPDATE entry SET batch_id = randomblob(16), batch_index = 1 WHERE seq = 10",
    "kind": "UPDATE entry SET kind = 1 WHERE seq = 10",
    "salt": "UPDATE entry SET salt = randomblob(16) WHERE seq = 10",
    "lineage of the row": "UPDATE entry SET lineage = 3 - lineage WHERE seq = 10",
    "lineage that is not there": "PRAGMA foreign_keys = OFF; UPDATE entry SET lineage = 99 WHERE seq = 10",
    "digest": "UPDATE entry SET digest = randomblob(32) WHERE seq = 10",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_row_is_found_and_named(settings, change):
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    with tampering(file) as connection:
        connection.executescript(change)
    found = one(verify_log(settings))
    assert (found.file, found.row, found.is_sound, found.is_unreadable) == (file.path.name, 10, False, False)


COMMIT_CHANGES = {
    "head": "UPDATE entry SET head = randomblob(32) WHERE seq = 12",
    "two rows changed places": """
        UPDATE entry SET seq = -9 WHERE seq = 9; UPDATE entry SET seq = 9 WHERE seq = 11;
        UPDATE entry SET seq = 11 WHERE seq = -9""",
    "a row removed, and the others moved up": """
        DELETE FROM entry WHERE seq = 10; UPDATE entry SET seq = -seq WHERE seq > 10;
        UPDATE entry SET seq = -seq - 1 WHERE seq < 0; UPDATE entry SET head = NULL WHERE seq = 12""",
    "digest of an erased row": """
        UPDATE entry SET answer = x'', input = NULL, salt = x'', client_request_id = NULL, digest = randomblob(32)
        WHERE seq = 10""",
}


@pytest.mark.parametrize("change", COMMIT_CHANGES.values(), ids=COMMIT_CHANGES)
def test_rows_that_were_not_stored_together_are_found(settings, change):
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    with tampering(file) as connection:
        connection.executescript(change)
    found = one(verify_log(settings))
    assert (found.file, found.is_sound) == (file.path.name, False)
    assert found.row in range(9, 17)


def test_a_head_put_where_no_commit_ended_is_found(settings):
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    with tampering(file) as connection:
        connection.execute("UPDATE entry SET head = (SELECT head FROM entry WHERE seq = 12) WHERE seq = 10")
    assert one(verify_log(settings)).row == 10


def test_a_row_removed_from_the_middle_is_named(settings):
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    with tampering(file) as connection:
        connection.execute("DELETE FROM entry WHERE seq = 10")
    found = one(verify_log(settings))
    assert (found.row, found.problem) == (10, "the row is missing: the next one is 11")


def test_a_row_added_at_the_end_is_found(settings):
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    with tampering(file) as connection:
        columns = [r[1] for r in connection.execute("PRAGMA table_info(entry)")]
        copied = ", ".join({"seq": "25", "request_id": "randomblob(16)"}.get(name, name) for name in columns)
        connection.execute(f"INSERT INTO entry SELECT {copied} FROM entry WHERE seq = 24")
    assert one(verify_log(settings)).row == 25


def test_an_end_cut_off_within_a_commit_is_found(settings):
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    with tampering(file) as connection:
        connection.execute("DELETE FROM entry WHERE seq > 22")
    assert one(verify_log(settings)).problem == "the last row does not end a commit"


def test_a_table_made_anew_with_other_types_is_found(settings):
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    with tampering(file) as connection:
        connection.executescript("""
            CREATE TABLE other AS SELECT * FROM entry; DROP TABLE entry; ALTER TABLE other RENAME TO entry;
            UPDATE entry SET answer = 5 WHERE seq = 10""")
    assert (one(verify_log(settings)).row, one(verify_log(settings)).is_unreadable) == (10, False)


def test_changed_facts_of_a_lineage_are_found_at_the_first_row_that_has_it(settings):
    file = fill(settings, [row(n) for n in range(1, ROWS)], together=TOGETHER)
    with tampering(file) as connection:
        connection.execute("UPDATE lineage SET facts = CAST(replace(facts, '\"2\"', '\"3\"') AS BLOB)")
    assert one(verify_log(settings)).row == 4


def test_a_file_under_another_name_is_found(settings):
    file = fill(settings, [row(n) for n in range(ROWS)])
    file.path.rename(LogFile(NEXT, 1, settings.log).path)
    assert (one(verify_log(settings)).is_sound, one(verify_log(settings)).row) == (False, 4)


def test_an_empty_file_under_another_name_is_found(settings):
    with held(settings, DAY) as log:
        pass
    log.file.path.rename(LogFile(NEXT, 1, settings.log).path)
    assert one(verify_log(settings)).problem == "it was begun as another file"


def test_a_changed_index_is_found(settings):
    """The chain is whole, but a look-up by id would not find a row."""
    file = fill(settings, [row(n) for n in range(ROWS)])
    with tampering(file) as connection:
        connection.execute("DROP INDEX entry_client")
        connection.execute("CREATE INDEX entry_client ON entry(client_request_id) WHERE client_request_id IS NULL")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'IS NULL', 'IS NOT NULL') WHERE name = 'entry_client'"
        )
    found = one(verify_log(settings))
    assert (found.is_sound, found.is_unreadable) == (False, False)
    assert "SQLite finds it damaged" in found.problem


# --- random changes of single bytes ---


def changed_byte(choose: random.Random, raw: bytes) -> bytes:
    at = choose.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ choose.randrange(1, 256)]) + raw[at + 1 :]


def change_something(choose: random.Random, file: LogFile) -> range:
    """One byte of one field of one row, two rows swapped, or one removed; at which rows that can be seen first."""
    with tampering(file) as connection:
        seq = choose.randrange(1, ROWS)
        what = choose.choice(["answer", "input", "digest", "head", "salt", "request_id", "swap", "remove"])
        if what == "remove":
            connection.execute("DELETE FROM entry WHERE seq = ?", (seq,))
            return range(seq, seq + 1)
        if what == "swap":
            for old, new in ((seq, -1), (seq + 1, seq), (-1, seq + 1)):
                connection.execute("UPDATE entry SET seq = ? WHERE seq = ?", (new, old))
            return range(seq, commit_end(seq) + 2)  # where it was the last one of a commit, its head went with it
        if what == "head":
            seq = commit_end(seq)
        (raw,) = connection.execute(f"SELECT {what} FROM entry WHERE seq = ?", (seq,)).fetchone()
        connection.execute(f"UPDATE entry SET {what} = ? WHERE seq = ?", (changed_byte(choose, raw), seq))
        return range(seq, (commit_end(seq) if what == "digest" else seq) + 1)


def commit_end(seq: int) -> int:
    return (seq + TOGETHER - 1) // TOGETHER * TOGETHER


def test_every_random_change_is_found_where_it_was_made(settings):
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    whole, choose = file.path.read_bytes(), random.Random(20260105)
    for _ in range(RANDOM_CHANGES):
        file.path.write_bytes(whole)
        places = change_something(choose, file)
        found = verify_file(file, {}, LogKeys.of(settings).all())
        assert (found.is_sound, found.row in places) == (False, True)


def test_every_random_change_of_the_files_own_bytes_within_a_row_is_found(settings):
    """Not through SQLite but on the disk: bytes of an answer, of an input, of a digest."""
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    whole, rows, choose = file.path.read_bytes(), stored(file), random.Random(20260106)
    columns = {"answer": 9, "input": 10, "salt": 11, "digest": 12}
    for _ in range(RANDOM_CHANGES):
        seq = choose.randrange(1, ROWS + 1)
        field = rows[seq - 1][columns[choose.choice(list(columns))]]
        at = whole.index(field) + choose.randrange(len(field))
        file.path.write_bytes(whole[:at] + bytes([whole[at] ^ choose.randrange(1, 256)]) + whole[at + 1 :])
        found = verify_file(file, {}, LogKeys.of(settings).all())
        assert (found.row, found.is_sound) == (seq, False)


@pytest.mark.parametrize("length", [0, 1, 4_000, 4_096])
def test_a_file_that_was_cut_short_is_unreadable_or_not_the_sealed_one(settings, length):
    file = fill(settings, [row(n) for n in range(ROWS)])
    seal_all(settings)
    file.path.write_bytes(file.path.read_bytes()[:length])
    report = verify_log(settings)
    assert (report.is_sound, one(report).file) == (False, file.path.name)


def test_what_is_no_log_is_unreadable_and_the_others_are_walked_all_the_same(settings):
    fill(settings, [row(1)])
    LogFile(NEXT, 1, settings.log).path.write_bytes(b"not a database at all" * 300)
    report = verify_log(settings)
    assert [(r.is_sound, r.is_unreadable) for r in report.files] == [(True, False), (False, True)]
    assert (report.is_sound, report.is_readable) == (False, False)


# --- bulk calls ---


def segment_of(settings) -> Path:
    (path,) = (settings.log / "bulk").rglob("*.arrow")
    return path


def test_a_changed_byte_of_a_bulk_call_is_found_at_its_row(settings):
    file = fill(settings, [row(1), row(2), bulk_row(settings, 3), row(4)])
    path = segment_of(settings)
    path.write_bytes(changed_byte(random.Random(1), path.read_bytes()))
    found = one(verify_log(settings))
    assert (found.file, found.row) == (file.path.name, 3)
    assert found.problem.endswith("is not the file that was written")


def test_a_missing_bulk_call_is_found_at_its_row(settings):
    fill(settings, [row(1), bulk_row(settings, 3)])
    segment_of(settings).unlink()
    assert (one(verify_log(settings)).row, one(verify_log(settings)).problem[-10:]) == (2, "is missing")


def test_a_bulk_call_turned_into_an_answer_is_found(settings):
    file = fill(settings, [row(1), bulk_row(settings, 3)])
    with tampering(file) as connection:
        connection.execute("UPDATE entry SET kind = 0 WHERE seq = 2")
    assert one(verify_log(settings)).row == 2


def test_a_file_of_a_bulk_call_that_no_row_names_is_told_and_harms_nothing(settings):
    fill(settings, [row(1), bulk_row(settings, 3)])
    bulk_row(settings, 4)
    report = verify_log(settings)
    assert report.is_sound
    assert len(report.orphans) == 1
    assert report.orphans[0].startswith(f"bulk/{DAY}/")


# --- against the journal ---


def test_an_end_cut_off_at_a_commit_is_found_once_its_day_was_sealed(settings):
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    with tampering(file) as connection:
        rows = connection.execute("SELECT * FROM entry").fetchall()
        connection.execute("DELETE FROM entry WHERE seq > 20")
    assert one(verify_log(settings)).is_sound
    with tampering(file) as connection:
        connection.executemany(f"INSERT INTO entry VALUES({','.join('?' * len(rows[0]))})", rows[20:])
    seal_all(settings)
    with tampering(file) as connection:
        connection.execute("DELETE FROM entry WHERE seq > 20")
    found = one(verify_log(settings))
    assert (found.file, found.row) == (file.path.name, 21)
    assert found.problem == "the end is cut off: it had 24 rows when its day was sealed"


def test_an_older_copy_in_a_files_place_is_found_once_its_day_was_sealed(settings):
    file = fill(settings, [row(n) for n in range(8)], together=TOGETHER)
    older = file.path.read_bytes()
    fill(settings, [row(n) for n in range(8, 16)], together=TOGETHER)
    seal_all(settings)
    file.path.write_bytes(older)
    assert (one(verify_log(settings)).row, one(verify_log(settings)).is_sound) == (9, False)


def test_another_whole_file_in_a_files_place_is_found_once_its_day_was_sealed(settings, tmp_path):
    file = fill(settings, [row(n) for n in range(8)], together=TOGETHER)
    seal_all(settings)
    other = fill(
        with_key_of(settings, tmp_path / "other"), [row(n, note="better") for n in range(8)], together=TOGETHER
    )
    file.path.write_bytes(other.path.read_bytes())
    found = one(verify_log(settings))
    assert (found.row, "replaced" in found.problem) == (8, True)


def test_commits_drawn_together_are_found_once_their_day_was_sealed(settings, tmp_path):
    file = fill(settings, [row(n) for n in range(8)], together=8)
    seal_all(settings)
    other = fill(with_key_of(settings, tmp_path / "other"), [row(n) for n in range(10)], together=10)
    file.path.write_bytes(other.path.read_bytes())
    assert one(verify_log(settings)).row == 8


def test_a_file_that_is_missing_without_having_been_pruned_is_found(settings):
    file = fill(settings, [row(n) for n in range(8)])
    fill(settings, [row(1, NEXT)], NEXT)
    seal_all(settings)
    file.path.unlink()
    report = verify_log(settings)
    assert (report.missing, report.is_sound, report.is_readable) == ((file.path.name,), False, True)
    assert verify_log(settings, NEXT).missing == ()


def test_a_file_that_was_pruned_is_not_missing(settings):
    fill(settings, [row(n) for n in range(8)])
    seal_all(settings)
    for day in log_days(settings.log):
        prune_day(settings, day, unsealed=False)
    assert verify_log(settings) == ChainReport(())


def test_rows_that_come_into_a_sealed_day_are_found(settings):
    file = fill(settings, [row(n) for n in range(8)])
    seal_all(settings)
    fill(settings, [row(n) for n in range(8, 11)])
    (found,) = verify_log(settings).findings
    assert (found.kind, found.where, found.row) == ("sealed-day", file.path.name, 9)


def test_the_journal_of_another_model_says_nothing_of_this_one(settings):
    fill(settings, [row(n) for n in range(8)])
    facts = {"model": "another", "file": f"predictions-{DAY}-w01.db", "rows": 8, "head": "00" * 32}
    Journal(settings.journal).append("log.sealed", facts)
    assert verify_log(settings).is_sound


def test_a_broken_entry_of_the_journal_is_told(settings):
    Journal(settings.journal).append("log.sealed", {"model": settings.model_name, "file": "x", "rows": "many"})
    with pytest.raises(LogDamaged, match="an entry log"):
        verify_log(settings)


# --- erased rows ---


def test_a_log_with_erased_rows_is_sound_and_counts_them(settings):
    anna = subject(settings, "anna")
    fill(settings, [row(n, subject=anna if n in {3, 7} else None) for n in range(ROWS)], together=TOGETHER)
    before = one(verify_log(settings)).head
    erase(settings, [anna])
    found = one(verify_log(settings))
    assert (found.is_sound, found.erased, found.rows, found.answers) == (True, (4, 8), ROWS, ROWS - 2)
    assert found.head == before


def test_rows_that_look_erased_without_anybody_having_asked_are_found(settings):
    file = fill(settings, [row(n) for n in range(ROWS)], together=TOGETHER)
    with tampering(file) as connection:
        connection.execute(
            "UPDATE entry SET answer = x'', input = NULL, salt = x'', client_request_id = NULL WHERE seq = 10"
        )
    found = one(verify_log(settings))
    assert (found.row, "neither journal" in found.problem) == (10, True)


def test_a_change_in_a_file_with_erased_rows_is_found(settings):
    anna = subject(settings, "anna")
    file = fill(settings, [row(n, subject=anna if n == 3 else None) for n in range(ROWS)], together=TOGETHER)
    erase(settings, [anna])
    with tampering(file) as connection:
        connection.execute("UPDATE entry SET digest = (SELECT digest FROM entry WHERE seq = 5) WHERE seq = 4")
    assert one(verify_log(settings)).row == 4


def test_nothing_is_changed_by_verifying(settings):
    file = fill(settings, [row(n) for n in range(ROWS)])
    before = file.path.read_bytes()
    verify_log(settings)
    assert (file.path.read_bytes(), [f.path for f in log_files(settings.log)]) == (before, [file.path])
