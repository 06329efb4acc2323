"""What lies in the log is held against its digest and the chain around it."""

from __future__ import annotations

import sqlite3

import pytest

from ml_core.base.errors import LogDamaged
from ml_core.lab.past_answers.log_entry import find_entry, is_bulk_call
from ml_core.serve.log.log_keys import LogKeys
from ml_core.serve.log.log_places import place_of
from tests.homes import bento_store
from tests.lab.past_answers.logged import answers_in, erase, logging_to, nobodys_id
from tests.serve.answering.builders import live_of, toy_records
from tests.serve.answering.stored import Home


@pytest.fixture
def home(tmp_path):
    with bento_store(tmp_path / "bento"):
        yield Home(tmp_path / "home")


@pytest.fixture
def logged(home):
    """Commits of one row, of four, of a bulk call, and of one row again."""
    with logging_to(home.settings, live_of()) as asked:
        asked.ask(toy_records(1)[0])
        asked.ask_all(toy_records(4))
        asked.ask_in_bulk(toy_records(6))
        asked.ask(toy_records(1)[0])
    return answers_in(home.settings)


def entry(home: Home, answer, entry_id: str = ""):
    return find_entry(
        place_of(home.settings), answer.file, entry_id or answer.request_id, LogKeys.of(home.settings).all()
    )


def change(home: Home, answer, statement: str) -> None:
    with sqlite3.connect(home.settings.log / answer.file) as connection:
        assert connection.execute(statement).rowcount == 1


def test_single_answers_and_rows_of_a_batch_are_entries(home, logged):
    found = [entry(home, answer) for answer in (*logged[:5], logged[-1])]
    assert [one.position for one in found] == [1, 2, 3, 4, 5, 7]
    assert all(one.commit[0] <= one.position <= one.commit[1] for one in found)
    assert (
        len({one.commit for one in found[1:5]}) == 1
    )  # a call is in one commit, which may hold the call before it too
    assert all(one.digest_holds and one.chain_holds for one in found)
    assert found[0].lineage == logged[0].lineage


def test_a_bulk_call_is_one_entry(home, logged):
    row = logged[6]
    assert entry(home, row) is None
    found = entry(home, row, row.batch_id)
    assert (found.position, found.segment_rows, found.digest_holds, found.chain_holds) == (6, 6, True, True)
    assert row.batch_id in found.segment
    assert is_bulk_call(place_of(home.settings), row.file, row.batch_id)
    assert not is_bulk_call(place_of(home.settings), row.file, logged[1].batch_id)


def test_ids_and_files_that_are_not_there(home, logged):
    assert entry(home, logged[0], nobodys_id()) is None
    assert find_entry(place_of(home.settings), "predictions-1999-01-01-w01.db", logged[0].request_id, {}) is None
    assert not is_bulk_call(place_of(home.settings), "predictions-1999-01-01-w01.db", logged[1].batch_id)


@pytest.mark.parametrize(
    "part",
    [
        "answer = CAST(answer || ' ' AS BLOB)",
        "input = NULL",
        "at_us = at_us + 1",
        "salt = zeroblob(16)",
        "subject = x'00'",
    ],
)
def test_a_changed_part_breaks_the_digest_and_not_the_chain(home, logged, part):
    change(home, logged[0], f"UPDATE entry SET {part} WHERE seq = 3")
    assert [entry(home, answer).digest_holds for answer in logged[:5]] == [True, True, False, True, True]
    assert entry(home, logged[2]).chain_holds


def test_changed_facts_break_the_digest_of_every_answer_that_refers_to_them(home, logged):
    change(home, logged[0], "UPDATE lineage SET facts = CAST(replace(facts, 'champion', 'previous') AS BLOB)")
    assert not any(entry(home, answer).digest_holds for answer in logged[:5])


def test_a_digest_that_was_made_to_fit_breaks_the_chain(home, logged):
    change(home, logged[0], "UPDATE entry SET digest = zeroblob(32) WHERE seq = 3")
    assert not any(entry(home, answer).chain_holds for answer in logged[:5])  # the first is vouched for by the second
    assert entry(home, logged[-1]).chain_holds


def test_a_head_that_was_made_to_fit_breaks_the_chain_at_the_next_commit(home, logged):
    change(home, logged[0], "UPDATE entry SET head = zeroblob(32) WHERE seq = 1")
    assert not entry(home, logged[0]).chain_holds
    assert not entry(home, logged[1]).chain_holds
    assert entry(home, logged[-1]).chain_holds


def test_a_removed_row_breaks_the_chain(home, logged):
    change(home, logged[0], "DELETE FROM entry WHERE seq = 3")
    assert not entry(home, logged[1]).chain_holds


def test_an_erased_entry_has_no_digest_to_check_and_the_chain_holds(home, logged):
    erase(home.settings, logged[1])
    found = entry(home, logged[1])
    assert (found.digest_holds, found.chain_holds, len(found.digest)) == (None, True, 64)
    assert entry(home, logged[2]).digest_holds


def test_a_damaged_file_is_an_error_of_ours(home, logged):
    (home.settings.log / logged[0].file).write_bytes(b"no database" * 1_000)
    with pytest.raises(LogDamaged):
        entry(home, logged[0])
