"""Names of files and days, and locks that die with their holder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ml_core.base.errors import LogBusy
from ml_core.base.files import FileLock
from ml_core.serve.log.log_files import LogFile, day_of, free_file, log_files, only_closed
from tests.serve.log.builders import DAY, DAY_US, NOON_US


def test_files_are_found_by_name_oldest_first(tmp_path: Path) -> None:
    wanted = [LogFile(DAY, 9, tmp_path), LogFile(DAY, 10, tmp_path), LogFile("2026-12-01", 1, tmp_path)]
    others = [f"predictions-{DAY}-w09.db-wal", f".predictions-{DAY}-w09.db.lock", "predictions-2026-1-1-w01.db",
              f"predictions-{DAY}-w1.db", f"predictions-{DAY}-w09.db.bak", "labels.db"]  # fmt: skip
    for name in [*(file.path.name for file in reversed(wanted)), *others]:
        (tmp_path / name).touch()
    assert log_files(tmp_path) == wanted
    assert log_files(tmp_path / "none") == []


def test_a_thousandth_writer_still_sorts_behind_the_ninth(tmp_path: Path) -> None:
    for worker in (9, 100):
        LogFile(DAY, worker, tmp_path).path.touch()
    assert [file.worker for file in log_files(tmp_path)] == [9, 100]


@pytest.mark.parametrize(
    ("at_us", "day"),
    [
        (NOON_US, DAY),
        (NOON_US - DAY_US // 2, DAY),
        (NOON_US - DAY_US // 2 - 1, "2026-11-22"),
        (NOON_US + DAY_US // 2 - 1, DAY),
        (NOON_US + DAY_US // 2, "2026-11-24"),
        (0, "1970-01-01"),
    ],
)
def test_a_day_is_that_of_utc(at_us: int, day: str) -> None:
    assert day_of(at_us) == day


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "folder" / "lock")
    with pytest.raises(BlockingIOError):
        FileLock(tmp_path / "folder" / "lock")
    lock.release()
    FileLock(tmp_path / "folder" / "lock").release()


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        FileLock(tmp_path / "lock")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    FileLock(tmp_path / "lock").release()


def test_a_lock_knows_when_others_no_longer_find_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.is_there()
    (tmp_path / "lock").unlink()
    assert not lock.is_there()
    other = FileLock(tmp_path / "lock")
    assert other.is_there()
    assert not lock.is_there()
    lock.release()
    other.release()


def test_free_numbers_are_taken_in_their_order(tmp_path: Path) -> None:
    held = [free_file(tmp_path, DAY) for _ in range(3)]
    assert [file.worker for file, _ in held] == [1, 2, 3]
    held[1][1].release()
    file, lock = free_file(tmp_path, DAY)
    assert file.worker == 2
    file, another = free_file(tmp_path, DAY, after=3)
    assert file.worker == 4
    for one in (held[0][1], held[2][1], lock, another):
        one.release()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_place(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("in the way")
    with pytest.raises(OSError, match="log"):
        free_file(tmp_path / "log", DAY)


def test_only_closed_files_can_be_changed(tmp_path: Path) -> None:
    file = LogFile(DAY, 1, tmp_path)
    lock = FileLock(file.lock_path)
    with pytest.raises(LogBusy, match=file.path.name), only_closed(file):
        pass
    lock.release()
    with only_closed(file), pytest.raises(BlockingIOError):
        FileLock(file.lock_path)
    FileLock(file.lock_path).release()


def test_a_lock_held_twice_is_given_up_with_the_second(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    again = lock.again()
    lock.release()
    assert again.is_there()
    with pytest.raises(BlockingIOError):
        FileLock(tmp_path / "lock")
    again.release()
    FileLock(tmp_path / "lock").release()
