"""Everything the log has of one day: databases, bulk calls, the sealed copy, and what killed writers have left."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson

from ml_core.base.errors import LogDamaged
from ml_core.base.files import drafts_of
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.log_places import FolderPlace, LogPlace

__all__ = ["LogDay", "log_days", "named_later"]

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True, order=True)
class LogDay:
    """One day of the log.

    Attributes
    ----------
    name : UTC, as ``2026-11-24``
    folder : of the log
    at : where its rows lie, if that is not the folder
    """

    name: str
    folder: Path
    at: LogPlace | None = field(default=None, compare=False)

    @property
    def place(self) -> LogPlace:
        """Where its rows lie."""
        return FolderPlace(self.folder) if self.at is None else self.at

    @property
    def files(self) -> list[LogFile]:
        """Its files."""
        return [file for file in self.place.files() if file.day == self.name]

    @property
    def sealed(self) -> Path:
        """Its sealed copy."""
        return self.folder / self.sealed_name

    @property
    def sealed_name(self) -> str:
        """Name of its sealed copy below the log's folder."""
        return f"sealed/predictions-{self.name}.parquet"

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

    def beside(self) -> list[Path]:
        """What belongs to it beside its rows."""
        return sorted({*self.drafts, *self.bulk.glob("*"), *([self.sealed] if self.sealed.exists() else [])})

    def bytes(self) -> int:
        """Room that it takes."""
        rows = sum(map(self.place.size_of, self.files))
        return rows + sum(path.stat().st_size for path in self.beside() if path.exists())

    def held(self) -> AbstractContextManager[list[LogFile]]:
        """Hold all its files, and get them; nobody begins another meanwhile.

        Raises
        ------
        LogBusy
            A worker writes to one.
        """
        return self.place.holding(self.name)


def log_days(where: LogPlace | Path) -> list[LogDay]:
    """Days that the log has anything of, oldest first.

    Parameters
    ----------
    where : the log lies; a folder is one with SQLite files
    """
    place: LogPlace = FolderPlace(where) if isinstance(where, Path) else where
    folder = place.folder
    places = [
        *folder.glob("*predictions-*-w*.db*"),
        *(folder / "sealed").glob("*predictions-*.parquet*"),
        *(folder / "bulk").glob("*"),
    ]
    found = {match[0] for path in places if (match := _DAY.search(path.name)) is not None}
    found |= {file.day for file in place.files()}
    return [LogDay(day, folder, place) for day in sorted(filter(_is_day, found))]


def named_later(day: LogDay) -> frozenset[str]:
    """Files of the day's bulk calls whose rows are in files of later days, because the day was sealed before they came.

    Files that cannot be read are passed over; whoever verifies them says so.
    """
    found: set[str] = set()
    for file in day.place.files():
        if file.day > day.name:
            with suppress(LogDamaged, ValueError), day.place.reading(file) as entries:
                rows = entries.execute("SELECT answer FROM entry WHERE kind = 1 AND answer != x''")
                found.update(orjson.loads(row["answer"])["segment"] for row in rows)
    return frozenset(name for name in found if name.startswith(f"bulk/{day.name}/"))


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
