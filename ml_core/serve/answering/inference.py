"""The inference core: records in, answers out. HTTP, batch and in-process callers all come through here."""

from __future__ import annotations

import hashlib
from asyncio import to_thread
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np
from uuid_utils import UUID

from ml_core.base.arrays import FeatureMatrix
from ml_core.base.clock import utc_now
from ml_core.base.errors import FieldProblem, InvalidRecord, LogUnavailable, NotLoaded, Overloaded
from ml_core.features.columns import ColumnArrays
from ml_core.serve.answering.answers import Answer, Answers, Question, blocks
from ml_core.serve.answering.envelope import BatchResponse, InferenceResponse, Responder, RowError
from ml_core.serve.answering.fallback_chain import fall_back
from ml_core.serve.answering.live import Live, LiveModel, Origin
from ml_core.serve.answering.recording import BulkCall, Recorder
from ml_core.serve.answering.requests import BatchRequest, PredictRequest, new_id
from ml_core.serve.answering.shadow import Shadow, ShadowRows
from ml_core.serve.features.record import Record, RecordReader
from ml_core.serve.log.entries import Row
from ml_core.serve.model.explanations import Explanation
from ml_core.serve.model.prediction_sets import RowPrediction
from ml_core.serve.rollout.monitor_state import Validities, Validity
from ml_core.serve.rollout.rollout_state import Slot
from ml_core.serve.running.runner import FallbackReason, GuardedCall

__all__ = ["UNMONITORED", "Elsewhere", "InferenceService"]

_T = TypeVar("_T")

Elsewhere = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a piece of work off the event loop."""


async def _right_here(work: Callable[[], _T]) -> _T:
    return work()


UNMONITORED: tuple[Validity, tuple[str, ...]] = ("unmonitored", ())
"""What answers of a model say of themselves while no monitor watches it."""


class InferenceService:
    """Answers with whatever is live.

    Parameters
    ----------
    live : the models in their slots; None until some are loaded. Replaced as a whole when the rollout changes
    responder : what answers here
    shadow : takes what a challenger is to score as well
    recorder : stores every answer before it is given
    now : clock of the answers

    Attributes
    ----------
    problem : why nothing is live, "" where something is or nobody knows
    validity : what answers of a model say of themselves, by its hash, as the monitor sees it
    """

    def __init__(
        self,
        live: Live | None,
        *,
        responder: Responder | None = None,
        shadow: Shadow | None = None,
        recorder: Recorder | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.live = live
        self.problem = ""
        self.validity: Validities = {}
        self.responder = Responder() if responder is None else responder
        self._recorder = recorder
        self._shadow = shadow
        self._now = now

    def answer_as(self, responder: Responder) -> None:
        """What answers here from now on, in envelopes and in the log."""
        self.responder = responder
        if self._recorder is not None:
            self._recorder.answer_as(responder)

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
        LogUnavailable
            Strict mode, and the answer cannot be stored.
        """
        live = self.ready()
        reader = live.champion.reader
        record = reader.read(request.features)
        slot = live.route(request.subject, request.client_request_id)
        model = live.asked(slot)
        columns = reader.arrays((record,))
        features = model.transform(columns)
        call = await _asked(live, slot, features)
        level = live.level(slot, request.level)
        origin: Origin = slot
        reason = None
        if call.reason is None and call.proba is not None:
            proba = call.proba[0].tolist()
            if model.weighted is None:
                calibration = model.calibration if model.grouped is None else model.grouped.of_record(record)
                row = calibration.row(proba, level)
            else:
                row = model.weighted.row(proba, level, float(model.weighted.ratio.weights(features)[0]))
        else:
            answers = await fall_back(Question(live, slot, columns, features, level), call)
            ((origin, reason, row),) = answers.rows()
            model = live.answering(slot, origin)
        answer = self._answer(model, origin, reason, row, level, record, call.elapsed_ms)
        answer.client_request_id, answer.subject = request.client_request_id, request.subject
        if request.explain:
            answer.explanation = await to_thread(_explained, model, origin, columns, row)
        if reason is not None:
            answers.log_degraded(str(answer.request_id))

        def count() -> None:
            counts = live.count_call(slot, call, 1)
            counts.set_sizes[len(row.members)] += 1
            if call.reason is not None:
                counts.fallbacks[call.reason] += 1
            model.count(origin, reason)

        await self._store([] if self._recorder is None else [self._recorder.row(answer)], count)
        if live.mode == "shadow" and self._shadow is not None:
            self._shadow.put(live, ShadowRows((str(answer.request_id),), columns, features, row, level))
        return answer.envelope(self.responder)

    async def predict_batch(self, request: BatchRequest, elsewhere: Elsewhere = _right_here) -> BatchResponse:
        """Envelopes for many records, in their order; one slot answers them all.

        Parameters
        ----------
        elsewhere : runs the reading and writing of many records off the event loop

        Raises
        ------
        InvalidRecord
            ``on_error`` is ``reject`` and a record is bad; fields are named ``records[3].age``.
        ModelUnavailable, Overloaded, LogUnavailable
            As :meth:`predict`; also where no model of the version that is asked for answers any more.
        """
        live = self.ready()
        reader = live.champion.reader
        records, problems = await elsewhere(lambda: _read_all(reader, request.records))
        if problems and request.on_error == "reject":
            raise InvalidRecord(
                [FieldProblem(f"records[{i}].{f.field}", f.problem) for i, p in problems.items() for f in p.fields]
            )
        batch_id = new_id()
        good = {i: record for i, record in enumerate(records) if record is not None}
        envelopes: list[InferenceResponse] = []
        if good:
            columns = await elsewhere(lambda: reader.arrays(list(good.values())))
            slot = live.route(None, None) if request.version is None else live.named(request.version)
            answers = await self.ask_table(live, slot, columns, request.level, elsewhere)
            each = await elsewhere(lambda: self._each(answers, good, batch_id))
            if request.explain:
                for answer, explanation in zip(each, await to_thread(answers.explanations), strict=True):
                    answer.explanation = explanation
            answers.log_degraded("")

            def count() -> None:
                answers.count()
                answers.count_in_metrics()

            recorder = self._recorder
            await self._store([] if recorder is None else [recorder.row(answer) for answer in each], count)
            self._shadow_rows(answers, tuple(str(answer.request_id) for answer in each))
            envelopes = await elsewhere(lambda: [answer.envelope(self.responder) for answer in each])
        following = iter(envelopes)
        return BatchResponse(
            batch_id=str(batch_id),
            predictions=[
                RowError(str(new_id()), _error_of(problems[i])) if record is None else next(following)
                for i, record in enumerate(records)
            ],
        )

    async def ask_table(
        self,
        live: Live,
        slot: Slot,
        columns: ColumnArrays,
        level: Decimal | None = None,
        elsewhere: Elsewhere = _right_here,
    ) -> Answers:
        """Answers for rows that are already columns, from one slot of a moment of the rollout.

        The columns may hold those beside the features that tell groups. The answers are to be handed to
        :meth:`record_bulk` before anybody gets them.

        Raises
        ------
        ModelUnavailable, Overloaded
            As :meth:`predict`.
        """
        model, chosen = live.asked(slot), live.level(slot, level)
        parts = []
        for block in blocks(columns):
            features = await elsewhere(lambda block=block: model.transform(block))  # type: ignore[misc]  # its default is the block
            question = Question(live, slot, block, features, chosen)
            call = await _asked(live, slot, features)
            if call.reason is None and call.proba is not None:
                predictions = model.sets(call.proba, block, chosen)
                parts.append(Answers.by(question, call, predictions, slot))
            else:
                parts.append(await fall_back(question, call))
        return Answers.joined(parts, columns)

    async def record_bulk(
        self, parts: Sequence[Answers], call: BulkCall | None, elsewhere: Elsewhere = _right_here
    ) -> None:
        """Store, count and shadow the answers of a bulk call before its reply is sent.

        Parameters
        ----------
        parts : the answers of each of its tables
        call : what the log holds of the call; None where nothing of it was answered

        Raises
        ------
        LogUnavailable
            Strict mode, and they cannot be stored.
        """

        def count() -> None:
            for part in parts:
                part.count()
                part.count_in_metrics()

        row = None
        if call is not None and self._recorder is not None:
            recorder = self._recorder
            row = await elsewhere(lambda: recorder.segment(Answers.joined(parts), call))
        await self._store([] if row is None else [row], count)
        for part in parts:
            part.log_degraded("")
            self._shadow_rows(part, None)

    def warm_up(self, rounds: int = 20) -> None:
        """Work through the champion's golden records outside the circuit, so that the first caller pays for nothing."""
        live = self.live
        if live is None:
            return
        champion = live.champion
        for entry in champion.model.predictor.bundle.golden[:rounds]:
            record = champion.reader.read(entry["record"])
            champion.guard.learn_speed(champion.transform(champion.reader.arrays((record,))))
            champion.calibration.row(entry["proba"], champion.level)

    async def _store(self, rows: Sequence[Row], count: Callable[[], None]) -> None:
        """Store the rows of answers, and count the answers then: all of them, unless strict mode keeps them back."""
        if self._recorder is not None and rows:
            try:
                await self._recorder.store(rows)
            except LogUnavailable:
                raise
            except BaseException:  # the caller went away; the answer is in the log all the same
                count()
                raise
        count()

    def _each(self, answers: Answers, records: Mapping[int, Record], batch_id: UUID) -> list[Answer]:
        """The answers of a batch call one by one; ``records`` are the answered ones, by their place in the call."""
        found = []
        for (i, record), (origin, reason, row) in zip(records.items(), answers.rows(), strict=True):
            model = answers.live.answering(answers.slot, origin)
            answer = self._answer(model, origin, reason, row, answers.level, record, answers.elapsed_ms)
            answer.batch_id, answer.batch_index = batch_id, i
            found.append(answer)
        return found

    def _answer(
        self,
        model: LiveModel,
        origin: Origin,
        reason: FallbackReason | None,
        row: RowPrediction,
        level: Decimal,
        record: Record,
        elapsed_ms: float,
    ) -> Answer:
        """One answer, given now."""
        return Answer(
            request_id=new_id(),
            at=self._now(),
            model=model,
            origin=origin,
            reason=reason,
            row=row,
            level=float(level),
            validity=self.validity.get(model.model_hash, UNMONITORED),
            record=record,
            input_hash=hashlib.sha256(model.reader.canonical(record)).hexdigest(),
            elapsed_ms=elapsed_ms,
            groups=None if model.groupings is None else model.groupings.of_record(record),
        )

    def _shadow_rows(self, answers: Answers, ids: Sequence[str] | None) -> None:
        if answers.live.mode == "shadow" and self._shadow is not None:
            rows = ShadowRows(ids or [None] * len(answers), answers.columns, None, answers.predictions, answers.level)
            self._shadow.put(answers.live, rows)


async def _asked(live: Live, slot: Slot, features: FeatureMatrix) -> GuardedCall:
    """The guarded call; where a canary has no room for more, the champion answers instead of nobody."""
    if live.missing and slot == "champion":
        return GuardedCall(None, "model_not_loaded", called=False)
    try:
        return await live.asked(slot).guard.call(features)
    except Overloaded:
        if slot != "challenger":
            raise
        return GuardedCall(None, "stuck", called=False)


def _explained(model: LiveModel, origin: Origin, columns: ColumnArrays, row: RowPrediction) -> Explanation:
    """Why the answer to one record is what it is, said by the model that its lineage names."""
    return model.explained(origin, model.transform(columns), np.array([row.prediction]))[0]


def _error_of(error: InvalidRecord) -> dict[str, object]:
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
