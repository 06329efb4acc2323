"""Class probabilities from known distributions, for tests of calibration and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScoredRows:
    """Scored rows: ``proba`` (n, K), true class index ``y`` (n,), ``groups`` (n,)."""

    proba: np.ndarray
    y: np.ndarray
    groups: np.ndarray

    def __getitem__(self, rows) -> ScoredRows:
        return ScoredRows(self.proba[rows], self.y[rows], self.groups[rows])


def binary_rows(n: int, seed: int, base: float = -2.3, spread: float = 0.9, grid: int | None = None) -> ScoredRows:
    """Rows of a well calibrated binary model (11 % positives by default); each row is its own group.

    ``grid`` casts P(1) to float32 and rounds it to multiples of 1/grid. This gives many ties, as tree models do.
    """
    rng = np.random.default_rng(seed)
    p1 = 1.0 / (1.0 + np.exp(-(base + spread * rng.normal(size=n))))
    y = (rng.random(n) < p1).astype(np.int64)
    if grid is not None:
        p1 = (np.round(p1 * grid) / np.float32(grid)).astype(np.float32).astype(np.float64)
    return ScoredRows(np.column_stack([1.0 - p1, p1]), y, np.arange(n))


def many_class_rows(n: int, n_classes: int, seed: int, grid: int | None = None) -> ScoredRows:
    """Rows of a model over K classes whose labels follow its probabilities."""
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.linspace(0.4, 2.0, n_classes), size=n)
    if grid is not None:
        proba = np.floor(proba * grid) / grid
        proba[:, 0] = 1.0 - proba[:, 1:].sum(axis=1)
    y = (proba.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, n_classes - 1)
    return ScoredRows(proba, y.astype(np.int64), np.arange(n))


def repeated_patients(n_patients: int, seed: int, grid: int | None = None) -> ScoredRows:
    """Encounters of patients with 1 to 6 similar encounters each, so rows are not independent."""
    rng = np.random.default_rng(seed)
    visits = 1 + np.minimum(rng.geometric(0.6, size=n_patients) - 1, 5)
    groups = np.repeat(np.arange(n_patients), visits)
    z = 0.8 * rng.normal(size=n_patients)[groups] + 0.6 * rng.normal(size=groups.size)
    p1 = 1.0 / (1.0 + np.exp(-(-2.3 + 0.9 * z)))
    y = (rng.random(groups.size) < p1).astype(np.int64)
    if grid is not None:
        p1 = np.round(p1 * grid) / grid
    return ScoredRows(np.column_stack([1.0 - p1, p1]), y, groups)
