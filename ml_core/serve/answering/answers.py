"""Answers: of many rows as arrays, of one row as plain numbers. Envelope, log and bulk reply are views of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

import numpy as np
import numpy.typing as npt
from uuid_utils import UUID

from ml_core.base.arrays import BoolArray, FeatureMatrix
from ml_core.base.clock import utc_text
from ml_core.features.columns import ColumnArrays
from ml_core.serve.answering.envelope import InferenceLineage, InferenceResponse, Responder
from ml_core.serve.answering.live import ORIGINS, Live, LiveModel, Origin
from ml_core.serve.features.record import Record
from ml_core.serve.model.explanations import Explanation
from ml_core.serve.model.groupings import Promise
from ml_core.serve.model.prediction_sets import Predictions, RowPrediction
from ml_core.serve.rollout.monitor_state import Validity
from ml_core.serve.rollout.rollout_state import Slot
from ml_core.serve.running.runner import FallbackReason, GuardedCall

__all__ = ["REASONS", "Answer", "Answers", "Question", "blocks", "lineage_of"]

logger = logging.getLogger(__name__)

_BLOCK_ROWS = 8_192

REASONS: tuple[FallbackReason | None, ...] = (
    None, "circuit_open", "model_not_loaded", "runner_lost", "stuck", "deadline", "model_error", "bad_output",
)  # fmt: skip
"""Reasons by the number that stands for them in arrays; 0 is an ordinary answer."""
_REASON_NUMBER = {reason: number for number, reason in enumerate(REASONS)}
_ORIGIN_NUMBER = {origin: number for number, origin in enumerate(ORIGINS)}


@dataclass(frozen=True, slots=True)
class Question:
    """n rows, and who is to answer them.

    Attributes
    ----------
    live, slot : a moment of the rollout, and the slot of it that is asked
    columns : the rows, each column (n,)
    features : the same as the matrix of the slot's model, (n, d)
    level : the confidence level of the sets
    """

    live: Live
    slot: Slot
    columns: ColumnArrays
    features: FeatureMatrix
    level: Decimal


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to n rows, as arrays.

    Attributes
    ----------
    live, slot : a moment of the rollout, and the slot of it that was asked
    columns : what was asked, each (n,)
    level : the confidence level of the sets
    predictions : probabilities, p-values, sets and predicted labels
    origins, reasons : int8 (n,), who gave each answer and why it is not the model's own, as positions in ``ORIGINS``
        and ``REASONS``
    calls : the calls of the model that was asked, with the rows of each
    """

    live: Live
    slot: Slot
    columns: ColumnArrays
    level: Decimal
    predictions: Predictions
    origins: npt.NDArray[np.int8]
    reasons: npt.NDArray[np.int8]
    calls: tuple[tuple[GuardedCall, int], ...]

    @classmethod
    def by(
        cls,
        question: Question,
        call: GuardedCall,
        predictions: Predictions,
        origin: Origin,
        reason: FallbackReason | None = None,
    ) -> Answers:
        """Answers that all come from one origin, for one reason."""
        n = len(predictions.proba)
        return cls(
            question.live,
            question.slot,
            question.columns,
            question.level,
            predictions,
            np.full(n, _ORIGIN_NUMBER[origin], dtype=np.int8),
            np.full(n, _REASON_NUMBER[reason], dtype=np.int8),
            ((call, n),),
        )

    @classmethod
    def joined(cls, parts: Sequence[Answers], columns: ColumnArrays | None = None) -> Answers:
        """The rows of all parts, one after another; ``columns`` are theirs where they are at hand."""
        if len(parts) == 1:
            return parts[0]
        names = parts[0].columns
        return replace(
            parts[0],
            columns=columns or {name: np.concatenate([part.columns[name] for part in parts]) for name in names},
            predictions=Predictions.joined([part.predictions for part in parts]),
            origins=np.concatenate([part.origins for part in parts]),
            reasons=np.concatenate([part.reasons for part in parts]),
            calls=tuple(call for part in parts for call in part.calls),
        )

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def elapsed_ms(self) -> float:
        """Time the model took."""
        return sum(call.elapsed_ms for call, _ in self.calls)

    def put(
        self, rows: BoolArray, predictions: Predictions, origin: Origin, reason: FallbackReason | None = None
    ) -> None:
        """Replace some rows by the answers of another origin."""
        self.predictions.put(rows, predictions)
        self.origins[rows] = _ORIGIN_NUMBER[origin]
        self.reasons[rows] = _REASON_NUMBER[reason]

    def named(self) -> dict[Origin, LiveModel]:
        """The origins that have answered a row, with the model that the lineage of such an answer names."""
        names = [ORIGINS[i] for i in np.unique(self.origins).tolist()]
        return {name: self.live.answering(self.slot, name) for name in names}

    def rows(self) -> Iterator[tuple[Origin, FallbackReason | None, RowPrediction]]:
        """The answers row by row, as plain numbers."""
        for origin, reason, row in zip(
            self.origins.tolist(), self.reasons.tolist(), self.predictions.rows(), strict=True
        ):
            yield ORIGINS[origin], REASONS[reason], row

    def group_names(self) -> npt.NDArray[np.object_]:
        """The group in which each answer's coverage is promised, (n,); None where its model has no such groups."""
        found = np.full(len(self), None, dtype=np.object_)
        for origin, model in self.named().items():
            if model.grouped is not None:
                given = self.origins == _ORIGIN_NUMBER[origin]
                found[given] = np.array(model.grouped.names, dtype=np.object_)[model.grouped.cells(self.columns)[given]]
        return found

    def explanations(self) -> list[Explanation]:
        """Why each answer is what it is. Takes a tenth of a millisecond a row: not for the event loop."""
        found: list[Explanation] = [Explanation()] * len(self)
        for origin, model in self.named().items():
            rows = np.flatnonzero(self.origins == _ORIGIN_NUMBER[origin])
            features = model.transform({name: values[rows] for name, values in self.columns.items()})
            told = model.explained(origin, features, self.predictions.predictions[rows])
            for row, one in zip(rows.tolist(), told, strict=True):
                found[row] = one
        return found

    def count(self) -> None:
        """Add them to what the guards of a canary watch."""
        for call, rows in self.calls:
            counts = self.live.count_call(self.slot, call, rows)
        for size, n in enumerate(np.bincount(self.predictions.sets.sum(axis=1)).tolist()):
            counts.set_sizes[size] += n
        for number, n in enumerate(np.bincount(self.reasons).tolist()):
            reason = REASONS[number]
            if reason is not None and n:
                counts.fallbacks[reason] += n

    def count_in_metrics(self) -> None:
        """Add them to the metrics."""
        kinds, counts = np.unique(self.origins.astype(np.int64) * len(REASONS) + self.reasons, return_counts=True)
        for kind, n in zip(kinds.tolist(), counts.tolist(), strict=True):
            origin, reason = ORIGINS[kind // len(REASONS)], REASONS[kind % len(REASONS)]
            self.live.answering(self.slot, origin).count(origin, reason, n)

    def log_degraded(self, request_id: str) -> None:
        """One line where the model did not answer all rows: why, who did instead, how many rows."""
        rows = np.flatnonzero(self.reasons)
        if not len(rows):
            return
        facts = {
            "request_id": request_id,
            "asked": self.slot,
            "model_hash": self.live.asked(self.slot).model_hash,
            "reasons": _numbers_of(REASONS, self.reasons[rows]),
            "answered_by": _numbers_of(ORIGINS, self.origins[rows]),
        }
        logger.info("answer.degraded", extra=facts)


# Not frozen: a frozen dataclass of this size takes 4 us longer to make, once per answer.
@dataclass(slots=True)
class Answer:
    """One answer, before it is written down as an envelope or as a row of the log.

    Attributes
    ----------
    request_id, at : its id, and when it was given, UTC
    model : the one its lineage names
    origin, reason : who gave it, and why it is not the model's own
    row : its numbers
    level : the confidence level of its set
    validity : what the monitor says of the model, and why
    record, input_hash : what was asked, and the sha256 (hex) of its canonical JSON
    elapsed_ms : time the model took
    groups : position of its row's cell in each grouping of the model; None for a model without groups
    client_request_id, subject : the caller's own name for it, and whom it is about, or None
    batch_id, batch_index : the batch call it was part of, and its place there
    explanation : why it is what it is, where that was asked for
    """

    request_id: UUID
    at: datetime
    model: LiveModel
    origin: Origin
    reason: FallbackReason | None
    row: RowPrediction
    level: float
    validity: tuple[Validity, tuple[str, ...]]
    record: Record
    input_hash: str
    elapsed_ms: float
    groups: tuple[int, ...] | None = None
    client_request_id: str | None = None
    subject: str | None = None
    batch_id: UUID | None = None
    batch_index: int | None = None
    explanation: Explanation | None = None

    def envelope(self, responder: Responder) -> InferenceResponse:
        """The answer as its caller gets it."""
        model, (proba, p_values, members, prediction) = self.model, self.row
        classes = model.classes
        validity, validity_reasons = self.validity
        cell, group = None, None
        guarantee: Promise = model.calibration.guarantee if model.weighted is None else "weighted"
        if model.grouped is not None and self.groups is not None:
            cell = model.grouped.cell(self.groups)
            group, guarantee = model.grouped.names[cell], model.grouped.promise(cell)
        return InferenceResponse(
            request_id=str(self.request_id),
            prediction=classes[prediction],
            probability=proba[1] if model.is_binary else None,
            confidence=proba[prediction],
            probabilities=dict(zip(model.keys, proba, strict=True)),
            prediction_set=list(map(classes.__getitem__, members)),
            p_values=dict(zip(model.keys, p_values, strict=True)),
            confidence_level=self.level,
            guarantee=guarantee,
            validity=validity,
            validity_reasons=validity_reasons,
            fallback_used=self.reason is not None,
            fallback_reason=self.reason,
            error=None,
            lineage=lineage_of(model, self.origin, self.input_hash, responder, self.at, cell),
            client_request_id=self.client_request_id,
            group=group,
            explanation=self.explanation,
        )


def lineage_of(
    model: LiveModel, origin: Origin, input_hash: str, responder: Responder, at: datetime, cell: int | None = None
) -> InferenceLineage:
    """Lineage of an answer that was given then to the input of that hash.

    Parameters
    ----------
    cell : the calibrated group of the row; None for rows of several groups, which name what all of them are made with
    """
    manifest = model.manifest
    return InferenceLineage(
        model_name=manifest.name,
        model_version=model.model.version,
        model_hash=model.model_hash,
        feature_version=manifest.feature_version,
        calibration_id=model.calibration_ids[origin] if cell is None else model.behind(origin, cell).calibration_id,
        input_hash=input_hash,
        slot=origin,
        bento=responder.bento,
        served_by=responder.served_by,
        timestamp=utc_text(at),
    )


def blocks(columns: ColumnArrays) -> Iterator[ColumnArrays]:
    """The columns in blocks of rows, so that the matrix of a million rows is never in memory whole."""
    n = len(next(iter(columns.values())))
    for start in range(0, max(n, 1), _BLOCK_ROWS):
        yield {name: values[start : start + _BLOCK_ROWS] for name, values in columns.items()}


def _numbers_of(names: Sequence[str | None], positions: npt.NDArray[np.int8]) -> dict[str, int]:
    """How often each name occurs."""
    return {str(names[i]): n for i, n in enumerate(np.bincount(positions).tolist()) if n}
