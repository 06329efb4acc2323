"""Why an old answer is what it is, told by the very model that gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ml_core.base.clock import utc_text
from ml_core.base.errors import UnknownFeatureVersion
from ml_core.base.settings import Settings
from ml_core.features.columns import Column
from ml_core.lab.data.kept_tables import column_tables, kept_version
from ml_core.lab.past_answers.past_models import NoModel, PastModels
from ml_core.lab.past_answers.replayer import Replayed, Replayer, ReplayState
from ml_core.serve.log.log_places import place_of
from ml_core.serve.log.logged_answers import ErasedAnswer, LoggedAnswer
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.explanations import Explanation
from ml_core.serve.model.prediction_sets import RowPrediction

__all__ = ["ExplainedAnswer", "explain_answer", "explanation_in_words", "input_rows"]


@dataclass(frozen=True, slots=True)
class ExplainedAnswer:
    """An answer and why it is what it is, ready for JSON.

    Attributes
    ----------
    request_id, at : which answer, and when it was given (UTC)
    state : what came of giving it again; it is explained only where it is ``equal``
    prediction, prediction_set, probabilities : what was answered
    slot, model_hash : who gave it
    input : see ``input_rows``
    explanation : with a sentence for each contribution; None where there is none
    stored : whether an explanation was given with the answer, and is the same to the bit
    note : what people must know, "" for nothing
    """

    request_id: str
    at: str
    state: ReplayState
    prediction: int | str | None = None
    prediction_set: list[int | str] | None = None
    probabilities: dict[str, float] | None = None
    slot: str | None = None
    model_hash: str | None = None
    input: list[dict[str, Any]] | None = None
    explanation: dict[str, Any] | None = None
    stored: Literal["same", "different", "none"] = "none"
    note: str = ""


def explain_answer(settings: Settings, request_id: str) -> ExplainedAnswer | None:
    """Why the answer of that id is what it is; None where no answer has it.

    The answer is given again first: what cannot be given again bit for bit is not explained.

    Raises
    ------
    ValueError
        It is no id.
    LogDamaged
        The log cannot be read.
    """
    found = PredictionLog.of(settings).find(request_id)
    if found is None:
        return None
    if isinstance(found, ErasedAnswer):
        return ExplainedAnswer(found.request_id, utc_text(found.at), "erased", note="its subject was erased")
    models = PastModels(settings)
    (again,) = Replayer(models, place_of(settings)).run([found])
    is_other = again.differs == ("explanation",)
    if again.state != "equal" and not is_other:
        return ExplainedAnswer(found.request_id, utc_text(found.at), again.state, note=again.note)
    return _explained(settings, models, found, again, is_other=is_other)


def explanation_in_words(stored: Mapping[str, Any]) -> dict[str, Any]:
    """An explanation with a sentence for each of its contributions."""
    read = Explanation.from_json(stored)
    told = [
        {**each, "in_words": one.in_words(read.label, read.scale)}
        for each, one in zip(stored["contributions"], read.contributions, strict=True)
    ]
    return {**stored, "contributions": told}


def input_rows(settings: Settings, answer: LoggedAnswer) -> list[dict[str, Any]] | None:
    """What was asked, one row for each column: value, unit and meaning; None where inputs are not kept."""
    if answer.input is None:
        return None
    columns = _columns(settings, answer)
    return [
        {
            "column": name,
            "value": value,
            "unit": columns[name].unit if name in columns else "",
            "meaning": columns[name].doc if name in columns else "",
        }
        for name, value in answer.input.items()
    ]


def _columns(settings: Settings, answer: LoggedAnswer) -> Mapping[str, Column]:
    try:
        version = kept_version(column_tables(settings), answer.lineage["feature_version"])
    except UnknownFeatureVersion:  # older than this code, or newer
        return {}
    return {column.name: column for column in version.features}


def _explained(
    settings: Settings, models: PastModels, answer: LoggedAnswer, again: Replayed, *, is_other: bool
) -> ExplainedAnswer:
    model = models.find(answer.lineage)
    if isinstance(model, NoModel):  # which gave the answer again a moment ago
        return ExplainedAnswer(answer.request_id, utc_text(answer.at), model.state, note=model.note)
    classes = model.predictor.classes
    record = model.predictor.reader.read({**(answer.input or {}), **(answer.group_values or {})})
    row = RowPrediction(
        answer.probabilities,
        list(answer.p_values),
        [classes.index(label) for label in answer.prediction_set],
        classes.index(answer.prediction),
    )
    slot = answer.lineage["slot"]
    return ExplainedAnswer(
        request_id=answer.request_id,
        at=utc_text(answer.at),
        state=again.state,
        prediction=answer.prediction,
        prediction_set=list(answer.prediction_set),
        probabilities=dict(zip(map(str, classes), answer.probabilities, strict=True)),
        slot=slot,
        model_hash=answer.lineage["model_hash"],
        input=input_rows(settings, answer),
        explanation=explanation_in_words(model.explained(slot, record, row)),
        stored="none" if answer.explanation is None else "different" if is_other else "same",
        note=again.note,
    )
