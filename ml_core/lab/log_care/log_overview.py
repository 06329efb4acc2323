"""What there is of the log, at a glance."""

from __future__ import annotations

from pathlib import Path

from ml_core.base.settings import Settings
from ml_core.lab.log_care.log_days import LogDay
from ml_core.serve.log.database import end_of
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.log_places import FileFacts, LogPlace, place_of
from ml_core.serve.log.log_records import GIVEN_UP, LogRecords

__all__ = ["give_up", "overview"]


def overview(settings: Settings) -> list[FileFacts]:
    """All files of the configured model's log, oldest first."""
    place = place_of(settings)
    known = place.at_a_glance()
    return [_facts(file, place) for file in place.files()] if known is None else known


def give_up(settings: Settings, machine: str) -> list[str]:
    """Expect nothing more of a machine that is gone for good, and say so in the journal; names of its spools.

    Its days can be sealed then, and what it has shipped be erased. Rows that it had not shipped are lost with it.

    Raises
    ------
    HomeUnreachable, ConfigError
        The home cannot be asked, or the log's key not be used.
    """
    records = LogRecords(settings)
    place = records.place
    files = [file for file in place.files() if file.origin.rpartition("-")[0] == machine and place.is_live(file)]
    for file in files:
        rows, head = end_of(file, place.reading)
        records.write(GIVEN_UP, {"file": file.name, "rows": rows, "head": head})
        place.give_up(file)
    return [file.name for file in files]


def _facts(file: LogFile, place: LogPlace) -> FileFacts:
    rows, _ = end_of(file, place.reading)
    sealed = rows is not None and _shown_rows(LogDay(file.day, place.folder).sealed).get(file.name) == rows
    return FileFacts(file, rows, place.size_of(file), place.is_live(file), sealed)


def _shown_rows(copy: Path) -> dict[str, int]:
    """Rows that a sealed copy shows of each database; none where there is no copy."""
    if not copy.exists():
        return {}
    from ml_core.lab.log_care.sealed_copy import shown_by  # pyarrow waits until there is something to read

    return {str(entry["file"]): int(entry["rows"]) for entry in shown_by(copy) or ()}
