"""Golden records: borders, missing values and seeded draws from the column table, never a patient's row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ml_core.base.clock import FIRST_YEAR, LAST_YEAR, microseconds, moment_of, utc_text
from ml_core.features.columns import Column, coded_levels

__all__ = ["MOMENTS", "golden_records"]

MOMENTS = microseconds(datetime(2000, 1, 1, tzinfo=UTC)), microseconds(datetime(2030, 1, 1, tzinfo=UTC))
"""Between them moments are drawn that stand for a column of dates, microseconds since 1970."""

_DATES = (f"{FIRST_YEAR}-01-01", f"{LAST_YEAR}-12-31T23:59:59.999999Z")
_DEFAULT_SPAN = 1_000.0  # of values of a number whose table names no bound
_MISSING_SHARE = 0.15


def golden_records(columns: Sequence[Column], n: int, seed: int) -> list[dict[str, Any]]:
    """``n`` valid records: the lowest values, the highest, all missing, then draws from the bounds.

    Parameters
    ----------
    columns : the feature columns of a version
    n : at least 3
    seed : of the draws
    """
    rng = np.random.default_rng(seed)
    records = [
        {c.name: _border(c, low=True) for c in columns},
        {c.name: _border(c, low=False) for c in columns},
        {c.name: None if c.nullable else _border(c, low=True) for c in columns},
    ]
    records += [{c.name: _draw(c, rng) for c in columns} for _ in range(n - len(records))]
    return records


def _bounds(column: Column) -> tuple[float, float]:
    low = column.low if column.low is not None else (column.high or 0.0) - _DEFAULT_SPAN
    high = column.high if column.high is not None else low + _DEFAULT_SPAN
    return low, high


def _border(column: Column, *, low: bool) -> Any:
    position = 0 if low else -1
    if levels := coded_levels(column):
        return levels[position]
    if column.dtype == "text":
        return column.examples[position]
    if column.dtype == "datetime":
        return _DATES[position]
    value = _bounds(column)[position]
    return int(value) if column.dtype == "int" else float(value)


def _draw(column: Column, rng: np.random.Generator) -> Any:
    if column.nullable and rng.random() < _MISSING_SHARE:
        return None
    if levels := coded_levels(column):
        return levels[int(rng.integers(len(levels)))]
    if column.dtype == "text":
        return column.examples[int(rng.integers(len(column.examples)))]
    if column.dtype == "datetime":
        return utc_text(moment_of(int(rng.integers(*MOMENTS))))
    low, high = _bounds(column)
    if column.dtype == "int":
        return int(rng.integers(int(low), int(high) + 1))
    return float(rng.uniform(low, high))
