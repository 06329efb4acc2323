"""What callers may say turned out to be true: parsed bodies and rows in, labels out, every wrong field named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from ml_core.base.clock import DATE, TIME, ZONE, utc_now
from ml_core.base.errors import FieldProblem, InvalidRequest
from ml_core.serve.features.column_rules import shown_name
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.labels import AnswerLabel

__all__ = ["CLOCK_SKEW", "MAX_TEXT", "OBSERVED_AT_PATTERN", "FieldReader", "field_readers", "parse_labels", "read_row"]

FieldReader = Callable[[object], Any]
"""Gives what a field says; raises ``ValueError`` with the problem in words, which name no value."""

CLOCK_SKEW = timedelta(minutes=5)
"""How far the clock of a caller may be ahead of ours."""
MAX_TEXT = 200
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = 20
OBSERVED_AT_PATTERN = f"(?!19[0-6]){DATE}[T ]{TIME}{ZONE}"
_OBSERVED_AT = re.compile(OBSERVED_AT_PATTERN)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def parse_labels(
    body: object,
    max_labels: int,
    classes: Sequence[int | str] | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> list[AnswerLabel]:
    """The labels in a parsed body of ``/labels``.

    Parameters
    ----------
    classes : labels of the model, or None where they are not known
    clock : the time of day

    Raises
    ------
    InvalidRequest
        No object, no label or more than ``max_labels``, an unknown field, or a field of the wrong kind. Every wrong
        field is named, such as ``labels[3].observed_at``; no value is.
    """
    readers = field_readers(classes, clock())
    labels: list[AnswerLabel] = []
    problems: list[FieldProblem] = []
    for i, row in enumerate(_rows(body, max_labels)):
        if not isinstance(row, dict):
            problems.append(FieldProblem(f"labels[{i}]", "must be an object with request_id and label"))
            continue
        try:
            fields = read_row(row, readers)
        except InvalidRequest as error:
            problems += [FieldProblem(f"labels[{i}].{p.field}", p.problem) for p in error.fields]
        else:
            labels.append(AnswerLabel(fields["request_id"], fields["label"], fields["observed_at"]))
    if problems:
        raise InvalidRequest(problems)
    return labels


def field_readers(classes: Sequence[int | str] | None, now: datetime) -> dict[str, FieldReader]:
    """What reads each field of a label, by its name.

    ``request_id`` gives 16 bytes, ``label`` the label, ``observed_at`` a UTC datetime or None.

    Parameters
    ----------
    classes : labels of the model, or None where they are not known
    now : the time, with its zone
    """
    return {
        "request_id": _request_id,
        "label": partial(_label, classes),
        "observed_at": partial(_observed_at, now + CLOCK_SKEW),
    }


def read_row(row: Mapping[str, object], readers: Mapping[str, FieldReader]) -> dict[str, Any]:
    """What each field says.

    Raises
    ------
    InvalidRequest
        A field is wrong or not known; all of them are named.
    """
    unknown = sorted(map(shown_name, row.keys() - readers.keys()))
    problems = [FieldProblem(name, "is not known here") for name in unknown[:_SHOWN]]
    found = {}
    for name, read in readers.items():
        try:
            found[name] = read(row.get(name))
        except ValueError as error:
            problems.append(FieldProblem(name, str(error)))
    if problems:
        raise InvalidRequest(problems)
    return found


def _rows(body: object, max_labels: int) -> list[object]:
    if not isinstance(body, dict):
        raise InvalidRequest([FieldProblem("body", "must be a JSON object")])
    unknown = sorted(map(shown_name, body.keys() - {"labels"}))
    if unknown:
        raise InvalidRequest([FieldProblem(name, "is not known here") for name in unknown[:_SHOWN]])
    rows = body.get("labels")
    if not isinstance(rows, list) or not rows:
        raise InvalidRequest([FieldProblem("labels", "must be a list with at least one label")])
    if len(rows) > max_labels:
        problem = f"has {len(rows)} labels, more than the {max_labels} allowed: split it, or use `surety labels import`"
        raise InvalidRequest([FieldProblem("labels", problem)])
    return rows


def _request_id(value: object) -> bytes:
    if value is None:
        raise ValueError("is missing")
    if not isinstance(value, str) or _UUID.fullmatch(value) is None:
        raise ValueError("must be the request_id of an answer, a UUID of 36 characters")
    return id_bytes(value)


def _label(classes: Sequence[int | str] | None, value: object) -> int | str:
    """A label as the model writes it: strictly, so that true and 1.0 are no 1."""
    if value is None:
        raise ValueError("is missing")
    if classes is not None:
        if type(value) not in (int, str) or value not in classes:
            raise ValueError(f"must be one of the model's labels: {_shown(classes)}")
    elif type(value) is int:
        if not -(2**63) <= value < 2**63:
            raise ValueError("must be a whole number of at most 64 bits")
    elif type(value) is not str or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise ValueError(f"must be a whole number, or text of 1 to {MAX_TEXT} printable characters")
    return value  # type: ignore[return-value]  # membership of classes has shown it


def _observed_at(latest: datetime, value: object) -> datetime | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(value) if isinstance(value, str) and _OBSERVED_AT.fullmatch(value) else value
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError("must be a time in ISO 8601 with its zone, such as 2026-11-23T10:15:30Z")
    if moment < _EARLIEST:
        raise ValueError("lies before 1970")
    if moment > latest:
        raise ValueError("lies in the future")
    return moment.astimezone(UTC)


def _shown(classes: Sequence[int | str]) -> str:
    """The labels as JSON, so that 1 and "1" look different."""
    texts = [json.dumps(label, ensure_ascii=False) for label in classes[:_SHOWN]]
    more = len(classes) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more else "")
