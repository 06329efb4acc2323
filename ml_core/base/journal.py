"""The journal: every decision with its numbers, one JSON line each, only ever appended to."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from ml_core.base.clock import utc_now, utc_text

__all__ = ["Journal", "locked", "who"]


class Journal:
    """Append-only JSON lines, safe against writers in other processes and against a crash in the middle of a line.

    Parameters
    ----------
    path : the file; made with its folder on the first entry
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: str, facts: Mapping[str, Any]) -> None:
        """Add an entry ``{"at", "event", "by", **facts}`` and return once it is on disk."""
        entry = {"at": utc_text(utc_now()), "event": event, "by": who(), **facts}
        line = orjson.dumps(entry, default=str, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end and os.pread(descriptor, 1, end - 1) != b"\n":
                line = b"\n" + line  # a writer died in its line: what it left stays a line of its own
            written = 0
            while written < len(line):
                written += file.write(line[written:]) or 0
            os.fsync(descriptor)

    def entries(self) -> list[dict[str, Any]]:
        """All whole entries, oldest first; what a crash left unfinished is passed over."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [entry for entry in map(_parsed, lines) if entry is not None]


def who() -> str:
    """Login name of the person or job that decides; empty where the system knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for whoever has it; the system frees it when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
