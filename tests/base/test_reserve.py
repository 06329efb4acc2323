"""Changes that must not wait work on a full disk: parts of the reserve are given up for them."""

from __future__ import annotations

import errno

import pytest

from ml_core.base.errors import HomeUnwritable
from ml_core.base.journal import Journal
from ml_core.base.reserve import keep_reserve, written_with_reserve
from tests.serve.log.builders import fill, small_disk


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    with small_disk(folder, "16m"):
        yield folder


def parts(home) -> list[str]:
    return sorted(path.name for path in (home / "reserve").glob("*"))


def test_the_reserve_takes_room_and_is_made_once(disk):
    for _ in range(2):
        keep_reserve(disk)
    assert parts(disk) == ["0", "1", "2", "3"]
    assert sum(path.stat().st_blocks * 512 for path in (disk / "reserve").iterdir()) == 1 << 20


def test_a_full_disk_takes_what_is_written_with_the_reserve_until_it_is_used_up(disk):
    keep_reserve(disk)
    fill(disk)
    journal = Journal(disk / "journal.jsonl")

    def change() -> None:
        fill(disk)
        written_with_reserve(disk, lambda: journal.append("changed", {"text": "x" * 10_000}))

    for left in (["1", "2", "3"], ["2", "3"], ["3"], []):
        change()
        assert parts(disk) == left
    assert len(journal.entries()) == 4
    with pytest.raises(HomeUnwritable, match="No space left"):
        change()
    assert len(journal.entries()) == 4


def test_the_reserve_comes_back_only_where_it_leaves_room_to_others(disk):
    keep_reserve(disk)
    filler = fill(disk)
    (disk / "reserve" / "0").unlink()
    keep_reserve(disk)
    assert parts(disk) == ["1", "2", "3"]
    filler.unlink()
    keep_reserve(disk)
    assert parts(disk) == ["0", "1", "2", "3"]


def test_another_failure_takes_nothing_from_the_reserve(disk):
    keep_reserve(disk)

    def fail() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(HomeUnwritable, match="Read-only"):
        written_with_reserve(disk, fail)
    assert len(parts(disk)) == 4


def test_a_home_that_is_not_there_has_no_reserve(tmp_path):
    keep_reserve(tmp_path / "none")
    assert not (tmp_path / "none").exists()
