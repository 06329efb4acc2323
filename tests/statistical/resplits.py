"""Random divisions of a pool of scored rows into calibration and test rows.

Given the pool, the division is all that is random, so with distinct scores the covered count follows the beta-binomial
law exactly, whatever model made the probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from ml_core.lab.measuring.calibration import calibrate
from ml_core.serve.model.prediction_sets import Guarantee
from tests.toy_scores import ScoredRows

Halves = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Coverages:
    """Coverage of each resplit (rows of the arrays) and what the law promises as its mean.

    ``strict`` leaves out rows tied with the threshold: with ties, the law lies between ``strict`` and ``coverage``.
    """

    coverage: np.ndarray
    strict: np.ndarray
    promised: float


def halves(rows: ScoredRows, seed: int, times: int) -> Iterator[Halves]:
    """Half of all rows to calibrate, half to test."""
    rng = np.random.default_rng(seed)
    for _ in range(times):
        order = rng.permutation(rows.y.size)
        yield order[: rows.y.size // 2], order[rows.y.size // 2 :]


def halves_of_each_class(rows: ScoredRows, seed: int, times: int) -> Iterator[Halves]:
    """Half of every class to calibrate, half to test, so that the sizes are the same each time."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(rows.y == k) for k in np.unique(rows.y)]
    for _ in range(times):
        orders = [rng.permutation(m) for m in members]
        yield np.concatenate([o[: o.size // 2] for o in orders]), np.concatenate([o[o.size // 2 :] for o in orders])


def halves_of_the_groups(rows: ScoredRows, seed: int, times: int) -> Iterator[Halves]:
    """Half of the groups (patients) to calibrate, half to test, each with all its rows as they come."""
    rng = np.random.default_rng(seed)
    _, group = np.unique(rows.groups, return_inverse=True)
    n_groups = int(group.max()) + 1
    for _ in range(times):
        calibrates = np.zeros(n_groups, dtype=np.bool_)
        calibrates[rng.permutation(n_groups)[: n_groups // 2]] = True
        yield np.flatnonzero(calibrates[group]), np.flatnonzero(~calibrates[group])


def coverages(
    rows: ScoredRows, divisions: Iterator[Halves], level: Decimal, guarantee: Guarantee = "class_conditional"
) -> dict[int | None, Coverages]:
    """Coverage per class index, and of all rows under None, over the divisions."""
    n_classes = rows.proba.shape[1]
    parts: list[int | None] = [None, *range(n_classes)]
    found: dict[int | None, tuple[list[float], list[float], list[float]]] = {p: ([], [], []) for p in parts}
    scores = 1.0 - rows.proba[np.arange(rows.y.size), rows.y]
    for cal, test in divisions:
        calibration = calibrate(rows.proba[cal], rows.y[cal], n_classes, guarantee)
        thresholds = np.array(calibration.thresholds(level))[rows.y[test]]
        within, strictly = scores[test] <= thresholds, scores[test] < thresholds
        promised = [1.0 - int((n + 1) * (1 - level)) / (n + 1) for n in calibration.sizes]
        for p in parts:
            chosen = np.ones(test.size, dtype=np.bool_) if p is None else rows.y[test] == p
            means = (within[chosen].mean(), strictly[chosen].mean())
            share = np.array(promised)[rows.y[test]].mean() if p is None else promised[p]
            for store, value in zip(found[p], (*means, share), strict=True):
                store.append(float(value))
    return {p: Coverages(np.array(c), np.array(s), float(np.mean(e))) for p, (c, s, e) in found.items()}
