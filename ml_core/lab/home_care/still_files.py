"""Reads the SQLite files of a home without changing them, not even by what opening one leaves beside it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ml_core.base.errors import LogDamaged

__all__ = ["still_copy"]

_BESIDE = ("-wal", "-journal")
_BUSY_S = 10.0


@contextmanager
def still_copy(path: Path, draft: Path, *, is_live: bool) -> Iterator[Path]:
    """A copy of a database as of one moment, in a folder of ours until the block ends; a missing one stays missing.

    What a killed writer has left beside the file is copied with it, and settled in the copy.

    Parameters
    ----------
    draft : folder with room for the copy
    is_live : somebody may be writing to it, and waits no longer than the copying takes

    Raises
    ------
    LogDamaged
        It cannot be read.
    """
    copy = draft / path.name
    try:
        if path.exists():
            draft.mkdir(parents=True, exist_ok=True)
            if is_live:
                _backed_up(path, copy)
            else:
                for ending in ("", *_BESIDE):
                    if (beside := Path(f"{path}{ending}")).exists():
                        shutil.copyfile(beside, f"{copy}{ending}")
        yield copy
    except sqlite3.Error as error:
        raise LogDamaged(path.name, f"cannot be read: {error}") from error
    finally:
        for ending in ("", *_BESIDE, "-shm"):
            Path(f"{copy}{ending}").unlink(missing_ok=True)


def _backed_up(path: Path, copy: Path) -> None:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_S)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)
        new.execute("PRAGMA journal_mode=DELETE").fetchall()
