"""Answers in a real prediction log and their labels, by no model at all: a test says what each of them was."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ml_core.base.settings import Settings
from ml_core.lab.watching.ledger import Ledger, MaturedRow, open_ledger_tables
from ml_core.lab.watching.maturing import Horizons, NewlyMatured, mature_answers
from ml_core.serve.log.database import OpenLog
from ml_core.serve.log.entries import ERASED, Lineage, Row, answer_json, id_text
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.log_files import day_of
from ml_core.serve.log.reader import PredictionLog

__all__ = ["HORIZON_DAYS", "NINE", "START", "Answered", "facts_of", "matured_row"]

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
HORIZON_DAYS = 30.0
NINE = (9, 9)
"""Calibration rows of two classes: at 90 % a p-value of 0.1 is a miss, and one of 0.2 is not."""


def facts_of(classes: Sequence[int | str] = (0, 1), sizes: Sequence[int] = NINE, **changes: Any) -> dict[str, Any]:
    """A lineage."""
    usual = {
        "model_name": "toy", "model_version": "1", "model_hash": "a" * 64, "bento_tag": "toy:v1-aaaaaaaa",
        "feature_version": "v1", "calibration_id": "c" * 64, "calibration_sizes": list(sizes), "slot": "champion",
        "bento": None, "classes": list(classes), "level": "0.9", "guarantee": "class_conditional", "columns": ["x"],
    }  # fmt: skip
    return {**usual, **changes}


class Answered:
    """A log, a label store and a ledger, with a clock of their own.

    What an answer said to its caller, and its probabilities, are the same of all; only p-values and lineage differ.
    """

    def __init__(self, folder: Path, database: str = "") -> None:
        settings = Settings(home=folder, database=database)
        self.now = START
        self.folder = folder / "log"
        self.log = PredictionLog(self.folder)
        self.labels = LabelStore(open_label_tables(settings, "toy"), self.log.known, clock=lambda: self.now)
        self.ledger = open_ledger_tables(settings, "toy")

    def answer(
        self,
        p_values: Iterable[Sequence[float]],
        facts: dict[str, Any] | None = None,
        *,
        reason: str | None = None,
        ids: Sequence[bytes] | None = None,
        subject: bytes | None = None,
        client: str | None = None,
    ) -> list[bytes]:
        """Store an answer for each row of p-values, all under the same name of the caller's; their ids."""
        lineage = Lineage.of(facts or facts_of())
        asked = list(p_values)
        ids = ids or [os.urandom(16) for _ in asked]
        at_us = round(self.now.timestamp() * 1e6)
        rows = [
            Row(
                request_id=i, at_us=at_us, client_request_id=client, subject=subject, batch_id=None, batch_index=None,
                lineage=lineage, answer=_answer(p, reason), input=b"[1.0]", groups=None,
                group_values=None,
                explanation=None,
            )
            for i, p in zip(ids, asked, strict=True)
        ]  # fmt: skip
        log = OpenLog.of_day(self.folder, day_of(at_us))
        log.commit(rows, durable=False)
        log.close()
        return list(ids)

    def tell(self, ids: Iterable[bytes], label: int | str) -> None:
        """All of these turned out to be that."""
        self.labels.add([AnswerLabel(i, label, self.now) for i in ids], "test")

    def erase(self, request_id: bytes) -> None:
        """Take out what the answer says."""
        answer = self.log.find(id_text(request_id))
        assert answer is not None
        with closing(sqlite3.connect(self.folder / answer.file)) as connection, connection:
            connection.execute(
                "UPDATE entry SET answer = ?, input = NULL, salt = x'', subject = NULL WHERE request_id = ?",
                (ERASED, request_id),
            )

    def pass_days(self, days: float) -> None:
        self.now += timedelta(days=days)

    def take(self, horizon_days: float = HORIZON_DAYS, by_model: Mapping[str, float] | None = None) -> NewlyMatured:
        """One look at the labels."""
        with Ledger.changing(self.ledger) as ledger:
            return mature_answers(ledger, self.labels, self.log, self.now, Horizons(horizon_days, by_model or {}))

    def waiting(self) -> dict[str, int]:
        with Ledger.reading(self.ledger) as ledger:
            assert ledger is not None
            return ledger.count_waiting()


def matured_row(n: int = 0, **changes: Any) -> MaturedRow:
    """The n-th row of a ledger."""
    usual = {
        "request_id": n.to_bytes(16, "big"), "at_us": n, "matured_us": n, "model_hash": "a" * 64,
        "calibration_id": "c" * 64, "slot": "champion", "own": True, "label": 1, "missed": False,
        "probabilities": (0.5, 0.5), "p_values": (0.5, 0.5), "subject": None,
    }  # fmt: skip
    return MaturedRow(**{**usual, **changes})


def _answer(p_values: Sequence[float], reason: str | None) -> bytes:
    return answer_json(
        prediction=0, probabilities=[1.0 / len(p_values)] * len(p_values), p_values=list(p_values), members=[0],
        level="0.9", reason=reason, validity="valid", validity_reasons=(), elapsed_us=1, input_hash="0" * 64,
    )  # fmt: skip
