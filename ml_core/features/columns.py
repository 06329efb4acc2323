"""The table of columns: the one description from which schemas, records, OpenAPI and docs are made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy.typing as npt

__all__ = ["Column", "ColumnArrays", "DType", "Role", "features_of", "table_hash", "with_role"]

Role = Literal["id", "group", "time", "feature", "label"]
DType = Literal["int", "float", "category", "text", "datetime"]

ColumnArrays = Mapping[str, npt.NDArray[Any]]
"""Feature columns of n rows, by name, as every ``transform`` takes them (each array has shape ``(n,)``):

* ``int`` and ``float``: float64, NaN where missing;
* ``category``: int64 position in ``Column.levels``, -1 where missing (so a look-up table's last row can stand for it);
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
        is refused
    unit : e.g. ``mg/dL``; empty where there is none
    low, high : smallest and largest value allowed, both inclusive (numbers only)
    nullable : may be null or missing
    levels : the values of a category, in the order of their codes (all ``str`` or all ``int``)
    pattern : regular expression for ``text``
    examples : a few valid ``text`` values, for OpenAPI, docs and golden records (required for ``text`` features)
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


def features_of(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns a transform may look at, in table order."""
    return tuple(c for c in columns if c.role == "feature")


def with_role(columns: Sequence[Column], role: Role) -> Column | None:
    """The column of that role, or None where the table has none."""
    return next((c for c in columns if c.role == role), None)


def table_hash(columns: Sequence[Column]) -> str:
    """sha256 (hex) over the whole table: any changed bound, level or sentence changes it."""
    text = json.dumps([asdict(c) for c in columns], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
