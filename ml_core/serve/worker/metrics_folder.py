"""The folder in which the workers of one server count, so that their sums can be read from any of them.

BentoML gives all servers of a ``BENTOML_HOME`` the same folder, and each empties it when it starts, even one that then
finds its port taken. So each server gets a folder of its own, and removes only folders that nobody uses.
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from bentoml._internal.configuration.containers import BentoMLContainer

from ml_core.base.files import FileLock

__all__ = ["hold_metrics_folder", "own_metrics_folder", "use_own_metrics_folder"]

_LOCK = "server.lock"


def use_own_metrics_folder() -> None:
    """Have the server that starts from this process count in a folder of its own; makes nothing yet."""
    folder = Path(BentoMLContainer.bentoml_home.get()) / "surety_metrics" / f"{os.getpid()}-{secrets.token_hex(4)}"
    BentoMLContainer.prometheus_multiproc_dir.set(str(folder))


def hold_metrics_folder() -> None:
    """Say that the folder of this server is in use until the server ends, and remove folders that nobody uses."""
    folder = Path(BentoMLContainer.prometheus_multiproc_dir.get())
    with suppress(OSError):  # a read-only store of models; BentoML has taken a temporary folder then
        atexit.register(_remove_at_exit, folder, own_metrics_folder(folder), os.getpid())


def own_metrics_folder(folder: Path) -> FileLock:
    """The lock that says that this folder is in use. Unused ones beside it are removed.

    Raises
    ------
    OSError
        The place cannot be written to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for lock in sorted(folder.parent.glob(f"*.{_LOCK}")):
        _remove_unused(lock)
    return FileLock(_lock_of(folder))


def _remove_unused(path: Path) -> None:
    """Remove a folder whose server has ended, unless workers of that server live on without it."""
    folder = path.with_name(path.name.removesuffix(f".{_LOCK}"))
    with suppress(OSError):
        lock = FileLock(path)
        try:
            if not any(map(_is_alive, _pids_in(folder))):
                _remove(folder)
        finally:
            lock.release()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _lock_of(folder).unlink(missing_ok=True)


def _remove_at_exit(folder: Path, lock: FileLock, pid: int) -> None:
    """Remove the folder of this server; a fork of it does nothing."""
    if pid == os.getpid():
        _remove(folder)
        lock.release()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{_LOCK}")


def _pids_in(folder: Path) -> set[int]:
    """The processes that have counted there; prometheus_client puts their numbers into the names of its files."""
    return {int(found[1]) for path in folder.glob("*.db") if (found := re.search(r"_(\d+)\.db$", path.name))}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
