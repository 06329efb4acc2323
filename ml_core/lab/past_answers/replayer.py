"""Gives old answers again: the same model, found by its hash, on the logged input, compared bit for bit."""

from __future__ import annotations

import hashlib
import math
import platform
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib import metadata
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray, FeatureMatrix, Probabilities
from ml_core.base.errors import InvalidRecord
from ml_core.features.columns import ColumnArrays
from ml_core.lab.past_answers.log_entry import is_bulk_call
from ml_core.lab.past_answers.past_models import NoModel, PastModel, PastModels
from ml_core.serve.features.record import Record
from ml_core.serve.log.log_places import LogPlace
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.model.prediction_sets import Predictions, RowPrediction
from ml_core.serve.running.runner import score_rows

__all__ = ["ANSWERS_AT_ONCE", "REPLAY_STATES", "Found", "Replayed", "Replayer", "ReplayState"]

ReplayState = Literal[
    "equal", "different", "feature_module_changed", "model_missing", "input_not_kept", "erased", "unknown_id"
]
REPLAY_STATES: tuple[ReplayState, ...] = (
    "equal", "different", "feature_module_changed", "model_missing", "input_not_kept", "erased", "unknown_id",
)  # fmt: skip
"""What can come of an answer. Only the first means that it was given again."""

ANSWERS_AT_ONCE = 1_024
"""Answers in memory. A row's bits do not depend on the others of its block."""
_BATCHES_REMEMBERED = 1_024


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of one answer.

    Attributes
    ----------
    request_id : of the answer; empty where none was found
    state : see ``REPLAY_STATES``
    at : when it was given
    lineage : what it says of its model
    place : where that model was found, "" where it was not
    differs : the parts that are not the same bits now
    max_difference : largest difference between a number then and now; None where none could be compared
    note : for people; never a value of the input
    """

    request_id: str
    state: ReplayState
    at: datetime | None = None
    lineage: Mapping[str, Any] | None = None
    place: str = ""
    differs: tuple[str, ...] = ()
    max_difference: float | None = None
    note: str = ""


Found = LoggedAnswer | Replayed
"""An answer to give again, or one of which it is known already that it cannot be."""


class Replayer:
    """Gives answers again.

    Parameters
    ----------
    models : finds the model of each
    place : of the log that they come from
    block_rows : answers given again in one go
    """

    def __init__(self, models: PastModels, place: LogPlace, block_rows: int = ANSWERS_AT_ONCE) -> None:
        self._models = models
        self._block_rows = block_rows
        self._is_bulk = lru_cache(_BATCHES_REMEMBERED)(lambda file, batch_id: is_bulk_call(place, file, batch_id))

    def run(self, answers: Iterable[Found]) -> Iterator[Replayed]:
        """What came of each answer, in their order; a block of them is in memory at a time.

        Raises
        ------
        LogDamaged
            A file of the log cannot be read.
        """
        rest = iter(answers)
        while block := list(islice(rest, self._block_rows)):
            yield from self._block(block)

    def _block(self, block: Sequence[Found]) -> Iterator[Replayed]:
        by_model: dict[str, list[LoggedAnswer]] = {}
        for answer in block:
            if isinstance(answer, LoggedAnswer):
                by_model.setdefault(answer.lineage["model_hash"], []).append(answer)
        done = {model_hash: iter(self._of_model(answers)) for model_hash, answers in by_model.items()}
        for answer in block:
            yield answer if isinstance(answer, Replayed) else next(done[answer.lineage["model_hash"]])

    def _of_model(self, answers: Sequence[LoggedAnswer]) -> list[Replayed]:
        """What came of the answers of one model."""
        kept = [answer for answer in answers if answer.input is not None]
        given = iter(self._with_input(kept)) if kept else iter(())
        return [_as(answer, "input_not_kept") if answer.input is None else next(given) for answer in answers]

    def _with_input(self, answers: Sequence[LoggedAnswer]) -> list[Replayed]:
        model = self._models.find(answers[0].lineage)
        if isinstance(model, NoModel):
            return [_as(answer, model.state, note=model.note) for answer in answers]
        read = [(answer, _read(model, answer)) for answer in answers]
        records = [(answer, record) for answer, record in read if isinstance(record, Record)]
        compared = (
            self._compared(model, answer, record, now)
            for (answer, record), now in zip(records, _given_again(model, records), strict=True)
        )
        return [
            next(compared) if isinstance(record, Record) else _as(answer, "different", model, ("input",), note=record)
            for answer, record in read
        ]

    def _compared(self, model: PastModel, answer: LoggedAnswer, record: Record, now: RowPrediction) -> Replayed:
        differs = [] if self._has_input_hash(model, answer, record) else ["input_hash"]
        if answer.lineage["calibration_id"] != model.calibration_id(answer.lineage["slot"], record):
            differs.append("calibration_id")
        groupings = model.predictor.bundle.groupings
        if groupings is not None and answer.groups != groupings.named(groupings.of_record(record)):
            differs.append("groups")
        classes = model.predictor.classes
        differs += [
            name
            for name, is_same in (
                ("probabilities", _bits(answer.probabilities) == _bits(now.proba)),
                ("p_values", _bits(answer.p_values) == _bits(now.p_values)),
                ("prediction_set", list(answer.prediction_set) == [classes[k] for k in now.members]),
                ("prediction", answer.prediction == classes[now.prediction]),
            )
            if not is_same
        ]
        if answer.explanation is not None and answer.explanation != model.explained(
            answer.lineage["slot"], record, now
        ):
            differs.append("explanation")
        if not differs:
            return _as(answer, "equal", model, max_difference=0.0)
        largest = _largest_difference((*answer.probabilities, *answer.p_values), (*now.proba, *now.p_values))
        gone = "the model gives no probabilities for it any more" if math.isnan(now.proba[0]) else ""
        note = "; ".join(filter(None, (gone, _software_since(answer.lineage.get("software", {})))))
        return _as(answer, "different", model, tuple(differs), largest, note)

    def _has_input_hash(self, model: PastModel, answer: LoggedAnswer, record: Record) -> bool:
        """Whether the logged input is the one that was hashed; a bulk call's hash is of its whole stream."""
        if hashlib.sha256(model.predictor.reader.canonical(record)).hexdigest() == answer.input_hash:
            return True
        return answer.batch_id is not None and self._is_bulk(answer.file, answer.batch_id)


def _as(
    answer: LoggedAnswer,
    state: ReplayState,
    model: PastModel | None = None,
    differs: tuple[str, ...] = (),
    max_difference: float | None = None,
    note: str = "",
) -> Replayed:
    place = "" if model is None else model.place
    return Replayed(answer.request_id, state, answer.at, answer.lineage, place, differs, max_difference, note)


def _read(model: PastModel, answer: LoggedAnswer) -> Record | str:
    """The logged input as a record, or why it is none."""
    try:
        return model.predictor.reader.read({**(answer.input or {}), **(answer.group_values or {})})
    except InvalidRecord as error:
        return f"the logged input is no record of {model.manifest.feature_version}: {error}"


def _given_again(model: PastModel, asked: Sequence[tuple[LoggedAnswer, Record]]) -> Iterator[RowPrediction]:
    """The answers to these records now, by what gave them then, at the level of then; NaN where there is none."""
    if not asked:
        return
    found = Predictions.blank(len(asked), len(model.predictor.classes))
    columns = model.predictor.reader.arrays([r for _, r in asked])
    features = model.predictor.bundle.features.transform(columns)
    for (slot, level), rows in _alike([answer for answer, _ in asked]).items():
        of_rows = {name: values[rows] for name, values in columns.items()}
        good, now = _answered(model, slot, of_rows, features[rows], Decimal(level))
        found.put(rows[good], now)
    yield from found.rows()


def _alike(answers: Sequence[LoggedAnswer]) -> dict[tuple[str, str], npt.NDArray[np.intp]]:
    """Rows by what answered them and at which level."""
    found: dict[tuple[str, str], list[int]] = {}
    for row, answer in enumerate(answers):
        found.setdefault((answer.lineage["slot"], answer.level), []).append(row)
    return {key: np.array(rows, dtype=np.intp) for key, rows in found.items()}


def _answered(
    model: PastModel, slot: str, columns: ColumnArrays, features: FeatureMatrix, level: Decimal
) -> tuple[BoolArray, Predictions]:
    """Which of n rows get an answer now, and the answers of those."""
    if slot == "prior":
        return np.ones(len(features), dtype=np.bool_), model.baseline.by_prior(len(features))
    if slot == "scorecard":
        proba, is_scorecard = _by_scorecard(model, features, level, columns), True
    else:
        proba, is_scorecard = score_rows(model.predictor.scorer, features, len(model.predictor.classes)).proba, False
    good = ~np.isnan(proba[:, 0])
    of_good = {name: values[good] for name, values in columns.items()}
    return good, model.predictor.sets(proba[good], of_good, level, of_scorecard=is_scorecard)


def _by_scorecard(model: PastModel, features: FeatureMatrix, level: Decimal, columns: ColumnArrays) -> Probabilities:
    """The scorecard's probabilities, NaN in rows it has none for, which must not cost the others theirs."""
    found = model.baseline.by_scorecard(features, level, columns)
    if found is not None:
        return found.proba
    if len(features) == 1:
        return np.full((1, len(model.predictor.classes)), np.nan)
    each = ({name: values[i : i + 1] for name, values in columns.items()} for i in range(len(features)))
    return np.concatenate([_by_scorecard(model, features[i : i + 1], level, row) for i, row in enumerate(each)])


def _bits(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"{len(numbers)}d", *numbers)


def _largest_difference(then: Sequence[float], now: Sequence[float]) -> float | None:
    """None where there is nothing to compare with."""
    if len(then) != len(now) or any(map(math.isnan, now)):
        return None
    return max(abs(a - b) for a, b in zip(then, now, strict=True))


def _software_since(then: Mapping[str, str]) -> str:
    """Which versions have changed since an answer: why its bits may have."""
    changed = [f"{name} {version} then, {now} now" for name, version in then.items() if (now := _here(name)) != version]
    return f"other software than then: {', '.join(changed)}" if changed else ""


@lru_cache
def _here(name: str) -> str:
    if name == "python":
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
