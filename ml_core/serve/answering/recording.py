"""Hands every answer to the prediction log before it is given: envelopes as rows, bulk calls as segments."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.clock import microseconds
from ml_core.features.columns import ColumnArrays, features_of, with_role
from ml_core.serve import metrics
from ml_core.serve.answering.answers import REASONS, TableAnswer, answering_model
from ml_core.serve.answering.envelope import InferenceResponse, Validity
from ml_core.serve.answering.live import ORIGINS, Live, LiveModel, Origin
from ml_core.serve.features.record import Record
from ml_core.serve.log.entries import Lineage, Row, answer_json, as_json, id_bytes
from ml_core.serve.log.log_files import day_of
from ml_core.serve.log.prediction_store import LogOutcome, PredictionStore
from ml_core.serve.log.pseudonyms import Pseudonyms
from ml_core.serve.log.segments import Segment, write_segment

__all__ = ["BulkAnswer", "Logged", "Recorder", "count_outcome"]


@dataclasses.dataclass(frozen=True, slots=True)
class Logged:
    """One answer with what the log keeps beside the envelope.

    Attributes
    ----------
    model : the one its lineage names
    record : what was asked
    probabilities : of every class
    subject : whom the caller said it is about, or None
    elapsed_ms : time the model took
    batch_id, batch_index : of its batch call
    """

    envelope: InferenceResponse
    model: LiveModel
    record: Record
    probabilities: Sequence[float]
    subject: str | None = None
    elapsed_ms: float = 0.0
    batch_id: str | None = None
    batch_index: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class BulkAnswer:
    """The answered rows of a bulk call.

    Attributes
    ----------
    batch_id : of the call
    ids : ASCII (n, 36), of its rows
    columns : feature columns, each (n,)
    table : answers, n rows
    level : confidence level, decimal text
    validity, validity_reasons : as its reply says
    input_hash : sha256 of the request's body, hex
    at : when it was answered
    elapsed_ms : time the models took
    """

    batch_id: str
    ids: npt.NDArray[np.uint8]
    columns: ColumnArrays
    table: TableAnswer
    level: str
    validity: Validity
    validity_reasons: Sequence[str]
    input_hash: str
    at: datetime
    elapsed_ms: float


class Recorder:
    """What one worker writes into the log.

    Parameters
    ----------
    store : takes the rows
    folder : of the log, for segments
    pseudonyms : hides subjects
    keep_inputs : whether feature values are kept
    bento : tag of the bento this code runs in
    """

    def __init__(
        self,
        store: PredictionStore,
        folder: Path,
        pseudonyms: Pseudonyms,
        *,
        keep_inputs: bool = True,
        bento: str | None = None,
    ) -> None:
        self._store = store
        self._folder = folder
        self._pseudonyms = pseudonyms
        self._keep_inputs = keep_inputs
        self._bento = bento
        self._lineages: dict[tuple[str, Origin], Lineage] = {}
        self._columns: dict[str, _Positions] = {}

    async def answers(self, answers: Sequence[Logged]) -> None:
        """Store answers before they are given.

        Raises
        ------
        LogUnavailable
            Strict mode, and they cannot be stored.
        """
        await self._store.store([self._row(answer) for answer in answers])

    def segment(self, live: Live, slot: Any, bulk: BulkAnswer, *, durable: bool) -> Row | None:
        """The row that vouches for a bulk call, its segment written; None where it could not be.

        Reads and writes files: not for the event loop.

        Raises
        ------
        LogUnavailable
            Strict mode, and it cannot be written.
        """
        asked = live.at(slot) or live.champion
        lineages = {
            name: self._lineage(answering_model(live, slot, name), name)
            for name in {ORIGINS[i] for i in np.unique(bulk.table.origins).tolist()}
        }
        at_us = microseconds(bulk.at)
        found = bulk.table
        segment = Segment(
            ids=_ids(bulk.ids),
            inputs=bulk.columns if self._keep_inputs else None,
            probabilities=found.proba,
            p_values=found.answer.p_values,
            sets=found.answer.sets,
            predictions=found.answer.predictions,
            slots=found.origins,
            reasons=found.reasons,
            slot_names=ORIGINS,
            reason_names=REASONS,
            level=bulk.level,
            validity=bulk.validity,
            validity_reasons=bulk.validity_reasons,
            input_hash=bulk.input_hash,
            lineages={name: lineage.facts for name, lineage in lineages.items()},
        )
        try:
            entry = write_segment(
                self._folder,
                day_of(at_us),
                bulk.batch_id,
                segment,
                features_of(asked.columns),
                durable=durable,
                elapsed_us=round(1000 * bulk.elapsed_ms),
            )
        except OSError as error:
            self._store.missed(len(segment), f"{type(error).__name__}: {error}")
            return None
        return Row(
            request_id=id_bytes(bulk.batch_id),
            at_us=at_us,
            client_request_id=None,
            subject=None,
            batch_id=None,
            batch_index=None,
            lineage=self._lineage(asked, slot),
            answer=as_json(entry),
            input=None,
            kind=1,
            answers=len(segment),
        )

    async def rows(self, rows: Sequence[Row]) -> None:
        """Store rows that are ready."""
        await self._store.store(rows)

    def _row(self, answer: Logged) -> Row:
        envelope, model = answer.envelope, answer.model
        lineage = envelope.lineage
        positions = self._positions(model)
        record = answer.record
        subject = answer.subject
        if subject is None and positions.group is not None:
            group = record.ids.get(positions.group)
            subject = None if group is None else str(group)
        return Row(
            request_id=bytes.fromhex(envelope.request_id.replace("-", "")),
            at_us=microseconds(datetime.fromisoformat(lineage.timestamp)),
            client_request_id=envelope.client_request_id,
            subject=None if subject is None else self._pseudonyms.of(subject),
            batch_id=None if answer.batch_id is None else id_bytes(answer.batch_id),
            batch_index=answer.batch_index,
            lineage=self._lineage(model, lineage.slot),  # type: ignore[arg-type]  # it is an origin
            answer=answer_json(
                prediction=positions.of[envelope.prediction],
                probabilities=answer.probabilities,
                p_values=list(envelope.p_values.values()),
                members=[positions.of[label] for label in envelope.prediction_set],
                level=str(envelope.confidence_level),
                reason=envelope.fallback_reason,
                validity=envelope.validity,
                validity_reasons=envelope.validity_reasons,
                elapsed_us=round(1000 * answer.elapsed_ms),
                input_hash=lineage.input_hash,
            ),
            input=as_json(list(record.values.values())) if self._keep_inputs else None,
        )

    def _positions(self, model: LiveModel) -> _Positions:
        found = self._columns.get(model.model.model_hash)
        if found is None:
            group = with_role(model.columns, "group")
            found = _Positions({label: k for k, label in enumerate(model.classes)}, group.name if group else None)
            self._columns[model.model.model_hash] = found
        return found

    def _lineage(self, model: LiveModel, origin: Origin) -> Lineage:
        key = (model.model.model_hash, origin)
        found = self._lineages.get(key)
        if found is None:
            found = self._lineages[key] = Lineage.of(_facts(model, origin, self._bento))
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class _Positions:
    """Positions of a model's labels, and the column that says whom a record is about."""

    of: Mapping[Any, int]
    group: str | None


def count_outcome(outcome: LogOutcome, answers: int) -> None:
    """Add to the metrics what became of answers in the log."""
    metrics.LOG_ROWS.labels(outcome).inc(answers)


def _facts(model: LiveModel, origin: Origin, bento: str | None) -> dict[str, Any]:
    """Everything that answers of one origin have in common."""
    manifest, loaded = model.manifest, model.model
    calibration = model.baseline.calibration if origin == "scorecard" else model.calibration
    return {
        "model_name": manifest.name,
        "model_version": loaded.version,
        "model_hash": loaded.model_hash,
        "bento_tag": loaded.tag,
        "feature_version": manifest.feature_version,
        "feature_module_sha256": manifest.feature_module_sha256,
        "column_table_sha256": manifest.column_table_sha256,
        "calibration_id": model.calibration_id(origin),
        "calibration_sizes": list(calibration.sizes),
        "slot": origin,
        "bento": bento,
        "classes": list(manifest.classes),
        "level": str(manifest.confidence_level),
        "guarantee": manifest.guarantee,
        "columns": [column.name for column in features_of(model.columns)],
        "trained_on": {"table": manifest.training.table, "version": manifest.training.table_version},
        "libraries": manifest.libraries,
        "software": _software(),
    }


@cache
def _software() -> dict[str, str]:
    """Versions of what computes an answer here."""
    names = ("surety-bundle", "bentoml", "numpy", "onnxruntime")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # the project itself inside a bento, which is not installed there
            continue
    return found


def _ids(text: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The 16 bytes of ids written as UUIDs, (n, 36) -> (n, 16)."""
    digits = text[:, [i for i in range(36) if i not in (8, 13, 18, 23)]].astype(np.int16)
    values = np.where(digits >= ord("a"), digits - ord("a") + 10, digits - ord("0")).astype(np.uint8)
    raw: npt.NDArray[np.uint8] = values[:, 0::2] * np.uint8(16) + values[:, 1::2]
    return raw
