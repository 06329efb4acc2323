"""The reference window: what "normal" looked like in training, one column at a time and never one patient.

Layout of ``reference.npz`` (``<c>`` is a raw feature column, ``<l>`` a label):

========================  =========================================================================================
``n_rows``                int64 (1,), rows described; ``n_scores`` likewise for the score distribution
``missing_rate/<c>``      float64 (1,), share of rows where it is null
``values/<c>``            numbers: float64, sorted, at most 10,000 order statistics at evenly spaced ranks
``count/<c>``             numbers: int64 (1,), values present; ``mean/<c>`` and ``sd/<c>`` (ddof 0): float64 (1,)
``levels/<c>``            categories: int64, rows per level in the order of the column table, 0 for a rare level;
                          ``levels_other/<c>``: int64 (1,), rows of rare levels
``texts/<c>``             texts: the values that are not rare, sorted; ``texts_count/<c>``: rows of each;
                          ``texts_other/<c>``: int64 (1,), rows with any other text
``scores/<l>``            float64, sorted, at most 10,000 order statistics of P(label) on calibration rows
``importance/<c>``        float64 (1,), share of the model's importance (see ``column_importance``); not in older files
========================  =========================================================================================

Every column is sorted alone, so no row can be put together again. Everything in the file is shared by at least
``SHARED_BY`` patients; several rows of one patient count once:

- A number that so many patients have is kept. Others are gathered in cells of neighbours until a cell has so many, and
  each value of a cell becomes one number in its middle, which no patient of the cell has. The first and the last cell
  become their inner ends, so that an extreme does not move it.
- Levels and texts that fewer patients have are counted together. Where these are levels of fewer patients even
  together, their rows count as missing.
- Mean and standard deviation are those of the exact values, rounded to about a thousandth of the standard deviation, so
  that no single value can be computed from them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import FeatureMatrix
from ml_core.features.columns import Column, ColumnArrays, coded_levels
from ml_core.lab.measuring.evaluation import SHARED_BY
from ml_core.serve.features.versions import FeatureVersion

__all__ = ["MOST_ORDER_STATISTICS", "column_importance", "order_statistics", "reference_bytes"]

MOST_ORDER_STATISTICS = 10_000

_MOST_DIGITS = 300
"""Python rounds to no more decimal places; a column of such numbers is no patient's measurement."""

_IMPORTANCE_ROWS = 2_000
_IMPORTANCE_DIGITS = 3

_Groups = npt.NDArray[Any]


def reference_bytes(
    features: Sequence[Column],
    columns: ColumnArrays,
    groups: _Groups,
    scores: npt.NDArray[np.float64],
    score_groups: _Groups,
    labels: Sequence[object],
    importance: Mapping[str, float] | None = None,
) -> bytes:
    """Content of ``reference.npz``.

    Parameters
    ----------
    features : the feature columns, whose ``columns`` have shape (n,)
    groups : shape (n,), the patient of each row
    scores : shape (m, K), probabilities of rows the model has not seen; ``score_groups`` (m,) are their patients
    labels : the K labels
    importance : share of each column, in [0, 1]
    """
    n_rows = len(groups)
    arrays: dict[str, npt.NDArray[Any]] = {"n_rows": np.array([n_rows]), "n_scores": np.array([len(scores)])}
    for column in features:
        described = _described(column, columns[column.name], groups)
        arrays |= {f"{part}/{column.name}": array for part, array in described.items()}
    for k, label in enumerate(labels):
        arrays[f"scores/{label}"] = order_statistics(scores[:, k], score_groups)
    arrays |= {f"importance/{name}": np.array([share]) for name, share in (importance or {}).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **cast("dict[str, Any]", arrays))
    return buffer.getvalue()


def column_importance(
    features: FeatureVersion,
    columns: ColumnArrays,
    proba: Callable[[FeatureMatrix], npt.NDArray[np.float64]],
    seed: int,
) -> dict[str, float]:
    """How much the model's probabilities hang on each raw column: permutation importance without labels.

    The cells of one column are dealt out among the rows anew, and the change of the probabilities is measured (mean
    absolute difference). Any model has that; gains of trees say nothing of a foreign one.

    Parameters
    ----------
    columns : shape (n,), rows the model has not seen; at most 2,000 evenly spaced ones are used
    proba : gives the probabilities (n, K) of a matrix
    seed : of the dealing

    Returns
    -------
    dict
        Share of the sum over all columns, to three digits; all 0 for a model that answers every row alike.

    References
    ----------
    Breiman (2001), Random forests, Machine Learning 45(1), 5-32; Fisher, Rudin & Dominici (2019), All models are wrong,
    but many are useful, JMLR 20(177).
    """
    n = len(next(iter(columns.values())))
    chosen = np.unique(np.linspace(0, n - 1, min(n, _IMPORTANCE_ROWS)).astype(np.int64))
    rows = {column.name: columns[column.name][chosen] for column in features.features}
    rng, usual, changes = np.random.default_rng(seed), proba(features.transform(rows)), dict[str, float]()
    for name, cells in rows.items():
        dealt = {**rows, name: cells[rng.permutation(len(chosen))]}
        changes[name] = float(np.abs(proba(features.transform(dealt)) - usual).mean())
    total = sum(changes.values())
    return {name: round(change / total, _IMPORTANCE_DIGITS) if total else 0.0 for name, change in changes.items()}


def order_statistics(values: npt.NDArray[np.float64], groups: _Groups) -> npt.NDArray[np.float64]:
    """Values sorted, at evenly spaced ranks, each made one that ``SHARED_BY`` patients share.

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
    shared = _shared(values[order], np.unique(groups, return_inverse=True)[1].reshape(-1)[order])
    ranks = np.round(np.linspace(0, len(shared) - 1, min(len(shared), MOST_ORDER_STATISTICS))).astype(np.int64)
    statistics: npt.NDArray[np.float64] = shared[ranks]
    return statistics


def _shared(ordered: npt.NDArray[np.float64], who: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """The ascending values with those of each cell replaced by one; empty where there is no cell."""
    distinct, place, rows = np.unique(ordered, return_inverse=True, return_counts=True)
    cells = _cells(place.reshape(-1), who)
    published = [_published(distinct, cells, number) for number in range(len(cells))]
    sizes = [int(rows[first : last + 1].sum()) for first, last, _ in cells]
    return np.repeat(np.array(published, dtype=np.float64), sizes)


def _cells(place: npt.NDArray[np.intp], who: npt.NDArray[np.intp]) -> list[tuple[int, int, int]]:
    """Cells of neighbouring distinct values, each with at least ``SHARED_BY`` patients.

    Parameters
    ----------
    place : shape (n,), ascending, which distinct value each row has
    who : shape (n,), its patient

    Returns
    -------
    list of (first, last, shared)
        Distinct values ``first`` to ``last``; ``shared`` is the one among them that enough patients have, or -1.
    """
    ends = np.append(np.flatnonzero(np.diff(place)) + 1, len(place)).tolist()
    cells: list[tuple[int, int, int]] = []
    waiting: set[int] = set()  # patients of the values from `first` on, which are in no cell yet
    first = start = 0
    for value, end in enumerate(ends if len(place) else ()):
        patients = set(who[start:end].tolist())
        start = end
        if len(patients) >= SHARED_BY:
            if waiting and cells and cells[-1][2] < 0:  # too few for a cell: they join the rare ones before them
                cells[-1] = (cells[-1][0], value - 1, -1)
                first = value
            cells.append((first, value, value))
        else:
            waiting |= patients
            if len(waiting) < SHARED_BY:
                continue
            cells.append((first, value, -1))
        first, waiting = value + 1, set()
    if waiting and cells:
        cells[-1] = (cells[-1][0], len(ends) - 1, cells[-1][2])
    return cells


def _published(distinct: npt.NDArray[np.float64], cells: list[tuple[int, int, int]], number: int) -> float:
    """The one number that stands for a cell."""
    first, last, shared = cells[number]
    if shared >= 0:
        return float(distinct[shared])
    if number == 0 and len(cells) > 1:
        before = last
    elif number == len(cells) - 1 and len(cells) > 1:
        before = first - 1
    else:
        before = (first + last) // 2 if first < last else first - 1
    return float(distinct[before] / 2 + distinct[before + 1] / 2)


def _described(column: Column, values: npt.NDArray[Any], groups: _Groups) -> dict[str, npt.NDArray[Any]]:
    if levels := coded_levels(column):
        return _described_levels(values, groups, len(levels))
    if column.dtype == "text":
        return _described_text(values, groups)
    present = ~np.isnan(values)
    if column.dtype == "datetime":  # no rule compares dates, and a date may name a patient
        return {"missing_rate": _share(~present)}
    kept = values[present]
    points = order_statistics(kept, groups[present])
    mean, sd = _rounded_moments(kept) if points.size else (np.nan, np.nan)
    return {
        "values": points,
        "count": np.array([kept.size]),
        "mean": np.array([mean]),
        "sd": np.array([sd]),
        "missing_rate": _share(~present),
    }


def _described_levels(positions: npt.NDArray[Any], groups: _Groups, n_levels: int) -> dict[str, npt.NDArray[Any]]:
    common = _common(positions, groups, n_levels)
    missing = positions < 0
    rare = ~missing & ~common[positions]
    if np.unique(groups[rare]).size < SHARED_BY:
        missing, rare = missing | rare, np.zeros_like(rare)
    counts = np.bincount(positions[~missing & ~rare], minlength=n_levels)
    return {
        "levels": counts.astype(np.int64),
        "levels_other": np.array([int(rare.sum())]),
        "missing_rate": _share(missing),
    }


def _described_text(values: npt.NDArray[Any], groups: _Groups) -> dict[str, npt.NDArray[Any]]:
    present = np.array([value is not None for value in values], dtype=np.bool_)
    texts, places, counts = np.unique(values[present].astype(np.str_), return_inverse=True, return_counts=True)
    common = _common(places.reshape(-1), groups[present], len(texts))
    return {
        "texts": texts[common],
        "texts_count": counts[common].astype(np.int64),
        "texts_other": np.array([int(counts[~common].sum())]),
        "missing_rate": _share(~present),
    }


def _common(places: npt.NDArray[Any], groups: _Groups, n: int) -> npt.NDArray[np.bool_]:
    """Which of the n places enough patients are at; a negative place is none."""
    at = places >= 0
    _, who = np.unique(groups[at], return_inverse=True)
    pairs = np.unique(np.stack([places[at].astype(np.int64), who.reshape(-1)]), axis=1)
    common: npt.NDArray[np.bool_] = np.bincount(pairs[0], minlength=n) >= SHARED_BY
    return common


def _rounded_moments(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation (ddof 0), to three digits after the standard deviation's first."""
    with np.errstate(over="ignore", invalid="ignore"):  # values near the largest float have no finite square
        mean, sd = float(values.mean()), float(values.std())
    if not np.isfinite([mean, sd]).all() or sd == 0.0:
        return mean, sd
    digits = 3 - int(np.floor(np.log10(sd)))
    return (round(mean, digits), round(sd, digits)) if abs(digits) < _MOST_DIGITS else (mean, sd)


def _share(missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.array([float(missing.mean()) if missing.size else 0.0])
