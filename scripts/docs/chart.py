"""docs/reference/chart.md: every value of the Helm chart, from values.yaml and its comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scripts.docs.markdown import cell, code, table

__all__ = ["VALUES", "chart_values", "render"]

VALUES = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "surety" / "values.yaml"

_HEAD = """# Values of the Helm chart

Made from `deploy/helm/surety/values.yaml` by `make docs`; do not edit. [Kubernetes](../kubernetes.md) says how to
install the chart.

Helm refuses a value that is not in this table or cannot be meant (`values.schema.json`), and names its place.
"""
_KEY = re.compile(r"^( *)([A-Za-z]\w*):")
_COMMENT = re.compile(r"^ *# (.*)$")


def render() -> str:
    """The whole page."""
    rows = [
        (code(".".join(path)), code(_shown(value)), cell(words))
        for path, value, words in chart_values(VALUES.read_text())
    ]
    return "\n".join((_HEAD, table(("value", "default", "meaning"), rows)))


def chart_values(text: str) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """Path, default and meaning of each value that has a comment above it; what is below such a value belongs to it.

    Raises
    ------
    ValueError
        A value has no comment above it, and none of what is below it has one.
    """
    defaults = yaml.safe_load(text)
    for path, words in _commented(text):
        value = defaults
        for key in path:
            value = value[key]
        if words:
            yield path, value, words
        elif not isinstance(value, dict) or not value:
            raise ValueError(f"{'.'.join(path)} has no comment above it that says what it is for")


def _commented(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each key by its path, with the comment directly above it, but for keys below one that has a comment."""
    above: list[str] = []
    path: list[tuple[int, str]] = []
    told: int | None = None
    for line in text.splitlines():
        comment, key = _COMMENT.match(line), _KEY.match(line)
        if comment:
            above.append(comment[1])
            continue
        if key:
            depth = len(key[1])
            path = [*(step for step in path if step[0] < depth), (depth, key[2])]
            if told is None or depth <= told:
                told = depth if above else None
                yield tuple(name for _, name in path), " ".join(above)
        above = []


def _shown(value: object) -> str:
    """A default as it is written in a file of values, on one line."""
    return json.dumps(value) if isinstance(value, bool | dict | list) or value == "" else str(value)
