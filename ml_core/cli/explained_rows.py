"""An explanation as rows for people: what was asked beside what it added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["explained_rows"]


def explained_rows(
    explanation: Mapping[str, Any] | None, input_rows: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """One row for each contribution, the largest first.

    Parameters
    ----------
    explanation : as an audit has it
    input_rows : ``column``, ``value`` and ``unit`` of what was asked; None where it is not known
    """
    asked = {row["column"]: row for row in input_rows or ()}
    return [
        {
            "column": " and ".join(each["columns"]),
            "value": ", ".join(_value(asked[name]) for name in each["columns"] if name in asked),
            "effect": each["effect"],
            "contribution": f"{each['contribution']:+.4f}",
        }
        for each in (explanation or {}).get("contributions", ())
    ]


def _value(row: Mapping[str, Any]) -> str:
    value = "missing" if row["value"] is None else row["value"]
    return f"{value} {row['unit']}" if row["unit"] and row["value"] is not None else str(value)
