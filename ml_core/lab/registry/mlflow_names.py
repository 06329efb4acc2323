"""Names of metrics and parameters in the form that MLflow takes, whatever text a label is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TypeVar

__all__ = ["in_batches", "mlflow_name", "name_from_mlflow"]

MOST_CHARACTERS = 250
"""Longest name of a metric or parameter in MLflow."""

_NOT_TAKEN = re.compile(r"[^\w\-. ]|^\.")
_ESCAPED = re.compile(rb":([0-9a-f]{2})")
_MARK = ":-"
"""Between the beginning of a name that is too long and its digest: no escape begins like this."""
_DIGEST = 32
_BATCH = 100  # parameters of one request to MLflow; metrics may be more
_V = TypeVar("_V")


def mlflow_name(name: str) -> str:
    """The name as MLflow takes it: another one for another name.

    Letters, digits, ``_``, ``-``, ``.`` and spaces stay; each byte (UTF-8) of another character becomes ``:`` and two
    hexadecimal digits. A name of more than 250 characters keeps its beginning and ends with a digest of the whole.

    Examples
    --------
    >>> mlflow_name("coverage_class_<30"), mlflow_name("n_class_yes, once")
    ('coverage_class_:3c30', 'n_class_yes:2c once')
    """
    safe = _NOT_TAKEN.sub(_escaped, name)
    if len(safe) <= MOST_CHARACTERS:
        return safe
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    begin = safe[: MOST_CHARACTERS - len(_MARK) - _DIGEST]
    return f"{re.sub(':[0-9a-f]?$', '', begin)}{_MARK}{digest}"


def name_from_mlflow(safe: str) -> str:
    """The name behind one from :func:`mlflow_name`; of a long one its beginning and the digest.

    Examples
    --------
    >>> name_from_mlflow("coverage_class_:3c30")
    'coverage_class_<30'
    """
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), safe.encode()).decode(errors="replace")


def in_batches(values: Mapping[str, _V]) -> Iterator[dict[str, _V]]:
    """The values by safe names, in parts as large as one request to MLflow may be."""
    waiting = iter(values.items())
    while part := {mlflow_name(name): value for name, value in islice(waiting, _BATCH)}:
        yield part


def _escaped(character: re.Match[str]) -> str:
    return "".join(f":{byte:02x}" for byte in character[0].encode())
