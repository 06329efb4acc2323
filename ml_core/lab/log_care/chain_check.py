"""Walks the hash chain of every file of the log, and holds it against what the journal says.

The chain shows any change of what a file holds by whoever lacks the log's key. What a file cannot show by itself, an
end cut off, an older copy in its place, the whole file gone, is found through the journal from the ``seal`` of its day
on, and through published heads (``log_checks``) from the hour on in which they were published.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from ml_core.base.errors import LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.log_care.journal_marks import read_marks
from ml_core.lab.log_care.log_checks import ChainFinding, FindingKind, check_closed_day, check_heads, check_labels
from ml_core.lab.log_care.log_days import LogDay, log_days, named_later
from ml_core.serve.log import fields
from ml_core.serve.log.database import genesis_head, key_of
from ml_core.serve.log.entries import ERASED, SALT_BYTES, next_head, stored_digest
from ml_core.serve.log.erasure_requests import forged_erasures, pending_erasures
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.log_keys import LogKey
from ml_core.serve.log.log_places import FolderPlace, LogPlace, LogRows
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.segments import SegmentEntry

__all__ = ["FileReport", "ChainReport", "verify_file", "verify_files", "verify_log"]

_ID_BYTES = 16
_PAGE = 1_000
_BEFORE_ALL = -(1 << 62)


@dataclass(frozen=True, slots=True)
class FileReport:
    """What was found in one database.

    Attributes
    ----------
    file : its name
    is_live : whether a worker writes to it
    rows, commits : in the chain, up to the first problem
    answers : given in those rows; a bulk call is one row
    head : of the chain after them, 32 bytes
    erased : numbers of the rows whose subject was erased
    segments : names of the files of bulk calls
    row : number of the first row that is not as it was stored, None where the problem is of the file
    problem : what is wrong, "" where nothing is
    kind : of the problem
    is_unreadable : whether it could not be read to its end
    key : id of the key that makes its chain, "" where none does
    """

    file: str
    is_live: bool = False
    rows: int = 0
    commits: int = 0
    answers: int = 0
    head: bytes = b""
    erased: tuple[int, ...] = ()
    segments: tuple[str, ...] = ()
    row: int | None = None
    problem: str = ""
    kind: FindingKind = "row"
    is_unreadable: bool = False
    key: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether everything is as it was stored."""
        return not self.problem


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What was found in the log.

    Attributes
    ----------
    files : one report each
    missing : names of files that the journal knows, that were not pruned, and that are not there
    orphans : files of bulk calls that no row names; a worker that was killed may have left them
    others : what is wrong beside single files and missing ones
    """

    files: tuple[FileReport, ...]
    missing: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    others: tuple[ChainFinding, ...] = ()

    @property
    def findings(self) -> tuple[ChainFinding, ...]:
        """Everything that is not as it was written."""
        of_files = [ChainFinding(r.kind, r.file, r.problem, r.row) for r in self.files if not r.is_sound]
        gone = [ChainFinding("missing", name, "is missing, and was not pruned") for name in self.missing]
        return (*of_files, *gone, *self.others)

    @property
    def is_readable(self) -> bool:
        """Whether every file could be read to its end."""
        return not any(report.is_unreadable for report in self.files)

    @property
    def is_sound(self) -> bool:
        """Whether everything is there and as it was stored."""
        return not self.findings


def verify_log(
    settings: Settings,
    day: str | None = None,
    step: Callable[[float], None] = lambda _share: None,
    *,
    heads: Path | None = None,
    with_key: bool = True,
) -> ChainReport:
    """Verify all files of the configured model's log, those that workers write to as well, and its labels.

    Parameters
    ----------
    day : only of that day, as ``2026-11-24``; labels are left out
    step : told of progress; shares add up to one
    heads : file with lines of the service's own log, for the heads published there
    with_key : check what the log's key has made; otherwise that is taken as it is

    Raises
    ------
    LogDamaged, ArtefactError, ConfigError, DataError
        The journal, a pending erasure, the log's key or the file of heads cannot be read.
    """
    records = LogRecords(settings, with_key=with_key)
    files = [file for file in records.place.files() if day in {None, file.day}]
    report = verify_files(records, files, day, step)
    marks = read_marks(records)
    others = [ChainFinding("journal", "journal.jsonl", problem) for problem in marks.problems]
    forged = "no signed entry of the journal asks for it: it is ignored"
    others += [ChainFinding("erasure", f"erasures/{name}", forged) for name in forged_erasures(records)]
    if day is None:
        others += check_labels(open_label_tables(settings, settings.model_name), records, marks.labels_erased)
    if heads is not None:
        others += check_heads(heads, settings, records, marks)
    return replace(report, others=(*report.others, *others))


def verify_files(
    records: LogRecords, files: Sequence[LogFile], day: str | None, step: Callable[[float], None]
) -> ChainReport:
    """Verify these files, which are all of the log, or all of one day, and the days that were sealed."""
    heads = read_marks(records).heads
    keys = records.keys.all() if records.with_key else {}
    reports = []
    for file in files:
        reports.append(verify_file(file, heads.get(file.name, {}), keys, records.place, with_key=records.with_key))
        step(1.0 / len(files))
    pending = pending_erasures(records)
    asked = {file: {row for e in pending for row in e.rows_in(file)} for file in (r.file for r in reports if r.erased)}
    marks = read_marks(records)  # once more, and last: what was pruned or erased meanwhile is told by one of them
    there = {file.name for file in records.place.files()}
    reports = [r for r in reports if r.file in marks.heads or r.file in there]
    names = {report.file for report in reports}
    missing = sorted(name for name in marks.heads if name not in names and (day is None or f"-{day}-" in name))
    reports = [_held_against(r, asked.get(r.file, set()) | marks.erased.get(r.file, set())) for r in reports]
    if keys or marks.marks:
        reports = [_vouched_for(report, marks.adopted) for report in reports]
    orphans = tuple(_orphans(records.place, reports, day))
    erasing = {name for erasure in pending for name in erasure.request.files}
    others = [
        finding
        for name, closed in marks.closed.items()
        if day in {None, name}
        for finding in check_closed_day(
            _with_copy(LogDay(name, records.folder, records.place)), closed, _ends(reports), orphans, erasing
        )
    ]
    return ChainReport(tuple(reports), tuple(missing), orphans, tuple(others))


def verify_file(
    file: LogFile,
    heads: Mapping[int, str],
    keys: Mapping[str, LogKey],
    place: LogPlace | None = None,
    *,
    with_key: bool = True,
) -> FileReport:
    """Walk one file's chain in one consistent view of it.

    Parameters
    ----------
    heads : that must be found (hex), by the number of the row each follows
    keys : of the log, by their ids
    place : where its rows lie; None for its own folder
    with_key : check heads that a key has made
    """
    place = FolderPlace(file.folder) if place is None else place
    walk = _Walk(file, heads, keys, with_key, place)
    live = place.is_live(file)
    try:
        with place.snapshot(file) as rows:
            walk.through(rows)
        return walk.report(live)
    except _Broken as broken:
        return replace(walk.report(live), row=broken.row, problem=broken.problem, kind=broken.kind)
    except (TypeError, ValueError, LookupError, AttributeError, struct.error):  # the table was made anew
        return replace(walk.report(live), row=walk.rows + 1, problem="it has not the form of a row")
    except (sqlite3.Error, LogDamaged, OSError) as error:
        row = walk.rows + 1 if walk.rows else None
        problem = f"cannot be read: {error}"
        return replace(walk.report(live), row=row, problem=problem, kind="file", is_unreadable=True)


class _Broken(Exception):
    """The first thing that is not as it was stored."""

    def __init__(self, row: int | None, problem: str, kind: FindingKind = "row") -> None:
        self.row = row
        self.problem = problem
        self.kind = kind


@dataclass(slots=True)
class _Walk:
    """How far the chain of one file holds."""

    file: LogFile
    heads: Mapping[int, str]
    keys: Mapping[str, LogKey]
    with_key: bool
    place: LogPlace
    key_id: str = ""
    key: LogKey | None = None
    rows: int = 0
    commits: int = 0
    answers: int = 0
    head: bytes = b""
    erased: list[int] = field(default_factory=list)
    segments: list[str] = field(default_factory=list)
    _digests: list[bytes] = field(default_factory=list)

    def report(self, live: bool) -> FileReport:  # noqa: FBT001 - the only thing it does not know
        """What was found so far."""
        return FileReport(
            self.file.name, live, self.rows, self.commits, self.answers, self.head, tuple(self.erased),
            tuple(self.segments), key=self.key_id,
        )  # fmt: skip

    def through(self, connection: LogRows) -> None:
        """Walk to the end, or to the first problem."""
        self.key_id = key_of(connection)
        self.key = self.keys.get(self.key_id)
        if self.key_id and self.key is None and self.with_key:
            raise _Broken(None, f"it is chained with the key {self.key_id}, which is not here", "key")
        self.head = self._genesis(connection)
        lineages = _lineages(connection)
        for row in _rows(connection):
            self._take(dict(row), lineages)
        if self._digests:
            raise _Broken(self.rows, "the last row does not end a commit")
        for rows, head in self.heads.items():
            if rows > self.rows:
                raise _Broken(self.rows + 1, f"the end is cut off: it had {rows} rows when its day was sealed")
            if rows == 0 and head != self._genesis(connection).hex():
                raise _Broken(None, "it is not the file that was sealed", "file")
        self._check_file(connection)

    @property
    def _is_taken_as_it_is(self) -> bool:
        """Whether the chain was made with a key that is not to be used."""
        return bool(self.key_id) and self.key is None

    def _genesis(self, connection: LogRows) -> bytes:
        if self._is_taken_as_it_is:
            found = connection.execute("SELECT value FROM fact WHERE name = 'genesis'").fetchone()
            return b"" if found is None else bytes.fromhex(found["value"])
        return genesis_head(self.file, self.key)

    def _take(self, row: Mapping[str, Any], lineages: Mapping[int, bytes]) -> None:
        seq = row["seq"]
        if seq != self.rows + 1:
            raise _Broken(self.rows + 1, f"the row is missing: the next one is {seq}")
        lineage = lineages.get(row["lineage"])
        if lineage is None:
            raise _Broken(seq, "what the file says of its lineage is not what was stored")
        if row["answer"] == ERASED:
            self._take_erased(row)
        elif not _has_its_form(row) or stored_digest(row, lineage) != row["digest"]:
            raise _Broken(seq, "it is not what was stored: its digest is another")
        else:
            self.answers += self._answers(row)
        self._digests.append(row["digest"])
        if row["head"] is not None:
            self._end_commit(seq, row["head"])
        elif seq in self.heads:
            raise _Broken(seq, "a commit ended here when its day was sealed, and does no more")
        self.rows = seq

    def _take_erased(self, row: Mapping[str, Any]) -> None:
        if fields.LAYOUT.not_erased(row) or row["kind"]:
            raise _Broken(row["seq"], "its answer is gone, and it is no row whose subject was erased")
        self.erased.append(row["seq"])

    def _answers(self, row: Mapping[str, Any]) -> int:
        """How many answers a row stands for; a bulk call's file is checked on the way."""
        if not row["kind"]:
            if row["answer"].startswith(b'{"segment":'):
                raise _Broken(row["seq"], "it names a bulk call, and says it were an answer")
            return 1
        try:
            entry = SegmentEntry(**orjson.loads(row["answer"]))
        except (TypeError, ValueError) as error:
            raise _Broken(row["seq"], "it is an answer, and says it were a bulk call") from error
        self.place.fetch(entry.segment)
        problem = _segment_problem(self.file.folder / entry.segment, entry.sha256)
        if problem:
            raise _Broken(row["seq"], f"{entry.segment} {problem}")
        self.segments.append(entry.segment)
        return entry.rows

    def _end_commit(self, seq: int, head: bytes) -> None:
        self.head = head if self._is_taken_as_it_is else next_head(self.head, self._digests, self.key)
        if self.head != head:
            first = seq - len(self._digests) + 1
            problem = f"the chain breaks: rows {first} to {seq} are not those that were stored together here"
            raise _Broken(seq, problem, "chain")
        if self.heads.get(seq, head.hex()) != head.hex():
            problem = "the chain is whole, but not the one that was sealed: the file was replaced"
            raise _Broken(seq, problem, "chain")
        self.commits += 1
        self._digests.clear()

    def _check_file(self, connection: LogRows) -> None:
        genesis = connection.execute("SELECT value FROM fact WHERE name = 'genesis'").fetchone()
        if genesis is None and self.rows == 0:
            return  # only just begun
        if genesis is None or genesis["value"] != self._genesis(connection).hex():
            raise _Broken(None, "it was begun as another file", "file")
        if found := self.place.damage(self.file, connection):
            raise _Broken(None, found, "file")


def _rows(connection: LogRows) -> Iterator[Any]:
    """All rows in their order, a page at a time: a file may be larger than the memory."""
    page: list[Any] = []
    seq = _BEFORE_ALL
    while not page or len(page) == _PAGE:
        query = "SELECT * FROM entry WHERE seq > ? ORDER BY seq LIMIT ?"
        page = connection.execute(query, (seq, _PAGE)).fetchall()
        yield from page
        if not page:
            return
        seq = page[-1]["seq"]


def _lineages(connection: LogRows) -> dict[int, bytes]:
    """Digest of each lineage by its number, of those that are as they were stored."""
    rows = connection.execute("SELECT id, digest, facts FROM lineage")
    return {row["id"]: row["digest"] for row in rows if hashlib.sha256(row["facts"]).digest() == row["digest"]}


def _has_its_form(row: Mapping[str, Any]) -> bool:
    """Whether a row's fields have the lengths that its digest takes for granted."""
    return len(row["request_id"]) == _ID_BYTES and len(row["salt"]) == SALT_BYTES and row["input"] != b""


def _segment_problem(path: Path, sha256: str) -> str:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "is missing"
    return "" if found == sha256 else "is not the file that was written"


def _held_against(report: FileReport, asked: AbstractSet[int]) -> FileReport:
    """The report, and whether somebody asked for the rows in it that are erased."""
    unasked = [row for row in report.erased if row not in asked]
    if not unasked or (report.row is not None and report.row <= unasked[0]):
        return report
    problem = "it is erased, and neither journal nor a pending request says so"
    return replace(report, row=unasked[0], problem=problem, kind="erasure")


def _vouched_for(report: FileReport, adopted: Mapping[str, tuple[int, str]]) -> FileReport:
    """The report, and whether a file without a key is as it was when the key came."""
    if report.key or not report.rows or report.problem or adopted.get(report.file) == (report.rows, report.head.hex()):
        return report
    was = adopted.get(report.file)
    if was is None:
        problem = "it has no key, and was not there when the log got one: `surety log adopt` vouches for what is yours"
    else:
        problem = f"it has no key, and is not as it was when the log got one, with {was[0]} rows"
    return replace(report, problem=problem, kind="unkeyed")


def _with_copy(day: LogDay) -> LogDay:
    day.place.fetch(day.sealed_name)
    return day


def _ends(reports: Sequence[FileReport]) -> dict[str, int]:
    """Number of rows of each file."""
    return {report.file: report.rows for report in reports}


def _orphans(place: LogPlace, reports: Sequence[FileReport], day: str | None) -> Iterator[str]:
    """Files of bulk calls that no row names; of days of which every file could be read to its end."""
    named = {segment for report in reports for segment in report.segments}
    for log_day in log_days(place):
        if day in {None, log_day.name}:
            place.fetch(f"bulk/{log_day.name}/")
        broken = any(f"-{log_day.name}-" in report.file and report.problem for report in reports)
        if day in {None, log_day.name} and not broken:
            paths = (path.relative_to(place.folder).as_posix() for path in sorted(log_day.bulk.glob("*.arrow")))
            unnamed = [name for name in paths if name not in named]
            late = named_later(log_day) if unnamed and day is not None else frozenset()
            yield from (name for name in unnamed if name not in late)
