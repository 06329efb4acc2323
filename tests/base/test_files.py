"""Files that are there whole or not at all, and locks that end with their process."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ml_core.base import files
from ml_core.base.errors import DataError
from ml_core.base.files import FileLock, clear_drafts, drafts_of, locked, write_whole, written_for_user


def test_the_old_file_stays_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a" / "report.json"
    with write_whole(path) as draft:
        draft.write_text("first")
    with write_whole(path, durable=True) as draft:
        draft.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("first")
    with pytest.raises(IsADirectoryError), write_whole(path) as draft:
        (draft.write_text("half"), tmp_path.read_text())
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_exclusive_refuses_to_replace(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("theirs")
    with pytest.raises(FileExistsError), write_whole(path, exclusive=True) as draft:
        draft.write_text("ours")
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    with write_whole(tmp_path / "key", mode=0o600) as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600
        draft.write_text("secret")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_place_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written: "), written_for_user(tmp_path / "file" / "below"):
        pass


def test_a_killed_writer_leaves_a_draft_that_can_be_found_and_cleared(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    script = (
        "import os, signal, sys; from pathlib import Path; from ml_core.base.files import write_whole\n"
        "with write_whole(Path(sys.argv[1])) as draft:\n"
        "    draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    (draft,) = drafts_of(path)
    assert not path.exists()
    clear_drafts(tmp_path, ".*.json.*")
    assert draft.exists()  # it may be somebody's who is at work
    os.utime(draft, (0, 0))
    clear_drafts(tmp_path, ".*.json.*")
    assert not draft.exists()


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with locked(path), pytest.raises(BlockingIOError):
        FileLock(path)
    FileLock(path).release()


def test_a_shared_lock_has_several_holders_and_keeps_out_who_wants_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, shared=True), locked(path, wait=False, shared=True), pytest.raises(BlockingIOError):
        FileLock(path)
    with locked(path), pytest.raises(BlockingIOError):
        FileLock(path, shared=True)


def test_a_lock_held_twice_is_free_after_both_have_given_it_up(tmp_path: Path) -> None:
    first = FileLock(tmp_path / "lock")
    second = first.again()
    first.release()
    with pytest.raises(BlockingIOError):
        FileLock(tmp_path / "lock")
    second.release()
    FileLock(tmp_path / "lock").release()


def test_a_holder_sees_that_its_file_was_removed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock(path)
    assert lock.is_there()
    path.unlink()
    assert not lock.is_there()
    other = FileLock(path)
    assert other.is_there()
    other.release()
    lock.release()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import sys; from pathlib import Path; from ml_core.base.files import FileLock\n"
        "lock = FileLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError):
            FileLock(path)
        holder.kill()
    FileLock(path, wait=True).release()


def test_a_lock_is_on_the_file_that_others_find_also_where_the_first_one_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    open_locked = files._open_locked

    def removed_once(path: Path, wait: bool, mode: int, shared: bool) -> int:
        opened.append(open_locked(path, wait, mode, shared))
        if len(opened) == 1:
            path.unlink()
        return opened[-1]

    monkeypatch.setattr(files, "_open_locked", removed_once)
    lock = FileLock(tmp_path / "a.lock")
    assert (len(opened), lock.is_there()) == (2, True)
    lock.release()
