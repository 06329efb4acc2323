"""What an operator asked of BentoML that has no effect on this service, one sentence each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psutil
import yaml

__all__ = ["command_of", "start_notes"]

_NO_EFFECT = {
    "workers": "SURETY_WORKERS says how many workers there are",
    "http.cors": "BentoML's layer for it never sees a request",
    "endpoints": "the routes are those of docs/reference",
    "metrics.enabled": "/metrics is always there",
}
_NAMED = {name: re.compile(rf"(^|\.){re.escape(name)}(\.|$)") for name in _NO_EFFECT}


def start_notes(command: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The arguments of ``bentoml serve`` and the settings of BentoML that have no effect here.

    Parameters
    ----------
    command : of the process that serves
    environment : of it, with ``BENTOML_CONFIG`` and ``BENTOML_CONFIG_OPTIONS``
    """
    found = []
    if any(word.partition("=")[0] == "--api-workers" for word in command):
        found.append(f"--api-workers has no effect: {_NO_EFFECT['workers']}")
    given = [("BENTOML_CONFIG", _in_file(environment.get("BENTOML_CONFIG", "")))]
    options = re.findall(r"([\w.\"\[\]-]+)=", environment.get("BENTOML_CONFIG_OPTIONS", ""))
    given.append(("BENTOML_CONFIG_OPTIONS", options))
    for source, keys in given:
        for name, why in _NO_EFFECT.items():
            asked = sorted(key for key in keys if _NAMED[name].search(key))
            found += [f"{key} in {source} has no effect: {why}" for key in asked]
    return tuple(found)


def command_of(pid: int) -> list[str]:
    """The command line of that process; empty where it cannot be read."""
    try:
        words: list[str] = psutil.Process(pid).cmdline()
    except psutil.Error:
        return []
    return words


def _in_file(path: str) -> list[str]:
    """Dotted keys of a YAML file; none where it cannot be read, since BentoML says that itself."""
    if not path:
        return []
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:  # noqa: PTH111, PTH123 - as BentoML does
            return list(_keys(yaml.safe_load(file), ""))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []


def _keys(value: Any, prefix: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield prefix
        return
    for name, inner in value.items():
        yield from _keys(inner, f"{prefix}.{name}" if prefix else str(name))
