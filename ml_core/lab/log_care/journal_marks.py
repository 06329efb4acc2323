"""What the journal says of the log: heads of closed days, files that were pruned, rows that were erased.

A file cannot tell by itself that its end was cut off, that it was replaced by an older copy, or that it is missing. So
the head of its chain is written down elsewhere once its day is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_core.base.errors import LogDamaged
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings

__all__ = ["ERASED", "PRUNED", "SEALED", "Records", "read_records", "write_record"]

SEALED, PRUNED, ERASED = "log.sealed", "log.pruned", "log.erased"


@dataclass(frozen=True, slots=True)
class Records:
    """What is written down of one model name's log, by the names of its files; nothing of pruned ones.

    Attributes
    ----------
    heads : head of the chain (hex) by the number of the row it follows
    erased : numbers of the rows that were erased on request
    pruned : last row and head (hex) of files that were to be removed; they are gone, unless that was broken off
    """

    heads: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    erased: Mapping[str, frozenset[int]] = field(default_factory=dict)
    pruned: Mapping[str, tuple[int | None, str | None]] = field(default_factory=dict)

    def is_sealed(self, file: str, rows: int, head: str) -> bool:
        """Whether that file was sealed as it is."""
        return self.heads.get(file, {}).get(rows) == head

    def may_go(self, file: str, rows: int, head: str) -> bool:
        """Whether that file was sealed, or was about to be removed, as it is."""
        return self.is_sealed(file, rows, head) or self.pruned.get(file) == (rows, head)


def read_records(settings: Settings) -> Records:
    """What the journal says of the configured model's log.

    Raises
    ------
    LogDamaged
        An entry on the log is not as it was written.
    """
    heads: dict[str, dict[int, str]] = {}
    erased: dict[str, frozenset[int]] = {}
    pruned: dict[str, tuple[int | None, str | None]] = {}
    for entry in Journal(settings.journal).entries():
        event = entry.get("event")
        if event not in (SEALED, PRUNED, ERASED) or entry.get("model") != settings.model_name:
            continue
        try:
            if event == SEALED:
                heads.setdefault(entry["file"], {}).setdefault(int(entry["rows"]), str(entry["head"]))
            elif event == ERASED:
                for file, rows in entry["rows"].items():
                    erased[file] = erased.get(file, frozenset()) | frozenset(map(int, rows))
            else:
                pruned[entry["file"]] = (entry["rows"], entry["head"])
                heads.pop(entry["file"], None)
                erased.pop(entry["file"], None)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LogDamaged(settings.journal.name, f"an entry {event} is not as it was written") from error
    return Records(heads, erased, pruned)


def write_record(settings: Settings, event: str, facts: Mapping[str, Any]) -> None:
    """Write an entry into the journal, and wait for the disk."""
    Journal(settings.journal).append(event, {"model": settings.model_name, **facts})
