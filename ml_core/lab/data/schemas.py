"""The pandera schema of a feature version, made from its column table: how tables for training are judged.

It is a second reading of the column table, written apart from the one that requests meet (``rules``, ``record``,
``table``); a property test holds the two against each other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from ml_core.features.columns import Column
from ml_core.serve.features.column_rules import EXACT, OPTIONAL_ROLES, as_moment, integer_levels
from ml_core.serve.features.versions import get_feature_version

__all__ = ["MOST_LEVELS_NAMED", "Verdict", "first_of_its_kind", "get_schema", "validate_frame"]

_BoolArray = npt.NDArray[np.bool_]
_WORDS_OF_PANDERA = {
    "not_nullable": "null",
    "column_in_dataframe": "missing",
    "column_in_schema": "unknown field",
}
_ABOUT_COLUMNS = ("column_in_dataframe", "column_in_schema")
_NOT_A_LEVEL = "not a level"
MOST_LEVELS_NAMED, _LONGEST_LEVEL = 10, 40


@cache
def get_schema(version_name: str, *, labelled: bool = True) -> pa.DataFrameSchema:
    """The schema of a feature version's raw columns.

    Parameters
    ----------
    version_name : e.g. ``v2``
    labelled : True for tables for training: label and group must be there, and no id may repeat.
        False for rows to be predicted, by exactly the rules a request meets: no label, ids optional.

    Returns
    -------
    pandera.DataFrameSchema
        Validate with ``lazy=True`` to hear all that is wrong. It is strict: unknown columns are refused, nothing is
        coerced. In an object column None is null and NaN is a wrong value; elsewhere missing is null.

    Raises
    ------
    UnknownFeatureVersion
        There is no such version.
    """
    columns = get_feature_version(version_name).columns
    return pa.DataFrameSchema(
        {c.name: _schema_column(c, labelled=labelled) for c in columns if labelled or c.role != "label"},
        strict=True,
        name=version_name,
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the schema says about a frame.

    Attributes
    ----------
    good : shape (n,), the rows that hold
    problems : (column, check, how many rows), most rows first; never a value
    reasons : "column: check" of everything wrong with a row, by the row's number from 0
    unknown_levels : texts that are no level of their column, with their rows; a column with many of them is left out,
        since it may hold free text
    """

    good: _BoolArray
    problems: tuple[tuple[str, str, int], ...]
    reasons: Mapping[int, Sequence[str]]
    unknown_levels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def validate_frame(
    frame: pd.DataFrame, version_name: str, beside: Sequence[Column] = (), *, labelled: bool = True
) -> Verdict:
    """Validates every row and says which hold and what is wrong with the others.

    Parameters
    ----------
    beside : further columns that the frame has, which only tell groups of patients
    """
    numbered = frame.reset_index(drop=True)
    schema = get_schema(version_name, labelled=labelled)
    if beside:
        schema = schema.add_columns({c.name: _schema_column(c, labelled=labelled) for c in beside})
    try:
        schema.validate(numbered, lazy=True)
    except pa.errors.SchemaErrors as errors:
        return _verdict(errors.failure_cases, len(frame))
    return Verdict(np.ones(len(frame), dtype=np.bool_), (), {})


def _verdict(cases: pd.DataFrame, n_rows: int) -> Verdict:
    """The verdict in pandera's table of failures (column, check, failure_case, index), without the cells it quotes."""
    counts: Counter[tuple[str, str]] = Counter()
    reasons: dict[int, list[str]] = {}
    for column, check, case, index in zip(
        *(cases[c] for c in ("column", "check", "failure_case", "index")), strict=True
    ):
        word = _WORDS_OF_PANDERA.get(check, str(check))
        name = str(case if check in _ABOUT_COLUMNS else column)  # there, the "case" is the column's name
        rows = range(n_rows) if pd.isna(index) else (int(index),)
        counts[name, word] += len(rows)
        for row in rows:
            reasons.setdefault(row, []).append(f"{name}: {word}")
    good = np.ones(n_rows, dtype=np.bool_)
    good[list(reasons)] = False
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    problems = tuple((name, check, count) for (name, check), count in ranked)
    return Verdict(good, problems, reasons, _unknown_levels(cases))


def _unknown_levels(cases: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Short texts that are no level, by column, where a column has few of them; most rows first."""
    found = cases[cases["check"] == _NOT_A_LEVEL]
    levels = {}
    for column, values in found.groupby("column")["failure_case"]:
        counts = values.dropna().astype(str).value_counts()
        if 0 < len(counts) <= MOST_LEVELS_NAMED and max(map(len, counts.index)) <= _LONGEST_LEVEL:
            levels[str(column)] = {str(level): int(n) for level, n in counts.items()}
    return levels


def _schema_column(column: Column, *, labelled: bool) -> pa.Column:
    optional = column.role in OPTIONAL_ROLES and not (labelled and column.role == "group")
    checks = _CHECKS["category int" if integer_levels(column) else column.dtype](column)
    if labelled and column.role == "id":
        checks.append(_check("repeated", first_of_its_kind))
    nullable = column.nullable or optional
    needed = not optional and (labelled or not column.nullable)
    return pa.Column(checks=checks, nullable=nullable, required=needed, description=column.doc)


def _check(word: str, holds: Callable[[pd.Series[Any]], _BoolArray]) -> pa.Check:
    """A check by name; null is none of its business (``nullable`` is), but NaN among objects is."""
    return pa.Check(lambda s: pd.Series(holds(s), index=s.index), error=word, name=word, ignore_na=False)


# --- checks by kind of column -------------------------------------------------------------------------------------


def _number_checks(column: Column) -> list[pa.Check]:
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    checks = [
        _check("not a number", lambda s: _null(s) | _numbers(s)[1]),
        _check("not finite", partial(_holds_for_numbers, np.isfinite)),
        _check("too low", partial(_holds_for_numbers, lambda x: ~(x < low) | np.isinf(x))),
        _check("too high", partial(_holds_for_numbers, lambda x: ~(x > high) | np.isinf(x))),
    ]
    if column.dtype == "int":
        whole = partial(_holds_for_numbers, lambda x: ~np.isfinite(x) | (np.trunc(x) == x))
        checks.append(_check("not a whole number", whole))
        checks.append(_check("not exact", partial(_exact, column)))
    return checks


def _exact(column: Column, values: pd.Series[Any]) -> _BoolArray:
    """Whether the whole numbers of a column can be kept as they are: ids with 64 bits, others as float64."""
    numbers, is_number = _numbers(values)
    small: _BoolArray = ~is_number | ~np.isfinite(numbers) | (np.abs(numbers) < EXACT)
    if column.role not in OPTIONAL_ROLES or small.all() or pd.api.types.is_float_dtype(values.dtype):
        return small
    large = values[~small].astype(object)
    small[~small] = [isinstance(value, int | np.integer) and -(2**63) <= int(value) < 2**63 for value in large]
    return small


def _integer_level_checks(column: Column) -> list[pa.Check]:
    return [
        _check("not a number", lambda s: _null(s) | _numbers(s)[1]),
        _check(_NOT_A_LEVEL, partial(_holds_for_numbers, lambda x: np.isin(x, column.levels))),
    ]


def _level_checks(column: Column) -> list[pa.Check]:
    return [_text_check(), _check(_NOT_A_LEVEL, partial(_holds_for_texts, set(column.levels).__contains__))]


def _text_checks(column: Column) -> list[pa.Check]:
    if column.pattern is None:
        return [_text_check()]
    form = re.compile(column.pattern)
    return [_text_check(), _check("wrong form", partial(_holds_for_texts, lambda text: bool(form.fullmatch(text))))]


def _moment_checks(column: Column) -> list[pa.Check]:  # noqa: ARG001 - the same for every such column
    return [_check("not a date", lambda s: _null(s) | s.map(lambda v: as_moment(v) is not None).to_numpy(dtype=bool))]


def _bool_checks(column: Column) -> list[pa.Check]:  # noqa: ARG001 - likewise
    return [_check("not a boolean", lambda s: _null(s) | _booleans(s))]


_CHECKS: dict[str, Callable[[Column], list[pa.Check]]] = {
    "int": _number_checks,
    "float": _number_checks,
    "category": _level_checks,
    "category int": _integer_level_checks,
    "text": _text_checks,
    "datetime": _moment_checks,
    "bool": _bool_checks,
}


def _text_check() -> pa.Check:
    return _check("not text", lambda s: _null(s) | _texts(s))


def _null(values: pd.Series[Any]) -> _BoolArray:
    if pd.api.types.is_object_dtype(values.dtype):
        return np.fromiter((v is None or v is pd.NA for v in values), np.bool_, len(values))
    return values.isna().to_numpy(dtype=bool)


def _numbers(values: pd.Series[Any]) -> tuple[npt.NDArray[np.float64], _BoolArray]:
    """The column as float64, and which of its cells are numbers (NaN and infinities among them)."""
    if pd.api.types.is_bool_dtype(values.dtype):
        return np.full(len(values), np.nan), np.zeros(len(values), dtype=np.bool_)
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.to_numpy(dtype=np.float64, na_value=np.nan), ~_null(values)
    plain = values.astype(object)
    is_number = np.fromiter((_is_number(v) for v in plain), np.bool_, len(values)) & ~_null(values)
    return np.array([_as_float(v) if ok else np.nan for v, ok in zip(plain, is_number, strict=True)]), is_number


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number too large for a float is too high, or too low, not infinite
        return np.finfo(np.float64).max if value > 0 else np.finfo(np.float64).min


def _booleans(values: pd.Series[Any]) -> _BoolArray:
    if pd.api.types.is_bool_dtype(values.dtype):
        return ~_null(values)
    return np.fromiter((isinstance(v, bool) for v in values.astype(object)), np.bool_, len(values))


def _holds_for_numbers(holds: Callable[[npt.NDArray[np.float64]], _BoolArray], values: pd.Series[Any]) -> _BoolArray:
    numbers, is_number = _numbers(values)
    return ~is_number | holds(numbers)


def _holds_for_texts(holds: Callable[[str], bool], values: pd.Series[Any]) -> _BoolArray:
    """Whether a claim holds for each text, asked once for every distinct one; true for what is no text."""
    texts = _texts(values)
    result = np.ones(len(values), dtype=np.bool_)
    which, distinct = pd.factorize(values[texts].to_numpy(dtype=object))
    result[texts] = np.array([holds(text) for text in distinct], dtype=np.bool_)[which]
    return result


def first_of_its_kind(values: pd.Series[Any]) -> _BoolArray:
    """Which cells of an id column are no repetition of an earlier one; nulls are none."""
    _, is_number = _numbers(values)
    keys = values.astype(object).where(is_number if is_number.any() else _texts(values), None)  # 7 and 7.0 are one key
    return keys.isna().to_numpy(dtype=bool) | ~keys.duplicated().to_numpy(dtype=bool)


def _texts(values: pd.Series[Any]) -> _BoolArray:
    if isinstance(values.dtype, pd.StringDtype):
        return values.notna().to_numpy(dtype=bool)
    if pd.api.types.is_numeric_dtype(values.dtype):
        return np.zeros(len(values), dtype=np.bool_)
    return np.fromiter((isinstance(v, str) for v in values), np.bool_, len(values))
