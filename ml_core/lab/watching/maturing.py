"""From labels to matured answers: an answer matures once, when its horizon has passed and its label is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ml_core.base.arrays import Label
from ml_core.base.clock import microseconds
from ml_core.lab.watching.configured_sets import configured_sets
from ml_core.lab.watching.ledger import Ledger, MaturedRow, Waiting
from ml_core.serve.log.labels import MOST_UNKNOWN, LabelStore, due_at
from ml_core.serve.log.logged_answers import ErasedAnswer, LoggedAnswer
from ml_core.serve.log.reader import PredictionLog

__all__ = ["Horizons", "NewlyMatured", "mature_answers"]

_Due = tuple[bytes, LoggedAnswer, Label]
"""Id, answer, and its current label."""

_AT_A_TIME = 20_000
_MINUTE_US = 60_000_000
_DAY_US = 86_400_000_000
"""At every look for a day, and once a day after that, the answer of a label is searched for."""
_UNKNOWN_KEPT_DAYS = 30
"""A label without an answer is dropped after that time, and so are the oldest where there are more than are kept."""


@dataclass(frozen=True, slots=True)
class Horizons:
    """How long after an answer its label counts, days.

    Attributes
    ----------
    usual : for models that say nothing of it
    by_model : for models whose manifest says it, by hash
    """

    usual: float
    by_model: Mapping[str, float] = field(default_factory=dict)

    def days_of(self, model_hash: str) -> float:
        """The horizon of a model's answers, days."""
        return self.by_model.get(model_hash, self.usual)

    def due_us(self, answer: LoggedAnswer) -> int:
        """When that answer matures, in microseconds."""
        return microseconds(due_at(answer.at, self.days_of(answer.lineage["model_hash"])))


@dataclass(frozen=True, slots=True)
class NewlyMatured:
    """Answers that matured in one run of the monitor.

    Attributes
    ----------
    rows : by the minute in which they were given, in random order within it
    lineages : lineage by model hash and calibration id; models that differ only in their level share a calibration
    dropped : labels of no known answer that are no longer kept
    """

    rows: tuple[MaturedRow, ...]
    lineages: dict[tuple[str, str], dict[str, Any]]
    dropped: int = 0


def mature_answers(
    ledger: Ledger,
    labels: LabelStore,
    log: PredictionLog,
    now: datetime,
    horizons: Horizons,
    explain: Callable[[Sequence[int]], None] = lambda _seqs: None,
) -> NewlyMatured:
    """Read new labels, and let the answers mature that are due.

    A label that is corrected before its answer matures counts as corrected. Later corrections change nothing here,
    because a detector cannot be rewound. Answers with the same ``client_request_id`` count once, as the first of them.
    Labels that wait are dated anew when a horizon has changed.

    Parameters
    ----------
    explain : told the numbers of labels that are dropped, before they are

    Raises
    ------
    LogDamaged, LabelsNotStored
        Labels or the prediction log cannot be read, or labels that are dropped cannot be removed.
    """
    now_us = microseconds(now)
    _date_anew(ledger, log, horizons)
    _queue_new(ledger, labels, log, horizons)
    _search_unknown(ledger, log, now_us, horizons)
    dropped = ledger.too_many_unknown(now_us - _UNKNOWN_KEPT_DAYS * _DAY_US, MOST_UNKNOWN)
    labels.erase(dropped, explain)
    ledger.stop_waiting(dropped)
    ids = ledger.due(now_us, _AT_A_TIME)
    answers, current = log.find_many(ids), labels.current(ids)
    labelled: list[_Due] = []
    for request_id in ids:
        answer, label = answers.get(request_id), current.get(request_id)
        if isinstance(answer, LoggedAnswer) and label is not None:
            labelled.append((request_id, answer, label.label))
    due = _without_repeats(ledger, labels, log, labelled)
    rows = [_matured(each, now_us, missed=missed) for each, missed in zip(due, _misses(due), strict=True)]
    rows.sort(key=_order)
    ledger.stop_waiting(ids)
    ledger.add_matured(rows)
    lineages = {_calibrated_by(answer): dict(answer.lineage) for _, answer, _ in due}
    return NewlyMatured(tuple(rows), lineages, len(dropped))


def _without_repeats(ledger: Ledger, labels: LabelStore, log: PredictionLog, due: Sequence[_Due]) -> list[_Due]:
    """The same with the first answer of a ``client_request_id`` in place of all answers of that name.

    The label may be of any of them, since a caller knows the reply that arrived. One of the first answer itself comes
    first.
    """
    first = log.first_of_clients({a.client_request_id for _, a, _ in due if a.client_request_id is not None})
    kept: dict[bytes, _Due] = {}
    repeated: dict[bytes, Label] = {}
    for request_id, answer, label in due:
        original = first.get(answer.client_request_id or "", request_id)
        if original == request_id:
            kept[request_id] = (request_id, answer, label)
        else:
            repeated[original] = label
    originals = list(repeated)
    entered, answers, current = ledger.is_matured(originals), log.find_many(originals), labels.current(originals)
    for original in originals:
        found = answers.get(original)
        if original not in entered and original not in kept and isinstance(found, LoggedAnswer):
            own = current.get(original)
            kept[original] = (original, found, repeated[original] if own is None else own.label)
    return list(kept.values())


def _order(row: MaturedRow) -> tuple[int, bytes]:
    """Sort key: the minute, then random. A batch that is sorted by patient would bring its misses in runs."""
    return row.at_us // _MINUTE_US, row.request_id[8:]


def _date_anew(ledger: Ledger, log: PredictionLog, horizons: Horizons) -> None:
    """Give the labels that wait their new due time, if a horizon is not what it was at the last look."""
    told = {"usual": horizons.usual, "by_model": dict(horizons.by_model)}
    if ledger.fact("horizons") == told:
        return
    last = b""
    while ids := ledger.waiting_after(last, _AT_A_TIME):
        found = log.find_many(ids)
        ledger.date_anew({i: horizons.due_us(a) for i, a in found.items() if isinstance(a, LoggedAnswer)})
        last = ids[-1]
    ledger.remember("horizons", told)


def _queue_new(ledger: Ledger, labels: LabelStore, log: PredictionLog, horizons: Horizons) -> None:
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
                Waiting(request_id, None if answer is None else horizons.due_us(answer), received[request_id])
                for request_id in left
                if not isinstance(answer := answers.get(request_id), ErasedAnswer)
            ]
        )
        ledger.remember("labels_seen", seen)


def _search_unknown(ledger: Ledger, log: PredictionLog, now_us: int, horizons: Horizons) -> None:
    """Search again for answers whose labels came first: for those of the last day, and once a day for all."""
    is_daily = now_us - int(ledger.fact("unknown_searched_us", 0)) >= _DAY_US
    if is_daily:
        ledger.remember("unknown_searched_us", now_us)
    since_us, most = (0, MOST_UNKNOWN) if is_daily else (now_us - _DAY_US, _AT_A_TIME)
    answers = log.find_many(ledger.unknown(since_us, most), everywhere=is_daily)
    ledger.stop_waiting([request_id for request_id, answer in answers.items() if isinstance(answer, ErasedAnswer)])
    ledger.wait_for(
        [
            Waiting(request_id, horizons.due_us(answer), now_us)
            for request_id, answer in answers.items()
            if isinstance(answer, LoggedAnswer)
        ]
    )


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
        groups=answer.groups,
    )


def _misses(due: Sequence[_Due]) -> list[bool | None]:
    """Whether each set, at the configured level of its model, misses the label; None if its calibration cannot tell."""
    sets = configured_sets([answer for _, answer, _ in due])
    missed: list[bool | None] = []
    for (_, answer, label), held in zip(due, sets, strict=True):
        classes = answer.lineage["classes"]
        missed.append(None if held is None or label not in classes else not held[classes.index(label)])
    return missed


def _calibrated_by(answer: LoggedAnswer) -> tuple[str, str]:
    """Hash of the model and id of the calibration."""
    return answer.lineage["model_hash"], answer.lineage["calibration_id"]
