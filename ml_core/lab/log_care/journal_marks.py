"""What the journal says of the log: heads of closed days, files that were pruned, rows that were erased.

A file cannot tell by itself that its end was cut off, that it was replaced by an older copy, or that it is missing. So
the head of its chain is written down elsewhere once its day is over, together with all else that the day consists of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ml_core.base.errors import LogDamaged
from ml_core.serve.log import log_records
from ml_core.serve.log.log_records import LogRecords

__all__ = ["ClosedDay", "Marks", "read_marks"]


@dataclass(frozen=True, slots=True)
class ClosedDay:
    """What a day consisted of when it was sealed.

    Attributes
    ----------
    files : number of the last row and head (hex) of each database, by its name
    orphans : sha256 (hex) of files of bulk calls that no row names; the rows vouch for the others
    copy_sha256 : of the Parquet copy, hex; "" where an erasure has removed it
    """

    files: Mapping[str, tuple[int, str]]
    orphans: Mapping[str, str]
    copy_sha256: str


@dataclass(frozen=True, slots=True)
class Marks:
    """What is written down of one model name's log, by the names of its files; nothing of pruned ones.

    Attributes
    ----------
    heads : head of the chain (hex) by the number of the row it follows
    erased : numbers of the rows that were erased on request
    pruned : last row and head (hex) of files that were to be removed; they are gone, unless that was broken off
    closed : days that were sealed as a whole; releases before wrote heads alone
    adopted : last row and head (hex) of files that were there before the key
    labels_erased : numbers of labels that were erased on request
    marks : signatures of the entries, by their numbers
    problems : entries that are not believed, or missing
    """

    heads: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    erased: Mapping[str, frozenset[int]] = field(default_factory=dict)
    pruned: Mapping[str, tuple[int | None, str | None]] = field(default_factory=dict)
    closed: Mapping[str, ClosedDay] = field(default_factory=dict)
    adopted: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    labels_erased: frozenset[int] = frozenset()
    marks: Mapping[int, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def is_sealed(self, file: str, rows: int, head: str) -> bool:
        """Whether that file was sealed as it is."""
        return self.heads.get(file, {}).get(rows) == head

    def may_go(self, file: str, rows: int, head: str) -> bool:
        """Whether that file was sealed, or was about to be removed, as it is."""
        return self.is_sealed(file, rows, head) or self.pruned.get(file) == (rows, head)


def read_marks(records: LogRecords) -> Marks:
    """What the journal says of the log.

    Raises
    ------
    LogDamaged
        An entry on the log is not as it was written.
    ConfigError
        The log's key cannot be read.
    """
    says = records.read()
    heads: dict[str, dict[int, str]] = {}
    erased: dict[str, frozenset[int]] = {}
    pruned: dict[str, tuple[int | None, str | None]] = {}
    closed: dict[str, ClosedDay] = {}
    adopted: dict[str, tuple[int, str]] = {}
    labels: set[int] = set()
    for entry in says.entries:
        try:
            match entry["event"]:
                case log_records.SEALED:
                    for found in entry.get("files", [entry]):  # releases before wrote one entry a file
                        heads.setdefault(found["file"], {}).setdefault(int(found["rows"]), str(found["head"]))
                    if "files" in entry:
                        closed[entry["day"]] = _closed_day(entry)
                case log_records.COPY_REMOVED:
                    was = closed[entry["day"]]
                    closed[entry["day"]] = ClosedDay(was.files, was.orphans, "")
                case log_records.ERASED:
                    for file, rows in entry["rows"].items():
                        erased[file] = erased.get(file, frozenset()) | frozenset(map(int, rows))
                case log_records.LABELS_ERASED:
                    labels.update(entry["labels"])
                case log_records.ADOPTED:
                    adopted |= {file: (end[0], end[1]) for file, end in entry["files"].items()}
                case log_records.PRUNED:
                    pruned[entry["file"]] = (entry["rows"], entry["head"])
                    heads.pop(entry["file"], None)
                    erased.pop(entry["file"], None)
                    closed.pop(entry.get("day", ""), None)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LogDamaged("journal.jsonl", f"an entry {entry['event']} is not as it was written") from error
    return Marks(heads, erased, pruned, closed, adopted, frozenset(labels), says.marks, says.problems)


def _closed_day(entry: Mapping[str, Any]) -> ClosedDay:
    files = {found["file"]: (int(found["rows"]), str(found["head"])) for found in entry["files"]}
    return ClosedDay(files, dict(entry["orphans"]), str(entry["copy_sha256"]))
