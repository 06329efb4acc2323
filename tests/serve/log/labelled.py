"""Ids, moments, and the plainest thing that keeps labels, to hold the real one against."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ml_core.base.settings import Settings
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import MOST_OF_ONE, AnswerLabel, LabelCounts, LabelStore

NOW = datetime(2026, 11, 23, 10, 15, 30, 123456, UTC)
SPACE = uuid.UUID("01936f0e-7c8a-7b52-9d5f-0d3f6a1c2b4e")


def rid(n: int) -> bytes:
    """The n-th request id."""
    return uuid.uuid5(SPACE, str(n)).bytes


def text_of(n: int) -> str:
    return str(uuid.UUID(bytes=rid(n)))


class PlacedLabels(LabelStore):
    """A store, and where its file is if it has one."""

    path: Path


def store_in(home: Path | Settings, known: Iterable[bytes] = (), busy_s: float = 0.2, **options) -> PlacedLabels:
    """A store that knows these predictions (a set may grow afterwards), in a folder or in a home of either engine."""
    known = known if isinstance(known, set) else set(known)
    settings = home if isinstance(home, Settings) else Settings(home=home)
    tables = open_label_tables(settings, "toy", busy_s=busy_s)
    store = PlacedLabels(tables, lambda ids: known & set(ids), **{"clock": lambda: NOW, **options})
    store.path = settings.home / "labels" / "toy.db"
    return store


class Ledger:
    """Labels in a list, judged one at a time as the words of the contract say."""

    def __init__(self, known: Iterable[bytes]) -> None:
        self.known = set(known)
        self.rows: list[tuple[bytes, int | str, str]] = []
        self.holds: dict[bytes, int | str] = {}
        self.stored: Counter[bytes] = Counter()

    def add(self, labels: Sequence[AnswerLabel]) -> LabelCounts:
        outcomes = [self._add(label.request_id, label.label) for label in labels]
        return LabelCounts(**{name: outcomes.count(name) for name in set(outcomes)})

    def _add(self, request_id: bytes, label: int | str) -> str:
        if request_id in self.holds:
            before = self.holds[request_id]
            if before == label and type(before) is type(label):
                return "duplicate"
            if self.stored[request_id] >= MOST_OF_ONE:
                return "over_limit"
            outcome = "conflict"
        else:
            outcome = "accepted" if request_id in self.known else "unknown"
        self.holds[request_id] = label
        self.stored[request_id] += 1
        self.rows.append((request_id, label, outcome))
        return outcome
