"""Hands every answer to the prediction log before it is given: single answers as rows, bulk calls as segments."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from uuid_utils import UUID

from ml_core.base.clock import microseconds
from ml_core.features.columns import Column, features_of
from ml_core.serve.answering.answers import REASONS, Answer, Answers
from ml_core.serve.answering.envelope import Responder
from ml_core.serve.answering.live import ORIGINS, LiveModel, Origin
from ml_core.serve.answering.requests import IdArray
from ml_core.serve.log.entries import Lineage, Row, answer_json, as_json
from ml_core.serve.log.log_files import day_of
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.prediction_store import PredictionStore
from ml_core.serve.log.segments import Segment, write_segment
from ml_core.serve.model.groupings import Groupings
from ml_core.serve.rollout.monitor_state import Validity

__all__ = ["BulkCall", "Recorder"]

_Slots = npt.NDArray[np.int8] | npt.NDArray[np.int16]


@dataclasses.dataclass(frozen=True, slots=True)
class BulkCall:
    """What the log holds of a bulk call beside its answers.

    Attributes
    ----------
    batch_id, at : its id, and when it was answered, UTC
    ids : of the answered rows, (n, 16)
    validity : what the monitor says of the model that was asked, and why
    input_hash : sha256 of the request's body, hex
    """

    batch_id: UUID
    at: datetime
    ids: IdArray
    validity: tuple[Validity, Sequence[str]]
    input_hash: str


class Recorder:
    """What one worker writes into the log.

    Parameters
    ----------
    store : takes the rows
    folder : of the log, for segments
    pseudonyms : hides subjects
    keep_inputs : whether feature values are kept, and explanations, which tell of them
    responder : what answers here
    """

    def __init__(
        self,
        store: PredictionStore,
        folder: Path,
        pseudonyms: Pseudonyms,
        *,
        keep_inputs: bool = True,
        responder: Responder | None = None,
    ) -> None:
        self._store = store
        self._folder = folder
        self._pseudonyms = pseudonyms
        self._keep_inputs = keep_inputs
        self._responder = Responder() if responder is None else responder
        self._lineages: dict[tuple[str, Origin, int | None], Lineage] = {}

    def answer_as(self, responder: Responder) -> None:
        """What answers here from now on."""
        self._responder, self._lineages = responder, {}

    async def store(self, rows: Sequence[Row]) -> None:
        """Store rows before their answers are given.

        Raises
        ------
        LogUnavailable
            Strict mode, and they cannot be stored.
        """
        await self._store.store(rows)

    def row(self, answer: Answer) -> Row:
        """The row of one answer."""
        (validity, validity_reasons), record = answer.validity, answer.record
        proba, p_values, members, prediction = answer.row
        groups = group_values = cell = None
        if answer.groups is not None and (groupings := answer.model.groupings) is not None:
            groups = groupings.text(answer.groups)
            group_values = _sent_beside(answer, groupings) if self._keep_inputs else None
            cell = None if answer.model.grouped is None else answer.model.grouped.cell(answer.groups)
        subject = answer.subject
        if subject is None and answer.model.group is not None:
            group = record.ids.get(answer.model.group)
            subject = None if group is None else str(group)
        return Row(
            request_id=answer.request_id.bytes,
            at_us=microseconds(answer.at),
            client_request_id=answer.client_request_id,
            subject=None if subject is None else self._pseudonyms.of(subject),
            batch_id=None if answer.batch_id is None else answer.batch_id.bytes,
            batch_index=answer.batch_index,
            lineage=self._lineage(answer.model, answer.origin, cell),
            answer=answer_json(
                prediction=prediction,
                probabilities=proba,
                p_values=p_values,
                members=members,
                level=str(answer.level),
                reason=answer.reason,
                validity=validity,
                validity_reasons=validity_reasons,
                elapsed_us=round(1000 * answer.elapsed_ms),
                input_hash=answer.input_hash,
            ),
            input=as_json(list(record.values.values())) if self._keep_inputs else None,
            groups=groups,
            group_values=group_values,
            explanation=as_json(answer.explanation) if answer.explanation and self._keep_inputs else None,
        )

    def segment(self, answers: Answers, call: BulkCall) -> Row | None:
        """The row that vouches for a bulk call, its segment written; None where it could not be.

        Reads and writes files: not for the event loop.

        Raises
        ------
        LogUnavailable
            Strict mode, and it cannot be written.
        """
        live, asked, at_us = answers.live, answers.live.asked(answers.slot), microseconds(call.at)
        slots, slot_names, lineages = self._slots(answers)
        groupings, beside = asked.groupings, _beside(answers)
        proba, p_values, sets, predictions = answers.predictions
        segment = Segment(
            ids=call.ids,
            inputs=answers.columns if self._keep_inputs else None,
            probabilities=proba,
            p_values=p_values,
            sets=sets,
            predictions=predictions,
            slots=slots,
            reasons=answers.reasons,
            slot_names=slot_names,
            reason_names=REASONS,
            level=str(answers.level),
            validity=call.validity[0],
            validity_reasons=call.validity[1],
            input_hash=call.input_hash,
            lineages=lineages,
            groups=None if groupings is None else groupings.of_columns(answers.columns).astype(np.int16),
            group_cells={} if groupings is None else {g.name: g.cells for g in groupings.declared},
            beside=[column.name for column in beside],
        )
        try:
            entry = write_segment(
                self._folder,
                day_of(at_us),
                str(call.batch_id),
                segment,
                (*features_of(asked.columns), *beside),
                durable=live.flags.log_mode == "strict",
                elapsed_us=round(1000 * answers.elapsed_ms),
            )
        except OSError as error:
            self._store.missed(len(segment), f"{type(error).__name__}: {error}")
            return None
        return Row(
            request_id=call.batch_id.bytes,
            at_us=at_us,
            client_request_id=None,
            subject=None,
            batch_id=None,
            batch_index=None,
            lineage=self._lineage(asked, answers.slot),
            answer=as_json(entry),
            input=None,
            groups=None,
            group_values=None,
            explanation=None,
            kind=1,
            answers=len(segment),
        )

    def _slots(self, answers: Answers) -> tuple[_Slots, Sequence[str], dict[str, Any]]:
        """Who gave each answer, as a position in the names that follow, and the lineage of each name.

        Answers of one model to several groups of patients have a name, and a lineage, for each of them.
        """
        named = answers.named()
        if all(model.grouped is None for model in named.values()):
            return answers.origins, ORIGINS, {origin: self._lineage(m, origin).facts for origin, m in named.items()}
        names: list[str] = []
        lineages: dict[str, Any] = {}
        slots = np.empty(len(answers), dtype=np.int16)
        for origin, model in named.items():
            given = answers.origins == ORIGINS.index(origin)
            grouped = model.grouped
            cells = np.full(len(answers), -1) if grouped is None else grouped.cells(answers.columns)
            for cell in np.unique(cells[given]).tolist():
                of_cell = None if grouped is None else cell
                name = origin if grouped is None else f"{origin} {grouped.names[cell]}"
                slots[given & (cells == cell)] = len(names)
                names.append(name)
                lineages[name] = self._lineage(model, origin, of_cell).facts
        return slots, names, lineages

    def _lineage(self, model: LiveModel, origin: Origin, cell: int | None = None) -> Lineage:
        key = (model.model_hash, origin, cell)
        found = self._lineages.get(key)
        if found is None:
            found = self._lineages[key] = Lineage.of(_facts(model, origin, self._responder, cell))
        return found


def _sent_beside(answer: Answer, groupings: Groupings) -> bytes | None:
    """What was sent beside the features to tell the groups, as JSON; None where nothing was."""
    ids = answer.record.ids
    sent = {c.name: value for c in groupings.beside if (value := ids.get(c.name)) is not None}
    return as_json(sent) if sent else None


def _beside(answers: Answers) -> tuple[Column, ...]:
    """Columns beside the features that the rows have, and that the model that was asked has a grouping for."""
    groupings = answers.live.asked(answers.slot).groupings
    return () if groupings is None else tuple(c for c in groupings.beside if c.name in answers.columns)


def _facts(model: LiveModel, origin: Origin, responder: Responder, cell: int | None) -> dict[str, Any]:
    """Everything that answers of one origin have in common, where groups have a promise: those to one group."""
    manifest, loaded = model.manifest, model.model
    calibration, grouped = model.behind(origin, cell), model.grouped
    in_group = {} if cell is None or grouped is None else {"group": grouped.names[cell]}
    names = {} if model.groupings is None else {"groupings": list(model.groupings.names)}
    return {
        **names,
        **in_group,
        "model_name": manifest.name,
        "model_version": loaded.version,
        "model_hash": loaded.model_hash,
        "bento_tag": loaded.tag,
        "feature_version": manifest.feature_version,
        "feature_module_sha256": manifest.feature_module_sha256,
        "column_table_sha256": manifest.column_table_sha256,
        "calibration_id": model.calibration_ids[origin] if cell is None else calibration.calibration_id,
        "calibration_sizes": list(model.sizes(origin, cell)),
        "slot": origin,
        "bento": responder.bento,
        "served_by": responder.served_by,
        "classes": list(manifest.classes),
        "level": str(manifest.confidence_level),
        **({} if (sure := manifest.training_conditional) is None else {"training_conditional": str(sure)}),
        "guarantee": manifest.guarantee if cell is None or grouped is None else grouped.promise(cell),
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
