"""The journal: every decision with its numbers, one JSON line each, only ever appended to."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.files import locked, write_whole

__all__ = ["Journal", "who"]


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
        with locked(self._path, mode=0o644) as lock:
            end = os.lseek(lock.descriptor, 0, os.SEEK_END)
            if end and os.pread(lock.descriptor, 1, end - 1) != b"\n":
                line = b"\n" + line  # a writer died in its line: what it left stays a line of its own
            while line:
                line = line[os.write(lock.descriptor, line) :]
            os.fsync(lock.descriptor)

    def entries(self) -> list[dict[str, Any]]:
        """All whole entries, oldest first; what a crash left unfinished is passed over."""
        return [entry for entry in map(_parsed, self._lines()) if entry is not None]

    def texts(self) -> list[str]:
        """The lines of all whole entries as they were written, oldest first."""
        return [line.decode() for line in self._lines() if _parsed(line) is not None]

    def take(self, texts: Sequence[str]) -> None:
        """Append lines of another journal as they are: all of them, or none."""
        with locked(self._path.with_name(f".{self._path.name}.lock")):
            kept = self._path.read_bytes() if self._path.exists() else b""
            with write_whole(self._path, durable=True) as draft:
                ended = kept if kept.endswith(b"\n") or not kept else kept + b"\n"
                draft.write_bytes(ended + "".join(f"{text}\n" for text in texts).encode())

    def _lines(self) -> list[bytes]:
        try:
            return self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []


def who() -> str:
    """Login name of the person or job that decides; empty where the system knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
