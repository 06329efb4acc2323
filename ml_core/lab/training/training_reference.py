"""The reference window: what "normal" looked like in training, one column at a time and never one patient.

Layout of ``reference.npz`` (``<c>`` is a raw feature column, ``<l>`` a label):

========================  =========================================================================================
``n_rows``                int64 (1,), rows described; ``n_scores`` likewise for the score distribution
``missing_rate/<c>``      float64 (1,), share of rows where it is null
``values/<c>``            numbers: float64, sorted, at most 10,000 order statistics at evenly spaced ranks
``count/<c>``             numbers: int64 (1,), values present; ``mean/<c>`` and ``sd/<c>`` (ddof 0): float64 (1,)
``levels/<c>``            categories: int64, rows per level in the order of the column table
``texts/<c>``             texts: the values that at least 10 patients share, sorted; ``texts_count/<c>``: rows of each;
                          ``texts_other/<c>``: int64 (1,), rows with any other text
``scores/<l>``            float64, sorted, at most 10,000 order statistics of P(label) on calibration rows
========================  =========================================================================================

Every column is sorted alone, so no row can be put together again. In each tail, values are raised or lowered to the
first one that at least 10 patients reach, so that no extreme is a single patient's.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ml_core.features.columns import Column, ColumnArrays

__all__ = ["MOST_ORDER_STATISTICS", "SHARED_BY", "order_statistics", "reference_bytes"]

MOST_ORDER_STATISTICS = 10_000
SHARED_BY = 10
"""Fewest patients behind a published extreme or text: the usual limit for small cells in health statistics."""

_Groups = npt.NDArray[Any]


def reference_bytes(
    features: Sequence[Column],
    columns: ColumnArrays,
    groups: _Groups,
    scores: npt.NDArray[np.float64],
    score_groups: _Groups,
    labels: Sequence[object],
) -> bytes:
    """Content of ``reference.npz``.

    Parameters
    ----------
    features : the feature columns, whose ``columns`` have shape (n,)
    groups : shape (n,), the patient of each row
    scores : shape (m, K), probabilities of rows the model has not seen; ``score_groups`` (m,) are their patients
    labels : the K labels
    """
    n_rows = len(groups)
    arrays: dict[str, npt.NDArray[Any]] = {"n_rows": np.array([n_rows]), "n_scores": np.array([len(scores)])}
    for column in features:
        described = _described(column, columns[column.name], groups)
        arrays |= {f"{part}/{column.name}": array for part, array in described.items()}
    for k, label in enumerate(labels):
        arrays[f"scores/{label}"] = order_statistics(scores[:, k], score_groups)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **cast("dict[str, Any]", arrays))
    return buffer.getvalue()


def order_statistics(values: npt.NDArray[np.float64], groups: _Groups) -> npt.NDArray[np.float64]:
    """Values sorted, at evenly spaced ranks, with both tails drawn in to what ``SHARED_BY`` patients reach.

    Parameters
    ----------
    values : shape (n,), no NaN
    groups : shape (n,)

    Returns
    -------
    float64, shape (min(n, 10,000),)
        Empty where fewer than ``SHARED_BY`` patients have a value.
    """
    order = np.argsort(values, kind="stable")
    ordered, who = values[order], groups[order]
    low, high = _reached(who), _reached(who[::-1])
    if low is None or high is None:
        return np.empty(0)
    lowest, highest = ordered[low], ordered[len(ordered) - 1 - high]
    drawn_in = np.clip(ordered, min(lowest, highest), max(lowest, highest))
    ranks = np.round(np.linspace(0, len(ordered) - 1, min(len(ordered), MOST_ORDER_STATISTICS))).astype(np.int64)
    statistics: npt.NDArray[np.float64] = drawn_in[ranks]
    return statistics


def _described(column: Column, values: npt.NDArray[Any], groups: _Groups) -> dict[str, npt.NDArray[Any]]:
    if column.dtype == "category":
        counts = np.bincount(values[values >= 0], minlength=len(column.levels))
        return {"levels": counts.astype(np.int64), "missing_rate": _share(values < 0)}
    if column.dtype == "text":
        return _described_text(values, groups)
    present = ~np.isnan(values)
    kept = values[present]
    return {
        "values": order_statistics(kept, groups[present]),
        "count": np.array([kept.size]),
        "mean": np.array([kept.mean() if kept.size else np.nan]),
        "sd": np.array([kept.std() if kept.size else np.nan]),
        "missing_rate": _share(~present),
    }


def _described_text(values: npt.NDArray[Any], groups: _Groups) -> dict[str, npt.NDArray[Any]]:
    present = np.array([value is not None for value in values], dtype=np.bool_)
    texts, inverse, counts = np.unique(values[present].astype(np.str_), return_inverse=True, return_counts=True)
    _, who = np.unique(groups[present], return_inverse=True)
    pairs = np.unique(np.stack([inverse.reshape(-1), who.reshape(-1)]), axis=1)
    shared = np.bincount(pairs[0], minlength=len(texts)) >= SHARED_BY
    return {
        "texts": texts[shared],
        "texts_count": counts[shared].astype(np.int64),
        "texts_other": np.array([int(counts[~shared].sum())]),
        "missing_rate": _share(~present),
    }


def _share(missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.array([float(missing.mean()) if missing.size else 0.0])


def _reached(who: _Groups) -> int | None:
    """Position at which the tenth distinct patient appears, or None when there are fewer."""
    seen: set[Any] = set()
    for position, patient in enumerate(who.tolist()):
        seen.add(patient)
        if len(seen) == SHARED_BY:
            return position
    return None
