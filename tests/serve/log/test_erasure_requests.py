"""Requests to erase: who has done what is known after any interruption."""

from __future__ import annotations

import json

import pytest

from ml_core.base.errors import ArtefactError
from ml_core.serve.log.erasure_requests import (
    forged_erasures,
    forget_ended_erasures,
    one_at_a_time,
    pending_erasures,
    request_erasure,
)
from ml_core.serve.log.log_records import ERASED, LogRecords
from tests.serve.log.filled import settings_in

ANNA, BERT = b"a" * 32, b"b" * 32
ONE, TWO = "predictions-2026-01-05-w01.db", "predictions-2026-01-05-w02.db"


@pytest.fixture
def records(tmp_path):
    return LogRecords(settings_in(tmp_path / "home"))


class Rows:
    """A database as far as erasing goes."""

    def __init__(self, rows: dict[int, bytes], fails: bool = False) -> None:
        self.rows, self.fails = rows, fails

    def rows_of(self, pseudonyms):
        return [n for n, subject in self.rows.items() if subject in pseudonyms]

    def erase(self, pseudonyms):
        if self.fails:
            raise OSError("the disk is full")
        gone = self.rows_of(pseudonyms)
        for n in gone:
            del self.rows[n]
        return len(gone)


def test_a_request_stands_until_it_is_forgotten(records):
    asked = request_erasure(records, [ANNA], [TWO, ONE])
    (found,) = pending_erasures(records)
    assert (found, found.pseudonyms, found.request.files) == (asked, [ANNA], (ONE, TWO))
    found.forget()
    assert (pending_erasures(records), list((records.folder / "erasures").iterdir())) == ([], [])


def test_where_nobody_ever_asked_nothing_stands(records):
    assert pending_erasures(records) == []


def test_a_database_that_is_done_is_not_asked_again(records):
    asked = request_erasure(records, [ANNA], [ONE, TWO])
    rows = Rows({1: ANNA, 2: BERT, 3: ANNA})
    assert asked.carry_out(rows, ONE) == 2
    assert (rows.rows, asked.rows_in(ONE), asked.is_done_in(ONE)) == ({2: BERT}, {1, 3}, True)
    assert (pending_erasures(records, ONE), pending_erasures(records, TWO)) == ([], [asked])


def test_a_database_that_no_request_names_is_not_asked(records):
    request_erasure(records, [ANNA], [ONE])
    assert pending_erasures(records, TWO) == []


def test_rows_are_written_down_before_they_are_erased_and_kept_when_that_fails(records):
    asked, rows = request_erasure(records, [ANNA], [ONE]), Rows({1: ANNA}, fails=True)
    with pytest.raises(OSError):
        asked.carry_out(rows, ONE)
    assert (asked.rows_in(ONE), asked.is_done_in(ONE)) == ({1}, False)
    del rows.rows[1]  # it was erased all the same
    rows.fails = False
    assert (asked.carry_out(rows, ONE), asked.rows_in(ONE), asked.is_done_in(ONE)) == (1, {1}, True)


def test_what_a_killed_command_left_of_a_request_that_never_was_is_removed_by_the_next_one(records):
    asked = request_erasure(records, [ANNA], [ONE])
    draft = asked.path.with_name(f".{asked.path.name}.k1ll3d")
    draft.write_text(ANNA.hex())
    with one_at_a_time(records):
        assert (draft.exists(), pending_erasures(records)) == (False, [asked])


def test_two_requests_do_not_mix(records):
    first, second = request_erasure(records, [ANNA], [ONE]), request_erasure(records, [BERT], [ONE])
    rows = Rows({1: ANNA, 2: BERT})
    first.carry_out(rows, ONE)
    assert (pending_erasures(records, ONE), second.rows_in(ONE)) == ([second], set())
    first.forget()
    assert pending_erasures(records) == [second]


@pytest.mark.parametrize("damage", ["{", '{"at": "now", "pseudonyms": ["anna"], "files": []}', '{"rows": []}'])
def test_a_damaged_request_is_told(records, damage):
    asked = request_erasure(records, [ANNA], [ONE])
    asked.path.write_text(damage)
    with pytest.raises(ArtefactError, match="is no ErasureRequest"):
        pending_erasures(records)


def test_a_request_that_was_ended_and_put_back_is_not_obeyed(records):
    asked = request_erasure(records, [ANNA], [ONE])
    raw = asked.path.read_bytes()
    records.write(ERASED, {"request": asked.path.stem, "rows": {}})
    asked.forget()
    asked.path.write_bytes(raw)
    assert (pending_erasures(records), forged_erasures(records)) == ([], [])
    forget_ended_erasures(records)
    assert not asked.path.exists()


@pytest.mark.parametrize("change", [{"files": [ONE, TWO]}, {"pseudonyms": [BERT.hex()]}, {"at": "2026-01-01"}])
def test_a_request_that_was_changed_is_forged(records, change):
    asked = request_erasure(records, [ANNA], [ONE])
    asked.path.write_text(json.dumps({**json.loads(asked.path.read_bytes()), **change}))
    assert (pending_erasures(records), forged_erasures(records)) == ([], [asked.path.name])


def test_a_mark_that_the_key_has_not_signed_says_nothing(records):
    asked = request_erasure(records, [ANNA], [ONE])
    asked.path.with_name(f"{asked.path.stem}.done-{ONE}").write_text('{"rows": [1], "key": "", "mac": ""}')
    assert (asked.is_done_in(ONE), asked.rows_in(ONE)) == (False, set())
    assert pending_erasures(records, ONE) == [asked]
