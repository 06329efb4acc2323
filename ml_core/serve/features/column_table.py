"""A column table as data: ``columns.yaml`` of people and ``columns.json`` of an artefact, read by the same rules.

Every fault is told by column and key, with what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, get_args

import orjson

from ml_core.base.errors import ConfigError
from ml_core.base.near_names import meant, nearest
from ml_core.base.strict_yaml import NotYaml, parse_yaml
from ml_core.features.columns import Column, DType, Role, Transform, table_fault

__all__ = ["MOST_COLUMNS", "one_spelling", "parse_columns", "read_columns", "table_bytes"]

MOST_COLUMNS = 20_000
"""Of a column table. Ten thousand take two minutes of a processor from the file to the model."""

_FAULTS_TOLD = 10
_INT64_BITS = 64
_UNSPOKEN = {field.name: field.default for field in fields(Column)} | {"doc": ""}
"""What a key means that a column does not have; ``name`` and ``dtype`` are always there."""


class _Key(NamedTuple):
    """What the value of a key must be: in words, and as a test."""

    wanted: str
    holds: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and isfinite(value))


def _is_whole(value: object) -> bool:
    return type(value) is int and value.bit_length() < _INT64_BITS


def _is_list_of(holds: Callable[[Any], bool], value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(holds, value))


def _one_of(words: Any) -> _Key:
    known = get_args(words)
    return _Key(f"one of {', '.join(known)}", lambda value: isinstance(value, str) and value in known)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_yes_or_no(value: object) -> bool:
    return isinstance(value, bool)


_KEYS: Mapping[str, _Key] = {
    "dtype": _one_of(DType),
    "role": _one_of(Role),
    "doc": _Key("a text", _is_text),
    "unit": _Key("a text", _is_text),
    "low": _Key("a number", _is_number),
    "high": _Key("a number", _is_number),
    "nullable": _Key("true or false", _is_yes_or_no),
    "levels": _Key(
        "a list of texts or of whole numbers; in quotes what YAML takes for something else (no, yes, 1.5, a date)",
        lambda value: _is_list_of(_is_text, value) or _is_list_of(_is_whole, value),
    ),
    "pattern": _Key("a text", _is_text),
    "examples": _Key(
        "a list of texts, in quotes where they look like numbers", lambda value: _is_list_of(_is_text, value)
    ),
    "transform": _one_of(Transform),
    "missing_flag": _Key("true or false", _is_yes_or_no),
}


def read_columns(path: Path) -> tuple[Column, ...]:
    """The column table in a YAML file.

    Raises
    ------
    ConfigError
        The file is missing or no YAML, or as :func:`parse_columns`.
    """
    try:
        content = parse_yaml(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(str(path), "there is no such file") from error
    except NotYaml as error:
        raise ConfigError(str(path), str(error)) from error
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        why = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise ConfigError(str(path), f"cannot be read: {why}") from error
    return parse_columns(content, str(path))


def parse_columns(content: object, where: str) -> tuple[Column, ...]:
    """The column table that a parsed document describes.

    Parameters
    ----------
    content : ``{"columns": {name: {key: value}}}``, as YAML or JSON gives it; the order of names is the table's
    where : of the document, for messages

    Raises
    ------
    ConfigError
        A key is unknown or missing, a value is none of its kind, or the table as a whole is unusable. Up to ten faults
        are told at once, each by column and key.
    """
    if not isinstance(content, dict) or list(content) != ["columns"] or not isinstance(content["columns"], dict):
        raise ConfigError(where, "must have the one key columns, with a line for each column: `age: {dtype: int, …}`")
    described = content["columns"]
    if len(described) > MOST_COLUMNS:
        raise ConfigError(where, f"has {len(described)} columns, and {MOST_COLUMNS} are the most: leave some out")
    faults = [fault for name, keys in described.items() for fault in _faults(name, keys)]
    if faults:
        more = f"; and {len(faults) - _FAULTS_TOLD} more" if len(faults) > _FAULTS_TOLD else ""
        raise ConfigError(where, "; ".join(faults[:_FAULTS_TOLD]) + more)
    columns = tuple(_column(name, keys) for name, keys in described.items())
    if (fault := table_fault(columns)) is not None:
        raise ConfigError(where, fault)
    return columns


def one_spelling(column: Column) -> Column:
    """The same column with its bounds in one spelling: 0, 0.0 and -0.0 are the same table."""
    return replace(column, low=_spelt(column.dtype, column.low), high=_spelt(column.dtype, column.high))


def _spelt(dtype: DType, bound: float | None) -> float | None:
    if bound is None:
        return None
    return int(bound) if dtype == "int" and bound == int(bound) else float(bound) + 0.0


def table_bytes(columns: tuple[Column, ...]) -> bytes:
    """The table as JSON, which :func:`parse_columns` reads back: equal tables give equal bytes."""
    described = {column.name: _keys_of(column) for column in columns}
    return orjson.dumps({"columns": described}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _keys_of(column: Column) -> dict[str, Any]:
    said = {name: getattr(column, name) for name in _KEYS}
    return {name: value for name, value in said.items() if name == "dtype" or value != _UNSPOKEN[name]}


def _column(name: str, keys: Mapping[str, Any]) -> Column:
    said: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in keys.items()}
    return one_spelling(Column(name=name, **{"doc": "", **said}))


def _faults(name: object, keys: object) -> Iterator[str]:
    """What is wrong with one column, each fault beginning with its name and key."""
    if not isinstance(name, str):
        yield f"{name!r} is no name of a column: put it in quotes"
        return
    if not isinstance(keys, dict):
        yield f"{name}: describe the column by keys, as in `{name}: {{dtype: float}}`"
        return
    for key, value in keys.items():
        if not isinstance(key, str) or key not in _KEYS:
            yield f"{name}.{key} is no key of a column; {meant(str(key), _KEYS)}"
        elif not _KEYS[key].holds(value):
            yield f"{name}.{key} must be {_KEYS[key].wanted}{_nearest_word(key, value)}"
    if "dtype" not in keys:
        yield f"{name}.dtype is missing: {_KEYS['dtype'].wanted}"


def _nearest_word(key: str, value: object) -> str:
    words = {"dtype": DType, "role": Role, "transform": Transform}
    near = nearest(value, get_args(words[key])) if key in words and isinstance(value, str) else None
    return "" if near is None else f"; {near} is meant?"
