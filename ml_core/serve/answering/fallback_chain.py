"""The fallback chain: who answers the rows that the model did not, so that their sets still keep the promise."""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from ml_core.base.errors import (
    BadModelOutput,
    CircuitOpen,
    DeadlineExceeded,
    ModelUnavailable,
    NotLoaded,
    Overloaded,
)
from ml_core.features.columns import ColumnArrays
from ml_core.serve.answering.answer_counts import count_unanswered
from ml_core.serve.answering.answers import TableAnswer, fill, whole
from ml_core.serve.answering.fallback import FallbackAnswer
from ml_core.serve.answering.live import Live, LiveModel, Origin
from ml_core.serve.rollout.rollout_state import FallbackStep, Slot
from ml_core.serve.running.guard import FallbackReason, GuardedCall, is_row_caused
from ml_core.serve.running.runner import FeatureMatrix

__all__ = ["fall_back"]


async def fall_back(
    live: Live,
    slot: Slot,
    model: LiveModel,
    columns: ColumnArrays,
    features: FeatureMatrix,
    call: GuardedCall,
    level: Decimal,
) -> TableAnswer:
    """Answers of n rows of which the model could not answer all: its own where it could, else the chain's."""
    reason = call.reason or "bad_output"
    steps = live.flags.fallback
    if not steps:
        count_unanswered(live, slot, call, len(features))
        raise _unanswered(reason, model)
    if call.proba is None and not is_row_caused(reason):
        try:
            return await _chain(live, slot, columns, features, reason, level)
        except ModelUnavailable:
            count_unanswered(live, slot, call, len(features))
            raise
    prior = model.baseline.by_prior(len(features))
    table = whole(prior.proba, prior.answer, "prior", reason, level)
    if call.proba is not None:
        good = ~np.isnan(call.proba[:, 0])
        if good.any():
            fill(table, good, model.calibration.rows(call.proba[good], level), call.proba[good], slot)
    return table


async def _chain(
    live: Live,
    slot: Slot,
    columns: ColumnArrays,
    features: FeatureMatrix,
    reason: FallbackReason,
    level: Decimal,
) -> TableAnswer:
    """The first step that answers rows which were turned away before they were looked at."""
    other_slots: list[Slot] = ["champion"] if slot == "challenger" else []
    model = live.at(slot) or live.champion
    steps: list[Slot | FallbackStep] = [*other_slots, *live.flags.fallback]
    for step in steps:
        if step in {"champion", "previous"}:
            table = await _by_other(live.at(step), step, model, columns, reason, level)
            if table is not None:
                return table
            continue
        found = _by_baseline(model, step, features, level)
        if found is not None:
            return whole(found.proba, found.answer, _origin(step), reason, level)
    raise _unanswered(reason, model)


async def _by_other(
    other: LiveModel | None,
    slot: Slot,
    asked: LiveModel,
    columns: ColumnArrays,
    reason: FallbackReason,
    level: Decimal,
) -> TableAnswer | None:
    """Answers of another loaded model; rows that break it get every label. None where it is not healthy.

    The prior is that of the model that was asked, which is the one that the lineage of such an answer names.
    """
    if other is None:
        return None
    features = other.transform(columns)
    try:
        call = await other.guard.call(features)
    except Overloaded:
        return None
    if call.proba is None and not (call.reason and is_row_caused(call.reason)):
        return None
    prior = asked.baseline.by_prior(len(features))
    table = whole(prior.proba, prior.answer, "prior", call.reason or reason, level)
    if call.proba is not None:
        good = ~np.isnan(call.proba[:, 0])
        if good.any():
            fill(table, good, other.calibration.rows(call.proba[good], level), call.proba[good], slot, reason)
    return table


def _by_baseline(model: LiveModel, step: str, features: FeatureMatrix, level: Decimal) -> FallbackAnswer | None:
    if step == "scorecard":
        return model.baseline.by_scorecard(features, level)
    return model.baseline.by_prior(len(features))


def _origin(step: str) -> Origin:
    return "scorecard" if step == "scorecard" else "prior"


def _unanswered(reason: FallbackReason, model: LiveModel) -> ModelUnavailable:
    """The error of a request that nothing may answer."""
    if reason == "circuit_open":
        snapshot = model.guard.breaker.snapshot()
        return CircuitOpen(snapshot.name, snapshot.state, snapshot.reason or "", snapshot.retry_after_s or 1.0)
    if reason == "deadline":
        return DeadlineExceeded(model.guard.deadline_s)
    if reason == "bad_output":
        return BadModelOutput("the model gave numbers that are no probabilities")
    if reason == "model_not_loaded":
        return NotLoaded("the model is not loaded")
    return ModelUnavailable(f"the model cannot answer: {reason}")
