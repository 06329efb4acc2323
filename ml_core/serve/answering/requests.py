"""What callers may ask: strict JSON in, typed requests out, every wrong field named; and ids of requests (UUIDv7)."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
import uuid_utils

from ml_core.base.errors import FieldProblem, InvalidRequest, NotJson
from ml_core.serve.answering.request_fields import ID_PATTERN, MAX_ID_LENGTH, PREDICT_FIELDS
from ml_core.serve.features.column_rules import shown_name
from ml_core.serve.model.prediction_sets import level_from_json

__all__ = [
    "BatchOptions",
    "BatchRequest",
    "IdArray",
    "OnError",
    "PredictRequest",
    "id_texts",
    "level_of_text",
    "new_id",
    "new_ids",
    "parse_batch",
    "parse_json",
    "parse_on_error",
    "parse_predict",
    "read_id",
]

IdArray = npt.NDArray[np.uint8]
"""Ids of n rows: shape (n, 16) as bytes, (n, 36) as ASCII."""

_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
# Where the 32 hex digits of a UUID stand among its 36 characters.
_DIGITS = np.array([i for i in range(36) if i not in (8, 13, 18, 23)])

new_id = uuid_utils.uuid7
"""A UUIDv7: sorts by time, unique also when the clock steps back."""


def new_ids(n: int) -> IdArray:
    """``n`` UUIDv7 as bytes, shape (n, 16): RFC 9562, 48 bits of Unix milliseconds, 74 random bits."""
    raw = np.frombuffer(os.urandom(16 * n), dtype=np.uint8).reshape(n, 16).copy()
    raw[:, :6] = np.frombuffer((time.time_ns() // 1_000_000).to_bytes(6, "big"), dtype=np.uint8)
    raw[:, 6] = (raw[:, 6] & 0x0F) | 0x70
    raw[:, 8] = (raw[:, 8] & 0x3F) | 0x80
    return raw


def id_texts(ids: IdArray) -> IdArray:
    """The same ids as they are written in answers: ASCII, shape (n, 36)."""
    text = np.full((len(ids), 36), ord("-"), dtype=np.uint8)
    text[:, _DIGITS[0::2]] = _HEX[ids >> 4]
    text[:, _DIGITS[1::2]] = _HEX[ids & 0x0F]
    return text


_NAME = re.compile(ID_PATTERN.replace("]", r"\ud800-\udfff]", 1))  # JSON has no halves of characters, Python texts may

OnError = Literal["row", "reject"]


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """One record to answer.

    Attributes
    ----------
    features : the raw record, not yet read
    level : confidence level asked for, or None for the configured one
    client_request_id, subject : the caller's own names, or None
    explain : whether the answer is to be explained
    """

    features: object
    level: Decimal | None = None
    client_request_id: str | None = None
    subject: str | None = None
    explain: bool = False


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How a batch is answered; ``on_error`` says whether a bad record fails alone or refuses all."""

    on_error: OnError = "row"
    level: Decimal | None = None


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Many records to answer, explained or not, by a model of that version or by whichever the rollout chooses."""

    records: list[object]
    on_error: OnError = "row"
    level: Decimal | None = None
    explain: bool = False
    version: str | None = None


_USUAL = BatchOptions()
_BATCH_FIELDS = frozenset({"records", "on_error", "confidence_level", "explain"})


def parse_json(body: bytes) -> Any:
    """The value in these bytes: no key twice, no NaN, no Infinity.

    Every key has one colon after it, so where a body has as many colons as its parsed value has keys, no key came
    twice. Only other bodies (a colon inside a text, or a duplicate) are read again by the slower reader that can tell.

    Raises
    ------
    NotJson
        Not UTF-8, not JSON (RFC 8259), nested too deeply, or a key twice in one object.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotJson(f"the body is not JSON (line {error.lineno}, column {error.colno})") from error
    if body.count(b":") != _count_keys(value):
        _refuse_duplicates(body)
    return value


def _count_keys(value: Any) -> int:
    count = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if type(item) is dict:
            count += len(item)
            inside: Iterable[Any] = item.values()
        elif type(item) is list:
            inside = item
        else:
            continue
        for child in inside:
            kind = type(child)
            if kind is dict or kind is list:
                stack.append(child)
    return count


def _refuse_duplicates(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_object)
    except NotJson:
        raise
    except (RecursionError, ValueError) as error:  # json also refuses integers of thousands of digits
        raise NotJson("the body is nested too deeply or has a number that is too long") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJson("the body has the same key twice in one object")
    return found


def parse_predict(body: object) -> PredictRequest:
    """The request in a parsed body of ``/predict``.

    Raises
    ------
    InvalidRequest
        No object, ``features`` missing, an unknown field, or a field of the wrong kind.
    """
    given = _fields(body, _PREDICT_NAMES, required="features")
    values: dict[str, Any] = {}
    for name, attribute, default, read in _PREDICT_READERS:
        value = given.get(name)
        values[attribute] = default if value is None else value if read is None else read(name, value)
    return PredictRequest(**values)


def parse_batch(body: object, max_rows: int, beside: BatchOptions = _USUAL) -> BatchRequest:
    """The request in a parsed body of ``/predict_batch``; ``beside`` holds where the body says nothing itself.

    Raises
    ------
    InvalidRequest
        As ``parse_predict``; also for no records or more than ``max_rows`` of them.
    """
    fields = _fields(body, _BATCH_FIELDS, required="records")
    records = fields["records"]
    if not isinstance(records, list) or not records:
        raise InvalidRequest([FieldProblem("records", "must be a list with at least one record")])
    if len(records) > max_rows:
        problem = f"has {len(records)} records, more than the {max_rows} allowed: split it, or send an Arrow stream"
        raise InvalidRequest([FieldProblem("records", problem)])
    level, explain = fields.get("confidence_level"), fields.get("explain")
    return BatchRequest(
        records=records,
        on_error=parse_on_error(fields.get("on_error", beside.on_error)),
        level=beside.level if level is None else level_from_json(level),
        explain=explain is not None and _read_flag("explain", explain),
    )


def parse_on_error(value: object) -> OnError:
    """``row`` or ``reject``.

    Raises
    ------
    InvalidRequest
        Anything else.
    """
    if value not in ("row", "reject"):
        raise InvalidRequest([FieldProblem("on_error", "must be 'row' or 'reject'")])
    return value


def _fields(body: object, allowed: frozenset[str], required: str) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise InvalidRequest([FieldProblem("body", "must be a JSON object")])
    if not body.keys() <= allowed:
        unknown = sorted(body.keys() - allowed)
        raise InvalidRequest([FieldProblem(shown_name(name), "is not known here") for name in unknown[:20]])
    if required not in body:
        raise InvalidRequest([FieldProblem(required, "is missing")])
    return body


def level_of_text(text: str) -> Decimal:
    """The confidence level in a text, such as one from a query string.

    Raises
    ------
    InvalidRequest
        Not a number, or outside what a level may be.
    """
    try:
        return level_from_json(parse_json(text.encode()))
    except (NotJson, UnicodeEncodeError) as error:
        raise InvalidRequest([FieldProblem("confidence_level", "must be a number")]) from error


def read_id(name: str, value: object) -> str:
    """A caller's own name for a request or a subject.

    Raises
    ------
    InvalidRequest
        No text, too long, or with control characters in it.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidRequest(
            [FieldProblem(name, f"must be text of 1 to {MAX_ID_LENGTH} characters, none of them a control character")]
        )
    return value


def _read_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest([FieldProblem(name, "must be true or false")])
    return value


_READERS: Mapping[str, Callable[[str, Any], Any] | None] = {
    "record": None,  # read once it is known which model is asked
    "level": lambda _, value: level_from_json(value),
    "id": read_id,
    "flag": _read_flag,
}
_PREDICT_READERS = tuple((f.name, f.attribute, f.default, _READERS[f.kind]) for f in PREDICT_FIELDS)
_PREDICT_NAMES = frozenset(field.name for field in PREDICT_FIELDS)
