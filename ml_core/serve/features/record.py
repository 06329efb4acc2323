"""One row of a request: read strictly, encoded for the transform, and written in one canonical way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from operator import attrgetter, getitem, itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from pydantic_core import SchemaValidator, ValidationError
from pydantic_core import core_schema as cs

from ml_core.base.clock import utc_text
from ml_core.base.errors import FieldProblem, InvalidRecord
from ml_core.features.columns import Column, ColumnArrays, coded_levels, features_of
from ml_core.serve.features.column_rules import (
    EXACT,
    MOMENT_PATTERN,
    OPTIONAL_ROLES,
    as_moment,
    fault_of,
    integer_levels,
    plain_names,
    shown,
    shown_name,
    unknown_field_fault,
    whole_number_limits,
)
from ml_core.serve.features.moments import moment_number

__all__ = ["Record", "RecordReader", "Value"]

Value = bool | int | float | str | None
_UNKNOWN_FIELDS_NAMED = 50


@dataclass(slots=True)
class Record:
    """A record that passed.

    Attributes
    ----------
    values : every feature column in table order; None where a nullable one is missing, moments in UTC in one spelling
    ids : the id, group and time columns that were sent, and columns beside the table, kept apart so that none reaches a
        transform or a hash
    """

    values: dict[str, Value]
    ids: dict[str, Value]


_VALUES = attrgetter("values")


class RecordReader:
    """Reads and encodes records of one column table.

    The happy path is one call into pydantic-core, which accepts only what ``column_rules.fault_of`` accepts; what it
    refuses is looked at again, value by value, for words a person can act on.

    Parameters
    ----------
    columns : the column table
    beside : further columns that a record may have, numbers and categories that may be missing; no features
    """

    def __init__(self, columns: Sequence[Column], beside: Sequence[Column] = ()) -> None:
        self._columns = tuple(columns)
        self._features = features_of(columns)
        self._beside = tuple(beside)
        self._accepted = (*self._features, *self._beside, *(c for c in columns if c.role in OPTIONAL_ROLES))
        self._id_names = tuple(c.name for c in self._accepted[len(self._features) :])
        self._of_beside = [(c.name, code_of_level(c) if c.dtype == "category" else None) for c in self._beside]
        self._plain = plain_names(self._accepted)
        self._validator = SchemaValidator(_core_schema(self._accepted))
        self._numbers = _Picker(c.name for c in self._features if c.dtype in ("int", "float"))
        self._texts = _Picker(c.name for c in self._features if c.dtype == "text")
        coded = [c for c in self._features if coded_levels(c)]
        self._categories = _Picker(c.name for c in coded)
        self._codes = tuple(code_of_level(c) for c in coded)
        self._moments = tuple(c.name for c in self._features if c.dtype == "datetime")

    def read(self, obj: object) -> Record:
        """The record an object of parsed JSON stands for.

        Raises
        ------
        InvalidRecord
            With one problem for every field that is wrong, missing or unknown.
        """
        try:
            values = self._validator.validate_python(obj)
        except (ValidationError, OverflowError):
            raise InvalidRecord(self._problems(obj)) from None
        ids = {}
        for name in self._id_names:
            if name in values:
                ids[name] = values.pop(name)
        return Record(values, ids)

    def arrays(self, records: Sequence[Record]) -> ColumnArrays:
        """The feature columns of n records and the columns beside them, each of shape (n,): see ``ColumnArrays``."""
        rows = list(map(_VALUES, records))
        n = len(rows)
        arrays: dict[str, npt.NDArray[Any]] = {}
        if names := self._numbers.names:  # null becomes NaN by numpy's own conversion
            numbers = np.array(list(map(self._numbers.pick, rows)), dtype=np.float64).reshape(n, len(names))
            arrays.update(zip(names, numbers.T, strict=True))
        if names := self._categories.names:
            codes = [list(map(getitem, self._codes, self._categories.pick(row))) for row in rows]
            arrays.update(zip(names, np.array(codes, dtype=np.int64).reshape(n, len(names)).T, strict=True))
        if (names := self._texts.names) and n:
            texts = np.empty((n, len(names)), dtype=np.object_)
            texts[:] = list(map(self._texts.pick, rows))
            arrays.update(zip(names, texts.T, strict=True))
        elif names:
            arrays |= dict.fromkeys(names, np.empty(0, dtype=np.object_))
        for name in self._moments:
            arrays[name] = np.array([moment_number(row[name]) for row in rows], dtype=np.float64)
        for name, codes_of in self._of_beside:
            given = [record.ids.get(name) for record in records]
            if codes_of is None:
                arrays[name] = np.array(given, dtype=np.float64)
            else:
                arrays[name] = np.array([codes_of[value] for value in given], dtype=np.int64)
        return arrays

    def canonical(self, record: Record) -> bytes:
        """The feature values as JSON, in table order and in one spelling; equal records give equal bytes."""
        return orjson.dumps(record.values)

    def json_schema(self) -> dict[str, Any]:
        """JSON schema of a record: units, bounds, levels and what each field means."""
        return {
            "type": "object",
            "properties": {c.name: _property(c) for c in self._accepted},
            "required": [c.name for c in self._features if not c.nullable],
            "additionalProperties": False,
        }

    def _problems(self, obj: object) -> list[FieldProblem]:
        if not isinstance(obj, Mapping):
            return [FieldProblem("", f"{shown(obj)} is not an object of named fields")]
        problems = []
        for column in self._accepted:
            if column.name in obj:
                fault = fault_of(column, obj[column.name])
                if fault:
                    problems.append(FieldProblem(column.name, fault.problem))
            elif not column.nullable and column.role == "feature":
                problems.append(FieldProblem(column.name, "is missing"))
        known = {c.name for c in self._accepted}
        unknown = [name for name in obj if name not in known]
        problems += [
            FieldProblem(shown_name(name), unknown_field_fault(self._columns, name, self._plain).problem)
            for name in unknown[:_UNKNOWN_FIELDS_NAMED]
        ]
        if len(unknown) > _UNKNOWN_FIELDS_NAMED:
            more = len(unknown) - _UNKNOWN_FIELDS_NAMED
            problems.append(FieldProblem("", f"has {more} more fields that are not known"))
        return problems or [FieldProblem("", "cannot be read as a record")]


class _Picker:
    """Takes the values of some names out of a row, always as a tuple."""

    def __init__(self, names: Any) -> None:
        self.names: tuple[str, ...] = tuple(names)
        if len(self.names) > 1:
            self.pick: Any = itemgetter(*self.names)
        else:  # itemgetter gives a bare value for one name
            self.pick = lambda row: tuple(row[name] for name in self.names)


def code_of_level(column: Column) -> dict[Value, int]:
    """Position of each level of a category, or of false and true; None stands for missing at -1."""
    levels: tuple[Value, ...] = coded_levels(column)
    return {None: -1} | {level: code for code, level in enumerate(levels)}


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ValueError
    return int(value)


def _moment_as_sent(value: object) -> object:
    if as_moment(value) is None:
        raise ValueError
    return value


def _moment_text(value: object) -> str:
    """A moment in the one spelling that is hashed and logged."""
    if (moment := as_moment(value)) is None:
        raise ValueError
    return utc_text(moment)


def _integer(low: float, high: float) -> cs.CoreSchema:
    """Whole numbers, also written as 45.0, but no booleans and no texts."""
    whole = cs.int_schema(strict=True, ge=ceil(low), le=floor(high))
    written_as_float = cs.float_schema(
        strict=True, ge=max(low, float(1 - EXACT)), le=min(high, float(EXACT - 1)), allow_inf_nan=False
    )
    return cs.union_schema([whole, cs.no_info_after_validator_function(_whole, written_as_float)], mode="left_to_right")


def _bounds(column: Column) -> tuple[float, float]:
    """The bounds of an ``int`` column, never wider than what can be kept exactly."""
    lowest, highest = whole_number_limits(column)
    low = lowest if column.low is None else max(column.low, lowest)
    return low, highest if column.high is None else min(column.high, highest)


def _value_schema(column: Column) -> cs.CoreSchema:
    if column.dtype == "int":
        return _integer(*_bounds(column))
    if column.dtype == "float":
        return cs.float_schema(strict=True, ge=column.low, le=column.high, allow_inf_nan=False)
    if column.dtype == "text":
        return cs.str_schema(strict=True, pattern=f"^(?:{column.pattern})$" if column.pattern else None)
    if column.dtype == "datetime":
        return cs.no_info_plain_validator_function(_moment_text if column.role == "feature" else _moment_as_sent)
    if column.dtype == "bool":
        return cs.bool_schema(strict=True)
    levels = cs.literal_schema(list(column.levels))
    if integer_levels(column):  # a literal 1 would take true for 1
        numbers = [int(level) for level in column.levels]
        return cs.chain_schema([_integer(min(numbers), max(numbers)), levels])
    return levels


def _core_schema(accepted: Sequence[Column]) -> cs.CoreSchema:
    fields = {}
    for column in accepted:
        schema = _value_schema(column)
        if column.role in OPTIONAL_ROLES:
            fields[column.name] = cs.typed_dict_field(cs.nullable_schema(schema), required=False)
        elif column.nullable:
            schema = cs.with_default_schema(cs.nullable_schema(schema), default=None)
            fields[column.name] = cs.typed_dict_field(schema, required=False)
        else:
            fields[column.name] = cs.typed_dict_field(schema, required=True)
    return cs.typed_dict_schema(fields, extra_behavior="forbid")


_JSON_TYPES = {"int": "integer", "float": "number", "bool": "boolean"}


def _property(column: Column) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _JSON_TYPES.get(column.dtype, "string")}
    if column.dtype == "category":
        schema = {"type": "integer" if integer_levels(column) else "string", "enum": list(column.levels)}
    if column.dtype == "datetime":
        schema |= {"pattern": f"^{MOMENT_PATTERN}$", "examples": ["2026-01-31", "2026-01-31T10:15:30Z"]}
    if column.low is not None:
        schema["minimum"] = _exact(column, column.low)
    if column.high is not None:
        schema["maximum"] = _exact(column, column.high)
    if column.pattern is not None:
        schema["pattern"] = f"^(?:{column.pattern})$"
    if column.examples:
        schema["examples"] = list(column.examples)
    if column.nullable or column.role in OPTIONAL_ROLES:
        schema = {"anyOf": [schema, {"type": "null"}]}
    schema["description"] = f"{column.doc} Unit: {column.unit}." if column.unit else column.doc
    if column.unit:
        schema["x-unit"] = column.unit
    return schema


def _exact(column: Column, bound: float) -> float:
    return int(bound) if column.dtype == "int" else float(bound)
