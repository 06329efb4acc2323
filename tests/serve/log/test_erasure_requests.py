"""Requests to erase: who has done what is known after any interruption."""

from __future__ import annotations

import pytest

from ml_core.base.errors import ArtefactError
from ml_core.serve.log.erasure_requests import one_at_a_time, pending_erasures, request_erasure

ANNA, BERT = b"a" * 32, b"b" * 32
ONE, TWO = "predictions-2026-01-05-w01.db", "predictions-2026-01-05-w02.db"


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


def test_a_request_stands_until_it_is_forgotten(tmp_path):
    asked = request_erasure(tmp_path, [ANNA], [TWO, ONE])
    (found,) = pending_erasures(tmp_path)
    assert (found, found.pseudonyms, found.request.files) == (asked, [ANNA], (ONE, TWO))
    found.forget()
    assert (pending_erasures(tmp_path), list((tmp_path / "erasures").iterdir())) == ([], [])


def test_where_nobody_ever_asked_nothing_stands(tmp_path):
    assert pending_erasures(tmp_path) == []


def test_a_database_that_is_done_is_not_asked_again(tmp_path):
    asked = request_erasure(tmp_path, [ANNA], [ONE, TWO])
    rows = Rows({1: ANNA, 2: BERT, 3: ANNA})
    assert asked.carry_out(rows, ONE) == 2
    assert (rows.rows, asked.rows_in(ONE), asked.is_done_in(ONE)) == ({2: BERT}, {1, 3}, True)
    assert (pending_erasures(tmp_path, ONE), pending_erasures(tmp_path, TWO)) == ([], [asked])


def test_a_database_that_no_request_names_is_not_asked(tmp_path):
    request_erasure(tmp_path, [ANNA], [ONE])
    assert pending_erasures(tmp_path, TWO) == []


def test_rows_are_written_down_before_they_are_erased_and_kept_when_that_fails(tmp_path):
    asked, rows = request_erasure(tmp_path, [ANNA], [ONE]), Rows({1: ANNA}, fails=True)
    with pytest.raises(OSError):
        asked.carry_out(rows, ONE)
    assert (asked.rows_in(ONE), asked.is_done_in(ONE)) == ({1}, False)
    del rows.rows[1]  # it was erased all the same
    rows.fails = False
    assert (asked.carry_out(rows, ONE), asked.rows_in(ONE), asked.is_done_in(ONE)) == (1, {1}, True)


def test_what_a_killed_command_left_of_a_request_that_never_was_is_removed_by_the_next_one(tmp_path):
    asked = request_erasure(tmp_path, [ANNA], [ONE])
    draft = asked.path.with_name(f".{asked.path.name}.k1ll3d")
    draft.write_text(ANNA.hex())
    with one_at_a_time(tmp_path):
        assert (draft.exists(), pending_erasures(tmp_path)) == (False, [asked])


def test_two_requests_do_not_mix(tmp_path):
    first, second = request_erasure(tmp_path, [ANNA], [ONE]), request_erasure(tmp_path, [BERT], [ONE])
    rows = Rows({1: ANNA, 2: BERT})
    first.carry_out(rows, ONE)
    assert (pending_erasures(tmp_path, ONE), second.rows_in(ONE)) == ([second], set())
    first.forget()
    assert pending_erasures(tmp_path) == [second]


@pytest.mark.parametrize("damage", ["{", '{"at": "now", "pseudonyms": ["anna"], "files": []}', '{"rows": []}'])
def test_a_damaged_request_is_told(tmp_path, damage):
    asked = request_erasure(tmp_path, [ANNA], [ONE])
    asked.path.write_text(damage)
    with pytest.raises(ArtefactError, match="is no ErasureRequest"):
        pending_erasures(tmp_path)
