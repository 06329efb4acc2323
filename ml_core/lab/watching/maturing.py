"""From labels to matured answers: an answer matures once, when its horizon has passed and its label is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from ml_core.base.arrays import Label
from ml_core.base.clock import microseconds
from ml_core.base.errors import DataError
from ml_core.lab.measuring.live_coverage import misses_of
from ml_core.lab.watching.ledger import Ledger, MaturedRow, Waiting
from ml_core.serve.log.labels import LabelStore, due_at
from ml_core.serve.log.logged_answers import ErasedAnswer, LoggedAnswer
from ml_core.serve.log.reader import PredictionLog

__all__ = ["NewlyMatured", "mature_answers"]

_Due = tuple[bytes, LoggedAnswer, Label]
"""Id, answer, and its current label."""

_AT_A_TIME = 20_000
_MINUTE_US = 60_000_000
_SEARCH_S = 86_400.0
"""How long the answer of a label is searched for: an answer may reach the log a little after its label."""


@dataclass(frozen=True, slots=True)
class NewlyMatured:
    """Answers that matured in one run of the monitor.

    Attributes
    ----------
    rows : by the minute in which they were given, in random order within it
    lineages : lineage by model hash and calibration id; models that differ only in their level share a calibration
    """

    rows: tuple[MaturedRow, ...]
    lineages: dict[tuple[str, str], dict[str, Any]]


def mature_answers(
    ledger: Ledger, labels: LabelStore, log: PredictionLog, now: datetime, horizon_days: float
) -> NewlyMatured:
    """Read new labels, and let the answers mature that are due.

    A label that is corrected before its answer matures counts as corrected. Later corrections change nothing here,
    because a detector cannot be rewound.

    Raises
    ------
    LogDamaged
        Labels or the prediction log cannot be read.
    """
    now_us = microseconds(now)
    _queue_new(ledger, labels, log, horizon_days)
    _search_unknown(ledger, log, now_us, horizon_days)
    ids = ledger.due(now_us, _AT_A_TIME)
    answers, current = log.find_many(ids), labels.current(ids)
    due: list[_Due] = []
    for request_id in ids:
        answer, label = answers.get(request_id), current.get(request_id)
        if isinstance(answer, LoggedAnswer) and label is not None:
            due.append((request_id, answer, label.label))
    rows = [_matured(each, now_us, missed=missed) for each, missed in zip(due, _misses(due), strict=True)]
    rows.sort(key=_order)
    ledger.stop_waiting(ids)
    ledger.add_matured(rows)
    return NewlyMatured(tuple(rows), {_calibrated_by(answer): dict(answer.lineage) for _, answer, _ in due})


def _order(row: MaturedRow) -> tuple[int, bytes]:
    """Sort key: the minute, then random. A batch that is sorted by patient would bring its misses in runs."""
    return row.at_us // _MINUTE_US, row.request_id[8:]


def _queue_new(ledger: Ledger, labels: LabelStore, log: PredictionLog, horizon_days: float) -> None:
    """Queue the labels that came since the last run."""
    seen = int(ledger.fact("labels_seen", 0))
    while stored := labels.since(seen, _AT_A_TIME):
        seen = stored[-1].seq
        received = {label.request_id: microseconds(label.received_at) for label in reversed(stored)}
        entered = ledger.is_matured(list(received))
        left = [request_id for request_id in received if request_id not in entered]
        answers = log.find_many(left)
        ledger.wait_for(
            [
                Waiting(request_id, _due_us(answer, horizon_days), received[request_id])
                for request_id in left
                if not isinstance(answer := answers.get(request_id), ErasedAnswer)
            ]
        )
        ledger.remember("labels_seen", seen)


def _search_unknown(ledger: Ledger, log: PredictionLog, now_us: int, horizon_days: float) -> None:
    """Search again for answers whose labels came first."""
    answers = log.find_many(ledger.unknown(now_us - round(_SEARCH_S * 1e6), _AT_A_TIME))
    ledger.stop_waiting([request_id for request_id, answer in answers.items() if isinstance(answer, ErasedAnswer)])
    ledger.wait_for(
        [
            Waiting(request_id, _due_us(answer, horizon_days), now_us)
            for request_id, answer in answers.items()
            if isinstance(answer, LoggedAnswer)
        ]
    )


def _due_us(answer: LoggedAnswer | None, horizon_days: float) -> int | None:
    """When an answer matures, in microseconds; None for an answer that is not in the log."""
    return None if answer is None else microseconds(due_at(answer.at, horizon_days))


def _matured(due: _Due, now_us: int, *, missed: bool | None) -> MaturedRow:
    request_id, answer, label = due
    facts = answer.lineage
    return MaturedRow(
        request_id=request_id,
        at_us=microseconds(answer.at),
        matured_us=now_us,
        model_hash=facts["model_hash"],
        calibration_id=facts["calibration_id"],
        slot=facts["slot"],
        own=answer.is_the_models_own,
        label=label,
        missed=missed,
        probabilities=answer.probabilities,
        p_values=answer.p_values,
        subject=answer.subject,
    )


def _misses(due: Sequence[_Due]) -> list[bool | None]:
    """Whether each set, at the configured level of its model, misses the label; None if its calibration cannot tell."""
    missed: list[bool | None] = [None] * len(due)
    alike: dict[tuple[str, str], list[int]] = {}
    for n, (_, answer, label) in enumerate(due):
        is_prior = answer.lineage["slot"] == "prior"  # answers with all labels, without a calibration
        if label in answer.lineage["classes"] and not is_prior:
            alike.setdefault(_calibrated_by(answer), []).append(n)
    for places in alike.values():
        for n, one in zip(places, _missed([due[n] for n in places]), strict=True):
            missed[n] = one
    return missed


def _missed(due: Sequence[_Due]) -> Sequence[bool | None]:
    """The same for answers of one calibration whose labels are classes of the model."""
    facts, p_values = due[0][1].lineage, [answer.p_values for _, answer, _ in due]
    labels, level = [label for _, _, label in due], Decimal(facts["level"])
    try:
        found: list[bool] = misses_of(p_values, labels, facts["classes"], facts["calibration_sizes"], level).tolist()
    except (DataError, ValueError):  # an answer of another calibration, or of other classes
        return [None] if len(due) == 1 else [_missed([one])[0] for one in due]
    return found


def _calibrated_by(answer: LoggedAnswer) -> tuple[str, str]:
    """Hash of the model and id of the calibration."""
    return answer.lineage["model_hash"], answer.lineage["calibration_id"]
