"""One database: what a crash, a torn tail or a race leaves of it, and who may open it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.errors import LogDamaged
from ml_core.base.files import FileLock
from ml_core.serve.log.database import OpenLog, open_for_change, open_for_reading
from ml_core.serve.log.entries import Lineage
from ml_core.serve.log.log_files import LogFile, log_files
from tests.serve.log.builders import DAY, entries, ids_in, ids_of, row, small_disk, wal_of

ROOT = Path(__file__).resolve().parents[3]


def run_killing(*arguments: str) -> dict[str, Any]:
    """What came of `python -m tests.serve.log.killing`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.serve.log.killing", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def a_log(folder: Path, n: int = 0) -> OpenLog:
    """An open log with n rows."""
    log = OpenLog.of_day(folder, DAY)
    if n:
        log.commit([row(i) for i in range(n)], durable=False)
    return log


# --- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["standard", "strict"])
def test_f14_rows_that_were_answered_for_outlive_a_killed_writer(tmp_path: Path, mode: str) -> None:
    found = run_killing("kill", str(tmp_path), "4", "14", mode)
    assert found["missing"] == 0
    assert found["acknowledged"] > 0


def test_f21_four_workers_start_at_once_on_an_empty_home(tmp_path: Path) -> None:
    assert run_killing("start", str(tmp_path), "3", "4")["errors"] == 0


def torn(folder: Path, step: int, sizes: tuple[int, ...] = (1, 3, 2, 7, 1, 1, 4, 20)) -> dict[str, int]:
    """Truncate the WAL file of a copy at every ``step``-th byte: what opens is a prefix of whole commits, and goes on."""
    log = OpenLog.of_day(folder / "whole", DAY)
    for number, size in enumerate(sizes * 3):
        log.commit([row(1_000 * number + i) for i in range(size)], durable=False)
    ends = [0, *(sum((sizes * 3)[: i + 1]) for i in range(len(sizes) * 3))]
    database, wal = log.file.path.read_bytes(), wal_of(log.file).read_bytes()
    ids = [r["request_id"] for r in entries(log.file.path)]
    log.close()
    seen = [0]
    copy = LogFile(DAY, 1, folder / "copy")
    cuts = [*range(0, len(wal), step), len(wal)]
    for cut in cuts:
        copy.folder.mkdir()
        copy.path.write_bytes(database)
        wal_of(copy).write_bytes(wal[:cut])
        reopened = OpenLog.of_day(copy.folder, DAY)
        assert reopened.file == copy
        assert reopened.seq in ends
        assert reopened.seq >= seen[-1]
        seen.append(reopened.seq)
        reopened.commit([row(999_999)], durable=False)
        reopened.close()
        assert [r["request_id"] for r in entries(copy.path)][:-1] == ids[: seen[-1]]
        shutil.rmtree(copy.folder)
    assert seen[-1] == len(ids)
    return {"truncations": len(cuts), "different_ends": len(set(seen)), "gaps": 0}


def test_f15_a_torn_tail_leaves_a_prefix_of_whole_commits(tmp_path: Path) -> None:
    assert torn(tmp_path, 8_192)["different_ends"] > 5


def test_a_commit_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    log = a_log(tmp_path, 3)
    other = Lineage.of({"model_name": "other"})
    bad = [row(10, lineage=other), row(0)]
    with pytest.raises(sqlite3.IntegrityError):
        log.commit(bad, durable=False)
    log.commit([row(10, lineage=other), row(11)], durable=True)
    log.close()
    assert len(entries(log.file.path)) == 5


def test_a_full_disk_takes_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "log"):
        log = a_log(tmp_path / "log", 3)
        n = 3
        with pytest.raises(sqlite3.OperationalError, match="full"):  # noqa: PT012 - one of many commits
            while True:
                log.commit([row(n + i) for i in range(5)], durable=False)
                n += 5
        assert len(entries(log.file.path)) == n == log.seq
        log.close()


# --- who has it -------------------------------------------------------------------------------------------------------


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    one, two = a_log(tmp_path, 1), a_log(tmp_path)
    assert [log.file.worker for log in (one, two)] == [1, 2]
    one.close()
    three = a_log(tmp_path)
    assert (three.file.worker, three.seq) == (1, 1)
    two.close()
    three.close()


def test_the_lock_is_given_up_with_the_file(tmp_path: Path) -> None:
    log = a_log(tmp_path)
    with pytest.raises(BlockingIOError):
        FileLock(log.file.lock_path)
    log.close()
    FileLock(log.file.lock_path).release()


def test_a_file_that_cannot_be_opened_gives_its_lock_up(tmp_path: Path) -> None:
    tmp_path.joinpath(f"predictions-{DAY}-w01.db").write_bytes(b"garbage" * 999)
    log = a_log(tmp_path)
    assert log.file.worker == 2
    FileLock(LogFile(DAY, 1, tmp_path).lock_path).release()
    log.close()


def test_chained_heads_go_on_over_a_restart(tmp_path: Path) -> None:
    first = a_log(tmp_path, 3)
    head = first.head
    first.close()
    again = a_log(tmp_path)
    assert (again.seq, again.head) == (3, head)
    again.commit([row(9)], durable=True)
    again.close()
    assert len(entries(again.file.path)) == 4


# --- damaged ----------------------------------------------------------------------------------------------------------


def damaged(tmp_path: Path, how: str) -> Path:
    """The path of a database that is none."""
    log = a_log(tmp_path, 400)
    log.close()
    path = log.file.path
    if how == "header":
        path.write_bytes(b"garbage" + path.read_bytes()[7:])
    elif how == "cut short":
        os.truncate(path, 20_000)
    elif how == "cut within the first page":
        os.truncate(path, 700)
    elif how == "another application":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA application_id=7")
            connection.commit()
    elif how == "a later version":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version=99")
            connection.commit()
    elif how == "another database":
        path.unlink()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE other(a)")
    elif how == "no end of the last commit":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE entry SET head = NULL WHERE seq = 400")
            connection.commit()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "the last page of a table":
        with closing(sqlite3.connect(path)) as connection:
            page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entry'").fetchone()[0]
        raw = bytearray(path.read_bytes())
        raw[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
        path.write_bytes(raw)
    return path


KINDS = [
    "header", "cut short", "cut within the first page", "another application", "a later version", "another database",
    "no end of the last commit", "a folder", "the last page of a table",
]  # fmt: skip


@pytest.mark.parametrize("how", KINDS)
def test_damaged_file_is_left_as_it_is_and_the_next_number_used(tmp_path: Path, how: str) -> None:
    path = damaged(tmp_path, how)
    before = None if path.is_dir() else path.read_bytes()
    log = a_log(tmp_path, 5)
    assert log.file.worker == 2
    log.close()
    assert before is None or path.read_bytes() == before
    assert len(entries(log.file.path)) == 5


@pytest.mark.parametrize(
    "how",
    [kind for kind in KINDS if kind not in {"no end of the last commit", "cut short", "the last page of a table"}],
)
@pytest.mark.parametrize("opener", [open_for_reading, open_for_change])
def test_damaged_file_is_refused_by_name(tmp_path: Path, how: str, opener: Any) -> None:
    path = damaged(tmp_path, how)
    with pytest.raises(LogDamaged, match=path.name):
        opener(path)


@pytest.mark.parametrize("opener", [open_for_reading, open_for_change])
def test_a_file_only_just_begun_or_gone_reads_as_an_empty_log(tmp_path: Path, opener: Any) -> None:
    file = LogFile(DAY, 1, tmp_path)
    with closing(opener(file.path)) as connection:
        assert connection.execute("SELECT * FROM entry JOIN lineage ON lineage = id").fetchall() == []
    assert not file.path.exists()
    file.path.touch()
    with closing(opener(file.path)) as connection:
        assert connection.execute("SELECT count(*) FROM entry").fetchone()[0] == 0
    with closing(sqlite3.connect(file.path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    with closing(opener(file.path)) as connection:
        assert connection.execute("SELECT count(*) FROM entry").fetchone()[0] == 0
    log = a_log(tmp_path, 1)
    assert log.file == file
    log.close()


# --- readers ----------------------------------------------------------------------------------------------------------


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    log = a_log(tmp_path, 3)
    with (
        closing(open_for_reading(log.file.path)) as reading,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        reading.execute("DELETE FROM entry")
    log.close()


def test_reading_a_closed_file_leaves_nothing_beside_it(tmp_path: Path) -> None:
    log = a_log(tmp_path, 3)
    log.close()
    beside = set(tmp_path.iterdir())
    with closing(open_for_reading(log.file.path)) as reading:
        assert reading.execute("SELECT count(*) FROM entry").fetchone()[0] == 3
        assert set(tmp_path.iterdir()) == beside
    assert set(tmp_path.iterdir()) == beside == {log.file.path, log.file.lock_path}


def test_a_closed_file_can_be_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "log") as remounted:
        log = a_log(tmp_path / "log", 3)
        log.close()
        remounted("ro")
        with closing(open_for_reading(log.file.path)) as reading:
            assert reading.execute("SELECT count(*) FROM entry").fetchone()[0] == 3


def test_closing_waits_for_no_reader(tmp_path: Path) -> None:
    log = a_log(tmp_path, 3)
    with closing(open_for_reading(log.file.path)) as reading:
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM entry").fetchone()
        log.close()
        assert reading.execute("SELECT count(*) FROM entry").fetchone()[0] == 3
    assert len(entries(log.file.path)) == 3


@pytest.mark.parametrize("name", ["100 % of it?", "a#b", "ä;drop", "a'b"])
def test_any_folder_can_be_read(tmp_path: Path, name: str) -> None:
    log = a_log(tmp_path / name, 3)
    log.close()
    with closing(open_for_reading(log.file.path)) as reading:
        assert reading.execute("SELECT count(*) FROM entry").fetchone()[0] == 3


def test_a_checkpoint_empties_the_wal_file_as_far_as_readers_allow(tmp_path: Path) -> None:
    log = a_log(tmp_path, 3)
    with closing(open_for_reading(log.file.path)) as reading:
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM entry").fetchone()
        log.commit([row(10 + i) for i in range(500)], durable=False)
        log.sync_ahead()
        log.checkpoint()
        assert log.rows_unsettled == 0
        log.commit([row(1_000)], durable=False)
        grown = wal_of(log.file).stat().st_size
    log.checkpoint()
    log.commit([row(2_000)], durable=False)
    assert wal_of(log.file).stat().st_size == grown
    log.close()


# --- rescue -----------------------------------------------------------------------------------------------------------


def test_rescued_rows_keep_their_numbers_and_chain(tmp_path: Path) -> None:
    log = a_log(tmp_path, 30)
    assert not log.is_gone()
    log.file.path.unlink()
    assert log.is_gone()
    again = log.rescue()
    assert (again.file, again.seq, again.head) == (log.file, 30, log.head)
    assert not again.is_gone()
    again.commit([row(30)], durable=True)
    again.close()
    assert len(entries(log.file.path)) == 31
    FileLock(log.file.lock_path).release()


def test_rescue_goes_beside_what_has_its_place_and_chains_to_its_new_name(tmp_path: Path) -> None:
    log = a_log(tmp_path, 30)
    log.commit([row(100), row(101)], durable=False)
    beside = tmp_path / "beside"
    shutil.copy(log.file.path, beside)
    beside.replace(log.file.path)
    assert log.is_gone()
    rescued = log.rescue()
    assert rescued.file.worker == 2
    assert len(entries(rescued.file.path)) == 32
    rescued.close()
    assert not wal_of(log.file).exists()
    assert [f.worker for f in log_files(tmp_path)] == [1, 2]


def test_rescue_that_fails_can_be_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log = a_log(folder, 30)
    shutil.rmtree(folder)
    folder.write_text("in the way")
    for _ in range(2):
        with pytest.raises(OSError, match=r"exists|directory"):
            log.rescue()
    folder.unlink()
    log.rescue().close()
    assert set(ids_in(folder)) == ids_of([row(i) for i in range(30)])
    assert [path.name for path in folder.iterdir() if "rescue" in path.name] == []


@pytest.mark.parametrize("when", ["copied", "replaced", "opened"])
def test_rows_survive_when_what_was_rescued_vanishes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    log = a_log(tmp_path, 30)
    path = log.file.path
    path.unlink()
    true_init = OpenLog.__init__

    def vanish(self: OpenLog, *arguments: Any) -> None:
        if when in {"copied", "replaced"}:
            path.unlink()
        if when == "replaced":
            path.write_bytes(b"garbage" * 999)
        true_init(self, *arguments)
        if when == "opened":
            path.unlink()

    with monkeypatch.context() as patched:
        patched.setattr(OpenLog, "__init__", vanish)
        if when != "opened":
            with pytest.raises(FileNotFoundError, match="vanished again"):
                log.rescue()
        else:
            log = log.rescue()
    assert log.is_gone()
    log = log.rescue()
    log.close()
    assert {r["request_id"] for r in entries(log.file.path)} == ids_of([row(i) for i in range(30)])


def test_a_file_that_vanishes_while_it_is_opened_counts_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_look = OpenLog._inodes_now

    def late(self: OpenLog) -> Any:
        for path in tmp_path.glob("predictions-*"):
            path.unlink()
        return true_look(self)

    with monkeypatch.context() as patched:
        patched.setattr(OpenLog, "_inodes_now", late)
        log = a_log(tmp_path)
    log.commit([row(1)], durable=False)
    assert log.is_gone()
    log.rescue().close()
    assert ids_in(tmp_path) == [row(1).request_id]
