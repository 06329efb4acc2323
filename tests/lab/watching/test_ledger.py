"""What the monitor remembers: changes are kept together or not at all, and come back as they were."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_core.base.errors import LogDamaged, SeatLost
from ml_core.base.settings import Settings
from ml_core.lab.drift.sequential import DriftState
from ml_core.lab.measuring.coverage_detector import DetectorState, update
from ml_core.lab.watching import ledger as module
from ml_core.lab.watching.ledger import LEDGER_FORMAT, Ledger, MaturedRow, Waiting, open_ledger_tables
from ml_core.lab.watching.outcome_counts import DueAnswer
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.table_stores import TableStore, open_tables
from tests.lab.watching.answered import matured_row
from tests.postgres import Server

A, B = "a" * 64, "b" * 64


@pytest.fixture
def tables(tmp_path: Path, either_url: str) -> TableStore:
    """A ledger in a file, and one in a database."""
    return open_ledger_tables(Settings(home=tmp_path, database=either_url), "toy")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "monitor" / "toy.ledger.db"


@pytest.fixture
def in_file(tmp_path: Path) -> TableStore:
    return open_ledger_tables(Settings(home=tmp_path), "toy")


def everything(tables: TableStore) -> list[list[tuple[object, ...]]]:
    """All rows of all tables."""
    with tables.reading(snapshot=True) as connection:
        assert connection is not None
        return [connection.execute(f"{each.select} ORDER BY 1, 2").fetchall() for each in LEDGER_FORMAT.tables]


def change(ledger: Ledger) -> None:
    """A bit of everything."""
    ledger.remember("labels_seen", 7)
    ledger.wait_for([Waiting(b"w" * 16, 5, 1)])
    ledger.add_matured([matured_row(1), matured_row(2)])
    ledger.keep_detector(A, "coverage:1", asdict(DetectorState(0.1)), None)
    ledger.add_evidence(A, "coverage:1", 1, 0.5)
    ledger.keep_window(A, 1, 2, 100, 0.5, {"features": []})


# --- together or not at all ---------------------------------------------------------------------------------------


def test_what_fails_in_the_middle_leaves_nothing(tables: TableStore) -> None:
    with Ledger.changing(tables) as ledger:
        ledger.remember("labels_seen", 3)
    before = everything(tables)

    def fail() -> None:
        with Ledger.changing(tables) as ledger:
            change(ledger)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert everything(tables) == before


def in_a_process_that_is_killed(work: Callable[[], object]) -> None:
    """Fork, let the child work and kill itself."""
    child = os.fork()
    if child == 0:
        work()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("first_asked_by", ["a reader", "a writer"])
def test_what_a_killed_process_had_begun_is_undone_by_whoever_comes_next(
    path: Path, in_file: TableStore, first_asked_by: str
) -> None:
    with Ledger.changing(in_file) as ledger:
        change(ledger)
    before = everything(in_file)

    def work() -> None:
        with Ledger.changing(in_file) as ledger:
            ledger._connection.execute("PRAGMA cache_size=1")  # so that it writes into the file before the commit
            ledger.add_matured([matured_row(n, subject=b"s" * 32) for n in range(10, 3_000)])
            os.kill(os.getpid(), signal.SIGKILL)

    in_a_process_that_is_killed(work)
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0
    if first_asked_by == "a reader":
        with Ledger.reading(in_file) as seen:
            assert seen is not None
            assert (seen.fact("labels_seen"), seen.count_matured()) == (7, (2, 2))
    else:
        with Ledger.changing(in_file) as ledger:
            assert ledger.count_matured() == (2, 2)
    assert everything(in_file) == before


def test_a_reader_sees_one_moment_while_another_process_writes(in_file: TableStore) -> None:
    with Ledger.changing(in_file) as ledger:
        change(ledger)
    with Ledger.changing(in_file) as ledger:
        ledger.add_matured([matured_row(3)])
        with Ledger.reading(in_file) as seen:
            assert seen is not None
            assert seen.count_matured() == (2, 2)
    with Ledger.reading(in_file) as seen:
        assert seen is not None
        assert seen.count_matured() == (3, 3)


def test_of_two_writers_one_waits_and_then_says_who_has_the_file(path: Path) -> None:
    in_file = open_tables(LEDGER_FORMAT, path, None, "toy", busy_s=0.05)
    with Ledger.changing(in_file), pytest.raises(LogDamaged, match="locked"), Ledger.changing(in_file):
        pytest.fail("both write")


def test_a_full_disk_is_told_as_such_and_leaves_what_was_there(in_file: TableStore) -> None:
    with Ledger.changing(in_file) as ledger:
        change(ledger)
    before = everything(in_file)

    def fill() -> None:
        with Ledger.changing(in_file) as ledger:
            (pages,) = ledger._connection.execute("PRAGMA page_count").fetchone()
            ledger._connection.execute(f"PRAGMA max_page_count={pages + 5}")
            ledger.add_matured([matured_row(n) for n in range(10, 3_000)])

    with pytest.raises(LogDamaged, match="disk is full"):
        fill()
    assert everything(in_file) == before


def test_an_answer_enters_once(tables: TableStore) -> None:
    with Ledger.changing(tables) as ledger:
        ledger.add_matured([matured_row(1)])

    def again() -> None:
        with Ledger.changing(tables) as ledger:
            ledger.add_matured([matured_row(2), matured_row(1, label=0)])

    with pytest.raises(LogDamaged):
        again()
    with Ledger.reading(tables) as seen:
        assert seen is not None
        assert seen.matured(A) == [matured_row(1)]


def test_a_monitor_whose_seat_was_taken_reads_on_and_writes_no_more(
    database_url: str, database_server: Server, tmp_path: Path
) -> None:
    mine, others = (Settings(home=tmp_path / name, database=database_url, machine=name) for name in "ab")
    seat, other = (open_home(each).seat("monitor/toy") for each in (mine, others))
    tables = open_ledger_tables(mine, "toy")

    def remember(n: int) -> None:
        with Ledger.changing(tables) as ledger:
            ledger.remember("n", n)

    assert seat.take()
    with seat.acting():
        remember(1)
        database_server.end_sessions(database_url)
        assert other.take()
        with pytest.raises(SeatLost):
            remember(2)
        with Ledger.reading(tables) as seen:
            assert seen is not None
            assert seen.fact("n") == 1
    other.leave()


# --- files that are not ours --------------------------------------------------------------------------------------


def test_where_the_monitor_has_never_run_there_is_nothing_and_nothing_is_made(tables: TableStore) -> None:
    with Ledger.reading(tables) as seen:
        assert seen is None
    assert not tables.is_made()


def test_a_file_that_is_still_empty_is_none_yet_and_becomes_one(path: Path, in_file: TableStore) -> None:
    path.parent.mkdir()
    path.touch()
    with Ledger.reading(in_file) as seen:
        assert seen is None
    with Ledger.changing(in_file) as ledger:
        change(ledger)
    with Ledger.reading(in_file) as seen:
        assert seen is not None


def asking(tables: TableStore, how: str) -> None:
    with Ledger.changing(tables) if how == "change" else Ledger.reading(tables):
        pytest.fail("it was taken for a ledger")


@pytest.mark.parametrize("how", ["change", "read"])
def test_a_ledger_of_another_version_is_refused_and_left(path: Path, in_file: TableStore, how: str) -> None:
    with Ledger.changing(in_file) as ledger:
        change(ledger)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    before = path.read_bytes()
    with pytest.raises(LogDamaged, match=r"toy.ledger.db.*version 99.*versions up to 4: use the release"):
        asking(in_file, how)
    assert path.read_bytes() == before


def test_rows_of_an_earlier_release_have_no_groups_and_new_ones_have(path: Path, in_file: TableStore) -> None:
    grouped = matured_row(2, groups={"sex": "male", "age": "80 and above"})
    with Ledger.changing(in_file) as ledger:
        ledger.add_matured([matured_row(1)])
    with closing(sqlite3.connect(path)) as connection:
        for table in ("matured", "missing_outcome"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN groups")
        connection.execute("PRAGMA user_version=2")
    with Ledger.reading(in_file) as seen:  # which may not write
        assert seen is not None
        assert seen.matured(A) == [matured_row(1)]
    with Ledger.changing(in_file) as ledger:
        ledger.add_matured([grouped])
    with Ledger.reading(in_file) as seen:
        assert seen is not None
        assert seen.matured(A) == [matured_row(1), grouped]
        assert seen.latest_judged(A, 1) == [grouped]


@pytest.mark.parametrize("how", ["change", "read"])
@pytest.mark.parametrize("content", [b"no database " * 100, b"SQLite format 3\0" + bytes(200)])
def test_a_damaged_ledger_is_told_by_its_name_and_left(
    path: Path, in_file: TableStore, how: str, content: bytes
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(LogDamaged, match=r"toy\.ledger\.db"):
        asking(in_file, how)
    assert path.read_bytes() == content


def test_damage_that_shows_only_in_the_middle_is_told_as_well(path: Path, in_file: TableStore) -> None:
    with Ledger.changing(in_file) as ledger:
        change(ledger)
        ledger.add_matured([matured_row(n) for n in range(10, 500)])
    content = bytearray(path.read_bytes())
    content[4_096:] = b"\xff" * (len(content) - 4_096)
    path.write_bytes(bytes(content))

    def read() -> None:
        with Ledger.reading(in_file) as seen:
            assert seen is not None
            seen.matured(A)

    with pytest.raises(LogDamaged, match=r"toy\.ledger\.db"):
        read()


# --- what comes back ----------------------------------------------------------------------------------------------

shares = st.floats(0, 1)
rows = st.builds(
    matured_row,
    n=st.just(0),
    request_id=st.binary(min_size=16, max_size=16),
    at_us=st.integers(0, 1 << 55),
    model_hash=st.sampled_from([A, B]),
    label=st.integers(-(2**63), 2**63 - 1) | st.text(),
    missed=st.booleans() | st.none(),
    own=st.booleans(),
    probabilities=st.lists(shares, max_size=5).map(tuple),
    p_values=st.lists(shares, max_size=5).map(tuple),
    subject=st.none() | st.binary(min_size=32, max_size=32),
)


@contextmanager
def in_memory() -> Iterator[Ledger]:
    """A ledger without a file."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        LEDGER_FORMAT.bring_up_to_date(connection, "")
        yield Ledger(connection)


def assert_come_back(ledger: Ledger, found: list[MaturedRow]) -> None:
    ledger.add_matured(found)
    for model in (A, B):
        assert ledger.matured(model) == sorted((r for r in found if r.model_hash == model), key=lambda r: r.at_us)
    assert [row for _, row in ledger.matured_after(0)] == found
    assert [row for _, row in ledger.matured_after(2)] == found[2:]
    assert ledger.count_matured(1) == (max(0, len(found) - 1), max(1, len(found)))


some_rows = st.lists(rows, max_size=6, unique_by=lambda row: row.request_id)


@settings(deadline=None)
@given(found=some_rows)
def test_rows_come_back_as_they_entered_and_in_the_order_they_were_given(found: list[MaturedRow]) -> None:
    with in_memory() as ledger:
        assert_come_back(ledger, found)


class _Undone(Exception):
    pass


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=some_rows)
def test_rows_come_back_from_a_database_as_well(database_url: str, found: list[MaturedRow]) -> None:
    tables = open_ledger_tables(Settings(home=Path("nowhere"), database=database_url), "toy")
    with suppress(_Undone), tables.writing() as connection:
        connection.execute("ALTER TABLE matured ALTER COLUMN n RESTART")
        assert_come_back(Ledger(connection), found)
        raise _Undone


@pytest.mark.parametrize(("labels", "asked"), [((1, 0, 1), "1"), (("1", "0", "1"), "1"), (('"a', "b", '"a'), '"a')])
def test_misses_of_a_label_are_found_by_its_text(tables: TableStore, labels: Sequence[int | str], asked: str) -> None:
    rows = [matured_row(n, label=label, missed=n < 2) for n, label in enumerate(labels)]
    with Ledger.changing(tables) as ledger:
        ledger.add_matured([*rows, matured_row(9, label=labels[0], missed=True, own=False)])
        assert ledger.latest_misses(A, asked, 10) == (1, 2)
        assert ledger.latest_misses(A, asked, 1) == (0, 1)
        assert ledger.latest_misses(A, None, 10) == (2, 3)
        assert ledger.latest_misses(B, None, 10) == (0, 0)


def test_unknown_ids_that_are_old_or_too_many_are_named_once(tables: TableStore) -> None:
    with Ledger.changing(tables) as ledger:
        ledger.wait_for([Waiting(bytes([n]) * 16, None, n) for n in range(6)] + [Waiting(b"d" * 16, 5, 0)])
        assert ledger.too_many_unknown(0, 6) == []
        assert ledger.too_many_unknown(2, 3) == [bytes([n]) * 16 for n in range(3)]
        assert ledger.too_many_unknown(4, 6) == [bytes([n]) * 16 for n in range(4)]


def test_facts_come_in_the_order_of_their_names(tables: TableStore) -> None:
    with Ledger.changing(tables) as ledger:
        for name in ("due:b", "due:B", "due:_", "due:\U0010ffff", "due:", "dug"):
            ledger.remember(name, [name])
        assert [name for name, _ in ledger.facts("due:")] == ["due:b", "due:_", "due:B", "due:"]
        ledger.forget_facts("due:B", "due:b")
        assert [name for name, _ in ledger.facts("due:")] == ["due:b", "due:"]


@settings(deadline=None)
@given(misses=st.lists(st.booleans(), max_size=300), bets=st.lists(shares, max_size=30))
def test_detectors_come_back_to_the_bit(misses: list[bool], bets: list[float]) -> None:
    coverage = update(DetectorState(0.1123456789, 500.0), misses)
    drift = DriftState(10.0, sum(bets), 3, block_rows=100, blocks=30, leading=("age",), key="a", bets=tuple(bets))
    with in_memory() as ledger:
        ledger.keep_detector(A, "coverage:1", asdict(coverage), "then")
        ledger.keep_detector(A, "drift", asdict(drift), None)
        kept = ledger.detectors(A)
        assert (DetectorState(**kept["coverage:1"][0]), kept["coverage:1"][1]) == (coverage, "then")
        assert (DriftState(**kept["drift"][0]), kept["drift"][1]) == (drift, None)
        assert ledger.detectors(B) == {}


def test_who_waits_keeps_his_time_and_learns_it_if_it_was_not_known(tables: TableStore) -> None:
    with Ledger.changing(tables) as ledger:
        ledger.wait_for([Waiting(b"1" * 16, 50, 1), Waiting(b"2" * 16, None, 2)])
        ledger.wait_for([Waiting(b"1" * 16, 99, 8), Waiting(b"2" * 16, 40, 9)])
        assert ledger.due(39, 10) == []
        assert ledger.due(50, 10) == [b"2" * 16, b"1" * 16]
        assert ledger.due(50, 1) == [b"2" * 16]
        assert ledger.count_waiting() == {"waiting": 2, "unknown": 0}


def test_only_ids_whose_label_came_lately_are_looked_for_again(tables: TableStore) -> None:
    with Ledger.changing(tables) as ledger:
        ledger.wait_for([Waiting(bytes([n]) * 16, None, n) for n in range(1, 5)])
        assert ledger.unknown(3, 10) == [b"\3" * 16, b"\4" * 16]
        assert ledger.unknown(0, 2) == [b"\1" * 16, b"\2" * 16]


def test_a_detector_that_is_forgotten_leaves_those_of_others(tables: TableStore) -> None:
    with Ledger.changing(tables) as ledger:
        for model in (A, B):
            ledger.keep_detector(model, "coverage:1", asdict(DetectorState(0.1)), "then")
            ledger.keep_detector(model, "drift", asdict(DriftState(10.0)), "then")
        ledger.forget_detector(A, "coverage:1")
        assert {model: list(ledger.detectors(model)) for model in (A, B)} == {A: ["drift"], B: ["coverage:1", "drift"]}


def test_evidence_is_kept_in_its_order_by_detector(tables: TableStore) -> None:
    with Ledger.changing(tables) as ledger:
        for at_us, value in ((1, 0.5), (2, 0.25), (3, 4.0)):
            ledger.add_evidence(A, "coverage:1", at_us, value)
            ledger.add_evidence(B, "coverage:1", at_us, -value)
        assert ledger.evidence(A, "coverage:1") == [(1, 0.5), (2, 0.25), (3, 4.0)]
        assert ledger.evidence(A, "coverage:1", since_us=2) == [(2, 0.25), (3, 4.0)]
        assert ledger.evidence(A, "drift") == []


def test_the_newest_drift_windows_are_kept(tables: TableStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEEP_WINDOWS", 3)
    with Ledger.changing(tables) as ledger:
        for n in range(5):
            ledger.keep_window(A, n, n + 1, 100, n / 10, {"features": [{"feature": "age"}], "scores": []})
        found = ledger.windows(A, 10)
        assert [(w["first_us"], w["p_value"]) for w in found] == [(4, 0.4), (3, 0.3), (2, 0.2)]
        assert ledger.windows(A, 1) == found[:1]
        assert found[0]["reports"]["features"] == [{"feature": "age"}]
        assert ledger.windows(B, 10) == []


def test_an_erased_person_leaves_nothing_in_the_file_and_others_stay(path: Path, in_file: TableStore) -> None:
    person, other = b"p" * 32, b"o" * 32
    with Ledger.changing(in_file) as ledger:
        ledger.add_matured([matured_row(n, subject=person if n % 2 else other) for n in range(1, 200)])
        ledger.wait_for([Waiting(b"w" * 16, 5, 1), Waiting(b"x" * 16, None, 1)])
    assert Ledger.erase(in_file, [person], [b"w" * 16]) == 101
    with Ledger.reading(in_file) as seen:
        assert seen is not None
        assert {row.subject for row in seen.matured(A)} == {other}
        assert seen.count_waiting() == {"waiting": 0, "unknown": 1}
    assert person not in path.read_bytes()
    assert Ledger.erase(in_file, [person], []) == 0


def test_an_erased_person_leaves_nothing_in_the_database_and_others_stay(
    database_url: str, database_server: Server, tmp_path: Path
) -> None:
    person, other, gone = b"of this person, whoever it may be", b"o" * 32, b"an id that went!"
    tables = open_ledger_tables(Settings(home=tmp_path, database=database_url), "toy")
    with Ledger.changing(tables) as ledger:
        ledger.add_matured([matured_row(n, subject=person if n % 2 else other) for n in range(1, 200)])
        ledger.wait_for([Waiting(gone, 5, 1), Waiting(b"x" * 16, None, 1)])
        ledger.outcomes.add([DueAnswer(gone, 1, A, own=True, members=(0,), prediction=0)], {})
    stored = database_server.stored(database_url)
    assert person in stored
    assert gone in stored
    assert Ledger.erase(tables, [person], [gone]) == 101
    stored = database_server.stored(database_url)
    assert person not in stored
    assert gone not in stored
    with Ledger.reading(tables) as seen:
        assert seen is not None
        assert {row.subject for row in seen.matured(A)} == {other}
        assert seen.count_waiting() == {"waiting": 0, "unknown": 1}


@pytest.mark.parametrize("first_asked_by", ["a reader", "a writer"])
def test_what_a_killed_process_had_begun_in_a_database_is_undone(
    database_url: str, tmp_path: Path, first_asked_by: str
) -> None:
    def opened() -> TableStore:
        return open_ledger_tables(Settings(home=tmp_path, database=database_url), "toy")

    with Ledger.changing(opened()) as ledger:
        change(ledger)
    before = everything(opened())

    def work() -> None:
        with Ledger.changing(opened()) as ledger:
            ledger.add_matured([matured_row(n) for n in range(10, 300)])
            os.kill(os.getpid(), signal.SIGKILL)

    in_a_process_that_is_killed(work)
    if first_asked_by == "a writer":
        with Ledger.changing(opened()) as ledger:
            assert ledger.count_matured()[0] == 2
    assert everything(opened()) == before


def test_nothing_is_erased_where_the_monitor_has_never_run(tables: TableStore) -> None:
    assert Ledger.erase(tables, [b"p" * 32], []) == 0
    assert not tables.is_made()
