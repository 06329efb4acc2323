"""What there is of the log, at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ml_core.base.settings import Settings
from ml_core.lab.log_care.log_days import LogDay, is_live
from ml_core.serve.log.database import end_of
from ml_core.serve.log.log_files import LogFile, log_files

__all__ = ["FileFacts", "overview"]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One database at a glance.

    Attributes
    ----------
    rows : None where it cannot be read; a bulk call is one row
    bytes : of the database and what belongs to it
    is_live : whether a worker writes to it
    is_sealed : whether the sealed copy of its day shows these rows
    """

    file: LogFile
    rows: int | None
    bytes: int
    is_live: bool
    is_sealed: bool


def overview(settings: Settings) -> list[FileFacts]:
    """All databases of the configured model's log, oldest first."""
    return [_facts(file, settings) for file in log_files(settings.log)]


def _facts(file: LogFile, settings: Settings) -> FileFacts:
    parts = [path for path in file.folder.glob(f"{file.path.name}*") if path.exists()]
    rows, _ = end_of(file)
    sealed = rows is not None and _shown_rows(LogDay(file.day, settings.log).sealed).get(file.path.name) == rows
    return FileFacts(file, rows, sum(path.stat().st_size for path in parts), is_live(file), sealed)


def _shown_rows(copy: Path) -> dict[str, int]:
    """Rows that a sealed copy shows of each database; none where there is no copy."""
    if not copy.exists():
        return {}
    from ml_core.lab.log_care.sealed_copy import shown_by  # pyarrow waits until there is something to read

    return {str(entry["file"]): int(entry["rows"]) for entry in shown_by(copy) or ()}
