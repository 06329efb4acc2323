"""The fallback chain: who answers the rows that the model did not, so that their sets still keep the promise."""

from __future__ import annotations

import numpy as np

from ml_core.base.errors import (
    BadModelOutput,
    CircuitOpen,
    DeadlineExceeded,
    ModelUnavailable,
    NotLoaded,
    Overloaded,
)
from ml_core.serve.answering.answers import Answers, Question
from ml_core.serve.answering.live import LiveModel
from ml_core.serve.rollout.rollout_state import FallbackStep, Slot
from ml_core.serve.running.runner import FallbackReason, GuardedCall, is_row_caused

__all__ = ["fall_back"]


async def fall_back(question: Question, call: GuardedCall) -> Answers:
    """Answers to rows of which the model could not answer all: its own where it could, else the chain's.

    Raises
    ------
    ModelUnavailable
        No step of the chain may or can answer; the rows are counted as unanswered.
    """
    live, slot = question.live, question.slot
    model, reason = live.asked(slot), call.reason or "bad_output"
    try:
        if not live.flags.fallback:
            raise _unanswered(reason, model)
        if call.proba is None and not is_row_caused(reason):
            return await _chain(question, call, reason)
    except ModelUnavailable:
        live.count_unanswered(slot, call, len(question.features))
        raise
    return _own_or_prior(question, call, call, model, slot, None)


async def _chain(question: Question, call: GuardedCall, reason: FallbackReason) -> Answers:
    """The first step that answers rows which were turned away before they were looked at."""
    live, baseline = question.live, question.live.asked(question.slot).baseline
    other_slots: list[Slot] = ["champion"] if question.slot == "challenger" else []
    steps: list[Slot | FallbackStep] = [*other_slots, *live.flags.fallback]
    for step in steps:
        if step in ("champion", "previous"):
            found = await _by_other(question, call, live.at(step), step, reason)
            if found is not None:
                return found
        elif step == "scorecard":
            predictions = baseline.by_scorecard(question.features, question.level, question.columns)
            if predictions is not None:
                return Answers.by(question, call, predictions, "scorecard", reason)
        else:
            return Answers.by(question, call, baseline.by_prior(len(question.features)), "prior", reason)
    raise _unanswered(reason, live.asked(question.slot))


async def _by_other(
    question: Question, call: GuardedCall, other: LiveModel | None, slot: Slot, reason: FallbackReason
) -> Answers | None:
    """Answers of another loaded model; rows that break it get every label. None where it is not healthy."""
    if other is None:
        return None
    try:
        theirs = await other.guard.call(other.transform(question.columns))
    except Overloaded:
        return None
    if theirs.proba is None and not (theirs.reason and is_row_caused(theirs.reason)):
        return None
    return _own_or_prior(question, call, theirs, other, slot, reason)


def _own_or_prior(
    question: Question,
    call: GuardedCall,
    given: GuardedCall,
    model: LiveModel,
    slot: Slot,
    reason: FallbackReason | None,
) -> Answers:
    """A model's own answers where it gave some, and every label for the rows that it failed on.

    Parameters
    ----------
    call : of the model that was asked. Its prior stands in, since the lineage of such an answer names that model
    given : what the model in ``slot`` gave
    reason : why its own answers are not those of the model that was asked; None where it is that model
    """
    prior = question.live.asked(question.slot).baseline.by_prior(len(question.features))
    answers = Answers.by(question, call, prior, "prior", given.reason or reason or "bad_output")
    if given.proba is not None:
        good = ~np.isnan(given.proba[:, 0])
        if good.any():
            answers.put(good, model.sets(given.proba, question.columns, question.level, good), slot, reason)
    return answers


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
