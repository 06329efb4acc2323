"""Everything known about one answer: its input, model, label and log entry, and their state now."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ml_core.base.clock import utc_text
from ml_core.base.errors import ConfigError, SuretyError
from ml_core.base.settings import Settings
from ml_core.lab.past_answers.explained import explanation_in_words, input_rows
from ml_core.lab.past_answers.log_entry import LogEntry, find_entry
from ml_core.lab.past_answers.past_models import model_now
from ml_core.serve.log import fields
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import LabelStore, StoredLabel, due_at
from ml_core.serve.log.log_keys import LogKey, LogKeys
from ml_core.serve.log.log_places import place_of
from ml_core.serve.log.logged_answers import ErasedAnswer, LoggedAnswer
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.loader import ModelLoader

__all__ = ["Audit", "audit"]

_WHY = {
    "circuit_open": "the model's circuit was open",
    "model_not_loaded": "the model was not loaded",
    "runner_lost": "the model's process was lost",
    "stuck": "all threads of the model were busy",
    "deadline": "the model gave no answer in time",
    "model_error": "the model raised an error",
    "bad_output": "the model gave numbers that are no probabilities",
}


@dataclass(frozen=True, slots=True)
class Audit:
    """One answer from all sides, each ready for JSON.

    Attributes
    ----------
    request_id, at : which answer, and when it was given (UTC)
    is_erased : whether its subject was erased; then ``answer`` and ``input`` are gone
    answer : as it was stored, with its set in words
    explanation : why it is what it is, as it was given with it; None where it was not asked for
    input : one row for each column: value, unit and meaning; None where inputs are not kept
    lineage : all facts on where it came from
    model_now : see ``model_now``
    labels : the label of the answer, with its history
    log_entry : where it lies, and whether digest and chain still hold
    batch : the batch call it was part of, None for a single request
    """

    request_id: str
    at: str
    is_erased: bool
    answer: dict[str, Any] | None
    explanation: dict[str, Any] | None
    input: list[dict[str, Any]] | None
    lineage: Mapping[str, Any] | None
    model_now: dict[str, Any] | None
    labels: dict[str, Any]
    log_entry: dict[str, Any] | None
    batch: dict[str, Any] | None


def audit(settings: Settings, request_id: str) -> Audit | None:
    """Everything known about the answer of that id; None where no answer has it.

    Raises
    ------
    ValueError
        It is no id.
    LogDamaged
        The log cannot be read.
    """
    log = PredictionLog.of(settings)
    found = log.find(request_id)
    if found is None:
        return None
    entry = _entry(settings, found)
    answer = found if isinstance(found, LoggedAnswer) else None
    lineage = answer.lineage if answer is not None else entry.lineage if entry is not None else None
    return Audit(
        request_id=found.request_id,
        at=utc_text(found.at),
        is_erased=answer is None,
        answer=None if answer is None else _answer(answer),
        explanation=None if answer is None or answer.explanation is None else explanation_in_words(answer.explanation),
        input=None if answer is None else input_rows(settings, answer),
        lineage=lineage,
        model_now=None if lineage is None else model_now(settings, lineage),
        labels=_labels(settings, log, found),
        log_entry=None if entry is None else _entry_facts(entry, answer),
        batch=None if answer is None or answer.batch_id is None else _batch(log, answer, entry),
    )


# --- the answer ---------------------------------------------------------------------------------------------------


def _answer(answer: LoggedAnswer) -> dict[str, Any]:
    keys = [str(label) for label in answer.lineage["classes"]]
    return {
        "prediction": answer.prediction,
        "prediction_set": list(answer.prediction_set),
        "in_words": set_in_words(answer.prediction_set),
        "probabilities": dict(zip(keys, answer.probabilities, strict=True)),
        "p_values": dict(zip(keys, answer.p_values, strict=True)),
        "confidence_level": answer.level,
        "guarantee": answer.lineage["guarantee"],
        "validity": answer.validity,
        "validity_reasons": list(answer.validity_reasons),
        "fallback_reason": answer.reason,
        "answered_by": _by_whom(answer),
        "elapsed_ms": answer.elapsed_us / 1000,
        **{each.name: getattr(answer, each.shown_as) for each in fields.LAYOUT.by_caller if each.kind != "hash"},
        "subject_pseudonym": None if answer.subject is None else answer.subject.hex(),
        "input_hash": answer.input_hash,
    }


def set_in_words(members: tuple[int | str, ...]) -> str:
    """What a prediction set means for the person who acts on it.

    Examples
    --------
    >>> set_in_words((1,)), set_in_words((0, 1))
    ('act on 1', 'refer to a person: it may be 0 or 1')
    """
    if not members:
        return "refer to a person: unlike anything the model was calibrated on; it never means that there is no risk"
    if len(members) == 1:
        return f"act on {members[0]}"
    return f"refer to a person: it may be {', '.join(map(str, members[:-1]))} or {members[-1]}"


def _by_whom(answer: LoggedAnswer) -> str:
    slot = answer.lineage["slot"]
    who = {
        "scorecard": "the scorecard beside the model, with sets of its own calibration",
        "prior": "nobody: every label, with the class shares as probabilities",
    }.get(slot, f"the model as {slot}")
    return who if answer.reason is None else f"{who}, because {_WHY.get(answer.reason, answer.reason)}"


# --- the label, and the log entry ---------------------------------------------------------------------------------


def _labels(settings: Settings, log: PredictionLog, found: LoggedAnswer | ErasedAnswer) -> dict[str, Any]:
    try:
        labels = LabelStore(open_label_tables(settings, settings.model_name), log.known)
        history = labels.history(id_bytes(found.request_id))
    except SuretyError as error:
        return {"problem": str(error)}
    label = history[-1].label if history else None
    is_covered = None
    if history and isinstance(found, LoggedAnswer):
        is_covered = label in found.prediction_set
    return {
        "label": label,
        "is_in_prediction_set": is_covered,
        "counts_from": utc_text(due_at(found.at, _horizon_days(settings, found))),
        "history": [_label(stored) for stored in history],
    }


def _horizon_days(settings: Settings, found: LoggedAnswer | ErasedAnswer) -> float:
    """The horizon that the answer's model names, where it is here and names one."""
    if isinstance(found, ErasedAnswer):
        return settings.label_horizon_days
    try:
        own = ModelLoader(settings).facts(found.lineage["bento_tag"])[0].label_horizon_days
    except SuretyError:
        own = None
    return settings.label_horizon_days if own is None else own


def _label(stored: StoredLabel) -> dict[str, Any]:
    return {
        "label": stored.label,
        "observed_at": utc_text(stored.observed_at),
        "received_at": utc_text(stored.received_at),
        "source": stored.source,
        "outcome": stored.outcome,
    }


def _entry(settings: Settings, found: LoggedAnswer | ErasedAnswer) -> LogEntry | None:
    """The entry of the answer itself, else of the bulk call it was part of."""
    keys: Mapping[str, LogKey] = {}
    with suppress(ConfigError):  # who audits need not have the key
        keys = LogKeys.of(settings).all()
    entry = find_entry(place_of(settings), found.file, found.request_id, keys)
    if entry is None and isinstance(found, LoggedAnswer) and found.batch_id is not None:
        return find_entry(place_of(settings), found.file, found.batch_id, keys)
    return entry


def _entry_facts(entry: LogEntry, answer: LoggedAnswer | None) -> dict[str, Any]:
    return {
        "file": entry.file,
        "position": entry.position,
        "digest": entry.digest,
        "digest_holds": entry.digest_holds,
        "chain_holds": entry.chain_holds,
        "commit": list(entry.commit),
        "segment": entry.segment,
        "segment_row": answer.batch_index if answer is not None and entry.segment is not None else None,
    }


def _batch(log: PredictionLog, answer: LoggedAnswer, entry: LogEntry | None) -> dict[str, Any]:
    is_bulk = entry is not None and entry.segment is not None
    n = entry.segment_rows if entry is not None and is_bulk else len(log.of_batch(answer.batch_id or ""))
    return {
        "batch_id": answer.batch_id,
        "sent_as": "Arrow stream" if is_bulk else "JSON",
        "row": answer.batch_index,
        "answers": n,
    }
