"""Everything the log has of one day: databases, bulk calls, the sealed copy, and what killed writers have left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson

from ml_core.base.errors import LogBusy, LogDamaged
from ml_core.base.files import drafts_of
from ml_core.serve.log.database import reading
from ml_core.serve.log.log_files import LogFile, closing_day, day_gate, log_files, only_closed

__all__ = ["LogDay", "is_live", "log_days", "named_later"]

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True, order=True)
class LogDay:
    """One day of the log.

    Attributes
    ----------
    name : UTC, as ``2026-11-24``
    folder : of the log
    """

    name: str
    folder: Path

    @property
    def files(self) -> list[LogFile]:
        """Its databases."""
        return [file for file in log_files(self.folder) if file.day == self.name]

    @property
    def sealed(self) -> Path:
        """Its sealed copy."""
        return self.folder / "sealed" / f"predictions-{self.name}.parquet"

    @property
    def bulk(self) -> Path:
        """Folder with its bulk calls."""
        return self.folder / "bulk" / self.name

    @property
    def ends(self) -> datetime:
        """The midnight it ends with, UTC."""
        return datetime.combine(date.fromisoformat(self.name), datetime.min.time(), UTC) + timedelta(days=1)

    @property
    def drafts(self) -> list[Path]:
        """What was being written when its writer was killed, or is being written now."""
        rescued = self.folder.glob(f".predictions-{self.name}-w*.db.*")
        bulk = self.bulk.glob("*.draft")
        return sorted(p for p in (*drafts_of(self.sealed), *rescued, *bulk) if p.suffix != ".lock")

    def everything(self) -> list[Path]:
        """All its files, databases first and locks last."""
        databases = sorted(self.folder.glob(f"predictions-{self.name}-w*.db*"))
        locks = sorted((*self.folder.glob(f".predictions-{self.name}-w*.db.lock"), day_gate(self.folder, self.name)))
        rest = sorted({*self.drafts, *self.bulk.glob("*"), *([self.sealed] if self.sealed.exists() else [])})
        return [*databases, *rest, *locks]

    def bytes(self) -> int:
        """Room that it takes."""
        return sum(path.stat().st_size for path in self.everything() if path.exists())

    @contextmanager
    def held(self) -> Iterator[list[LogFile]]:
        """Hold all its databases, and get them; nobody begins another meanwhile.

        Raises
        ------
        LogBusy
            A worker writes to one.
        """
        with ExitStack() as stack:
            stack.enter_context(closing_day(self.folder, self.name))
            files = self.files
            for file in files:
                stack.enter_context(only_closed(file))
            yield files


def log_days(folder: Path) -> list[LogDay]:
    """Days that the log has anything of, oldest first."""
    places = [
        *folder.glob("*predictions-*-w*.db*"),
        *(folder / "sealed").glob("*predictions-*.parquet*"),
        *(folder / "bulk").glob("*"),
    ]
    found = {match[0] for path in places if (match := _DAY.search(path.name)) is not None}
    return [LogDay(day, folder) for day in sorted(filter(_is_day, found))]


def named_later(day: LogDay) -> frozenset[str]:
    """Files of the day's bulk calls whose rows are in files of later days, because the day was sealed before they came.

    Files that cannot be read are passed over; whoever verifies them says so.
    """
    found: set[str] = set()
    for file in log_files(day.folder):
        if file.day > day.name:
            with suppress(LogDamaged, ValueError), reading(file) as connection:
                rows = connection.execute("SELECT answer FROM entry WHERE kind = 1 AND answer != x''")
                found.update(orjson.loads(row["answer"])["segment"] for row in rows)
    return frozenset(name for name in found if name.startswith(f"bulk/{day.name}/"))


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_live(file: LogFile) -> bool:
    """Whether a worker writes to that database just now."""
    if not file.lock_path.exists():
        return False
    try:
        with only_closed(file):
            return False
    except LogBusy:
        return True
