"""Each server counts in a folder of its own, and only folders that nobody uses are removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ml_core.serve.worker.metrics_folder import own_metrics_folder


def counted(folder: Path, pid: int) -> Path:
    """A folder in which that process has counted."""
    folder.mkdir()
    (folder / f"counter_{pid}.db").write_bytes(b"1")
    return folder


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_two_servers_never_share_a_folder(tmp_path: Path) -> None:
    first = tmp_path / "1"
    held = own_metrics_folder(first)
    counted(first, ended_process())  # its workers have ended, and come again at once
    also_held = own_metrics_folder(tmp_path / "2")
    assert list(first.iterdir())
    held.release()
    also_held.release()


def test_a_folder_whose_server_and_workers_have_ended_is_removed(tmp_path: Path) -> None:
    first = tmp_path / "1"
    held = own_metrics_folder(first)
    counted(first, ended_process())
    held.release()
    also_held = own_metrics_folder(tmp_path / "2")
    assert not first.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["2.server.lock"]
    also_held.release()


def test_workers_that_outlive_their_server_keep_their_folder(tmp_path: Path) -> None:
    first = tmp_path / "1"
    held = own_metrics_folder(first)
    counted(first, os.getpid())
    held.release()
    also_held = own_metrics_folder(tmp_path / "2")
    assert list(first.iterdir())
    also_held.release()
