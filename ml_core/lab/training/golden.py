"""Makes golden records out of a column table: borders, missing values and seeded draws, never a patient's row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ml_core.features.columns import Column

__all__ = ["golden_records"]

_DEFAULT_SPAN = 1_000.0  # for a number whose table names no bound
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
    if column.dtype == "category":
        return column.levels[position]
    if column.dtype == "text":
        return column.examples[position]
    value = _bounds(column)[position]
    return int(value) if column.dtype == "int" else float(value)


def _draw(column: Column, rng: np.random.Generator) -> Any:
    if column.nullable and rng.random() < _MISSING_SHARE:
        return None
    if column.dtype == "category":
        return column.levels[int(rng.integers(len(column.levels)))]
    if column.dtype == "text":
        return column.examples[int(rng.integers(len(column.examples)))]
    low, high = _bounds(column)
    if column.dtype == "int":
        return int(rng.integers(int(low), int(high) + 1))
    return float(rng.uniform(low, high))
