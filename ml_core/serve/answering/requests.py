"""What callers may ask: parsed bodies in, typed requests out, every wrong field named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from ml_core.base.errors import FieldProblem, InvalidRequest
from ml_core.serve.features.column_rules import shown_name
from ml_core.serve.model.prediction_sets import level_from_json

__all__ = [
    "ID_PATTERN",
    "MAX_ID_LENGTH",
    "BatchOptions",
    "BatchRequest",
    "OnError",
    "PredictRequest",
    "parse_batch",
    "parse_on_error",
    "parse_predict",
]

MAX_ID_LENGTH = 200
ID_PATTERN = r"[^\x00-\x1f\x7f-\x9f]{1,200}"
"""What ``client_request_id`` and ``subject`` may be."""
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
    """

    features: object
    level: Decimal | None = None
    client_request_id: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How a batch is answered; ``on_error`` says whether a bad record fails alone or refuses all."""

    on_error: OnError = "row"
    level: Decimal | None = None


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """Many records to answer, in one of those ways."""

    records: list[object]
    on_error: OnError = "row"
    level: Decimal | None = None


_USUAL = BatchOptions()
_PREDICT_FIELDS = frozenset({"features", "confidence_level", "client_request_id", "subject"})
_BATCH_FIELDS = frozenset({"records", "on_error", "confidence_level"})


def parse_predict(body: object) -> PredictRequest:
    """The request in a parsed body of ``/predict``.

    Raises
    ------
    InvalidRequest
        No object, ``features`` missing, an unknown field, or a field of the wrong kind.
    """
    fields = _fields(body, _PREDICT_FIELDS, required="features")
    level = fields.get("confidence_level")
    return PredictRequest(
        features=fields["features"],
        level=None if level is None else level_from_json(level),
        client_request_id=_short_text(fields, "client_request_id"),
        subject=_short_text(fields, "subject"),
    )


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
    level = fields.get("confidence_level")
    return BatchRequest(
        records=records,
        on_error=parse_on_error(fields.get("on_error", beside.on_error)),
        level=beside.level if level is None else level_from_json(level),
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


def _short_text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidRequest(
            [FieldProblem(name, f"must be text of 1 to {MAX_ID_LENGTH} characters, none of them a control character")]
        )
    return value
