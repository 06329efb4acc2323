"""One answer as it was given, made of what the log holds of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from ml_core.base.clock import moment_of
from ml_core.base.errors import LogDamaged
from ml_core.serve.log import fields
from ml_core.serve.log.entries import ERASED, id_text
from ml_core.serve.log.segments import Segment, SegmentEntry

__all__ = ["ErasedAnswer", "LoggedAnswer", "answer_in", "answers_in_segment", "entry_of"]


_Read = Callable[[Any, Mapping[str, Any]], Any]
_Reader = tuple[str, str, _Read | None]


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """One answer as it was given.

    Attributes
    ----------
    request_id, batch_id : as in the answer; ``batch_index`` is the row of a batch call
    at : when it was given, UTC
    client_request_id : the caller's own name for it
    subject : keyed HMAC of whom it is about, 32 bytes
    lineage : facts on where it came from: ``model_name``, ``model_version``, ``model_hash``, ``feature_version``,
        ``calibration_id``, ``slot``, ``bento``, ``classes``, ``level``, ``calibration_sizes``, ``columns``, ...
    prediction : the label
    probabilities, p_values : of the lineage's classes, in their order
    prediction_set : labels
    level : confidence level of the set, decimal text
    reason : why it is not the model's own answer, None where it is
    validity, validity_reasons : as in the answer
    elapsed_us : time the model took
    input : feature values by column, None where inputs are not kept
    input_hash : sha256 of the input's canonical JSON, hex
    groups : cell of the row in each grouping of the model, by its name; None for a model without groups
    group_values : values that were sent beside the features to tell the groups, by column; None as ``input``, or where
        nothing was sent
    explanation : why it is what it is, as it was given; None where it was not asked for
    file : name of the database it lies in
    """

    request_id: str
    at: datetime
    client_request_id: str | None
    subject: bytes | None
    batch_id: str | None
    batch_index: int | None
    lineage: Mapping[str, Any]
    prediction: int | str
    probabilities: tuple[float, ...]
    p_values: tuple[float, ...]
    prediction_set: tuple[int | str, ...]
    level: str
    reason: str | None
    validity: str
    validity_reasons: tuple[str, ...]
    elapsed_us: int
    input: Mapping[str, Any] | None
    input_hash: str
    groups: Mapping[str, str] | None
    group_values: Mapping[str, Any] | None
    explanation: Mapping[str, Any] | None
    file: str

    @property
    def is_the_models_own(self) -> bool:
        """Whether the model in the slot gave it, and no fallback."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class ErasedAnswer:
    """What is left of an answer whose subject was erased."""

    request_id: str
    at: datetime
    file: str


def entry_of(row: Any, name: str) -> SegmentEntry | None:
    """What an entry says of its segment; None for an answer."""
    if not row["kind"]:
        return None
    with _sound(row, name):
        return SegmentEntry(**orjson.loads(row["answer"]))


@contextmanager
def _sound(row: Any, name: str) -> Iterator[None]:
    """Name the row that is not what it was when it was stored."""
    try:
        yield
    except (ValueError, LookupError, TypeError) as error:
        problem = f"row {row['seq']} is not what was stored; `surety log verify` tells more"
        raise LogDamaged(name, problem) from error


@lru_cache(maxsize=256)
def _facts(raw: bytes) -> Mapping[str, Any]:
    """Facts of a lineage; thousands of answers share them."""
    facts: Mapping[str, Any] = orjson.loads(raw)
    return facts


def answer_in(row: Any, name: str) -> LoggedAnswer | ErasedAnswer:
    """The answer in an entry of the database, or what is left of it.

    Raises
    ------
    LogDamaged
        It is not what was stored.
    """
    with _sound(row, name):
        if row["answer"] == ERASED:
            return ErasedAnswer(id_text(row["request_id"]), moment_of(row["at_us"]), name)
        return _parsed(row, name)


def _parsed(row: Any, name: str) -> LoggedAnswer:
    said, facts = orjson.loads(row["answer"]), _facts(row["facts"])
    columns, keys = _readers(fields.LAYOUT)
    found = {shown: row[field] if read is None else read(row[field], facts) for field, shown, read in columns}
    for key, shown, read in keys:
        found[shown] = said[key] if read is None else read(said[key], facts)
    return LoggedAnswer(**found, lineage=facts, file=name)


@lru_cache(maxsize=2)
def _readers(layout: fields.LogLayout) -> tuple[list[_Reader], list[_Reader]]:
    """Name, attribute and reader of every field in a column, and of every key of the answer's JSON."""
    columns, keys = (
        [(each.name, each.shown_as, _READ[each.kind]) for each in place]
        for place in (layout.shown_columns, layout.shown_keys)
    )
    return columns, keys


def _record(stored: bytes | None, facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return None if stored is None else dict(zip(facts["columns"], orjson.loads(stored), strict=True))


_READ: Mapping[fields.ValueKind, _Read | None] = {
    "id": lambda stored, _: None if stored is None else id_text(stored),
    "hash": None,
    "text": None,
    "whole": None,
    "moment": lambda stored, _: moment_of(stored),
    "label": lambda stored, facts: facts["classes"][stored],
    "labels": lambda stored, facts: tuple(facts["classes"][k] for k in stored),
    "reals": lambda stored, _: tuple(stored),
    "texts": lambda stored, _: tuple(stored),
    "record": _record,
    "object": lambda stored, _: None if stored is None else orjson.loads(stored),
}
"""What a stored value says, given the facts of its lineage; None where that is the value itself."""


def answers_in_segment(segment: Segment, row: Any, name: str, places: Sequence[int]) -> Iterator[LoggedAnswer]:
    """Some rows of a bulk call."""
    at, batch_id = moment_of(row["at_us"]), id_text(row["request_id"])
    elapsed_us = orjson.loads(row["answer"])["elapsed_us"]
    of_call = {each.shown_as: row[each.name] for each in fields.LAYOUT.by_caller}
    for n, values, beside in zip(places, segment.records(places), segment.sent_beside(places), strict=True):
        facts = segment.lineages[segment.slot_names[segment.slots[n]]]
        classes = facts["classes"]
        yield LoggedAnswer(
            request_id=id_text(segment.ids[n].tobytes()),
            at=at,
            batch_id=batch_id,
            batch_index=n,
            lineage=facts,
            prediction=classes[segment.predictions[n]],
            probabilities=tuple(segment.probabilities[n].tolist()),
            p_values=tuple(segment.p_values[n].tolist()),
            prediction_set=tuple(classes[k] for k in segment.sets[n].nonzero()[0]),
            level=segment.level,
            reason=segment.reason_names[segment.reasons[n]],
            validity=segment.validity,
            validity_reasons=tuple(segment.validity_reasons),
            elapsed_us=elapsed_us,
            input=values,
            input_hash=segment.input_hash,
            groups=segment.groups_of(n),
            group_values=beside or None,
            explanation=None,
            file=name,
            **of_call,
        )
