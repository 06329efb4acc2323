"""The inference core: records in, envelopes out. HTTP, batch and in-process callers all come through here."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.errors import (
    FieldProblem,
    InvalidRecord,
    LogUnavailable,
    NotLoaded,
    Overloaded,
)
from ml_core.features.columns import ColumnArrays
from ml_core.serve.answering.answer_counts import count_in_metrics, count_many, count_one, log_degraded
from ml_core.serve.answering.answers import REASONS, TableAnswer, answering_model, blocks, joined, members_of, whole
from ml_core.serve.answering.envelope import BatchResponse, InferenceLineage, InferenceResponse, RowError, Validity
from ml_core.serve.answering.fallback_chain import fall_back
from ml_core.serve.answering.live import ORIGINS, Live, LiveModel, Origin
from ml_core.serve.answering.recording import BulkAnswer, Logged, Recorder
from ml_core.serve.answering.request_ids import new_id
from ml_core.serve.answering.requests import BatchRequest, PredictRequest
from ml_core.serve.answering.shadow import Shadow, ShadowRows
from ml_core.serve.features.record import Record, RecordReader
from ml_core.serve.rollout.monitor_state import Validities
from ml_core.serve.rollout.rollout_state import Slot
from ml_core.serve.running.guard import FallbackReason, GuardedCall
from ml_core.serve.running.runner import FeatureMatrix

__all__ = ["AskedTable", "Elsewhere", "InferenceService", "invalid_record_body"]

T = TypeVar("T")

Elsewhere = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a piece of work off the event loop."""


async def _right_here(work: Callable[[], T]) -> T:
    return work()


_UNMONITORED: tuple[Validity, tuple[str, ...]] = ("unmonitored", ())


@dataclass(frozen=True, slots=True)
class AskedTable:
    """Answers that nobody has got yet.

    Attributes
    ----------
    columns : what was asked, each (n,)
    table : n answers
    elapsed_ms : time the model took
    count : adds them to the guards' counts
    """

    columns: ColumnArrays
    table: TableAnswer
    elapsed_ms: float
    count: Callable[[], None]


class InferenceService:
    """Answers with whatever is live.

    Parameters
    ----------
    live : the models in their slots; None until some are loaded. Replaced as a whole when the rollout changes
    bento : tag of the bento this code runs in, None outside one
    now : clock of the envelopes
    shadow : takes what a challenger is to score as well
    recorder : stores every answer before it is given

    Attributes
    ----------
    validity : what answers of a model say of themselves, by its hash, as the monitor sees it
    """

    def __init__(
        self,
        live: Live | None,
        *,
        bento: str | None = None,
        now: Callable[[], datetime] = utc_now,
        shadow: Shadow | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.live = live
        self.problem = ""
        self.validity: Validities = {}
        self._recorder = recorder
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
        LogUnavailable
            Strict mode, and the answer cannot be stored.
        """
        live = self.ready()
        reader = live.champion.reader
        record = reader.read(request.features)
        slot = live.route(request.subject, request.client_request_id)
        model = live.at(slot) or live.champion
        columns = reader.arrays((record,))
        features = model.transform(columns)
        call = await _asked(slot, model, features)
        level = request.level or live.flags.confidence_level or model.level
        if call.reason is None and call.proba is not None:
            proba = call.proba[0].tolist()
            answer = model.calibration.row(proba, level)
            envelope = self._envelope(
                new_id(), record, model, slot, None, proba, answer.p_values, answer.members, answer.prediction, level,
                request.client_request_id,
            )  # fmt: skip
            logged = Logged(envelope, model, record, proba, request.subject, call.elapsed_ms)
        else:
            table = await fall_back(live, slot, model, columns, features, call, level)
            ((envelope, answering),) = self._envelopes(live, slot, [record], table, request.client_request_id)
            if envelope.fallback_reason is not None:
                log_degraded(live, slot, table, envelope.request_id)
            logged = Logged(envelope, answering, record, table.proba[0].tolist(), request.subject, call.elapsed_ms)
        await self._record([logged], lambda: count_one(live, slot, call, envelope))
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
        ModelUnavailable, Overloaded, LogUnavailable
            As :meth:`predict`.
        """
        live = self.ready()
        reader = live.champion.reader
        records, problems = await elsewhere(lambda: _read_all(reader, request.records))
        if problems and request.on_error == "reject":
            raise InvalidRecord(
                [FieldProblem(f"records[{i}].{f.field}", f.problem) for i, p in problems.items() for f in p.fields]
            )
        batch_id = new_id()
        good = [record for record in records if record is not None]
        answers: list[InferenceResponse] = []
        if good:
            columns = await elsewhere(lambda: reader.arrays(good))
            slot = live.route(None, None)
            asked = await self.ask_table(live, slot, columns, request.level, elsewhere)
            pairs = await elsewhere(lambda: self._envelopes(live, slot, good, asked.table, None))
            answers = [envelope for envelope, _ in pairs]
            log_degraded(live, slot, asked.table, "")
            positions = [i for i, record in enumerate(records) if record is not None]
            logged = [
                Logged(envelope, model, record, proba, None, asked.elapsed_ms, batch_id, i)
                for (envelope, model), record, proba, i in zip(
                    pairs, good, asked.table.proba.tolist(), positions, strict=True
                )
            ]
            await self._record(logged, asked.count)
            self._shadow_rows(live, columns, asked.table, [answer.request_id for answer in answers])
        following = iter(answers)
        return BatchResponse(
            batch_id=batch_id,
            predictions=[
                RowError(new_id(), invalid_record_body(problems[i])) if record is None else next(following)
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
    ) -> AskedTable:
        """Answers for rows that are already columns, as arrays, from one slot of a moment of the rollout.

        They are to be handed to :meth:`give_table` before anybody gets them.

        Raises
        ------
        ModelUnavailable, Overloaded
            As :meth:`predict`.
        """
        model = live.at(slot) or live.champion
        chosen = level or live.flags.confidence_level or model.level
        found, calls = [], []
        for block in blocks(columns):
            features = await elsewhere(lambda block=block: model.transform(block))  # type: ignore[misc]  # its default is the block
            call = await _asked(slot, model, features)
            if call.reason is None and call.proba is not None:
                answer = model.calibration.rows(call.proba, chosen)
                table = whole(call.proba, answer, slot, None, chosen)
            else:
                table = await fall_back(live, slot, model, block, features, call, chosen)
            found.append(table)
            calls.append(call)

        def count() -> None:
            for call, table in zip(calls, found, strict=True):
                count_many(live, slot, call, table)

        return AskedTable(columns, joined(found), sum(call.elapsed_ms for call in calls), count)

    async def give_table(
        self,
        live: Live,
        slot: Slot,
        asked: Sequence[AskedTable],
        bulk: BulkAnswer | None,
        elsewhere: Elsewhere = _right_here,
    ) -> None:
        """Store, count and shadow the rows of a bulk call before its reply is sent.

        Parameters
        ----------
        bulk : the call's answered rows, None where it has none

        Raises
        ------
        LogUnavailable
            Strict mode, and they cannot be stored.
        """

        def count() -> None:
            for part in asked:
                part.count()
                count_in_metrics(live, slot, part.table)

        if bulk is not None and self._recorder is not None:
            recorder, durable = self._recorder, live.flags.log_mode == "strict"
            row = await elsewhere(lambda: recorder.segment(live, slot, bulk, durable=durable))
            await self._counted(recorder.rows([row]) if row is not None else None, count)
        else:
            count()
        for part in asked:
            log_degraded(live, slot, part.table, "")
            self._shadow_rows(live, part.columns, part.table, None)

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

    async def _record(self, answers: Sequence[Logged], count: Callable[[], None]) -> None:
        """Store answers, then count them."""

        def count_all() -> None:
            count()
            for answer in answers:
                answer.model.count(answer.envelope.lineage.slot, answer.envelope.fallback_reason)  # type: ignore[arg-type]  # an origin and a reason

        await self._counted(None if self._recorder is None else self._recorder.answers(answers), count_all)

    async def _counted(self, storing: Awaitable[None] | None, count: Callable[[], None]) -> None:
        """Wait for the log, and count what is answered then: everything, unless strict mode keeps it back."""
        if storing is not None:
            try:
                await storing
            except LogUnavailable:
                raise
            except BaseException:  # the caller went away; the answer is in the log all the same
                count()
                raise
        count()

    def _envelopes(
        self,
        live: Live,
        slot: Slot,
        records: Sequence[Record],
        table: TableAnswer,
        client_request_id: str | None,
    ) -> list[tuple[InferenceResponse, LiveModel]]:
        """One envelope a row, with the model its lineage names; ``slot`` is the one that was asked."""
        p_values, sets, predictions = table.answer
        rows = zip(
            records,
            table.proba.tolist(),
            p_values.tolist(),
            members_of(sets),
            predictions.tolist(),
            table.origins.tolist(),
            table.reasons.tolist(),
            strict=True,
        )
        found = []
        for record, proba, p, members, prediction, origin, reason in rows:
            name = ORIGINS[origin]
            model = answering_model(live, slot, name)
            envelope = self._envelope(
                new_id(), record, model, name, REASONS[reason], proba, p, members, prediction, table.level,
                client_request_id,
            )  # fmt: skip
            found.append((envelope, model))
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
        validity, validity_reasons = self.validity.get(model.model.model_hash, _UNMONITORED)
        return InferenceResponse(
            request_id=request_id,
            prediction=classes[prediction],
            probability=proba[1] if model.is_binary else None,
            confidence=proba[prediction],
            prediction_set=[classes[k] for k in members],
            p_values=dict(zip(model.keys, p_values, strict=True)),
            confidence_level=float(level),
            guarantee=model.calibration.guarantee,
            validity=validity,
            validity_reasons=validity_reasons,
            fallback_used=reason is not None,
            fallback_reason=reason,
            error=None,
            lineage=self.lineage(model, origin, hashlib.sha256(model.reader.canonical(record)).hexdigest()),
            client_request_id=client_request_id,
        )

    def _shadow_rows(self, live: Live, columns: ColumnArrays, table: TableAnswer, ids: list[str] | None) -> None:
        if live.mode == "shadow" and self._shadow is not None:
            self._shadow.put(live, ShadowRows.of_table(ids, columns, table.proba, table.answer, table.level))


async def _asked(slot: Slot, model: LiveModel, features: FeatureMatrix) -> GuardedCall:
    """The guarded call; where a canary has no room for more, the champion answers instead of nobody."""
    try:
        return await model.guard.call(features)
    except Overloaded:
        if slot != "challenger":
            raise
        return GuardedCall(None, "stuck", called=False)


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
