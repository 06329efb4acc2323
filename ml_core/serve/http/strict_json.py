"""JSON as the contract takes it: no duplicate keys, no NaN, no Infinity, and never slower than it must be."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import orjson

__all__ = ["NotJson", "loads"]


class NotJson(ValueError):
    """Raised when a body is not strict JSON; the text says why, without quoting the body."""


def loads(body: bytes) -> Any:
    """The value in these bytes.

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
