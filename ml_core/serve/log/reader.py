"""Reads the log: one answer by its id, or answers in the order of time, over all files."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from ml_core.base.clock import microseconds, moment_of
from ml_core.base.errors import LogDamaged
from ml_core.serve.log.database import ENTRIES, reading
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.log_files import LATE_DAYS, LogFile, day_of, log_files
from ml_core.serve.log.logged_answers import (
    ErasedAnswer,
    LoggedAnswer,
    answer_in,
    answers_in_segment,
    entry_of,
)
from ml_core.serve.log.segments import Segment, read_segment

__all__ = ["FOR_EVER", "Cursor", "PredictionLog"]

_CHUNK = 500
_PAGE = 1_000
_DAY_S = 86_400
FOR_EVER = 1 << 62
"""A time in microseconds that no answer reaches."""
_NOT_ERASED = "e.answer != x''"
_GIVEN = "SELECT count(*), min(at_us) FROM entry WHERE kind = 0 AND at_us >= ? AND at_us < ? AND answer != x''"

Cursor = dict[str, int]
"""Number of the last row seen, by file name."""


class PredictionLog:
    """All files of a model name's log, read-only; also while workers write.

    Parameters
    ----------
    folder : ``Settings.log``
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def files(self) -> list[LogFile]:
        """The databases, oldest first."""
        return log_files(self._folder)

    def known(self, ids: Collection[bytes]) -> set[bytes]:
        """Those of these ids (16 bytes each) that an answer was given under, erased ones too.

        Raises
        ------
        LogDamaged
            Some are not in the files that can be read, and some files cannot.
        """
        found: dict[bytes, bool] = {}

        def look(connection: sqlite3.Connection, file: LogFile, wanted: set[bytes]) -> None:
            query = "SELECT e.request_id FROM entry e"
            found.update((bytes(row[0]), True) for row in _by_id(connection, query, wanted))
            for _, segment in self._segments_of(connection, file, wanted - found.keys()):
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

    def find_many(self, ids: Collection[bytes]) -> dict[bytes, LoggedAnswer | ErasedAnswer]:
        """The answers of these ids (16 bytes each), by id; ids of no answer are left out.

        Raises
        ------
        LogDamaged
            As :meth:`find`.
        """
        found: dict[bytes, LoggedAnswer | ErasedAnswer] = {}

        def look(connection: sqlite3.Connection, file: LogFile, wanted: set[bytes]) -> None:
            found.update(
                (bytes(row["request_id"]), answer_in(row, file)) for row in _by_id(connection, ENTRIES, wanted)
            )
            for row, segment in self._segments_of(connection, file, wanted - found.keys()):
                places = _positions(segment, wanted)
                found.update(zip(places, answers_in_segment(segment, row, file, list(places.values())), strict=True))

        self._search(ids, found, look)
        return found

    def by_client_request_id(self, text: str) -> list[LoggedAnswer]:
        """Answers that the caller named so, oldest first."""
        found = self._matching("e.client_request_id = :value", text)
        return sorted(found, key=lambda answer: answer.at)

    def ids_of_clients(self, texts: Sequence[str]) -> dict[str, list[bytes]]:
        """Ids of the answers that callers named so, by that name, oldest first; names of none are left out."""
        found: dict[str, list[bytes]] = {}
        for file in self.files():
            with reading(file) as connection:
                for start in range(0, len(texts), _CHUNK):
                    part = texts[start : start + _CHUNK]
                    marks = ",".join("?" * len(part))
                    query = f"SELECT client_request_id, request_id FROM entry WHERE client_request_id IN ({marks})"  # noqa: S608 - marks
                    for text, raw in connection.execute(f"{query} ORDER BY seq", part):
                        found.setdefault(text, []).append(bytes(raw))
        return found

    def first_of_clients(self, texts: Collection[str]) -> dict[str, bytes]:
        """Id of the first answer that callers named so, by that name; names of none are left out.

        Files that cannot be read are passed over.
        """
        first: dict[str, tuple[int, bytes]] = {}
        wanted = sorted(texts)
        for file in self.files() if wanted else []:
            with suppress(LogDamaged), reading(file) as connection:
                for start in range(0, len(wanted), _CHUNK):
                    part = wanted[start : start + _CHUNK]
                    marks = ",".join("?" * len(part))
                    query = (
                        f"SELECT client_request_id, at_us, request_id FROM entry WHERE client_request_id IN ({marks})"  # noqa: S608 - marks
                    )
                    for text, at_us, raw in connection.execute(query, part):
                        given = (at_us, bytes(raw))
                        first[text] = min(first.get(text, given), given)
        return {text: raw for text, (_, raw) in first.items()}

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
        marks = ",".join("?" * len(pseudonyms))
        found: list[bytes] = []
        for file in self.files():
            with reading(file) as connection:
                query = f"SELECT request_id FROM entry WHERE subject IN ({marks}) ORDER BY seq"  # noqa: S608 - marks
                found += [bytes(row[0]) for row in connection.execute(query, list(pseudonyms))]
        return found

    def of_batch(self, batch_id: str) -> list[LoggedAnswer]:
        """Answers of a batch or bulk call, in its order."""
        found = self._matching("e.batch_id = :value OR (e.request_id = :value AND e.kind = 1)", id_bytes(batch_id))
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
                yield from self._read(file, "e.at_us >= :low AND e.at_us < :high", {"low": low, "high": high})

    def of_file(self, file: LogFile) -> Iterator[tuple[LoggedAnswer, bytes]]:
        """Answers of one database in the order of being stored, each with the digest of its row.

        Raises
        ------
        LogDamaged
            The file cannot be read.
        """
        for row in self._stored(file, "1", {}):
            for answer in self._answers(row, file):
                yield answer, row["digest"]

    def given(self, file: LogFile, since: datetime, until: datetime) -> tuple[int, datetime | None]:
        """How many answers of a database were given from ``since`` to before ``until``, and when the first of them.

        Erased ones are left out, and nothing of an answer but its time is read.

        Raises
        ------
        LogDamaged
            The file cannot be read.
        """
        values = (microseconds(since), microseconds(until))
        with reading(file) as connection:
            single, first = connection.execute(_GIVEN, values).fetchone()
            bulk = connection.execute(f"{ENTRIES} WHERE e.kind = 1 AND e.at_us >= ? AND e.at_us < ?", values).fetchall()
        entries = [entry for row in bulk if (entry := entry_of(row, file)) is not None]
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
        with reading(file) as connection:
            query = f"SELECT request_id, client_request_id FROM entry WHERE kind = 0 AND {within}"  # noqa: S608 - text of ours
            found = [(bytes(raw), client) for raw, client in connection.execute(query, values)]
            bulk = connection.execute(f"{ENTRIES} WHERE e.kind = 1 AND e.at_us >= ? AND e.at_us < ?", values).fetchall()
        entries = [entry for row in bulk if (entry := entry_of(row, file)) is not None]
        return found + [(raw, None) for entry in entries for raw in _ids_in(read_segment(self._folder, entry))]

    def bulk_calls(self, file: LogFile) -> list[int]:
        """How many answers each bulk call of a database has.

        Raises
        ------
        LogDamaged
            The file cannot be read.
        """
        with reading(file) as connection:
            bulk = connection.execute(f"{ENTRIES} WHERE e.kind = 1").fetchall()
        return [entry.rows for row in bulk if (entry := entry_of(row, file)) is not None]

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
        now = {name: seq for name, seq in cursor.items() if (self._folder / name).exists()}
        last = day_of(until_us + _DAY_S * 1_000_000) if until_us < FOR_EVER else "9999-99-99"
        for file in self.files():
            if file.path.name in without or file.day > last:
                continue
            name, query = file.path.name, f"{ENTRIES} WHERE e.seq > ? AND {_NOT_ERASED} ORDER BY e.seq LIMIT ?"
            with reading(file) as connection:
                stored = connection.execute(query, (now.get(name, 0), max(0, limit - len(found))))
                rows = list(takewhile(lambda row: row["at_us"] <= until_us, stored))
            for row in rows:
                if len(found) >= limit:
                    return found, now
                found += self._answers(row, file)
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
            with reading(file) as connection:
                rows = connection.execute(f"{ENTRIES} WHERE {_NOT_ERASED} ORDER BY e.seq DESC LIMIT ?", (n,)).fetchall()
            newest: list[LoggedAnswer] = []
            for row in rows:
                if len(newest) >= n:
                    break
                newest[:0] = self._answers(row, file)
            found = sorted(newest + found, key=lambda answer: answer.at)[-n:]
        return found

    def _search(
        self,
        ids: Collection[bytes],
        found: Mapping[bytes, Any],
        look: Callable[[sqlite3.Connection, LogFile, set[bytes]], None],
    ) -> None:
        """Look for ids in the files of their days and the neighbours, then in all (a clock may have jumped).

        A file that cannot be read matters only to ids that are not found elsewhere.
        """
        near: dict[str, set[bytes]] = {}
        for raw in ids:
            for day in _days_around(int.from_bytes(raw[:6], "big") // (1_000 * _DAY_S)):
                near.setdefault(day, set()).add(raw)
        problem: LogDamaged | None = None
        files = self.files()
        for file, wanted in _likely_first(files, set(ids), near):
            left = wanted.difference(found)
            if not left:
                continue
            try:
                with reading(file) as connection:
                    look(connection, file, left)
            except LogDamaged as error:
                problem = problem or error
        if problem is not None and not set(ids) <= found.keys():
            raise problem

    def _segments_of(
        self, connection: sqlite3.Connection, file: LogFile, ids: Collection[bytes]
    ) -> Iterator[tuple[sqlite3.Row, Segment]]:
        """Segments that may hold these ids, by the times in them."""
        if not ids:
            return
        times = sorted({int.from_bytes(raw[:6], "big") for raw in ids})
        for row in connection.execute(f"{ENTRIES} WHERE e.kind = 1").fetchall():
            entry = entry_of(row, file)
            if entry is None:
                continue
            first = bisect_left(times, entry.first_ms)
            if first < len(times) and times[first] <= entry.last_ms:
                yield row, read_segment(self._folder, entry)

    def _matching(self, where: str, value: Any) -> list[LoggedAnswer]:
        return [answer for file in self.files() for answer in self._read(file, where, {"value": value})]

    def _read(self, file: LogFile, where: str, values: Mapping[str, Any]) -> Iterator[LoggedAnswer]:
        """Answers of a file in the order of being stored."""
        for row in self._stored(file, where, values):
            yield from self._answers(row, file)

    def _stored(self, file: LogFile, where: str, values: Mapping[str, Any]) -> Iterator[sqlite3.Row]:
        """Entries of a file in their order, erased ones left out.

        A page at a time, so that a slow caller does not keep the worker from emptying its WAL file.
        """
        query = f"{ENTRIES} WHERE ({where}) AND e.seq > :seq AND {_NOT_ERASED} ORDER BY e.seq LIMIT {_PAGE}"
        seq = 0
        with reading(file) as connection:
            while rows := connection.execute(query, {**values, "seq": seq}).fetchall():
                yield from rows
                seq = rows[-1]["seq"]

    def _answers(self, row: sqlite3.Row, file: LogFile) -> Iterable[LoggedAnswer]:
        """The answers of one entry: one, those of a segment, or none where it was erased."""
        entry = entry_of(row, file)
        if entry is not None:
            segment = read_segment(self._folder, entry)
            places = range(len(segment))  # some at a time: inputs as Python objects take many times their bytes
            parts = (places[start : start + _PAGE] for start in range(0, len(places), _PAGE))
            return chain.from_iterable(answers_in_segment(segment, row, file, part) for part in parts)
        answer = answer_in(row, file)
        return [answer] if isinstance(answer, LoggedAnswer) else []


def _likely_first(
    files: Sequence[LogFile], ids: set[bytes], near: Mapping[str, set[bytes]]
) -> Iterator[tuple[LogFile, set[bytes]]]:
    """Files with the ids that may lie in them: first those of the days in the ids, then the others."""
    for file in files:
        if file.day in near:
            yield file, near[file.day]
    for file in files:
        yield file, ids - near.get(file.day, set())


@lru_cache(maxsize=4_096)
def _days_around(day: int) -> tuple[str, ...]:
    """A day since 1970 and its neighbours; none where no id can be of that day."""
    if not 0 < day < 200_000:
        return ()
    return tuple(day_of(near * _DAY_S * 1_000_000) for near in (day - 1, day, day + 1))


def _by_id(connection: sqlite3.Connection, query: str, ids: Collection[bytes]) -> Iterator[sqlite3.Row]:
    ordered = sorted(ids)
    for start in range(0, len(ordered), _CHUNK):
        part = ordered[start : start + _CHUNK]
        marks = ",".join("?" * len(part))
        yield from connection.execute(f"{query} WHERE e.kind = 0 AND e.request_id IN ({marks})", part)


def _ids_in(segment: Segment) -> set[bytes]:
    return {raw.tobytes() for raw in segment.ids}


def _positions(segment: Segment, ids: Collection[bytes]) -> dict[bytes, int]:
    return {raw: n for n, raw in enumerate(row.tobytes() for row in segment.ids) if raw in ids}
