"""Room on the disk of the home that is kept back for changes that must work while the disk is full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ml_core.base.errors import HomeUnwritable

__all__ = ["keep_reserve", "written_with_reserve"]

_T = TypeVar("_T")
_PARTS, _PART_BYTES = 4, 256 * 1024
_LEAVE_BYTES = 4 * _PARTS * _PART_BYTES
"""Room that must be left beside the reserve when it is made."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def keep_reserve(home: Path) -> None:
    """Make the parts of the reserve that are missing, where the disk has room; whatever fails is left for next time."""
    with suppress(OSError):
        missing = [path for path in _parts(home) if not path.exists()]
        if not missing:
            return
        disk = os.statvfs(home)
        if disk.f_bavail * disk.f_frsize < _LEAVE_BYTES:
            return
        missing[0].parent.mkdir(exist_ok=True)
        for path in missing:
            _make(path)


def written_with_reserve(home: Path, write: Callable[[], _T]) -> _T:
    """What ``write`` returns; while it finds the disk full, parts of the reserve are given up and it is called again.

    Raises
    ------
    HomeUnwritable
        The disk is full and the reserve is used up, or the home cannot be written to for another reason.
    """
    while True:
        try:
            return write()
        except OSError as error:
            if error.errno not in _FULL or not _give_up_part(home):
                raise HomeUnwritable(error.strerror or type(error).__name__) from error


def _give_up_part(home: Path) -> bool:
    for path in _parts(home):
        with suppress(OSError):
            path.unlink()
            return True
    return False


def _parts(home: Path) -> list[Path]:
    return [home / "reserve" / f"{i}" for i in range(_PARTS)]


def _make(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _PART_BYTES)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)
