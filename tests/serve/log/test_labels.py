"""Labels late, early, twice, contrary and of nobody: counted, kept, and never half stored."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import LabelsNotStored, LogDamaged
from ml_core.base.settings import Settings
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import MOST_OF_ONE, AnswerLabel, LabelCounts, LabelStore, due_at
from ml_core.serve.log.log_keys import LogKey
from tests.serve.log.labelled import NOW, Ledger, rid, store_in


@pytest.fixture
def home(tmp_path, either_url):
    """A home in a folder, and one in a database."""
    return Settings(home=tmp_path, database=either_url)


# --- what is counted ----------------------------------------------------------------------------------------------


def test_first_label_of_a_known_prediction_is_accepted(home):
    store = store_in(home, {rid(1)})
    assert store.add([AnswerLabel(rid(1), 1)], "http") == LabelCounts(accepted=1)
    assert store.current([rid(1), rid(2)]) == {rid(1): AnswerLabel(rid(1), 1, NOW)}


def test_the_same_label_again_changes_nothing_and_is_counted_as_duplicate(home):
    store = store_in(home, {rid(1)})
    store.add([AnswerLabel(rid(1), 1)], "http")
    before = store.history(rid(1))
    assert store.add([AnswerLabel(rid(1), 1, NOW - timedelta(days=1))], "file") == LabelCounts(duplicate=1)
    assert store.history(rid(1)) == before


def test_another_label_is_a_conflict_the_last_one_holds_and_the_first_is_kept(home):
    store = store_in(home, {rid(1)})
    store.add([AnswerLabel(rid(1), 1)], "http")
    assert store.add([AnswerLabel(rid(1), 0)], "office") == LabelCounts(conflict=1)
    assert store.current([rid(1)])[rid(1)].label == 0
    assert [(s.seq, s.label, s.source, s.outcome) for s in store.history(rid(1))] == [
        (1, 1, "http", "accepted"),
        (2, 0, "office", "conflict"),
    ]


def test_a_label_corrected_to_and_fro_leaves_every_step(home):
    store = store_in(home, {rid(1)})
    counts = [store.add([AnswerLabel(rid(1), label)], "http") for label in (0, 1, 0)]
    assert counts == [LabelCounts(accepted=1), LabelCounts(conflict=1), LabelCounts(conflict=1)]
    assert [s.label for s in store.history(rid(1))] == [0, 1, 0]


def test_a_label_of_nobody_is_kept_and_joined_when_its_prediction_turns_up(home):
    known: set[bytes] = set()
    store = store_in(home, known)
    assert store.add([AnswerLabel(rid(1), 1)], "http") == LabelCounts(unknown=1)
    known.add(rid(1))
    assert store.current([rid(1)])[rid(1)].label == 1
    assert store.add([AnswerLabel(rid(1), 1)], "http") == LabelCounts(duplicate=1)
    assert store.counts() == {"accepted": 0, "conflict": 0, "unknown": 1}


def test_a_number_and_its_text_are_two_labels(home):
    store = store_in(home, {rid(1)})
    assert store.add([AnswerLabel(rid(1), 1), AnswerLabel(rid(1), "1")], "http") == LabelCounts(accepted=1, conflict=1)
    assert [s.label for s in store.history(rid(1))] == [1, "1"]


@pytest.mark.parametrize("label", [0, -3, 2**70, "yes", "30 % später", '"', "", "null"])
def test_labels_come_back_as_they_were(home, label):
    store = store_in(home, {rid(1)})
    store.add([AnswerLabel(rid(1), label)], "http")
    found = store.current([rid(1)])[rid(1)].label
    assert (found, type(found)) == (label, type(label))


def test_times_come_back_to_the_microsecond_and_late_ones_are_taken(home):
    seen = datetime(2026, 2, 28, 23, 59, 59, 999_999, UTC)
    store = store_in(home, {rid(1)})
    store.add([AnswerLabel(rid(1), 1, seen)], "http")
    stored = store.history(rid(1))[0]
    assert (stored.observed_at, stored.received_at) == (seen, NOW)


def test_a_label_without_a_time_was_seen_when_it_came(home):
    store = store_in(home, {rid(1)})
    store.add([AnswerLabel(rid(1), 1)], "http")
    assert store.history(rid(1))[0].observed_at == NOW


# --- laws ---------------------------------------------------------------------------------------------------------

labels = st.builds(AnswerLabel, st.integers(0, 4).map(rid), st.sampled_from([0, 1, "0", "a"]))
calls = st.lists(st.lists(labels, max_size=6), max_size=6)
known_ids = st.sets(st.integers(0, 4).map(rid))


def told(store) -> list[tuple[int, bytes, int | str, str]]:
    return [(s.seq, s.request_id, s.label, s.outcome) for s in store.since(0, 1_000)]


@given(calls, known_ids)
@settings(max_examples=40, deadline=None)
def test_the_store_says_what_a_plain_list_says(calls, known):
    with tempfile.TemporaryDirectory() as folder:
        store, ledger = store_in(Path(folder), known), Ledger(known)
        for call in calls:
            assert store.preview(call) == ledger_preview(ledger, call)
            assert store.add(call, "x") == ledger.add(call)
        assert told(store) == [(i, *row) for i, row in enumerate(ledger.rows, 1)]
        assert {i: label.label for i, label in store.current([rid(n) for n in range(5)]).items()} == ledger.holds
        for n in range(5):
            assert [s.label for s in store.history(rid(n))] == [label for i, label, _ in ledger.rows if i == rid(n)]
        assert sum(store.counts().values()) == len(ledger.rows)
        assert store.counts()["accepted"] + store.counts()["unknown"] == len(ledger.holds)


def ledger_preview(ledger: Ledger, call: list[AnswerLabel]) -> LabelCounts:
    return deepcopy(ledger).add(call)


@given(st.lists(st.lists(st.sampled_from([0, 1]).map(lambda y: AnswerLabel(rid(0), y)), max_size=40), max_size=4))
@settings(max_examples=20)
def test_however_the_labels_of_one_answer_change_few_are_kept_and_each_is_counted(calls):
    with tempfile.TemporaryDirectory() as folder:
        store, ledger = store_in(Path(folder), {rid(0)}), Ledger({rid(0)})
        for call in calls:
            assert store.preview(call) == ledger_preview(ledger, call)
            assert store.add(call, "x") == ledger.add(call)
        assert told(store) == [(i, *row) for i, row in enumerate(ledger.rows, 1)]
        assert len(store.history(rid(0))) <= MOST_OF_ONE


@given(st.lists(labels, min_size=1, max_size=8), known_ids, st.data())
@settings(max_examples=20, deadline=None)
def test_one_call_is_as_good_as_its_labels_sent_one_after_another(sent, known, data):
    cut = data.draw(st.integers(0, len(sent)))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        whole, parts = store_in(Path(one), known), store_in(Path(other), known)
        counts = whole.add(sent, "x")
        assert parts.add(sent[:cut], "x") + parts.add(sent[cut:], "x") == counts
        assert told(parts) == told(whole)


@given(calls, st.lists(labels, max_size=6, unique_by=lambda label: label.request_id), known_ids)
@settings(max_examples=20, deadline=None)
def test_sending_the_same_again_stores_nothing(before, sent, known):
    with tempfile.TemporaryDirectory() as folder:
        store = store_in(Path(folder), known)
        for call in [*before, sent]:
            store.add(call, "x")
        content = told(store)
        assert store.add(sent, "x") == LabelCounts(duplicate=len(sent))
        assert told(store) == content


# --- reading ------------------------------------------------------------------------------------------------------


def test_before_the_first_label_there_is_nothing_and_no_file_is_made(tmp_path):
    store = store_in(tmp_path)
    assert (store.current([rid(1)]), store.history(rid(1)), store.since(0, 10)) == ({}, [], [])
    assert store.counts() == {"accepted": 0, "conflict": 0, "unknown": 0}
    assert store.preview([AnswerLabel(rid(1), 1)]) == LabelCounts(unknown=1)
    assert store.add([], "http") == LabelCounts()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_of_a_writer_that_died_at_once_holds_nothing_and_is_made_whole(tmp_path):
    store = store_in(tmp_path, {rid(1)})
    store.path.parent.mkdir()
    store.path.touch()
    assert store.since(0, 10) == []
    assert store.add([AnswerLabel(rid(1), 1)], "http").accepted == 1


def test_who_reads_on_sees_each_label_once_and_a_correction_as_a_new_one(home):
    store = store_in(home, map(rid, range(25)))
    store.add([AnswerLabel(rid(n), 0) for n in range(25)], "http")
    seen = store.since(0, 10)
    store.add([AnswerLabel(rid(3), 1)], "office")
    while more := store.since(seen[-1].seq, 10):
        assert len(more) <= 10
        seen += more
    assert [s.seq for s in seen] == list(range(1, 27))
    assert [(s.request_id, s.label) for s in seen] == [*((rid(n), 0) for n in range(25)), (rid(3), 1)]


def test_many_ids_are_found_at_once(home):
    store = store_in(home)
    store.add([AnswerLabel(rid(n), n % 2) for n in range(1_300)], "http")
    store.add([AnswerLabel(rid(n), 7) for n in range(0, 1_300, 100)], "http")
    found = store.current([rid(n) for n in range(2_000)])
    assert {i: label.label for i, label in found.items()} == {
        rid(n): 7 if n % 100 == 0 else n % 2 for n in range(1_300)
    }


def test_a_name_that_looks_like_an_address_is_a_name(tmp_path):
    folder = tmp_path / "50% of?what#now &mode=memory"
    store = store_in(folder, {rid(1)})
    store.add([AnswerLabel(rid(1), 1)], "http")
    assert store_in(folder).current([rid(1)])[rid(1)].label == 1
    assert store.path.is_file()


# --- when a label counts ------------------------------------------------------------------------------------------


def test_a_label_counts_once_the_horizon_has_passed_since_the_answer():
    predicted = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
    assert due_at(predicted, 30.0) == datetime(2026, 12, 23, 10, 15, tzinfo=UTC)
    assert due_at(predicted, 0.5) == datetime(2026, 11, 23, 22, 15, tzinfo=UTC)
    assert due_at(predicted, 0) == predicted


# --- many hands ---------------------------------------------------------------------------------------------------


def test_threads_may_share_a_store(home):
    store = store_in(home, map(rid, range(40)), busy_s=30.0)
    with ThreadPoolExecutor(4) as pool:
        counts = list(
            pool.map(lambda n: store.add([AnswerLabel(rid(n), 0), AnswerLabel(rid(n // 4), 0)], "http"), range(40))
        )
    assert sum(counts, LabelCounts()) == LabelCounts(accepted=40, duplicate=40)
    assert [s.seq for s in store.since(0, 100)] == list(range(1, 41))


@pytest.fixture
def held(tmp_path):
    """A store with one label, whose file another connection is writing."""
    store = store_in(tmp_path, {rid(1), rid(2)}, busy_s=0.05)
    store.add([AnswerLabel(rid(1), 1)], "http")
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield store, other


def test_a_file_that_others_hold_too_long_is_said_and_nothing_is_stored(held):
    store, other = held
    with pytest.raises(LabelsNotStored, match=r"toy\.db: .*locked.*safe"):
        store.add([AnswerLabel(rid(2), 1), AnswerLabel(rid(1), 0)], "http")
    assert len(store.since(0, 10)) == 1
    other.execute("ROLLBACK")
    assert store.add([AnswerLabel(rid(2), 1), AnswerLabel(rid(1), 0)], "http") == LabelCounts(accepted=1, conflict=1)


def test_duplicates_and_readers_wait_for_no_writer(held):
    store, _ = held
    assert store.add([AnswerLabel(rid(1), 1)], "http") == LabelCounts(duplicate=1)
    assert store.current([rid(1)])[rid(1)].label == 1


def test_a_reader_kept_out_says_so(held):
    store, other = held
    other.execute("ROLLBACK")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LogDamaged, match="locked"):
        store.current([rid(1)])
    with pytest.raises(LabelsNotStored, match="locked"):
        store.add([AnswerLabel(rid(1), 1)], "http")


def test_a_writer_waits_for_a_reader_and_gives_up_whole(held):
    store, other = held
    other.execute("ROLLBACK")
    other.execute("BEGIN")
    other.execute("SELECT * FROM label").fetchall()  # holds its view of the file
    with pytest.raises(LabelsNotStored, match="locked"):
        store.add([AnswerLabel(rid(2), 1)], "http")
    other.execute("ROLLBACK")
    assert store.current([rid(2)]) == {}
    assert store.add([AnswerLabel(rid(2), 1)], "http").accepted == 1


# --- what can break -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["known", "clock"])
def test_whatever_fails_on_the_way_stores_nothing_and_holds_nothing(tmp_path, broken):
    store_in(tmp_path).add([AnswerLabel(rid(1), 1)], "http")

    def fail(*_):
        raise RuntimeError("broken")

    store = store_in(tmp_path, clock=fail) if broken == "clock" else store_in(tmp_path)
    if broken == "known":
        store._known = fail
    with pytest.raises(RuntimeError):
        store.add([AnswerLabel(rid(n), 0) for n in range(5)], "http")
    whole = store_in(tmp_path)
    assert told(whole) == [(1, rid(1), 1, "unknown")]
    assert whole.add([AnswerLabel(rid(1), 0)], "http").conflict == 1


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "labels").write_text("a file")
    with pytest.raises(LabelsNotStored, match=r"exists|directory"):
        store_in(tmp_path).add([AnswerLabel(rid(1), 1)], "http")


@pytest.mark.parametrize("size", [0, 8_192, 40_000])
def test_a_disk_that_fills_up_keeps_all_of_a_call_or_none(tmp_path, size):
    """The system refuses to let any file of the child grow beyond ``size``."""
    store = store_in(tmp_path)
    if size:
        store.add([AnswerLabel(rid(0), 1)], "http")
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            store.add([AnswerLabel(rid(n), 0) for n in range(3_000)], "http")
        except LabelsNotStored:
            os._exit(7)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert told(store) == ([(1, rid(0), 1, "unknown")] if size else [])
    assert store.add([AnswerLabel(rid(n), 0) for n in range(3_000)], "http").unknown == (2_999 if size else 3_000)


def test_what_a_killed_writer_left_half_written_is_undone_by_the_next_reader(tmp_path):
    store = store_in(tmp_path)
    store.add([AnswerLabel(rid(n), 1) for n in range(2_000)], "http")
    child = os.fork()
    if child == 0:
        connection = sqlite3.connect(store.path, isolation_level=None)
        connection.execute("PRAGMA cache_size=1")  # so that pages go to the file before the commit
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE label SET label = '0'")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert store.path.with_name("toy.db-journal").stat().st_size > 0
    found = store.current([rid(n) for n in range(2_000)])
    assert {label.label for label in found.values()} == {1}
    assert len(found) == 2_000


def as_other_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")


def as_other_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE label(x)")


def as_text(path: Path) -> None:
    path.write_bytes(b"request_id,label\n" * 1_000)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (as_other_version, "version 99, and this release knows versions up to 2"),
        (as_other_database, "something else"),
        (as_text, "not a database"),
    ],
)
def test_a_file_of_another_kind_or_version_is_refused_and_left_as_it_is(tmp_path, damage, words):
    store = store_in(tmp_path)
    store.add([AnswerLabel(rid(1), 1)], "http")
    damage(store.path)
    content = store.path.read_bytes()
    acts = (
        lambda: store.add([AnswerLabel(rid(1), 0)], "http"),
        lambda: store.preview([AnswerLabel(rid(1), 0)]),
        lambda: store.current([rid(1)]),
        lambda: store.history(rid(1)),
        lambda: store.since(0, 1),
        store.counts,
    )
    for act in acts:
        with pytest.raises(LogDamaged, match=rf"^toy\.db: .*{words}"):
            act()
    assert store.path.read_bytes() == content


def test_a_damaged_page_is_damage_and_not_a_full_disk(tmp_path):
    store = store_in(tmp_path)
    store.add([AnswerLabel(rid(n), 1) for n in range(5_000)], "http")
    content = bytearray(store.path.read_bytes())
    content[8_192:-4_096] = b"\xa5" * (len(content) - 8_192 - 4_096)
    store.path.write_bytes(content)
    for act in (
        lambda: store.since(0, 5_000),
        lambda: store.add([AnswerLabel(rid(n), 0) for n in range(5_000)], "http"),
    ):
        with pytest.raises(LogDamaged, match="malformed"):
            act()


def test_a_file_that_somebody_switched_to_wal_comes_back_to_a_rollback_journal(tmp_path):
    store = store_in(tmp_path)
    store.add([AnswerLabel(rid(1), 1)], "http")
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    assert store.add([AnswerLabel(rid(1), 0)], "http").conflict == 1
    assert [p.name for p in store.path.parent.iterdir() if p.name.endswith(("-wal", "-shm"))] == []
    assert store.path.read_bytes()[18:20] == b"\x01\x01"  # the header's "no WAL" (sqlite.org/fileformat.html)


# --- labels of ids that nobody knows ------------------------------------------------------------------------------


def unknown_labels(first: int, n: int) -> list[AnswerLabel]:
    return [AnswerLabel(rid(i), 1) for i in range(first, first + n)]


def test_labels_of_unknown_ids_are_bounded_without_a_monitor_and_the_counts_say_what_was_refused(home):
    store = store_in(home, [rid(100)], most_unknown=10)
    assert store.add(unknown_labels(0, 7), "http") == LabelCounts(unknown=7)
    sent = [*unknown_labels(5, 10), AnswerLabel(rid(100), 1)]
    assert store.preview(sent) == LabelCounts(accepted=1, duplicate=2, unknown=3, refused=5)
    counts = store.add(sent, "http")
    assert counts == LabelCounts(accepted=1, duplicate=2, unknown=3, refused=5)
    assert counts.told() == {"accepted": 1, "duplicate": 2, "conflict": 0, "unknown": 3, "refused": 5}
    for first in range(1_000, 3_000, 100):
        assert store.add(unknown_labels(first, 100), "http") == LabelCounts(refused=100)
    assert store.counts() == {"accepted": 1, "conflict": 0, "unknown": 10}
    assert store.add(unknown_labels(0, 2), "http").told() == {
        "accepted": 0,
        "duplicate": 2,
        "conflict": 0,
        "unknown": 0,
    }


def test_another_process_meets_the_same_bound(home):
    one, two = (store_in(home, most_unknown=10) for _ in range(2))
    for n in range(6):
        one.add(unknown_labels(2 * n, 1), "http")
        two.add(unknown_labels(2 * n + 1, 1), "http")
    assert store_in(home, most_unknown=10).counts()["unknown"] == 10


def test_answers_that_turn_up_and_labels_that_are_removed_make_room_again_within_the_hour(home, monkeypatch):
    known: set[bytes] = set()
    asked: list[int] = []

    def look(ids):
        asked.append(len(ids))
        return known & set(ids)

    store = LabelStore(open_label_tables(home, "toy"), look, clock=lambda: NOW, most_unknown=10)
    store.add(unknown_labels(0, 10), "http")
    assert store.add(unknown_labels(10, 1), "http") == LabelCounts(refused=1)
    known.update(rid(n) for n in range(4))
    store.erase([rid(9)])
    asked.clear()
    assert store.add(unknown_labels(10, 1), "http") == LabelCounts(refused=1)
    assert asked == [1]  # nothing is counted anew with every call
    monkeypatch.setattr(store, "_recount_at", 0.0)
    assert store.add(unknown_labels(10, 9), "http") == LabelCounts(unknown=5, refused=4)


# --- labels of one id that change again and again -----------------------------------------------------------------


def alternating(n: int, times: int) -> list[AnswerLabel]:
    return [AnswerLabel(rid(n), i % 2) for i in range(times)]


@pytest.mark.parametrize("at_once", [1, 7, 500])
def test_labels_that_alternate_are_bounded_and_the_last_stored_one_holds(home, at_once):
    store = store_in(home, [rid(1)])
    sent, total = alternating(1, 500), LabelCounts()
    for first in range(0, len(sent), at_once):
        total += store.add(sent[first : first + at_once], "http")
    assert (total.accepted, total.conflict) == (1, MOST_OF_ONE - 1)
    assert total.duplicate + total.over_limit == 500 - MOST_OF_ONE
    assert total.told()["over_limit"] == total.over_limit
    assert [s.label for s in store.history(rid(1))] == [i % 2 for i in range(MOST_OF_ONE)]
    assert store.current([rid(1)])[rid(1)].label == (MOST_OF_ONE - 1) % 2


def test_an_answer_that_has_too_many_labels_keeps_nobody_elses_out(home):
    store = store_in(home, [rid(1), rid(2)])
    store.add(alternating(1, 100), "http")
    assert store.add([AnswerLabel(rid(2), 1), *alternating(1, 1)], "http") == LabelCounts(accepted=1, over_limit=1)
    assert store.add(alternating(3, 2), "http") == LabelCounts(unknown=1, conflict=1)


def test_an_alternating_caller_adds_no_byte_to_the_file(tmp_path):
    store = store_in(tmp_path, [rid(1)], key=lambda: LogKey(bytes(range(32))))
    store.add(alternating(1, 100), "http")
    before = store.path.read_bytes()
    for _ in range(10):
        store.add(alternating(1, 100), "http")
    assert store.path.read_bytes() == before
