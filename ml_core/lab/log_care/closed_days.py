"""Holds a sealed day against what it consisted of when it was sealed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ml_core.lab.log_care.findings import Finding
from ml_core.lab.log_care.journal_marks import ClosedDay
from ml_core.lab.log_care.log_days import LogDay

__all__ = ["check_closed_day", "sha256_of"]


def check_closed_day(
    day: LogDay, closed: ClosedDay, rows: Mapping[str, int], orphans: Collection[str], erasing: Collection[str]
) -> Iterator[Finding]:
    """What came into the day, or left it, since it was sealed; that rows changed is seen by their chain.

    Parameters
    ----------
    rows : how many each database has, by its name
    orphans : files of bulk calls that no row names
    erasing : names of databases that an erasure is under way in; it makes the copy anew
    """
    for name, found in rows.items():
        if f"-{day.name}-" not in name:
            continue
        if name not in closed.files:
            yield Finding("sealed-day", name, "came into its day after it was sealed")
        elif found > closed.files[name][0]:
            first = closed.files[name][0] + 1
            yield Finding("sealed-day", name, "it and what follows came after its day was sealed", first)
    of_day = {name for name in orphans if name.startswith(f"bulk/{day.name}/")}
    for name in sorted(of_day | set(closed.orphans)):
        path = day.folder / name
        if not path.exists():
            yield Finding("sealed-day", name, "was there when its day was sealed, and is missing")
        elif closed.orphans.get(name) != sha256_of(path):
            yield Finding("sealed-day", name, "was not there, or was another file, when its day was sealed")
    if not any(f"-{day.name}-" in name for name in erasing):
        yield from _copy(day, closed)


def _copy(day: LogDay, closed: ClosedDay) -> Iterator[Finding]:
    name = f"sealed/{day.sealed.name}"
    if not day.sealed.exists():
        if closed.copy_sha256:
            yield Finding("sealed-copy", name, "is missing; surety log seal makes it again")
    elif sha256_of(day.sealed) != closed.copy_sha256:
        yield Finding(
            "sealed-copy", name, "is not the file that was written; remove it, and surety log seal makes it again"
        )


def sha256_of(path: Path) -> str:
    """Of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
