"""What is counted and logged of answers: for the guards, for the metrics, for people."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ml_core.serve.answering.answers import REASONS, TableAnswer, answering_model
from ml_core.serve.answering.envelope import InferenceResponse
from ml_core.serve.answering.live import ORIGINS, Live, SlotCounts
from ml_core.serve.rollout.rollout_state import Slot
from ml_core.serve.running.guard import GuardedCall, without_rows

__all__ = ["count_in_metrics", "count_many", "count_one", "count_unanswered", "log_degraded"]

logger = logging.getLogger(__name__)


def count_one(live: Live, slot: Slot, call: GuardedCall, envelope: InferenceResponse) -> None:
    """One answered request."""
    counts = live.counts[slot]
    counts.answers += 1
    counts.set_sizes[len(envelope.prediction_set)] += 1
    _count_call(live, counts, call, 1)
    if call.reason is not None:
        counts.fallbacks[call.reason] += 1


def count_many(live: Live, slot: Slot, call: GuardedCall, table: TableAnswer) -> None:
    """A batch is one call; its rows are as many answers."""
    counts = live.counts[slot]
    counts.answers += len(table.proba)
    for size, n in enumerate(np.bincount(table.answer.sets.sum(axis=1)).tolist()):
        counts.set_sizes[size] += n
    _count_call(live, counts, call, len(table.proba))
    for number, n in enumerate(np.bincount(table.reasons).tolist()):
        reason = REASONS[number]
        if reason is not None and n:
            counts.fallbacks[reason] += n


def count_unanswered(live: Live, slot: Slot, call: GuardedCall, rows: int) -> None:
    """Rows that nothing may answer: for the guards as bad as a fallback."""
    counts = live.counts[slot]
    counts.answers += rows
    counts.fallbacks[call.reason or "bad_output"] += rows
    _count_call(live, counts, call, rows)


def _count_call(live: Live, counts: SlotCounts, call: GuardedCall, rows: int) -> None:
    if call.called:
        counts.calls += 1
        counts.failures += call.reason is not None
        counts.slow += live.guards is not None and without_rows(call.elapsed_ms, rows) > live.guards.slow_ms


def count_in_metrics(live: Live, slot: Slot, table: TableAnswer) -> None:
    """Add the rows of a bulk answer to the metrics (envelopes count themselves)."""
    kinds, counts = np.unique(table.origins.astype(np.int64) * len(REASONS) + table.reasons, return_counts=True)
    for kind, n in zip(kinds.tolist(), counts.tolist(), strict=True):
        origin, reason = ORIGINS[kind // len(REASONS)], REASONS[kind % len(REASONS)]
        answering_model(live, slot, origin).count(origin, reason, n)


def log_degraded(live: Live, slot: Slot, table: TableAnswer, request_id: str) -> None:
    """One line for a request that the model did not answer whole: why, who did instead, how many rows."""
    rows = np.flatnonzero(table.reasons)
    if not len(rows):
        return
    facts = {
        "request_id": request_id,
        "asked": slot,
        "model_hash": (live.at(slot) or live.champion).model.model_hash,
        "reasons": _tally(REASONS, table.reasons[rows]),
        "answered_by": _tally(ORIGINS, table.origins[rows]),
    }
    logger.info("answer.degraded", extra=facts)


def _tally(names: Sequence[str | None], numbers: npt.NDArray[np.int8]) -> dict[str, int]:
    return {str(names[i]): n for i, n in enumerate(np.bincount(numbers).tolist()) if n}
