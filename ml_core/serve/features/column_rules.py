"""What a single value of a column may be, and in which words a wrong one is refused.

This is the meaning of the column table. The strict record, the bulk encoder and the pandera schema are three faster
ways of asking the same question; where the first two find a fault, the words come from here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

from ml_core.base.clock import DATE, FIRST_YEAR, LAST_YEAR, TIME, ZONE
from ml_core.base.near_names import plain_name
from ml_core.features.columns import Column

__all__ = [
    "EXACT",
    "MOMENT_PATTERN",
    "OPTIONAL_ROLES",
    "Fault",
    "fault_of",
    "integer_levels",
    "whole_number_limits",
    "as_moment",
    "column_beside",
    "plain_names",
    "shown",
    "shown_name",
    "unknown_field_fault",
]

OPTIONAL_ROLES = ("id", "group", "time", "weight")
"""Roles of columns that a request may leave out or send as null."""

EXACT = 2**53
"""Below it, every whole number is a float64 of its own."""
_INT64 = 2**63

MOMENT_PATTERN = f"{DATE}(?:[T ]{TIME}{ZONE}?)?"
"""A date, or a date and a time with or without its zone."""
_MOMENT = re.compile(MOMENT_PATTERN)
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SHOWN_LEVELS = 10
_LONGEST_NAME = 200
_LONGEST_WHOLE_NUMBER_BITS = 64


def column_beside(name: str, levels: tuple[str, ...] | tuple[int, ...], doc: str) -> Column:
    """A raw column beside the column table, which only tells a group of patients: a category, or a number.

    A request may leave it out. It never reaches a transform.
    """
    text = doc or "Only tells which group a record belongs to; never a feature."
    return Column(name, "category" if levels else "float", text, nullable=True, levels=levels)


class Fault(NamedTuple):
    """Why a value is refused: ``check`` for reports (never quotes the value), ``problem`` for the one who sent it."""

    check: str
    problem: str


def shown(value: object) -> str:
    """The value as it may be told to its sender: short, printable, never failing.

    Texts are not quoted: errors pass through proxies and their logs, and a text in the wrong field may name a person.
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int) and value.bit_length() > _LONGEST_WHOLE_NUMBER_BITS:
        return "a number of more than 64 bits"
    if isinstance(value, int | float):
        return f"{value}"
    if isinstance(value, str):
        return "this text"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return f"a value of type {type(value).__name__}"


def shown_name(name: object) -> str:
    """The name of an unknown field as it may be told to its sender: only where it looks like the name of one."""
    return name if isinstance(name, str) and _FIELD_NAME.fullmatch(name) else "(a field)"


@cache
def integer_levels(column: Column) -> bool:
    """Whether the column is a category whose levels are whole numbers."""
    return bool(column.levels) and isinstance(column.levels[0], int)


def whole_number_limits(column: Column) -> tuple[int, int]:
    """Smallest and largest whole number that an ``int`` column may hold, both inclusive.

    Ids keep the 64 bits they are stored with. Features end where float64 would no longer tell neighbours apart, because
    a transform computes with float64.
    """
    if column.role in OPTIONAL_ROLES:
        return -_INT64, _INT64 - 1
    return 1 - EXACT, EXACT - 1


def as_moment(value: object) -> datetime | None:
    """The moment a value means, or None where it means none.

    Accepted are ISO 8601 texts (``2026-01-31``, ``2026-01-31T10:15:30.5Z``) and datetimes, from 1900 to 2199. A text
    without an offset is taken as UTC.
    """
    if isinstance(value, str):
        if not _MOMENT.fullmatch(value):
            return None
        value = datetime.fromisoformat(value)
    # the year of pandas' "not a time", which is a datetime too, lies in no range
    if not isinstance(value, datetime) or not FIRST_YEAR <= value.year <= LAST_YEAR:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def plain_names(columns: Iterable[Column]) -> dict[str, str]:
    """Names of the fields of a request, by their small letters and digits alone."""
    return {plain_name(column.name): column.name for column in columns if column.role != "label"}


def unknown_field_fault(columns: tuple[Column, ...], name: object, plain: Mapping[str, str]) -> Fault:
    """The fault of a field that a record may not have.

    Parameters
    ----------
    plain : as :func:`plain_names` gives it; the field whose name differs in marks and capitals alone is named
    """
    if any(c.name == name and c.role == "label" for c in columns):
        return Fault("outcome sent", "is the outcome, which is to be predicted; it must not be sent")
    near = plain.get(plain_name(name)) if isinstance(name, str) and len(name) <= _LONGEST_NAME else None
    told = f"{near} is meant?" if near is not None else "GET /docs.json names the fields"
    return Fault("unknown field", f"is not a field of this model; {told}")


def fault_of(column: Column, value: object) -> Fault | None:
    """Why this value cannot stand in this column, or None where it can.

    Parameters
    ----------
    column : Column
        Of any role; columns of an optional role accept null.
    value : object
        As JSON gives it: ``None``, ``bool``, ``int``, ``float``, ``str``, list or object. A NaN is a value, not a null.
    """
    if value is None:
        return None if column.nullable or column.role in OPTIONAL_ROLES else Fault("null", "must not be null")
    if column.dtype in ("int", "float"):
        return _number_fault(column, value)
    if column.dtype == "category":
        return _level_fault(column, value)
    if column.dtype == "bool":
        return None if isinstance(value, bool) else Fault("not a boolean", f"{shown(value)} is not true or false")
    if column.dtype == "text":
        return _text_fault(column, value)
    if as_moment(value) is None:
        return Fault("not a date", f"{shown(value)} is no date or time like 2026-01-31 or 2026-01-31T10:15:30Z")
    return None


def _number_fault(column: Column, value: Any) -> Fault | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Fault("not a number", f"{shown(value)} is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        return Fault("not finite", f"{shown(value)} is not a finite number")
    if column.dtype == "int" and value != int(value):
        return Fault("not a whole number", f"{shown(value)} is not a whole number")
    unit = f" {column.unit}" if column.unit else ""
    if column.low is not None and value < column.low:
        return Fault("too low", f"{shown(value)} is below the lowest allowed value {column.low:.16g}{unit}")
    if column.high is not None and value > column.high:
        return Fault("too high", f"{shown(value)} is above the highest allowed value {column.high:.16g}{unit}")
    return _inexact_fault(column, value) if column.dtype == "int" else None


def _inexact_fault(column: Column, value: float) -> Fault | None:
    lowest, highest = whole_number_limits(column)
    if isinstance(value, float):  # it may have been another whole number before it became a float
        lowest, highest = 1 - EXACT, EXACT - 1
    if lowest <= value <= highest:
        return None
    return Fault("not exact", f"{shown(value)} is too large to be kept exactly; {lowest} to {highest} can be")


def _level_fault(column: Column, value: object) -> Fault | None:
    if integer_levels(column):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return Fault("not a number", f"{shown(value)} is not {_levels_text(column)}")
    elif not isinstance(value, str):
        return Fault("not text", f"{shown(value)} is not {_levels_text(column)}")
    if value not in column.levels:
        return Fault("not a level", f"{shown(value)} is not {_levels_text(column)}")
    return None


def _levels_text(column: Column) -> str:
    names = [str(level) for level in column.levels]
    if len(names) <= _SHOWN_LEVELS:
        return f"one of: {', '.join(names)}"
    return f"one of the {len(names)} allowed values ({', '.join(names[:_SHOWN_LEVELS])}, …)"


def _text_fault(column: Column, value: object) -> Fault | None:
    if not isinstance(value, str):
        return Fault("not text", f"{shown(value)} is not text")
    if column.pattern is not None and not re.fullmatch(column.pattern, value):
        return Fault("wrong form", f"{shown(value)} does not have the form {column.pattern}")
    return None
