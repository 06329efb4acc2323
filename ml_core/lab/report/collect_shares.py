"""A column's reference beside its current values, as shares of the same bins or of the same levels."""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.lab.drift.current_window import level_counts
from ml_core.lab.drift.reference_window import CategoryReference, NumberReference
from ml_core.lab.report.facts import LevelShares, NumberShares

__all__ = ["level_shares", "number_shares", "score_shares"]

FloatArray = npt.NDArray[np.float64]

_BINS = 24
_SCORE_BINS = 25
_MOST_LEVELS = 12
_REST = "all others"
_SHOWN_OF_REFERENCE, _SHOWN_OF_CURRENT = (0.005, 0.995), (0.025, 0.975)
"""Quantiles that must lie in the picture: a few far values would leave all others in one bin."""


def number_shares(reference: NumberReference, values: FloatArray, *, whole: bool) -> NumberShares | None:
    """Histograms of a column of numbers; None where the reference is not published or no picture can be made.

    Parameters
    ----------
    values : shape (n,), NaN where missing
    whole : values are whole numbers, so that every bin must hold as many of them
    """
    present = values[np.isfinite(values)]
    if not reference.points.size:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # near the largest float there is no picture
        shown = [np.quantile(reference.points, _SHOWN_OF_REFERENCE)]
        shown += [np.quantile(present, _SHOWN_OF_CURRENT)] if present.size else []
        low, high = float(np.min(shown)), float(np.max(shown))
        if not (np.isfinite(low) and np.isfinite(high)):
            return None
        edges = _whole_edges(low, high) if whole else _even_edges(low, high)
    return _over(edges, reference.points, present)


def score_shares(reference: NumberReference, values: FloatArray) -> NumberShares | None:
    """Histograms of a probability over all of [0, 1]; None where the reference is not published."""
    return _over(np.linspace(0.0, 1.0, _SCORE_BINS + 1), reference.points, values) if reference.points.size else None


def level_shares(reference: CategoryReference, values: npt.NDArray[Any]) -> LevelShares:
    """Shares of the most frequent levels of either side, the most frequent first, and of all others together.

    Parameters
    ----------
    values : shape (n,), as ``ColumnArrays`` have them
    """
    counts, other = level_counts(reference, values)
    before = _shares(reference.counts, reference.count)
    now = _shares(counts, int(counts.sum()) + other)
    order = sorted(range(len(before)), key=lambda k: (-max(before[k], now[k]), k))
    shown, rest = order[:_MOST_LEVELS], order[_MOST_LEVELS:]
    rows = [(str(reference.levels[k]), before[k], now[k]) for k in shown if before[k] or now[k]]
    left = (
        sum(before[k] for k in rest) + _share(reference.rest or 0, reference.count),
        sum(now[k] for k in rest) + _share(other, int(counts.sum()) + other),
    )
    if any(left):
        rows.append((_REST, *left))
    levels, first, second = zip(*rows, strict=True) if rows else ((), (), ())
    return LevelShares(levels, first, second)


def _over(edges: FloatArray, reference: FloatArray, current: FloatArray) -> NumberShares | None:
    if not (np.isfinite(edges).all() and (np.diff(edges) > 0.0).all()):
        return None
    held = (np.histogram(side, edges)[0] / max(1, side.size) for side in (reference, current))
    before, now = (tuple(shares.tolist()) for shares in held)
    return NumberShares(tuple(edges.tolist()), before, now)


def _even_edges(low: float, high: float) -> FloatArray:
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _BINS + 1)


def _whole_edges(low: float, high: float) -> FloatArray:
    first, last = floor(low), ceil(high)
    width = ceil((last - first + 1) / _BINS)
    n = ceil((last - first + 1) / width)
    return first - 0.5 + width * np.arange(n + 1, dtype=np.float64)


def _shares(counts: npt.NDArray[np.int64], total: int) -> list[float]:
    return [_share(int(n), total) for n in counts]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
