"""Reads the log: one answer by its id, or answers in the order of time, over all files."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ml_core.base.clock import microseconds, moment_of
from ml_core.base.errors import LogDamaged
from ml_core.base.settings import Settings
from ml_core.serve.log.database import ENTRIES
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.log_files import LATE_DAYS, LogFile, day_of
from ml_core.serve.log.log_places import FolderPlace, LogPart, LogPlace, LogRows, place_of
from ml_core.serve.log.logged_answers import (
    ErasedAnswer,
    LoggedAnswer,
    answer_in,
    answers_in_segment,
    entry_of,
)
from ml_core.serve.log.segments import Segment, SegmentEntry, read_segment

__all__ = ["FOR_EVER", "AnswerGist", "Cursor", "PredictionLog"]

_CHUNK = 500
_PAGE = 1_000
_DAY_S = 86_400
_FEW_DAYS = 6
FOR_EVER = 1 << 62
"""A time in microseconds that no answer reaches."""
_NOT_ERASED = "e.answer != x''"
_GIVEN = "SELECT count(*), min(at_us) FROM entry WHERE kind = 0 AND at_us >= ? AND at_us < ? AND answer != x''"

_GIST = "SELECT seq, kind, at_us, answer, lineage FROM entry WHERE seq > ? ORDER BY seq"
_GISTS = 5_000


class AnswerGist(NamedTuple):
    """What is counted of an answer.

    Attributes
    ----------
    at_us : when it was given, microseconds since 1970
    lineage, probabilities, reason : as in ``LoggedAnswer``
    set_size : labels in its set
    """

    at_us: int
    lineage: Mapping[str, Any]
    probabilities: Sequence[float]
    set_size: int
    reason: str | None


Cursor = dict[str, int]
"""Number of the last row seen, by file name."""


class PredictionLog:
    """All files of a model name's log, read-only; also while workers write.

    Parameters
    ----------
    place : where it lies; a folder is one with SQLite files, as ``Settings.log``
    """

    def __init__(self, place: LogPlace | Path) -> None:
        self._place: LogPlace = FolderPlace(place) if isinstance(place, Path) else place
        self._folder = self._place.folder

    @classmethod
    def of(cls, settings: Settings) -> PredictionLog:
        """The log of the configured model, wherever it lies."""
        return cls(place_of(settings))

    def files(self) -> list[LogFile]:
        """The files, oldest first."""
        return self._place.files()

    def known(self, ids: Collection[bytes]) -> set[bytes]:
        """Those of these ids (16 bytes each) that an answer was given under, erased ones too.

        Raises
        ------
        LogDamaged
            Some are not in the files that can be read, and some files cannot.
        """
        found: dict[bytes, bool] = {}

        def look(rows: LogRows, part: LogPart, wanted: set[bytes]) -> None:
            query = "SELECT e.request_id FROM entry e"
            found.update((bytes(row[0]), True) for row in _by_id(rows, query, wanted))
            for _, segment in self._segments_of(rows, part, wanted - found.keys()):
                found.update(dict.fromkeys(wanted & _ids_in(segment), True))

        self._search(ids, found, look)
        return set(found)

    def find(self, request_id: str) -> LoggedAnswer | ErasedAnswer | None:
        """The answer of that id, what is left of it, or None where no answer has it.

        Raises
        ------
        ValueError
            No id.
        LogDamaged
            It is not in the files that can be read, and some cannot.
        """
        raw = id_bytes(request_id)
        return self.find_many([raw]).get(raw)

    def find_many(self, ids: Collection[bytes], *, everywhere: bool = True) -> dict[bytes, LoggedAnswer | ErasedAnswer]:
        """The answers of these ids (16 bytes each), by id; ids of no answer are left out.

        Parameters
        ----------
        everywhere : look also in files of other days than the ids name, for answers of a clock that had jumped

        Raises
        ------
        LogDamaged
            As :meth:`find`.
        """
        found: dict[bytes, LoggedAnswer | ErasedAnswer] = {}

        def look(rows: LogRows, part: LogPart, wanted: set[bytes]) -> None:
            found.update(
                (bytes(row["request_id"]), answer_in(row, part.file_of(row))) for row in _by_id(rows, ENTRIES, wanted)
            )
            for row, segment in self._segments_of(rows, part, wanted - found.keys()):
                places, name = _positions(segment, wanted), part.file_of(row)
                found.update(zip(places, answers_in_segment(segment, row, name, list(places.values())), strict=True))

        self._search(ids, found, look, everywhere=everywhere)
        return found

    def by_client_request_id(self, text: str) -> list[LoggedAnswer]:
        """Answers that the caller named so, oldest first."""
        found = self._matching(self._place.parts(), "e.client_request_id = ?", (text,))
        return sorted(found, key=lambda answer: answer.at)

    def ids_of_clients(self, texts: Sequence[str]) -> dict[str, list[bytes]]:
        """Ids of the answers that callers named so, by that name, oldest first; names of none are left out."""
        found: dict[str, list[tuple[int, int, bytes]]] = {}
        for part in self._place.parts():
            with part.reading() as rows:
                for start in range(0, len(texts), _CHUNK):
                    some = texts[start : start + _CHUNK]
                    within = _among("client_request_id", some)
                    query = f"SELECT client_request_id, at_us, seq, request_id FROM entry WHERE {within}"  # noqa: S608 - marks
                    for text, at_us, seq, raw in rows.execute(query, some):
                        found.setdefault(text, []).append((at_us, seq, bytes(raw)))
        return {text: [raw for _, _, raw in sorted(given)] for text, given in found.items()}

    def first_of_clients(self, texts: Collection[str]) -> dict[str, bytes]:
        """Id of the first answer that callers named so, by that name; names of none are left out.

        Files that cannot be read are passed over.
        """
        return self._place.first_of_clients(texts)

    def repeats(self, answers: Sequence[LoggedAnswer]) -> set[str]:
        """Request ids of those answers that are not the first of their ``client_request_id``.

        A caller that got no reply sends the request again under the same name. Only the first answer counts.
        """
        first = self.first_of_clients({a.client_request_id for a in answers if a.client_request_id is not None})
        return {
            a.request_id
            for a in answers
            if a.client_request_id in first and first[a.client_request_id] != id_bytes(a.request_id)
        }

    def ids_of_subjects(self, pseudonyms: Sequence[bytes]) -> list[bytes]:
        """Ids of the answers about any of these pseudonyms, erased ones left out."""
        found: list[bytes] = []
        for part in self._place.parts():
            with part.reading() as rows:
                query = f"SELECT request_id FROM entry WHERE {_among('subject', pseudonyms)} ORDER BY seq"  # noqa: S608 - marks
                found += [bytes(row[0]) for row in rows.execute(query, list(pseudonyms))]
        return found

    def of_batch(self, batch_id: str) -> list[LoggedAnswer]:
        """Answers of a batch or bulk call, in its order."""
        raw = id_bytes(batch_id)
        days = _days_around(int.from_bytes(raw[:6], "big") // (1_000 * _DAY_S), LATE_DAYS)
        where, values = "(e.batch_id = ? OR (e.request_id = ? AND e.kind = 1))", (raw, raw)
        found = self._matching(self._place.parts(days), where, values)
        found = found or self._matching(self._place.parts(), where, values)
        return sorted(found, key=lambda answer: answer.batch_index or 0)

    def rows(self, since: datetime | None = None, until: datetime | None = None) -> Iterator[LoggedAnswer]:
        """Answers from ``since`` to before ``until``, file after file, each in the order of being stored.

        Erased ones are left out.

        Raises
        ------
        LogDamaged
            A file cannot be read.
        """
        low = 0 if since is None else microseconds(since)
        high = FOR_EVER if until is None else microseconds(until)
        first = "" if since is None else day_of(low - _DAY_S * 1_000_000)
        last = "9999-99-99" if until is None else day_of(high + LATE_DAYS * _DAY_S * 1_000_000)
        for file in self.files():
            if first <= file.day <= last:
                yield from self._read(file, "e.at_us >= ? AND e.at_us < ?", (low, high))

    def of_file(self, file: LogFile) -> Iterator[tuple[LoggedAnswer, bytes]]:
        """Answers of one database in the order of being stored, each with the digest of its row.

        Raises
        ------
        LogDamaged
            The file cannot be read.
        """
        for row in self.entries_of(file):
            for answer in self._answers(row, file.name):
                yield answer, row["digest"]

    def gists_of(self, file: LogFile) -> Iterator[AnswerGist]:
        """What is counted of the answers of one file, in the order of being stored; a third of what reading all costs.

        Raises
        ------
        LogDamaged
            The file cannot be read.
        """
        with self._place.reading(file) as rows:
            query = "SELECT id, facts FROM lineage WHERE id IN (SELECT DISTINCT lineage FROM entry)"
            lineages = {number: orjson.loads(facts) for number, facts in rows.execute(query)}
        seq = 0
        while True:
            with self._place.reading(file) as rows:
                page = rows.execute(f"{_GIST} LIMIT {_GISTS}", (seq,)).fetchall()
            for seq, kind, at_us, answer, lineage in page:
                try:
                    if kind:
                        yield from self._gists_in_segment(file, seq)
                    elif answer:
                        said = orjson.loads(answer)
                        facts = lineages.get(lineage) or self._lineage(file, lineage, lineages)
                        found = said["probabilities"], len(said["members"]), said["reason"]
                        yield AnswerGist(at_us, facts, *found)
                except (ValueError, LookupError, TypeError) as error:
                    problem = f"row {seq} is not what was stored; `surety log verify` tells more"
                    raise LogDamaged(file.name, problem) from error
            if len(page) < _GISTS:
                return

    def _gists_in_segment(self, file: LogFile, seq: int) -> Iterator[AnswerGist]:
        with self._place.reading(file) as rows:
            row = rows.execute(f"{ENTRIES} WHERE e.seq = ?", (seq,)).fetchone()
        for each in self._answers(row, file.name):
            yield AnswerGist(row["at_us"], each.lineage, each.probabilities, len(each.prediction_set), each.reason)

    def _lineage(self, file: LogFile, number: int, known: dict[int, Mapping[str, Any]]) -> Mapping[str, Any]:
        """One that came while the file was read."""
        with self._place.reading(file) as rows:
            found = rows.execute("SELECT facts FROM lineage WHERE id = ?", (number,)).fetchone()
        return known.setdefault(number, orjson.loads(found[0]))

    def entries_of(self, file: LogFile) -> Iterator[Any]:
        """Entries of one file that are not erased as they are stored, each with its lineage, in their order.

        Raises
        ------
        LogDamaged
            The file cannot be read.
        """
        return self._stored(file, "1 = 1", ())

    def given(self, file: LogFile, since: datetime, until: datetime) -> tuple[int, datetime | None]:
        """How many answers of a database were given from ``since`` to before ``until``, and when the first of them.

        Erased ones are left out, and nothing of an answer but its time is read.

        Raises
        ------
        LogDamaged
            The file cannot be read.
        """
        values = (microseconds(since), microseconds(until))
        with self._place.reading(file) as rows:
            single, first = rows.execute(_GIVEN, values).fetchone()
            bulk = rows.execute(f"{ENTRIES} WHERE e.kind = 1 AND e.at_us >= ? AND e.at_us < ?", values).fetchall()
        entries = [entry for row in bulk if (entry := entry_of(row, file.name)) is not None]
        times = [row["at_us"] for row in bulk] + ([] if first is None else [first])
        return single + sum(entry.rows for entry in entries), moment_of(min(times)) if times else None

    def ids_given(self, file: LogFile, since: datetime, until: datetime) -> list[tuple[bytes, str | None]]:
        """Id and ``client_request_id`` of the answers that :meth:`given` counts.

        Raises
        ------
        LogDamaged
            The file cannot be read.
        """
        values = (microseconds(since), microseconds(until))
        within = "at_us >= ? AND at_us < ? AND answer != x''"
        with self._place.reading(file) as rows:
            query = f"SELECT request_id, client_request_id FROM entry WHERE kind = 0 AND {within}"  # noqa: S608 - text of ours
            found = [(bytes(raw), client) for raw, client in rows.execute(query, values)]
            bulk = rows.execute(f"{ENTRIES} WHERE e.kind = 1 AND e.at_us >= ? AND e.at_us < ?", values).fetchall()
        entries = [entry for row in bulk if (entry := entry_of(row, file.name)) is not None]
        return found + [(raw, None) for entry in entries for raw in _ids_in(self._segment(entry))]

    def bulk_calls(self, file: LogFile) -> list[int]:
        """How many answers each bulk call of a database has.

        Raises
        ------
        LogDamaged
            The file cannot be read.
        """
        with self._place.reading(file) as rows:
            bulk = rows.execute(f"{ENTRIES} WHERE e.kind = 1").fetchall()
        return [entry.rows for row in bulk if (entry := entry_of(row, file.name)) is not None]

    def after(
        self, cursor: Cursor, limit: int, without: Collection[str] = (), until_us: int = FOR_EVER
    ) -> tuple[list[LoggedAnswer], Cursor]:
        """Up to about ``limit`` answers that a cursor has not seen, and the cursor after them.

        A bulk call comes as a whole. None are left once the cursor stays where it is.

        Parameters
        ----------
        without : names of files to pass over
        until_us : each file is read up to the first answer that was given later, microseconds since 1970

        Raises
        ------
        LogDamaged
            A file cannot be read.
        """
        found: list[LoggedAnswer] = []
        files = self.files()
        now = {name: seq for name, seq in cursor.items() if name in {file.name for file in files}}
        last = day_of(until_us + _DAY_S * 1_000_000) if until_us < FOR_EVER else "9999-99-99"
        wanted = [file for file in files if file.name not in without and file.day <= last]
        for file in self._place.grown(wanted, now):
            name, query = file.name, f"{ENTRIES} WHERE e.seq > ? AND {_NOT_ERASED} ORDER BY e.seq LIMIT ?"
            with self._place.reading(file) as rows:
                stored = rows.execute(query, (now.get(name, 0), max(0, limit - len(found))))
                new = list(takewhile(lambda row: row["at_us"] <= until_us, stored))
            for row in new:
                if len(found) >= limit:
                    return found, now
                found += self._answers(row, name)
                now[name] = int(row["seq"])
        return found, now

    def last(self, n: int) -> list[LoggedAnswer]:
        """The newest ``n`` answers, oldest of them first.

        Raises
        ------
        LogDamaged
            A file cannot be read.
        """
        found: list[LoggedAnswer] = []
        for file in reversed(self.files()):
            if n <= 0 or (len(found) == n and file.day < found[0].at.date().isoformat()):
                break
            with self._place.reading(file) as rows:
                stored = rows.execute(f"{ENTRIES} WHERE {_NOT_ERASED} ORDER BY e.seq DESC LIMIT ?", (n,)).fetchall()
            newest: list[LoggedAnswer] = []
            for row in stored:
                if len(newest) >= n:
                    break
                newest[:0] = self._answers(row, file.name)
            found = sorted(newest + found, key=lambda answer: answer.at)[-n:]
        return found

    def n_within(self, since: datetime | None, until: datetime | None) -> int:
        """How many answers a span of time holds, erased ones among them.

        Raises
        ------
        LogDamaged
            A file cannot be read.
        """
        low, high = 0 if since is None else microseconds(since), FOR_EVER if until is None else microseconds(until)
        first = "" if since is None else day_of(low - _DAY_S * 1_000_000)
        total, within = 0, "at_us >= ? AND at_us < ?"
        for file in self.files():
            if file.day >= first:
                with self._place.reading(file) as rows:
                    query = f"SELECT count(*) FROM entry WHERE kind = 0 AND {within}"  # noqa: S608 - text of ours
                    total += rows.execute(query, (low, high)).fetchone()[0]
                    bulk = rows.execute(f"{ENTRIES} WHERE e.kind = 1 AND {within}", (low, high))
                    total += sum(entry.rows for row in bulk if (entry := entry_of(row, file.name)) is not None)
        return total

    def _search(
        self,
        ids: Collection[bytes],
        found: Mapping[bytes, Any],
        look: Callable[[LogRows, LogPart, set[bytes]], None],
        *,
        everywhere: bool = True,
    ) -> None:
        """Look for ids in the files of their days and the neighbours, then in all (a clock may have jumped).

        A file that cannot be read matters only to ids that are not found elsewhere.
        """
        near: dict[str, set[bytes]] = {}
        for raw in ids:
            for day in _days_around(int.from_bytes(raw[:6], "big") // (1_000 * _DAY_S)):
                near.setdefault(day, set()).add(raw)
        problem: LogDamaged | None = None
        for part, wanted in self._likely_first(set(ids), near, found, everywhere=everywhere):
            left = wanted.difference(found)
            if not left:
                continue
            try:
                with part.reading() as rows:
                    look(rows, part, left)
            except LogDamaged as error:
                problem = problem or error
        if problem is not None and not set(ids) <= found.keys():
            raise problem

    def _likely_first(
        self, ids: set[bytes], near: Mapping[str, set[bytes]], found: Mapping[bytes, Any], *, everywhere: bool
    ) -> Iterator[tuple[LogPart, set[bytes]]]:
        """Parts with the ids that may lie in them: first those of the days in the ids, then all."""
        if 0 < len(near) <= _FEW_DAYS:  # at once, where a part may have several
            yield from ((part, near[part.day] if part.day else ids) for part in self._place.parts(near))
        else:
            for day in sorted(near):
                if near[day].difference(found):
                    yield from ((part, near[day]) for part in self._place.parts((day,)))
        rest = ids if everywhere else ids.difference(*near.values())  # whose ids name no day that can be
        if rest.difference(found):
            yield from ((part, rest) for part in self._place.parts())

    def _segments_of(self, rows: LogRows, part: LogPart, ids: Collection[bytes]) -> Iterator[tuple[Any, Segment]]:
        """Segments that may hold these ids, by the times in them."""
        if not ids:
            return
        times = sorted({int.from_bytes(raw[:6], "big") for raw in ids})
        for row in rows.execute(f"{ENTRIES} WHERE e.kind = 1").fetchall():
            entry = entry_of(row, part.file_of(row))
            if entry is None:
                continue
            first = bisect_left(times, entry.first_ms)
            if first < len(times) and times[first] <= entry.last_ms:
                yield row, self._segment(entry)

    def _segment(self, entry: SegmentEntry) -> Segment:
        self._place.fetch(entry.segment)
        return read_segment(self._folder, entry)

    def _matching(self, parts: Iterable[LogPart], where: str, values: Sequence[Any]) -> list[LoggedAnswer]:
        found: list[LoggedAnswer] = []
        for part in parts:
            with part.reading() as rows:
                stored = rows.execute(f"{ENTRIES} WHERE {where} AND {_NOT_ERASED} ORDER BY e.seq", values).fetchall()
            for row in stored:
                found += self._answers(row, part.file_of(row))
        return found

    def _read(self, file: LogFile, where: str, values: Sequence[Any]) -> Iterator[LoggedAnswer]:
        """Answers of a file in the order of being stored."""
        for row in self._stored(file, where, values):
            yield from self._answers(row, file.name)

    def _stored(self, file: LogFile, where: str, values: Sequence[Any]) -> Iterator[Any]:
        """Entries of a file in their order, erased ones left out.

        A page at a time, so that a slow caller keeps neither a worker from emptying its WAL file nor a connection.
        """
        query = f"{ENTRIES} WHERE {where} AND e.seq > ? AND {_NOT_ERASED} ORDER BY e.seq LIMIT {_PAGE}"
        stored: list[Any] = []
        while not stored or len(stored) == _PAGE:
            with self._place.reading(file) as rows:
                stored = rows.execute(query, (*values, stored[-1]["seq"] if stored else 0)).fetchall()
            yield from stored
            if not stored:
                return

    def _answers(self, row: Any, name: str) -> Iterable[LoggedAnswer]:
        """The answers of one entry: one, those of a segment, or none where it was erased."""
        entry = entry_of(row, name)
        if entry is not None:
            segment = self._segment(entry)
            places = range(len(segment))  # some at a time: inputs as Python objects take many times their bytes
            parts = (places[start : start + _PAGE] for start in range(0, len(places), _PAGE))
            return chain.from_iterable(answers_in_segment(segment, row, name, part) for part in parts)
        answer = answer_in(row, name)
        return [answer] if isinstance(answer, LoggedAnswer) else []


@lru_cache(maxsize=4_096)
def _days_around(day: int, late: int = 0) -> tuple[str, ...]:
    """A day since 1970 and its neighbours, and so many more later ones; none where no id can be of that day."""
    if not 0 < day < 200_000:
        return ()
    return tuple(day_of(near * _DAY_S * 1_000_000) for near in range(day - 1, day + 2 + late))


def _among(column: str, values: Sequence[Any]) -> str:
    """The condition that a column has one of these values."""
    return f"{column} IN ({','.join('?' * len(values))})" if values else "1 = 0"


def _by_id(rows: LogRows, query: str, ids: Collection[bytes]) -> Iterator[Any]:
    ordered = sorted(ids)
    for start in range(0, len(ordered), _CHUNK):
        part = ordered[start : start + _CHUNK]
        yield from rows.execute(f"{query} WHERE e.kind = 0 AND {_among('e.request_id', part)}", part)


def _ids_in(segment: Segment) -> set[bytes]:
    return {raw.tobytes() for raw in segment.ids}


def _positions(segment: Segment, ids: Collection[bytes]) -> dict[bytes, int]:
    return {raw: n for n, raw in enumerate(row.tobytes() for row in segment.ids) if raw in ids}
