"""The table of columns: the one description from which schemas, records, OpenAPI and docs are made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy.typing as npt

__all__ = [
    "Column",
    "ColumnArrays",
    "DType",
    "Role",
    "Transform",
    "coded_levels",
    "features_of",
    "table_fault",
    "table_hash",
    "with_role",
]

Role = Literal["id", "group", "time", "feature", "label", "weight"]
DType = Literal["int", "float", "bool", "category", "text", "datetime"]
Transform = Literal["as_is", "one_hot", "ordinal", "date_parts", "none"]

ColumnArrays = Mapping[str, npt.NDArray[Any]]
"""Feature columns of n rows, by name, as every ``transform`` takes them (each array has shape ``(n,)``):

* ``int`` and ``float``: float64, NaN where missing;
* ``category``: int64 position in ``Column.levels``, -1 where missing (so a look-up table's last row can stand for it);
* ``bool``: int64, 1 for true, 0 for false, -1 where missing;
* ``datetime``: float64, microseconds since 1970 in UTC (exact from 1900 to 2199), NaN where missing;
* ``text``: object, ``str`` or ``None``.
"""


@dataclass(frozen=True, slots=True)
class Column:
    """One raw column.

    Attributes
    ----------
    name : as in requests, files and tables
    dtype : what a value is; ``category`` takes one of ``levels``, ``text`` must match ``pattern`` whole
    doc : one sentence for people
    role : ``feature`` columns are required in requests; ``id``, ``group`` and ``time`` are optional there, ``label``
        is refused; ``weight`` says for how many a row of a table stands (survey weights), and is not looked at there
    unit : e.g. ``mg/dL``; empty where there is none
    low, high : smallest and largest value allowed, both inclusive (numbers only)
    nullable : may be null or missing
    levels : the values of a category, in the order of their codes (all ``str`` or all ``int``)
    pattern : regular expression for ``text``
    examples : a few valid ``text`` values, for OpenAPI, docs and golden records (required for ``text`` features)
    transform : how the ``standard`` transform puts a feature into the matrix; None where a module has its own transform
    missing_flag : whether the ``standard`` transform adds a column that is 1 where the value is missing
    """

    name: str
    dtype: DType
    doc: str
    role: Role = "feature"
    unit: str = ""
    low: float | None = None
    high: float | None = None
    nullable: bool = False
    levels: tuple[str, ...] | tuple[int, ...] = ()
    pattern: str | None = None
    examples: tuple[str, ...] = ()
    transform: Transform | None = None
    missing_flag: bool = False


_LATER_FIELDS = {"transform": None, "missing_flag": False}
"""Fields that columns did not have at first: left out of the hash where they say nothing, so that no hash moved."""


_BOOLS = (False, True)


def coded_levels(column: Column) -> tuple[str, ...] | tuple[int, ...]:
    """The values that the codes in ``ColumnArrays`` stand for, by code; empty for columns without codes."""
    return _BOOLS if column.dtype == "bool" else column.levels


def features_of(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns a transform may look at, in table order."""
    return tuple(c for c in columns if c.role == "feature")


def with_role(columns: Sequence[Column], role: Role) -> Column | None:
    """The column of that role, or None where the table has none."""
    return next((c for c in columns if c.role == role), None)


def table_hash(columns: Sequence[Column]) -> str:
    """sha256 (hex) over the whole table: any changed bound, level or sentence changes it."""
    text = json.dumps([_said(c) for c in columns], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _said(column: Column) -> dict[str, Any]:
    fields = asdict(column)
    return {name: value for name, value in fields.items() if (name, value) not in _LATER_FIELDS.items()}


def table_fault(columns: Sequence[Column]) -> str | None:
    """What makes a table unusable, naming the column, or None where nothing does.

    A mistake in a new table is told by its name here, before the schema, the record or a conversion trips over it.
    """
    names = [c.name for c in columns]
    for column in columns:
        fault = "is there twice" if names.count(column.name) > 1 else _column_fault(column)
        if fault is not None:
            return f"column {column.name!r} {fault}"
    for role, least, most in (
        ("group", 1, 1),
        ("label", 1, 1),
        ("feature", 1, None),
        ("id", 0, 1),
        ("time", 0, 1),
        ("weight", 0, 1),
    ):
        found = sum(c.role == role for c in columns)
        if found < least or (most is not None and found > most):
            return _role_fault(role, found, _ROLES_IN_WORDS[role])
    return None


_ROLES_IN_WORDS = {
    "group": "which says whose a row is (where each row is a subject of its own, data.row_number makes one)",
    "label": "which is predicted: a category with its levels",
    "feature": "to learn from",
    "id": "which names a row",
    "time": "which says when a row was",
    "weight": "which says for how many a row stands",
}


def _role_fault(role: str, found: int, told: str) -> str:
    if not found:
        return f"no column has the role {role!r}: give it to the one {told}"
    return f"{found} columns have the role {role!r}: give it to one alone, {told}"


def _column_fault(column: Column) -> str | None:
    for field, value, known in (("dtype", column.dtype, get_args(DType)), ("role", column.role, get_args(Role))):
        if value not in known:
            return f"has the {field} {value!r}; it is one of {', '.join(known)}"
    if column.role == "label" and (column.dtype != "category" or column.nullable or len(column.levels) < 2):
        return "is the label: a category of at least two levels that is never null"
    if column.dtype == "bool" and column.role != "feature":
        return f"is a bool, which only a feature can be, not a column of the role {column.role!r}"
    if column.role == "group" and (column.dtype not in ("text", "int") or column.nullable):
        return "is the group: a text or a whole number that is never null"
    if column.role == "weight" and (column.dtype not in ("int", "float") or column.low is None or column.low <= 0):
        return "is the weight: a number whose lowest value (low) is above 0"
    if column.dtype == "category":
        return _levels_fault(column)
    if column.levels:
        return f"has levels, which only a category has, not dtype {column.dtype!r}"
    if column.dtype in ("int", "float"):
        reversed_bounds = column.low is not None and column.high is not None and column.low > column.high
        return f"allows {column.low:g} to {column.high:g}, which is no value" if reversed_bounds else None
    if column.low is not None or column.high is not None:
        return f"has low or high, which only numbers have, not dtype {column.dtype!r}"
    return _text_fault(column) if column.dtype == "text" else None


def _levels_fault(column: Column) -> str | None:
    if not column.levels or {type(level) for level in column.levels} - {str, int}:
        return "is a category, and needs levels: all texts or all whole numbers"
    if len({type(level) for level in column.levels}) > 1 or len(set(column.levels)) < len(column.levels):
        return "has levels that repeat, or that are partly texts and partly numbers"
    return None


def _text_fault(column: Column) -> str | None:
    try:
        form = None if column.pattern is None else re.compile(column.pattern)
    except re.error as error:
        return f"has a pattern that is no regular expression: {error}"
    if column.role == "feature" and not column.examples:
        return "is a text feature, and needs examples: a few valid values"
    if form is not None and not all(form.fullmatch(example) for example in column.examples):
        return "has examples that its own pattern refuses"
    return None
