"""The inference core: records in, envelopes out. HTTP, batch and in-process callers all come through here."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from ml_core.clock import utc_now, utc_text
from ml_core.conformal.predict import BatchAnswer
from ml_core.errors import FieldProblem, InvalidRecord, ModelUnavailable, SuretyError
from ml_core.features.columns import ColumnArrays
from ml_core.features.record import Record
from ml_core.models.loader import LoadedModel
from ml_core.serving.envelope import BatchResponse, InferenceLineage, InferenceResponse, Label, RowError
from ml_core.serving.ids import new_id
from ml_core.serving.requests import BatchRequest, PredictRequest
from ml_core.serving.runner import ConformalRunner, FeatureMatrix, Probabilities, Runner

__all__ = ["InferenceService", "TableAnswer", "invalid_record_body"]

logger = logging.getLogger(__name__)

_BLOCK_ROWS = 8_192


@dataclass(frozen=True, slots=True)
class TableAnswer:
    """Answers for the n rows of a table, as arrays.

    Attributes
    ----------
    proba : float64 (n, K)
    answer : p-values (n, K), sets bool (n, K), predictions (n,) as class positions
    level : the confidence level of the sets
    """

    proba: Probabilities
    answer: BatchAnswer
    level: Decimal


class InferenceService:
    """Answers with one loaded model.

    Parameters
    ----------
    model : what answers
    runner : where its arithmetic runs; in this process unless told otherwise
    bento : tag of the bento this code runs in, None outside one
    now : clock of the envelopes
    """

    def __init__(
        self,
        model: LoadedModel,
        runner: Runner | None = None,
        *,
        bento: str | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.model = model
        self._runner = runner if runner is not None else ConformalRunner(model)
        self._now = now
        self._bento = bento
        predictor = model.predictor
        bundle = predictor.bundle
        self.reader = predictor.reader
        self._transform = bundle.features.transform
        self._calibration = bundle.calibration
        self._classes: tuple[Label, ...] = predictor.classes
        self._keys = tuple(str(label) for label in predictor.classes)
        self._level = predictor.level
        self._binary = len(predictor.classes) == 2
        self._manifest = bundle.manifest

    def predict(self, request: PredictRequest) -> InferenceResponse:
        """The envelope for one record.

        Raises
        ------
        InvalidRecord
            The record breaks the column table.
        ModelUnavailable
            The model cannot answer for now.
        """
        record = self.reader.read(request.features)
        proba = self._probabilities(self._transform(self.reader.arrays((record,))))[0].tolist()
        level = self._level if request.level is None else request.level
        answer = self._calibration.row(proba, level)
        return self._envelope(
            new_id(),
            record,
            proba,
            answer.p_values,
            answer.members,
            answer.prediction,
            level,
            request.client_request_id,
        )

    def predict_batch(self, request: BatchRequest) -> BatchResponse:
        """Envelopes for many records, in their order.

        Raises
        ------
        InvalidRecord
            ``on_error`` is ``reject`` and a record is bad; fields are named ``records[3].age``.
        ModelUnavailable
            The model cannot answer for now.
        """
        records, problems = self._read_all(request.records)
        if problems and request.on_error == "reject":
            raise InvalidRecord(
                [FieldProblem(f"records[{i}].{f.field}", f.problem) for i, p in problems.items() for f in p.fields]
            )
        good = [record for record in records if record is not None]
        answers = iter(self._answer_records(good, request.level) if good else ())
        return BatchResponse(
            batch_id=new_id(),
            predictions=[
                RowError(new_id(), invalid_record_body(problems[i])) if record is None else next(answers)
                for i, record in enumerate(records)
            ],
        )

    def predict_table(self, columns: ColumnArrays, level: Decimal | None = None) -> TableAnswer:
        """Answers for rows that are already columns, as arrays.

        Raises
        ------
        ModelUnavailable
            The model cannot answer for now.
        """
        chosen = self._level if level is None else level
        blocks = [self._probabilities(self._transform(block)) for block in _blocks(columns)]
        proba = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return TableAnswer(proba, self._calibration.rows(proba, chosen), chosen)

    def warm_up(self, rounds: int = 20) -> None:
        """Answer the golden records a few times, so that the first caller pays for nothing."""
        for entry in self.model.predictor.bundle.golden[:rounds]:
            self.predict(PredictRequest(entry["record"]))

    def _probabilities(self, features: FeatureMatrix) -> Probabilities:
        """The guarded call: whatever a model raises becomes one kind of error here."""
        try:
            return self._runner.proba(features)
        except SuretyError:
            raise
        except Exception as error:
            logger.exception("model.failed", extra={"model_hash": self.model.model_hash, "rows": len(features)})
            raise ModelUnavailable("the model failed") from error

    def _read_all(self, raw: Sequence[object]) -> tuple[list[Record | None], dict[int, InvalidRecord]]:
        records: list[Record | None] = []
        problems: dict[int, InvalidRecord] = {}
        for i, item in enumerate(raw):
            try:
                records.append(self.reader.read(item))
            except InvalidRecord as error:
                records.append(None)
                problems[i] = error
        return records, problems

    def _answer_records(self, records: Sequence[Record], level: Decimal | None) -> list[InferenceResponse]:
        table = self.predict_table(self.reader.arrays(records), level)
        p_values, sets, predictions = table.answer
        return [
            self._envelope(new_id(), record, row, p, members, prediction, table.level, None)
            for record, row, p, members, prediction in zip(
                records,
                table.proba.tolist(),
                p_values.tolist(),
                _members(sets),
                predictions.tolist(),
                strict=True,
            )
        ]

    def _envelope(
        self,
        request_id: str,
        record: Record,
        proba: list[float],
        p_values: list[float],
        members: list[int],
        prediction: int,
        level: Decimal,
        client_request_id: str | None,
    ) -> InferenceResponse:
        classes = self._classes
        return InferenceResponse(
            request_id=request_id,
            prediction=classes[prediction],
            probability=proba[1] if self._binary else None,
            confidence=proba[prediction],
            prediction_set=[classes[k] for k in members],
            p_values=dict(zip(self._keys, p_values, strict=True)),
            confidence_level=float(level),
            guarantee=self._calibration.guarantee,
            validity="unmonitored",
            validity_reasons=(),
            fallback_used=False,
            fallback_reason=None,
            error=None,
            lineage=self.lineage(hashlib.sha256(self.reader.canonical(record)).hexdigest()),
            client_request_id=client_request_id,
        )

    def lineage(self, input_hash: str) -> InferenceLineage:
        """Lineage of an answer to the input of that hash, given now."""
        manifest = self._manifest
        return InferenceLineage(
            model_name=manifest.name,
            model_version=self.model.version,
            model_hash=self.model.model_hash,
            feature_version=manifest.feature_version,
            calibration_id=manifest.calibration_id,
            input_hash=input_hash,
            slot="champion",
            bento=self._bento,
            timestamp=utc_text(self._now()),
        )


def invalid_record_body(error: InvalidRecord) -> dict[str, object]:
    """The error object's inside for a record that cannot be read."""
    return {
        "code": error.code,
        "message": f"{len(error.fields)} field(s) cannot be accepted",
        "fields": [{"field": f.field, "problem": f.problem} for f in error.fields],
    }


def _blocks(columns: ColumnArrays) -> Iterator[ColumnArrays]:
    """The columns in blocks of rows, so that the matrix of a million rows is never in memory whole."""
    n = len(next(iter(columns.values())))
    for start in range(0, max(n, 1), _BLOCK_ROWS):
        yield {name: values[start : start + _BLOCK_ROWS] for name, values in columns.items()}


def _members(sets: npt.NDArray[np.bool_]) -> list[list[int]]:
    return [[k for k, inside in enumerate(row) if inside] for row in sets.tolist()]
