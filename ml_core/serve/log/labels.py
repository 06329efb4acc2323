"""What turned out to be true of predictions: every label as it was received; the last one holds, none is rewritten.

Workers show how many labels commands have imported, since a command's own counters end with the command.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal, NamedTuple

from pydantic import Field

from ml_core.base.clock import moment_of, utc_now
from ml_core.base.documents import Document, parsed_document
from ml_core.base.errors import LabelsNotStored
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.table_stores import Failing, TableConnection, TableStore
from ml_core.serve.log.label_tables import (
    CHAIN_TABLE,
    LABEL_TABLE,
    blank_labels,
    chain_labels,
    label_text,
    label_value,
)
from ml_core.serve.log.log_keys import LogKey

__all__ = [
    "MOST_OF_ONE",
    "MOST_UNKNOWN",
    "AnswerLabel",
    "ImportedCounts",
    "LabelCounts",
    "LabelOutcome",
    "LabelStore",
    "StoredLabel",
    "add_imported",
    "due_at",
    "read_imported",
]

LabelOutcome = Literal["accepted", "conflict", "unknown"]

MOST_UNKNOWN = 100_000
"""So many labels of unknown ids are kept. The monitor drops the oldest; without one, further ones are refused."""
MOST_OF_ONE = 20
"""So many labels of one id are kept. Nobody corrects an outcome that often, and 0, 1, 0, 1 must not fill the disk."""
_RECOUNT_S = 3_600.0
_IDS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class AnswerLabel:
    """What turned out to be true of one prediction.

    Attributes
    ----------
    request_id : of the prediction, 16 bytes
    label : one of the model's labels
    observed_at : when it was seen to be true, UTC, not before 1970; None for when it is received
    """

    request_id: bytes
    label: int | str
    observed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredLabel:
    """One label as it was received.

    Attributes
    ----------
    seq : place in the order of receipt, from 1; a number is never given twice
    observed_at, received_at : UTC
    source : who sent it
    outcome : the first label of its prediction (accepted), the first while no such prediction was known (unknown), or
        another label than the one before (conflict)
    """

    seq: int
    request_id: bytes
    label: int | str
    observed_at: datetime
    received_at: datetime
    source: str
    outcome: LabelOutcome


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What became of labels; each is counted once.

    Attributes
    ----------
    accepted : first label of a known prediction
    duplicate : the same label as now; not stored again
    conflict : another label than now; stored, and the one that holds from here on
    unknown : first label of an id no prediction is known by; stored, and joined once the prediction turns up
    refused : as unknown, and not stored, because too many of them wait for their prediction
    over_limit : as conflict, and not stored, because the label of that id has changed too often; the one before holds
    """

    accepted: int = 0
    duplicate: int = 0
    conflict: int = 0
    unknown: int = 0
    refused: int = 0
    over_limit: int = 0

    def told(self) -> dict[str, int]:
        """The counts by name; those of labels that were not stored only where there were such."""
        return {name: n for name, n in asdict(self).items() if n or name not in {"refused", "over_limit"}}

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class LabelStore:
    """Keeps labels and their history; any number of processes may use one store at a time.

    The label stored last holds. One id has at most ``MOST_OF_ONE`` labels; what comes after them is counted and not
    stored. A correction is a new row, and whether a prediction is known is asked for the counts alone, so a label may
    come before its prediction.

    Parameters
    ----------
    tables : where they lie, see ``open_label_tables``
    known : those of some ids by which a prediction is known
    clock : the time of day
    key : gives the key that chains what is stored; None where labels are only read
    most_unknown : about how many labels are kept whose prediction is not known; several processes may add a call each
    """

    def __init__(
        self,
        tables: TableStore,
        known: Callable[[Sequence[bytes]], set[bytes]],
        *,
        key: Callable[[], LogKey] | None = None,
        clock: Callable[[], datetime] = utc_now,
        most_unknown: int = MOST_UNKNOWN,
    ) -> None:
        self._tables = tables
        self._known = known
        self._clock = clock
        self._key = key
        self._most_unknown = most_unknown
        self._unknown = (0, 0)  # number of the last label that was looked at, and unknown ones among those
        self._recount_at = 0.0

    def add(self, labels: Sequence[AnswerLabel], source: str) -> LabelCounts:
        """Store labels as if they were sent one after another, all of them or, where that fails, none.

        To send the same again changes no label that holds, and stores nothing unless an id comes with two labels in it.

        Parameters
        ----------
        source : who sent them, kept beside each

        Raises
        ------
        LabelsNotStored
            The disk is full or read-only, or others hold the file too long.
        LogDamaged
            The file is no label store of this version or an earlier one.
        """
        ids, held = self._held_now(labels, LabelsNotStored)
        known = self._known_without_label(ids, held)
        rows, counts = _judged(labels, held, known)
        room = self._room(LabelsNotStored) if counts.unknown else 0
        rows, counts = _judged(labels, held, known, room)
        if not rows:  # nothing new: needs no lock, and no room on the disk
            return counts
        key = self._chain_key()  # before the file is held: a key that is made looks at it
        with self._tables.writing(LabelsNotStored) as connection:
            last = connection.execute("SELECT coalesce(max(seq), 0) FROM label").fetchone()[0]
            rows, counts = _judged(labels, _held(connection, ids), known, room)
            received = self._clock()
            stored = [
                StoredLabel(0, x.request_id, x.label, x.observed_at or received, received, source, how)
                for x, how in rows
            ]
            connection.executemany(LABEL_TABLE.insert, map(LABEL_TABLE.values, stored))
            if key is not None:
                chain_labels(connection, key, last)
        return counts

    def erase(self, ids: Collection[bytes], explain: Callable[[Sequence[int]], None] = lambda _seqs: None) -> int:
        """Erase every label that these answers ever had; how many there were.

        Parameters
        ----------
        explain : told their numbers before they are erased

        Raises
        ------
        LabelsNotStored, LogDamaged
            As :meth:`add`.
        """
        if not ids or not self._tables.is_made():
            return 0
        with self._tables.writing(LabelsNotStored) as connection:
            seqs = [
                int(found[0])
                for raw in ids
                for found in connection.execute("SELECT seq FROM label WHERE request_id = ?", (raw,))
            ]
            if seqs:
                explain(sorted(seqs))
            connection.executemany("DELETE FROM label WHERE seq = ?", [(seq,) for seq in seqs])
            blank_labels(connection, seqs)
            return len(seqs)

    def sweep(self) -> None:
        """Make sure that erased labels have left no copy where the labels lie.

        Raises
        ------
        LogBusy, LogDamaged, HomeUnreachable
            As ``TableStore.sweep``.
        """
        self._tables.sweep([LABEL_TABLE.name, CHAIN_TABLE.name])

    def preview(self, labels: Sequence[AnswerLabel]) -> LabelCounts:
        """What :meth:`add` would count, storing nothing.

        Raises
        ------
        LogDamaged
            As :meth:`current`.
        """
        ids, held = self._held_now(labels)
        known = self._known_without_label(ids, held)
        counts = _judged(labels, held, known)[1]
        return _judged(labels, held, known, self._room())[1] if counts.unknown else counts

    def current(self, ids: Sequence[bytes]) -> dict[bytes, AnswerLabel]:
        """The label that holds, of those ids that have one.

        Raises
        ------
        LogDamaged
            The file cannot be read, or is no label store of this version or an earlier one.
        """
        with self._tables.reading() as connection:
            rows = [] if connection is None else list(_now(connection, ids))
        return {x.request_id: AnswerLabel(x.request_id, label_value(x.text), moment_of(x.observed_at_us)) for x in rows}

    def history(self, request_id: bytes) -> list[StoredLabel]:
        """Every label of one id, in the order of receipt.

        Raises
        ------
        LogDamaged
            As :meth:`current`.
        """
        return self._stored("WHERE request_id = ? ORDER BY seq", (request_id,))

    def since(self, seq: int, limit: int) -> list[StoredLabel]:
        """At most ``limit`` labels received after the one with that number, in the order of receipt.

        What is stored later has a higher number: whoever goes on from the last one seen sees each label once.

        Raises
        ------
        LogDamaged
            As :meth:`current`.
        """
        return self._stored("WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))

    def counts(self) -> dict[LabelOutcome, int]:
        """How many stored labels came in which way; accepted and unknown together are the ids that have a label.

        Raises
        ------
        LogDamaged
            As :meth:`current`.
        """
        found: dict[LabelOutcome, int] = {"accepted": 0, "conflict": 0, "unknown": 0}
        with self._tables.reading() as connection:
            if connection is not None:
                found.update(connection.execute("SELECT outcome, count(*) FROM label GROUP BY outcome"))
        return found

    def _held_now(
        self, labels: Sequence[AnswerLabel], failing: Failing | None = None
    ) -> tuple[list[bytes], dict[bytes, _Held]]:
        """The labels' ids, each once, and what is stored of those that have one."""
        ids = list(dict.fromkeys(label.request_id for label in labels))
        with self._tables.reading(failing) as connection:
            return ids, {} if connection is None else _held(connection, ids)

    def _room(self, failing: Failing | None = None) -> int:
        """How many more labels of unknown ids may be stored.

        Labels only ever get higher numbers, so what was counted once is not looked at again. Where there is no room,
        those whose prediction has turned up meanwhile, or that were removed, are found at most once an hour.
        """
        recount = False
        with self._tables.reading(failing) as connection:
            if connection is None:
                return self._most_unknown
            last, n = self._unknown
            end, more = connection.execute(
                "SELECT coalesce(max(seq), ?), count(*) FILTER (WHERE outcome = 'unknown') FROM label WHERE seq > ?",
                (last, last),
            ).fetchone()
            self._unknown = (end, n + more)
            recount = n + more >= self._most_unknown and time.monotonic() >= self._recount_at
            ids = [row[0] for row in connection.execute(_OF_UNKNOWN)] if recount else []
        if recount:
            self._recount_at = time.monotonic() + _RECOUNT_S
            self._unknown = (end, len(ids) - len(self._known(ids)))
        return max(0, self._most_unknown - self._unknown[1])

    def _chain_key(self) -> LogKey | None:
        """The key, or None where there is none to chain with.

        Raises
        ------
        LabelsNotStored
            It cannot be made: the disk is full or read-only.
        """
        try:
            return None if self._key is None else self._key()
        except OSError as error:
            raise LabelsNotStored(self._tables.name, error.strerror or type(error).__name__) from error

    def _known_without_label(self, ids: Sequence[bytes], held: Mapping[bytes, _Held]) -> set[bytes]:
        """Of the ids that have no label, those by which a prediction is known."""
        without = [request_id for request_id in ids if request_id not in held]
        return self._known(without) if without else set()

    def _stored(self, where: str, values: tuple[object, ...]) -> list[StoredLabel]:
        with self._tables.reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(f"{LABEL_TABLE.select} {where}", values).fetchall()
        return [StoredLabel(**LABEL_TABLE.read(row)) for row in rows]


def due_at(predicted_at: datetime, horizon_days: float) -> datetime:
    """When the label of a prediction begins to count.

    Monitors use a label from that moment on and not before, however early it came. "Readmitted" is known on day 5,
    "not readmitted" on day 30: whoever counts labels as they come has the first kind alone for weeks, and judges the
    model by it. A label or a correction that comes later counts when it comes; what was counted is not counted back.

    Parameters
    ----------
    horizon_days : after how many days the outcome is certain (``SURETY_LABEL_HORIZON_DAYS``)

    Examples
    --------
    >>> due_at(datetime(2026, 11, 23, 10, 15), horizon_days=30).isoformat()
    '2026-12-23T10:15:00'
    """
    return predicted_at + timedelta(days=horizon_days)


_OF_UNKNOWN = "SELECT request_id FROM label WHERE outcome = 'unknown'"


class _Held(NamedTuple):
    """What is stored of one id: the label that holds as text, when it was seen to be true, and how many there are.

    More than ``MOST_OF_ONE`` are not counted.
    """

    request_id: bytes
    text: str
    observed_at_us: int
    stored: int


def _judged(
    labels: Sequence[AnswerLabel], held: Mapping[bytes, _Held], known: set[bytes], room: int | None = None
) -> tuple[list[tuple[AnswerLabel, LabelOutcome]], LabelCounts]:
    """Labels to store, each with its outcome, and the counts of all.

    Parameters
    ----------
    held : what is stored, by id
    known : ids of known predictions, as far as they have no label
    room : how many labels of unknown ids may be stored; None for all of them
    """
    texts = {request_id: x.text for request_id, x in held.items()}
    stored = Counter({request_id: x.stored for request_id, x in held.items()})
    rows: list[tuple[AnswerLabel, LabelOutcome]] = []
    unknown = refused = over_limit = 0
    for label in labels:
        text, before = label_text(label.label), texts.get(label.request_id)
        if text == before:
            continue
        if stored[label.request_id] >= MOST_OF_ONE:
            over_limit += 1
            continue
        outcome: LabelOutcome = "conflict"
        if before is None:
            outcome = "accepted" if label.request_id in known else "unknown"
        if outcome == "unknown" and room is not None and unknown >= room:
            refused += 1
            continue
        unknown += outcome == "unknown"
        texts[label.request_id] = text
        stored[label.request_id] += 1
        rows.append((label, outcome))
    how = [outcome for _, outcome in rows]
    return rows, LabelCounts(
        accepted=how.count("accepted"),
        duplicate=len(labels) - len(rows) - refused - over_limit,
        conflict=how.count("conflict"),
        unknown=unknown,
        refused=refused,
        over_limit=over_limit,
    )


def _held(connection: TableConnection, ids: Sequence[bytes]) -> dict[bytes, _Held]:
    return {held.request_id: held for held in _now(connection, ids)}


def _now(connection: TableConnection, ids: Sequence[bytes]) -> Iterator[_Held]:
    """What is stored of those ids that have a label.

    A few ids at a time, so that a reader of many never keeps a writer waiting long.
    """
    rest = iter(ids)
    while some := list(islice(rest, _IDS_AT_ONCE)):
        marks = ",".join(["(?)"] * len(some))
        query = f"WITH wanted(id) AS (VALUES {marks}) {_LAST_OF_WANTED}"
        yield from map(_Held._make, connection.execute(query, some).fetchall())


_OF_ID = "FROM label WHERE request_id = id"
_LAST_OF_WANTED = (
    "SELECT request_id, label, observed_at_us, n FROM ("  # noqa: S608 - text of ours
    f"SELECT (SELECT max(seq) {_OF_ID}) AS seq,"
    f" (SELECT count(*) FROM (SELECT 1 {_OF_ID} LIMIT {MOST_OF_ONE}) AS stored) AS n FROM wanted"
    ") AS last CROSS JOIN label WHERE label.seq = last.seq"
)
"""Id by id and with a limit, since a database has no statistics of ids that tell it how few rows each has."""


class ImportedCounts(Document):
    """Labels that ``surety labels import`` has ever brought in, by outcome."""

    accepted: int = Field(0, ge=0)
    duplicate: int = Field(0, ge=0)
    conflict: int = Field(0, ge=0)
    unknown: int = Field(0, ge=0)
    refused: int = Field(0, ge=0)
    over_limit: int = Field(0, ge=0)


def read_imported(settings: Settings) -> ImportedCounts:
    """The configured model's counts, as they are known without waiting; zeros where there are none.

    Raises
    ------
    ArtefactError
        They cannot be read.
    """
    name = _imported_name(settings)
    content = open_home(settings).documents.glimpse(name).content
    return ImportedCounts() if content is None else parsed_document(content, name, ImportedCounts)


def add_imported(settings: Settings, counts: LabelCounts) -> None:
    """Add to the configured model's counts. Several commands may do so at a time.

    Raises
    ------
    ArtefactError, HomeUnreachable, OSError
        They cannot be read or written.
    """
    documents, name = open_home(settings).documents, _imported_name(settings)
    with documents.locked(f"{name}.lock"):
        before = documents.load(name, ImportedCounts) or ImportedCounts()
        grown = {outcome: getattr(before, outcome) + n for outcome, n in asdict(counts).items()}
        documents.save(name, ImportedCounts(**grown), durable=False)


def _imported_name(settings: Settings) -> str:
    return f"labels/{settings.model_name}.imported.json"
