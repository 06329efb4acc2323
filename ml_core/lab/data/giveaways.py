"""Columns that give the label away: how well each tells the classes apart when it is alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

__all__ = ["GIVES_AWAY", "Giveaway", "Readings", "giveaways"]

GIVES_AWAY = 0.98
"""ROC AUC of one column alone, one class against the rest, above which it tells a class."""

_BINS = 40
_PRIOR_ROWS = 2.0  # each bin's share is drawn towards the share of all rows, as by so many rows


@dataclass(frozen=True, slots=True)
class Readings:
    """One column as it is looked at here.

    Attributes
    ----------
    name : of the column
    codes : shape (n,), which of its different values each row has; -1 where none
    numbers : shape (n,), float64 with NaN where it is a number; None otherwise
    """

    name: str
    codes: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Giveaway:
    """A column that tells one class or more.

    Attributes
    ----------
    column : its name
    auc : of each class it tells, by the class's index, most telling first
    every_class : whether it tells all of them, as a copy of the label does
    """

    column: str
    auc: dict[int, float]
    every_class: bool


def giveaways(columns: Iterable[Readings], y_index: npt.NDArray[np.int64], n_classes: int) -> tuple[Giveaway, ...]:
    """Columns whose ROC AUC alone is above ``GIVES_AWAY`` for a class against the rest.

    A number is read in two ways, by its order and by forty bins of equal size; a category by its levels. What a bin or
    level says is learnt on one half of the rows and tried on the other, so that a column of names tells nothing.
    Missing values are a level of their own.

    Parameters
    ----------
    y_index : shape (n,), class of each row, 0 to ``n_classes`` - 1

    Returns
    -------
    tuple of Giveaway
        The most telling first.
    """
    is_class = np.equal.outer(np.arange(n_classes), y_index)
    half = _halves(y_index)
    found = []
    for column in columns:
        aucs = _of_column(column, is_class, half)
        telling = {k: auc for k, auc in sorted(enumerate(aucs), key=lambda pair: -pair[1]) if auc > GIVES_AWAY}
        if telling:
            found.append(Giveaway(column.name, telling, len(telling) == n_classes))
    return tuple(sorted(found, key=lambda one: (-len(one.auc), -max(one.auc.values()), one.column)))


def _halves(y_index: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Every second row of each class, in the order of the table."""
    order = np.argsort(y_index, kind="stable")
    half = np.zeros(y_index.size, dtype=np.bool_)
    half[order[::2]] = True
    return half


def _of_column(
    column: Readings, is_class: npt.NDArray[np.bool_], half: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """ROC AUC for each class, shape (K,)."""
    best = _learnt(_binned(column), is_class, half)
    if column.numbers is not None and np.isfinite(column.numbers).any():
        order = np.nan_to_num(column.numbers, nan=-np.inf)
        ranked = _auc(order, is_class)
        best = np.maximum(best, np.maximum(ranked, 1.0 - ranked))
    return best


def _binned(column: Readings) -> npt.NDArray[np.int64]:
    """The code of each row, or of its bin where a number has many values; 0 where missing."""
    if column.numbers is None or column.codes.max(initial=-1) < _BINS:
        return column.codes + 1
    known = np.isfinite(column.numbers)
    ends = np.unique(np.quantile(column.numbers[known], np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.zeros(column.codes.size, dtype=np.int64)
    bins[known] = np.searchsorted(ends, column.numbers[known], side="right") + 1
    return bins


def _learnt(
    codes: npt.NDArray[np.int64], is_class: npt.NDArray[np.bool_], half: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """AUC on one half of the rows of what the other half says of each code; the lesser of both ways."""
    n_codes, found = int(codes.max(initial=0)) + 1, []
    for learn in (half, ~half):
        n = np.bincount(codes[learn], minlength=n_codes).astype(np.float64)
        scores = np.empty((is_class.shape[0], int((~learn).sum())))
        for k, of_class in enumerate(is_class):
            share = of_class[learn].mean() if learn.any() else 0.0
            hits = np.bincount(codes[learn], weights=of_class[learn], minlength=n_codes)
            scores[k] = ((hits + _PRIOR_ROWS * share) / (n + _PRIOR_ROWS))[codes[~learn]]
        found.append([float(_auc(s, c[None, ~learn])[0]) for s, c in zip(scores, is_class, strict=True)])
    least: npt.NDArray[np.float64] = np.minimum(*np.array(found))
    return least


def _auc(scores: npt.NDArray[np.float64], is_class: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """ROC AUC of one score for each class, shape (K,); 0.5 where a class has no row, or all."""
    ranks = rankdata(scores)
    n_in = is_class.sum(axis=1)
    n_out = is_class.shape[1] - n_in
    wins = is_class @ ranks - n_in * (n_in + 1) / 2
    return np.where((n_in > 0) & (n_out > 0), wins / np.maximum(n_in * n_out, 1), 0.5)
