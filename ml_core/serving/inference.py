"""The inference core: records in, envelopes out. HTTP, batch and in-process callers all come through here."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ml_core.clock import utc_now, utc_text
from ml_core.conformal.predict import BatchAnswer
from ml_core.errors import (
    BadModelOutput,
    CircuitOpen,
    DeadlineExceeded,
    FieldProblem,
    InvalidRecord,
    ModelUnavailable,
    NotLoaded,
    Overloaded,
)
from ml_core.features.columns import ColumnArrays
from ml_core.features.record import Record, RecordReader
from ml_core.rollout.state import FallbackStep, Slot
from ml_core.serving.envelope import BatchResponse, InferenceLineage, InferenceResponse, RowError
from ml_core.serving.fallback import FallbackAnswer
from ml_core.serving.guard import FallbackReason, GuardedCall, is_row_caused, without_rows
from ml_core.serving.ids import new_id
from ml_core.serving.live import ORIGINS, Live, LiveModel, Origin, SlotCounts
from ml_core.serving.requests import BatchRequest, PredictRequest
from ml_core.serving.runner import FeatureMatrix, Probabilities
from ml_core.serving.shadow import Shadow, ShadowRows

__all__ = [
    "REASONS",
    "Elsewhere",
    "InferenceService",
    "TableAnswer",
    "answering_model",
    "invalid_record_body",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")
_BLOCK_ROWS = 8_192

REASONS: tuple[FallbackReason | None, ...] = (
    None, "circuit_open", "model_not_loaded", "runner_lost", "stuck", "deadline", "model_error", "bad_output",
)  # fmt: skip
"""Reasons by the number that stands for them in arrays; 0 is an ordinary answer."""
_REASON_NUMBER = {reason: number for number, reason in enumerate(REASONS)}
_ORIGIN_NUMBER = {origin: number for number, origin in enumerate(ORIGINS)}

Elsewhere = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a piece of work off the event loop."""


async def _right_here(work: Callable[[], T]) -> T:
    return work()


@dataclass(frozen=True, slots=True)
class TableAnswer:
    """Answers for the n rows of a table, as arrays.

    Attributes
    ----------
    proba : float64 (n, K)
    answer : p-values (n, K), sets bool (n, K), predictions (n,) as class positions
    origins, reasons : int8 (n,), positions in ``ORIGINS`` and ``REASONS``
    level : the confidence level of the sets
    """

    proba: Probabilities
    answer: BatchAnswer
    origins: npt.NDArray[np.int8]
    reasons: npt.NDArray[np.int8]
    level: Decimal


class InferenceService:
    """Answers with whatever is live.

    Parameters
    ----------
    live : the models in their slots; None until some are loaded. Replaced as a whole when the rollout changes
    bento : tag of the bento this code runs in, None outside one
    now : clock of the envelopes
    shadow : takes what a challenger is to score as well
    """

    def __init__(
        self,
        live: Live | None,
        *,
        bento: str | None = None,
        now: Callable[[], datetime] = utc_now,
        shadow: Shadow | None = None,
    ) -> None:
        self.live = live
        self.problem = ""
        self._bento = bento
        self._now = now
        self._shadow = shadow

    def ready(self) -> Live:
        """What is live.

        Raises
        ------
        NotLoaded
            Nothing is.
        """
        live = self.live
        if live is None:
            raise NotLoaded(self.problem or "no model is loaded")
        return live

    async def predict(self, request: PredictRequest) -> InferenceResponse:
        """The envelope for one record, flagged where it is not the model's own.

        Raises
        ------
        InvalidRecord
            The record breaks the column table.
        ModelUnavailable
            The model cannot answer, and no step of the fallback chain may or can.
        Overloaded
            Too many calls wait for the model.
        """
        live = self.ready()
        reader = live.champion.reader
        record = reader.read(request.features)
        slot = live.route(request.subject, request.client_request_id)
        model = live.at(slot) or live.champion
        columns = reader.arrays((record,))
        features = model.transform(columns)
        call = await model.guard.call(features)
        level = request.level or live.flags.confidence_level or model.level
        if call.reason is None and call.proba is not None:
            proba = call.proba[0].tolist()
            answer = model.calibration.row(proba, level)
            envelope = self._envelope(
                new_id(), record, model, slot, None, proba, answer.p_values, answer.members, answer.prediction, level,
                request.client_request_id,
            )  # fmt: skip
        else:
            table = await self._fall_back(live, slot, model, columns, features, call, level)
            (envelope,) = self._envelopes(live, slot, [record], table, request.client_request_id)
            if envelope.fallback_reason is not None:
                _log_degraded(live, slot, table, envelope.request_id)
        _count_one(live, slot, call, envelope)
        if live.mode == "shadow" and self._shadow is not None:
            self._shadow.put(live, ShadowRows.of_one(envelope, columns, features))
        return envelope

    async def predict_batch(self, request: BatchRequest, elsewhere: Elsewhere = _right_here) -> BatchResponse:
        """Envelopes for many records, in their order; one slot answers them all.

        Parameters
        ----------
        elsewhere : runs the reading and writing of many records off the event loop

        Raises
        ------
        InvalidRecord
            ``on_error`` is ``reject`` and a record is bad; fields are named ``records[3].age``.
        ModelUnavailable, Overloaded
            As :meth:`predict`.
        """
        live = self.ready()
        reader = live.champion.reader
        records, problems = await elsewhere(lambda: _read_all(reader, request.records))
        if problems and request.on_error == "reject":
            raise InvalidRecord(
                [FieldProblem(f"records[{i}].{f.field}", f.problem) for i, p in problems.items() for f in p.fields]
            )
        good = [record for record in records if record is not None]
        answers: list[InferenceResponse] = []
        if good:
            columns = await elsewhere(lambda: reader.arrays(good))
            slot = live.route(None, None)
            table = await self._table(live, slot, columns, request.level, elsewhere)
            answers = await elsewhere(lambda: self._envelopes(live, slot, good, table, None))
            _log_degraded(live, slot, table, "")
            self._shadow_rows(live, columns, table, [answer.request_id for answer in answers])
        following = iter(answers)
        return BatchResponse(
            batch_id=new_id(),
            predictions=[
                RowError(new_id(), invalid_record_body(problems[i])) if record is None else next(following)
                for i, record in enumerate(records)
            ],
        )

    async def predict_table(
        self,
        live: Live,
        slot: Slot,
        columns: ColumnArrays,
        level: Decimal | None = None,
        elsewhere: Elsewhere = _right_here,
    ) -> TableAnswer:
        """Answers for rows that are already columns, as arrays, from one slot of a moment of the rollout.

        Raises
        ------
        ModelUnavailable, Overloaded
            As :meth:`predict`.
        """
        table = await self._table(live, slot, columns, level, elsewhere)
        self._shadow_rows(live, columns, table, None)
        _count_in_metrics(live, slot, table)
        _log_degraded(live, slot, table, "")
        return table

    async def warm_up(self, rounds: int = 20) -> None:
        """Answer the champion's golden records, so that the first caller pays for nothing; they are not counted."""
        live = self.live
        if live is None:
            return
        for entry in live.champion.model.predictor.bundle.golden[:rounds]:
            record = live.champion.reader.read(entry["record"])
            columns = live.champion.reader.arrays((record,))
            call = await live.champion.guard.call(live.champion.transform(columns))
            if call.proba is not None:
                live.champion.calibration.row(call.proba[0].tolist(), live.champion.level)

    def lineage(self, model: LiveModel, origin: Origin, input_hash: str) -> InferenceLineage:
        """Lineage of an answer to the input of that hash, given now."""
        manifest = model.manifest
        return InferenceLineage(
            model_name=manifest.name,
            model_version=model.model.version,
            model_hash=model.model.model_hash,
            feature_version=manifest.feature_version,
            calibration_id=model.calibration_id(origin),
            input_hash=input_hash,
            slot=origin,
            bento=self._bento,
            timestamp=utc_text(self._now()),
        )

    async def _table(
        self, live: Live, slot: Slot, columns: ColumnArrays, level: Decimal | None, elsewhere: Elsewhere
    ) -> TableAnswer:
        model = live.at(slot) or live.champion
        chosen = level or live.flags.confidence_level or model.level
        found = []
        for block in _blocks(columns):
            features = await elsewhere(lambda block=block: model.transform(block))  # type: ignore[misc]  # its default is the block
            call = await model.guard.call(features)
            if call.reason is None and call.proba is not None:
                answer = model.calibration.rows(call.proba, chosen)
                table = _whole(call.proba, answer, slot, None, chosen)
            else:
                table = await self._fall_back(live, slot, model, block, features, call, chosen)
            _count_many(live, slot, call, table)
            found.append(table)
        return found[0] if len(found) == 1 else _joined(found)

    async def _fall_back(
        self,
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
            _count_unanswered(live, slot, call, len(features))
            raise _unanswered(reason, model)
        if call.proba is None and not is_row_caused(reason):
            try:
                return await self._chain(live, slot, columns, features, reason, level)
            except ModelUnavailable:
                _count_unanswered(live, slot, call, len(features))
                raise
        prior = model.baseline.by_prior(len(features))
        table = _whole(prior.proba, prior.answer, "prior", reason, level)
        if call.proba is not None:
            good = ~np.isnan(call.proba[:, 0])
            if good.any():
                _fill(table, good, model.calibration.rows(call.proba[good], level), call.proba[good], slot)
        return table

    async def _chain(
        self,
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
                table = await self._by_other(live.at(step), step, columns, reason, level)
                if table is not None:
                    return table
                continue
            found = _by_baseline(model, step, features, level)
            if found is not None:
                return _whole(found.proba, found.answer, _origin(step), reason, level)
        raise _unanswered(reason, model)

    async def _by_other(
        self, other: LiveModel | None, slot: Slot, columns: ColumnArrays, reason: FallbackReason, level: Decimal
    ) -> TableAnswer | None:
        """Answers of another loaded model; rows that break it get every label. None where it is not healthy."""
        if other is None:
            return None
        features = other.transform(columns)
        try:
            call = await other.guard.call(features)
        except Overloaded:
            return None
        if call.proba is None and not (call.reason and is_row_caused(call.reason)):
            return None
        prior = other.baseline.by_prior(len(features))
        table = _whole(prior.proba, prior.answer, "prior", call.reason or reason, level)
        if call.proba is not None:
            good = ~np.isnan(call.proba[:, 0])
            if good.any():
                _fill(table, good, other.calibration.rows(call.proba[good], level), call.proba[good], slot, reason)
        return table

    def _envelopes(
        self,
        live: Live,
        slot: Slot,
        records: Sequence[Record],
        table: TableAnswer,
        client_request_id: str | None,
    ) -> list[InferenceResponse]:
        """One envelope a row; ``slot`` is the one that was asked."""
        p_values, sets, predictions = table.answer
        rows = zip(
            records,
            table.proba.tolist(),
            p_values.tolist(),
            _members(sets),
            predictions.tolist(),
            table.origins.tolist(),
            table.reasons.tolist(),
            strict=True,
        )
        found = []
        for record, proba, p, members, prediction, origin, reason in rows:
            name = ORIGINS[origin]
            found.append(
                self._envelope(
                    new_id(),
                    record,
                    answering_model(live, slot, name),
                    name,
                    REASONS[reason],
                    proba,
                    p,
                    members,
                    prediction,
                    table.level,
                    client_request_id,
                )
            )
        return found

    def _envelope(
        self,
        request_id: str,
        record: Record,
        model: LiveModel,
        origin: Origin,
        reason: FallbackReason | None,
        proba: list[float],
        p_values: list[float],
        members: list[int],
        prediction: int,
        level: Decimal,
        client_request_id: str | None,
    ) -> InferenceResponse:
        classes = model.classes
        model.count(origin, reason)
        return InferenceResponse(
            request_id=request_id,
            prediction=classes[prediction],
            probability=proba[1] if model.is_binary else None,
            confidence=proba[prediction],
            prediction_set=[classes[k] for k in members],
            p_values=dict(zip(model.keys, p_values, strict=True)),
            confidence_level=float(level),
            guarantee=model.calibration.guarantee,
            validity="unmonitored",
            validity_reasons=(),
            fallback_used=reason is not None,
            fallback_reason=reason,
            error=None,
            lineage=self.lineage(model, origin, hashlib.sha256(model.reader.canonical(record)).hexdigest()),
            client_request_id=client_request_id,
        )

    def _shadow_rows(self, live: Live, columns: ColumnArrays, table: TableAnswer, ids: list[str] | None) -> None:
        if live.mode == "shadow" and self._shadow is not None:
            self._shadow.put(live, ShadowRows.of_table(ids, columns, table.proba, table.answer, table.level))


def invalid_record_body(error: InvalidRecord) -> dict[str, object]:
    """The error object's inside for a record that cannot be read."""
    return {
        "code": error.code,
        "message": f"{len(error.fields)} field(s) cannot be accepted",
        "fields": [{"field": f.field, "problem": f.problem} for f in error.fields],
    }


def _read_all(reader: RecordReader, raw: Sequence[object]) -> tuple[list[Record | None], dict[int, InvalidRecord]]:
    records: list[Record | None] = []
    problems: dict[int, InvalidRecord] = {}
    for i, item in enumerate(raw):
        try:
            records.append(reader.read(item))
        except InvalidRecord as error:
            records.append(None)
            problems[i] = error
    return records, problems


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


# --- arrays -------------------------------------------------------------------------------------------------------


def _whole(
    proba: Probabilities, answer: BatchAnswer, origin: Origin, reason: FallbackReason | None, level: Decimal
) -> TableAnswer:
    """A table whose rows all come from one origin."""
    n = len(proba)
    origins = np.full(n, _ORIGIN_NUMBER[origin], dtype=np.int8)
    return TableAnswer(proba, answer, origins, np.full(n, _REASON_NUMBER[reason], dtype=np.int8), level)


def _fill(
    table: TableAnswer,
    rows: npt.NDArray[np.bool_],
    answer: BatchAnswer,
    proba: Probabilities,
    origin: Origin,
    reason: FallbackReason | None = None,
) -> None:
    """Put the answers of another origin into some rows."""
    table.proba[rows] = proba
    for mine, theirs in zip(table.answer, answer, strict=True):
        mine[rows] = theirs
    table.origins[rows] = _ORIGIN_NUMBER[origin]
    table.reasons[rows] = _REASON_NUMBER[reason]


def _joined(tables: Sequence[TableAnswer]) -> TableAnswer:
    return TableAnswer(
        proba=np.concatenate([t.proba for t in tables]),
        answer=BatchAnswer(*(np.concatenate(parts) for parts in zip(*(t.answer for t in tables), strict=True))),
        origins=np.concatenate([t.origins for t in tables]),
        reasons=np.concatenate([t.reasons for t in tables]),
        level=tables[0].level,
    )


def _blocks(columns: ColumnArrays) -> Iterator[ColumnArrays]:
    """The columns in blocks of rows, so that the matrix of a million rows is never in memory whole."""
    n = len(next(iter(columns.values())))
    for start in range(0, max(n, 1), _BLOCK_ROWS):
        yield {name: values[start : start + _BLOCK_ROWS] for name, values in columns.items()}


def _members(sets: npt.NDArray[np.bool_]) -> list[list[int]]:
    return [[k for k, inside in enumerate(row) if inside] for row in sets.tolist()]


# --- counts ----------------------------------------------------------------------------------------


def _count_one(live: Live, slot: Slot, call: GuardedCall, envelope: InferenceResponse) -> None:
    counts = live.counts[slot]
    counts.answers += 1
    counts.set_sizes[len(envelope.prediction_set)] += 1
    _count_call(live, counts, call, 1)
    if call.reason is not None:
        counts.fallbacks[call.reason] += 1


def _count_many(live: Live, slot: Slot, call: GuardedCall, table: TableAnswer) -> None:
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


def _count_unanswered(live: Live, slot: Slot, call: GuardedCall, rows: int) -> None:
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


def _count_in_metrics(live: Live, slot: Slot, table: TableAnswer) -> None:
    """Add the rows of a bulk answer to the metrics (envelopes count themselves)."""
    kinds, counts = np.unique(table.origins.astype(np.int64) * len(REASONS) + table.reasons, return_counts=True)
    for kind, n in zip(kinds.tolist(), counts.tolist(), strict=True):
        origin, reason = ORIGINS[kind // len(REASONS)], REASONS[kind % len(REASONS)]
        answering_model(live, slot, origin).count(origin, reason, n)


def _log_degraded(live: Live, slot: Slot, table: TableAnswer, request_id: str) -> None:
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


def answering_model(live: Live, asked: Slot, origin: Origin) -> LiveModel:
    """The model an answer's lineage names: the one in that slot, or the one asked, whose baseline answered."""
    named = live.at(origin) if origin in ("champion", "challenger", "previous") else live.at(asked)
    return named or live.champion
