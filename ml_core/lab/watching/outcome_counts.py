"""The ledger's counts of due answers, by hour, prediction set, predicted class and outcome; no row of a person.

Only answers whose outcome is missing are kept one by one, with nothing but their id and what they count as, so that an
outcome that comes late moves its answer to the others. Their groups are kept there alone, and go with them: a count by
hour and group would outlast an erasure, and tell of single people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import orjson

from ml_core.base.arrays import Label
from ml_core.lab.measuring.returned_outcomes import OutcomeCell
from ml_core.serve.home.table_stores import TableConnection
from ml_core.serve.home.tables import StoredTable, TableField

__all__ = ["HOUR_US", "MISSING_OUTCOME", "OUTCOME_COUNT", "DueAnswer", "OutcomeCounts"]

HOUR_US = 3_600_000_000
_IDS_AT_ONCE = 500


def _text(value: Label | Sequence[int] | None) -> str:
    """A label or a set as JSON; "" for an outcome that is missing."""
    return "" if value is None else orjson.dumps(value).decode()


_MEMBERS = TableField("members", "TEXT NOT NULL", write=_text)
_CELL = (
    "model_hash TEXT NOT NULL", "hour INTEGER NOT NULL", TableField("own", "INTEGER NOT NULL", write=int), _MEMBERS,
    "prediction INTEGER NOT NULL",
)  # fmt: skip
_CELL_NAMES = "model_hash, hour, own, members, prediction"
OUTCOME_COUNT = StoredTable(
    "outcome_count", (*_CELL, "label TEXT NOT NULL", "n INTEGER NOT NULL"), key=f"{_CELL_NAMES}, label", since=2
)
"""Number of due answers by cell and outcome, a label in JSON; "" for those without one."""
MISSING_OUTCOME = StoredTable(
    "missing_outcome",
    (
        "request_id BLOB PRIMARY KEY", TableField("at_us", "INTEGER NOT NULL", index="missing_outcome_at"), *_CELL,
        TableField("groups", "BLOB", since=4, write=orjson.dumps, read=orjson.loads),
    ),
    since=2,
)  # fmt: skip
"""The due answers without an outcome."""


@dataclass(frozen=True, slots=True)
class DueAnswer:
    """An answer whose horizon has passed, as it is counted.

    Attributes
    ----------
    at_us : when it was given, microseconds since 1970
    own : whether the model in the slot gave it by its own calibration, and no fallback
    members : its set at the model's configured level, as positions in class order; empty where it is not its own
    prediction : position of the predicted class; -1 where it is not its own
    groups : cell in each grouping of the model, by its name; None for a model without groups
    """

    request_id: bytes
    at_us: int
    model_hash: str
    own: bool
    members: tuple[int, ...]
    prediction: int
    groups: Mapping[str, str] | None = None

    @property
    def hour(self) -> int:
        """Hours since 1970 began."""
        return self.at_us // HOUR_US


class OutcomeCounts:
    """The two tables, within a transaction of the ledger."""

    def __init__(self, connection: TableConnection) -> None:
        self._connection = connection

    def add(self, answers: Sequence[DueAnswer], outcomes: Mapping[bytes, Label]) -> None:
        """Count answers that have become due; those of whom no outcome is given are missing."""
        counted = Counter((_cell(a), _text(outcomes.get(a.request_id))) for a in answers)
        self._count((*cell, label, n) for (cell, label), n in counted.items())
        missing = [a for a in answers if a.request_id not in outcomes]
        self._connection.executemany(MISSING_OUTCOME.insert, map(MISSING_OUTCOME.values, missing))

    def came(self, outcomes: Mapping[bytes, Label]) -> None:
        """Count outcomes that were missing as returned; others are left alone."""
        cells = self._taken(list(outcomes))
        self._count([row for i, cell in cells.items() for row in ((*cell, "", -1), (*cell, _text(outcomes[i]), 1))])

    def erase(self, ids: Sequence[bytes]) -> None:
        """Take erased answers out of those that are missing, since their outcome can no longer come."""
        self._count([(*cell, "", -1) for cell in self._taken(ids).values()])

    def forget_before(self, at_us: int) -> None:
        """No longer wait for outcomes of answers that were given before then; they stay counted as missing."""
        self._connection.execute("DELETE FROM missing_outcome WHERE at_us < ?", (at_us,))

    def clear(self) -> None:
        """Begin anew."""
        self._connection.execute("DELETE FROM outcome_count")
        self._connection.execute("DELETE FROM missing_outcome")

    def first_hour(self, model_hash: str, until_hour: int, n: int) -> int:
        """The latest hour from which on, up to and with ``until_hour``, ``n`` own answers of a model are due.

        The first hour with any where they are fewer, and the one after ``until_hour`` where there is none.
        """
        query = (
            "SELECT hour, sum(n) FROM outcome_count WHERE model_hash = ? AND own <> 0 AND hour <= ?"
            " GROUP BY hour ORDER BY hour DESC"
        )
        found, first = 0, until_hour + 1
        for hour, count in self._connection.execute(query, (model_hash, until_hour)):
            found, first = found + int(count), hour
            if found >= n:
                break
        return first

    def last_hour(self, model_hash: str) -> int:
        """The latest hour with due answers of a model; -1 where there are none."""
        query = "SELECT coalesce(max(hour), -1) FROM outcome_count WHERE model_hash = ?"
        return int(self._connection.execute(query, (model_hash,)).fetchone()[0])

    def cells(
        self, model_hash: str, classes: Sequence[Label], since_hour: int, until_hour: int
    ) -> tuple[OutcomeCell, ...]:
        """A model's own due answers of those hours, both included, by set and predicted class, in that order."""
        query = (
            "SELECT members, prediction, label, sum(n) FROM outcome_count"
            " WHERE model_hash = ? AND own <> 0 AND hour >= ? AND hour <= ? GROUP BY members, prediction, label"
        )
        found: dict[tuple[tuple[int, ...], int], Counter[str]] = {}
        for members, prediction, label, n in self._connection.execute(query, (model_hash, since_hour, until_hour)):
            found.setdefault((tuple(orjson.loads(members)), prediction), Counter())[label] += int(n)
        cells = []
        for (members, prediction), counts in sorted(found.items()):
            returned = tuple(counts.pop(_text(label), 0) for label in classes)
            missing = counts.pop("", 0)
            cells.append(OutcomeCell(members, prediction, returned, missing, other=counts.total()))
        return tuple(cell for cell in cells if cell.due)

    def missing_by_group(
        self, model_hash: str, since_hour: int, until_hour: int
    ) -> Iterator[tuple[Mapping[str, str], tuple[int, ...], int, int]]:
        """A model's own due answers of those hours without an outcome: groups, set, predicted class, how many."""
        query = (
            "SELECT groups, members, prediction, count(*) FROM missing_outcome"
            " WHERE model_hash = ? AND own AND hour >= ? AND hour <= ? AND groups IS NOT NULL"
            " GROUP BY groups, members, prediction"
        )
        found = self._connection.execute(query, (model_hash, since_hour, until_hour))
        for groups, members, prediction, n in found:
            yield orjson.loads(groups), tuple(orjson.loads(members)), prediction, n

    def groupless_until(self, model_hash: str) -> int:
        """The latest hour with a missing outcome that an earlier release counted without its groups; -1 if none."""
        query = "SELECT coalesce(max(hour), -1) FROM missing_outcome WHERE model_hash = ? AND own AND groups IS NULL"
        return int(self._connection.execute(query, (model_hash,)).fetchone()[0])

    def of_fallbacks(self, model_hash: str, since_hour: int, until_hour: int) -> tuple[int, int]:
        """Due answers that a model was asked for and a fallback gave in those hours, and those without an outcome."""
        query = (
            "SELECT coalesce(sum(n), 0), coalesce(sum(n) FILTER (WHERE label = ''), 0) FROM outcome_count"
            " WHERE model_hash = ? AND own = 0 AND hour >= ? AND hour <= ?"
        )
        due, missing = self._connection.execute(query, (model_hash, since_hour, until_hour)).fetchone()
        return int(due), int(missing)

    def _count(self, rows: Iterable[tuple[object, ...]]) -> None:
        more = f"ON CONFLICT({_CELL_NAMES}, label) DO UPDATE SET n = outcome_count.n + excluded.n"
        self._connection.executemany(f"{OUTCOME_COUNT.insert} {more}", rows)

    def _taken(self, ids: Sequence[bytes]) -> dict[bytes, tuple[object, ...]]:
        """The cells of those of these answers that were missing and no longer are."""
        found: dict[bytes, tuple[object, ...]] = {}
        rest = iter(ids)
        while some := list(islice(rest, _IDS_AT_ONCE)):
            of_these = f"request_id IN ({','.join('?' * len(some))})"
            query = f"DELETE FROM missing_outcome WHERE {of_these} RETURNING request_id, {_CELL_NAMES}"  # noqa: S608 - names of ours
            found |= {row[0]: tuple(row[1:]) for row in self._connection.execute(query, some).fetchall()}
        return found


def _cell(answer: DueAnswer) -> tuple[object, ...]:
    return answer.model_hash, answer.hour, int(answer.own), _text(answer.members), answer.prediction
