"""What the monitor remembers of one model name. A label and its effect on a detector are one change.

Only the monitor and the command that acknowledges alarms write to it, one at a time. It keeps no input and no name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from ml_core.base.arrays import Label
from ml_core.base.settings import Settings
from ml_core.lab.watching.outcome_counts import MISSING_OUTCOME, OUTCOME_COUNT, OutcomeCounts
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.table_stores import TableConnection, TableStore, open_tables
from ml_core.serve.home.tables import FileFormat, StoredTable, TableField
from ml_core.serve.log.reader import FOR_EVER

__all__ = ["LEDGER_FORMAT", "Ledger", "MaturedRow", "Waiting", "open_ledger_tables"]

_BUSY_S = 5.0
_KEEP_WINDOWS = 1_000
_IDS_AT_ONCE = 500
_LAST = chr(0x10FFFF)
"""Comes after every text in the order of names."""


def _json(name: str, read: Callable[[bytes], Any] = orjson.loads) -> TableField:
    return TableField(name, "BLOB NOT NULL", write=orjson.dumps, read=read)


def _reals(name: str) -> TableField:
    return _json(name, lambda stored: tuple(orjson.loads(stored)))


_NUMBER = TableField("n", "INTEGER PRIMARY KEY", is_numbered=True)
_FACT = StoredTable("fact", ("name TEXT PRIMARY KEY", _json("value")))
_WAITING = StoredTable("waiting", ("request_id BLOB PRIMARY KEY", "due_us INTEGER", "received_us INTEGER NOT NULL"))
_MATURED = StoredTable(
    "matured",
    (
        _NUMBER, "request_id BLOB NOT NULL UNIQUE", "at_us INTEGER NOT NULL",
        TableField("entered_us", "INTEGER NOT NULL", attribute="matured_us"),
        "model_hash TEXT NOT NULL", "calibration_id TEXT NOT NULL", "slot TEXT NOT NULL",
        TableField("own", "INTEGER NOT NULL", write=int, read=bool), _json("label"),
        TableField("missed", "INTEGER", write=int, read=bool),
        _reals("probabilities"), _reals("p_values"), "subject BLOB",
        TableField("groups", "BLOB", since=3, write=orjson.dumps, read=orjson.loads),
    ),
)  # fmt: skip
_DETECTOR = StoredTable(
    "detector",
    ("model_hash TEXT NOT NULL", "name TEXT NOT NULL", _json("state"), "alarm_since TEXT"),
    key="model_hash, name",
)
_EVIDENCE = StoredTable(
    "evidence",
    (_NUMBER, "model_hash TEXT NOT NULL", "name TEXT NOT NULL", "at_us INTEGER NOT NULL", "value REAL NOT NULL"),
)
_WINDOW = StoredTable(
    "drift_window",
    (
        _NUMBER, "model_hash TEXT NOT NULL", "first_us INTEGER NOT NULL", "last_us INTEGER NOT NULL",
        "rows INTEGER NOT NULL", "p_value REAL NOT NULL", _json("reports"),
    ),
)  # fmt: skip
LEDGER_FORMAT = FileFormat(
    "monitor's ledger",
    0,
    (_FACT, _WAITING, _MATURED, _DETECTOR, _EVIDENCE, _WINDOW, OUTCOME_COUNT, MISSING_OUTCOME),
    {1: ("CREATE INDEX waiting_due ON waiting(due_us)", "CREATE INDEX matured_model ON matured(model_hash, at_us)")},
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A labelled answer that does not count yet.

    Attributes
    ----------
    due_us : when it will; None while no answer of that id is known
    received_us : when its first label came
    """

    request_id: bytes
    due_us: int | None
    received_us: int


@dataclass(frozen=True, slots=True)
class MaturedRow:
    """An answer whose horizon has passed, with the label that held at that time.

    Attributes
    ----------
    at_us : when it was given; ``matured_us``: when the monitor took it in
    own : whether the model in the slot gave it, and no fallback
    missed : whether the set at the model's configured level missed the label; None where its own calibration cannot say
    probabilities, p_values : of every class
    subject : keyed HMAC of whom it is about, or None
    groups : cell in each grouping of the model, by its name; None for a model without groups, and of earlier releases
    """

    request_id: bytes
    at_us: int
    matured_us: int
    model_hash: str
    calibration_id: str
    slot: str
    own: bool
    label: int | str
    missed: bool | None
    probabilities: tuple[float, ...]
    p_values: tuple[float, ...]
    subject: bytes | None
    groups: Mapping[str, str] | None = None


def open_ledger_tables(settings: Settings, model: str) -> TableStore:
    """Where the ledger of one model name lies, in the home of these settings."""
    path = settings.monitor / f"{model}.ledger.db"
    return open_tables(LEDGER_FORMAT, path, open_home(settings).database, model, busy_s=_BUSY_S)


class Ledger:
    """The tables, open for one look.

    Parameters
    ----------
    connection : within a transaction that :func:`Ledger.changing` or :func:`Ledger.reading` has begun

    Attributes
    ----------
    outcomes : counts of due answers and of their outcomes
    """

    def __init__(self, connection: TableConnection) -> None:
        self._connection = connection
        self.outcomes = OutcomeCounts(connection)

    @classmethod
    @contextmanager
    def changing(cls, tables: TableStore) -> Iterator[Ledger]:
        """The ledger, whose changes are kept together or, where anything fails, not at all.

        On a database, what the block writes into the journal and into documents is kept with them.

        Raises
        ------
        LogDamaged, HomeUnreachable, SeatLost
            It cannot be read or written, or is of another version, or another monitor has taken over.
        """
        with tables.writing() as connection:
            yield cls(connection)

    @classmethod
    @contextmanager
    def reading(cls, tables: TableStore) -> Iterator[Ledger | None]:
        """The ledger as it is now; None where the monitor has never run.

        Raises
        ------
        LogDamaged, HomeUnreachable
            It cannot be read, or is of another version.
        """
        with tables.reading(snapshot=True) as connection:
            yield None if connection is None else cls(connection)

    @classmethod
    def erase(cls, tables: TableStore, pseudonyms: Sequence[bytes], ids: Sequence[bytes]) -> int:
        """Erase a person's matured and waiting answers; how many there were. Detectors keep what they have counted.

        Raises
        ------
        LogBusy, LogDamaged, HomeUnreachable
            As :meth:`changing`, and as ``TableStore.sweep``.
        """
        if not tables.is_made():
            return 0
        with tables.writing() as connection:
            OutcomeCounts(connection).erase(ids)
            done = [
                connection.executemany("DELETE FROM matured WHERE subject=?", [(p,) for p in pseudonyms]),
                connection.executemany("DELETE FROM matured WHERE request_id=?", [(i,) for i in ids]),
                connection.executemany("DELETE FROM waiting WHERE request_id=?", [(i,) for i in ids]),
            ]
            erased = sum(max(0, each.rowcount) for each in done)
        tables.sweep([_MATURED.name, _WAITING.name, MISSING_OUTCOME.name])
        return erased

    # --- facts ---

    def fact(self, name: str, default: Any = None) -> Any:
        """What was remembered under that name."""
        found = self._connection.execute("SELECT value FROM fact WHERE name=?", (name,)).fetchone()
        return default if found is None else orjson.loads(found[0])

    def remember(self, name: str, value: Any) -> None:
        """Remember JSON-able values under a name."""
        self._connection.execute(
            f"{_FACT.insert} ON CONFLICT(name) DO UPDATE SET value=excluded.value",
            (name, orjson.dumps(value)),
        )

    def facts(self, start: str) -> Iterator[tuple[str, Any]]:
        """What was remembered under names that begin so, each with its name, the last name first."""
        query = f"{_FACT.select} WHERE name >= ? AND name < ? ORDER BY name DESC"
        for name, value in self._connection.execute(query, (start, f"{start}{_LAST}")):
            yield name, orjson.loads(value)

    def forget_facts(self, since: str, before: str) -> None:
        """Forget what was remembered under names from the one to before the other."""
        self._connection.execute("DELETE FROM fact WHERE name >= ? AND name < ?", (since, before))

    # --- labels on their way ---

    def is_matured(self, ids: Sequence[bytes]) -> set[bytes]:
        """Those of these ids whose answers have matured."""
        return {row[0] for row in self._of_ids("SELECT request_id FROM matured", ids)}

    def labels_of(self, ids: Sequence[bytes]) -> dict[bytes, Label]:
        """The labels with which those of these ids have matured that have."""
        found = dict(self._of_ids("SELECT request_id, label FROM matured", ids))
        return {i: orjson.loads(found[i]) for i in ids if i in found}

    def _of_ids(self, query: str, ids: Sequence[bytes]) -> Iterator[Any]:
        """Rows of these ids, some ids at a time."""
        rest = iter(ids)
        while some := list(islice(rest, _IDS_AT_ONCE)):
            yield from self._connection.execute(f"{query} WHERE request_id IN ({','.join('?' * len(some))})", some)

    def wait_for(self, rows: Sequence[Waiting]) -> None:
        """Keep labelled answers until they are due; one that waits already stays, but may learn when it is due."""
        self._connection.executemany(
            f"{_WAITING.insert} ON CONFLICT(request_id) DO UPDATE SET due_us=coalesce(waiting.due_us, excluded.due_us)",
            map(_WAITING.values, rows),
        )

    def waiting_after(self, request_id: bytes, limit: int) -> list[bytes]:
        """Ids with a due time that come after that one in the order of ids."""
        query = "SELECT request_id FROM waiting WHERE request_id > ? AND due_us IS NOT NULL ORDER BY request_id LIMIT ?"
        return [row[0] for row in self._connection.execute(query, (request_id, limit))]

    def date_anew(self, due_us: Mapping[bytes, int]) -> None:
        """Give these, which wait already, other due times."""
        self._connection.executemany(
            "UPDATE waiting SET due_us=? WHERE request_id=?", [(us, i) for i, us in due_us.items()]
        )

    def due(self, now_us: int, limit: int) -> list[bytes]:
        """Ids that are due, the longest waiting first."""
        query = "SELECT request_id FROM waiting WHERE due_us <= ? ORDER BY due_us, request_id LIMIT ?"
        return [row[0] for row in self._connection.execute(query, (now_us, limit))]

    def unknown(self, since_us: int, limit: int) -> list[bytes]:
        """Ids of which no answer is known, whose label came since then."""
        query = "SELECT request_id FROM waiting WHERE due_us IS NULL AND received_us >= ? ORDER BY received_us LIMIT ?"
        return [row[0] for row in self._connection.execute(query, (since_us, limit))]

    def too_many_unknown(self, before_us: int, most: int) -> list[bytes]:
        """Ids of which no answer is known, whose label came before that time, or that are not among the newest."""
        query = (
            "SELECT request_id FROM waiting WHERE due_us IS NULL AND received_us < ? UNION SELECT * FROM ("
            "SELECT request_id FROM waiting WHERE due_us IS NULL"
            " ORDER BY received_us DESC, request_id DESC LIMIT ? OFFSET ?) AS old ORDER BY request_id"
        )
        return [row[0] for row in self._connection.execute(query, (before_us, FOR_EVER, most))]

    def count_waiting(self) -> dict[str, int]:
        """How many wait for their time (``waiting``), and for an answer to turn up (``unknown``)."""
        query = "SELECT count(due_us), count(*) FROM waiting"
        waiting, total = self._connection.execute(query).fetchone()
        return {"waiting": waiting, "unknown": total - waiting}

    def add_matured(self, rows: Sequence[MaturedRow]) -> None:
        """Add answers that have matured, and stop waiting for them."""
        self._connection.executemany(_MATURED.insert, map(_MATURED.values, rows))
        self.stop_waiting([r.request_id for r in rows])

    def stop_waiting(self, ids: Sequence[bytes]) -> None:
        """Forget that they wait."""
        self._connection.executemany("DELETE FROM waiting WHERE request_id=?", [(i,) for i in ids])

    def matured(self, model_hash: str, since_us: int = 0, until_us: int = FOR_EVER) -> list[MaturedRow]:
        """Matured answers of a model that were given in that time, in the order they were given."""
        query = f"{_MATURED.select} WHERE model_hash=? AND at_us >= ? AND at_us < ? ORDER BY at_us, n"
        return [_matured(row)[1] for row in self._connection.execute(query, (model_hash, since_us, until_us))]

    def matured_by_group(
        self, model_hash: str, since_us: int, until_us: int
    ) -> Iterator[tuple[Mapping[str, str], int]]:
        """A model's own matured answers that were given in that time, by their groups; those without any left out."""
        query = (
            "SELECT groups, count(*) FROM matured WHERE model_hash=? AND at_us >= ? AND at_us < ? AND own"
            " AND groups IS NOT NULL GROUP BY groups"
        )
        for groups, n in self._connection.execute(query, (model_hash, since_us, until_us)):
            yield orjson.loads(groups), n

    def matured_between(self, model_hash: str) -> tuple[int, int, int] | None:
        """When the first and last matured answer of a model were given, and how many there are; None where none is."""
        query = "SELECT min(at_us), max(at_us), count(*) FROM matured WHERE model_hash=?"
        first, last, count = self._connection.execute(query, (model_hash,)).fetchone()
        return None if first is None else (int(first), int(last), int(count))

    def count_given(self, since_us: int, until_us: int) -> int:
        """How many matured answers of all models were given in that time."""
        query = "SELECT count(*) FROM matured WHERE at_us >= ? AND at_us < ?"
        return int(self._connection.execute(query, (since_us, until_us)).fetchone()[0])

    def count_due(self, now_us: int) -> int:
        """How many wait whose horizon has passed, and so mature at the next look."""
        return int(self._connection.execute("SELECT count(*) FROM waiting WHERE due_us <= ?", (now_us,)).fetchone()[0])

    def latest_misses(self, model_hash: str, label: str | None, n: int) -> tuple[int, int]:
        """Misses among a model's latest ``n`` answers with that label (as text; None: any), and how many they are."""
        of_label = "" if label is None else "AND label IN (?, ?)"
        query = (
            "SELECT coalesce(sum(missed), 0), count(*) FROM (SELECT missed FROM matured WHERE model_hash=? AND own<>0"  # noqa: S608 - text of ours
            f" AND missed IS NOT NULL {of_label} ORDER BY n DESC LIMIT ?) AS latest"
        )
        as_stored = () if label is None else (label.encode(), orjson.dumps(label))  # a number, or a text
        misses, count = self._connection.execute(query, (model_hash, *as_stored, n)).fetchone()
        return int(misses), int(count)

    def last_matured(self) -> int:
        """Number of the answer that matured last, of any model; 0 before any has."""
        return int(self._connection.execute("SELECT coalesce(max(n), 0) FROM matured").fetchone()[0])

    def latest_judged(self, model_hash: str, n: int) -> list[MaturedRow]:
        """A model's latest ``n`` own answers whose calibration could say whether they missed, the newest first."""
        query = f"{_MATURED.select} WHERE model_hash=? AND own<>0 AND missed IS NOT NULL ORDER BY n DESC LIMIT ?"
        return [_matured(row)[1] for row in self._connection.execute(query, (model_hash, n))]

    def matured_after(self, n: int) -> list[tuple[int, MaturedRow]]:
        """Matured answers of all models after the ``n``-th, each with its number."""
        return [_matured(row) for row in self._connection.execute(f"{_MATURED.select} WHERE n > ? ORDER BY n", (n,))]

    def newest_own(
        self, limit: int, since_us: int = 0, before: tuple[int, int] | None = None
    ) -> list[tuple[int, MaturedRow]]:
        """Matured answers of all models, but of no fallback, the newest first, each with its number.

        Parameters
        ----------
        since_us : given at that time or later, microseconds
        before : time and number of the last one that is known already; what comes before it in this order
        """
        at_us, n = before or (FOR_EVER, FOR_EVER)
        query = (
            f"{_MATURED.select} WHERE own<>0 AND at_us >= ? AND (at_us, n) < (?, ?) ORDER BY at_us DESC, n DESC LIMIT ?"
        )
        return [_matured(row) for row in self._connection.execute(query, (since_us, at_us, n, limit))]

    def count_matured(self, since_n: int = 0) -> tuple[int, int]:
        """How many have matured after the ``since_n``-th, and the number of the last."""
        query = "SELECT count(*), coalesce(max(n), 0) FROM matured WHERE n > ?"
        count, last = self._connection.execute(query, (since_n,)).fetchone()
        return int(count), max(int(last), since_n)

    # --- detectors ---

    def detectors(self, model_hash: str) -> dict[str, tuple[dict[str, Any], str | None]]:
        """State, and since when it alarms, of a model's detectors by name."""
        query = "SELECT name, state, alarm_since FROM detector WHERE model_hash=? ORDER BY name"
        return {row[0]: (orjson.loads(row[1]), row[2]) for row in self._connection.execute(query, (model_hash,))}

    def keep_detector(self, model_hash: str, name: str, state: Any, alarm_since: str | None) -> None:
        """Keep a detector's state."""
        self._connection.execute(
            f"{_DETECTOR.insert} ON CONFLICT(model_hash, name) DO UPDATE "
            "SET state=excluded.state, alarm_since=excluded.alarm_since",
            (model_hash, name, orjson.dumps(state), alarm_since),
        )

    def forget_detector(self, model_hash: str, name: str) -> None:
        """Reset a detector."""
        self._connection.execute("DELETE FROM detector WHERE model_hash=? AND name=?", (model_hash, name))

    def add_evidence(self, model_hash: str, name: str, at_us: int, value: float) -> None:
        """Keep a detector's evidence for people to look at."""
        self._connection.execute(_EVIDENCE.insert, (model_hash, name, at_us, value))

    def evidence(self, model_hash: str, name: str, since_us: int = 0) -> list[tuple[int, float]]:
        """Evidence over time, oldest first: moment in microseconds, and value."""
        query = "SELECT at_us, value FROM evidence WHERE model_hash=? AND name=? AND at_us >= ? ORDER BY n"
        return [(row[0], row[1]) for row in self._connection.execute(query, (model_hash, name, since_us))]

    # --- drift ---

    def keep_window(
        self, model_hash: str, first_us: int, last_us: int, rows: int, p_value: float, reports: Mapping[str, Any]
    ) -> None:
        """Keep what a drift window has shown: reports on its ``features`` and ``scores``; the newest 1,000 are kept."""
        self._connection.execute(_WINDOW.insert, (model_hash, first_us, last_us, rows, p_value, orjson.dumps(reports)))
        self._connection.execute(
            "DELETE FROM drift_window WHERE n <= (SELECT max(n) FROM drift_window) - ?", (_KEEP_WINDOWS,)
        )

    def windows(self, model_hash: str, limit: int) -> list[dict[str, Any]]:
        """The newest drift windows of a model, newest first."""
        query = f"{_WINDOW.select} WHERE model_hash=? ORDER BY n DESC LIMIT ?"
        return [_WINDOW.read(row) for row in self._connection.execute(query, (model_hash, limit))]


def _matured(stored: Sequence[Any]) -> tuple[int, MaturedRow]:
    """A matured answer, and its number."""
    found = _MATURED.read(stored)
    return found.pop("n"), MaturedRow(**found)
