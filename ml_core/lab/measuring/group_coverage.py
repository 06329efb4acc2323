"""Coverage in groups of patients: the law of sets that are calibrated by group, and a floor for every group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray, FloatArray, IntArray
from ml_core.lab.measuring.coverage_law import (
    CoverageLaw,
    DesignEffects,
    Groups,
    band_of,
    design_effect,
    effective_size,
    effects_of,
    pooled_law,
)
from ml_core.lab.measuring.coverage_verdicts import COVERAGE_BUDGET, CoverageOf
from ml_core.serve.model.conformity_scores import true_label_scores
from ml_core.serve.model.groupings import GroupedCalibration, GroupedRows
from ml_core.serve.model.prediction_sets import ConformalCalibration

__all__ = ["GROUP_BUDGET", "CellRows", "GroupCoverage", "cells_verdict", "group_verdict"]

GROUP_BUDGET = 0.004
"""Chance that :func:`group_verdict` refuses a model in any group although every group keeps its floor, at most.

Shared equally by all classes of all groups that are judged (Bonferroni). Holm's rule would give the same verdict: it
refuses none where the smallest p-value is above the same share.
"""


@dataclass(frozen=True, eq=False)
class CellRows:
    """The calibrations behind n rows.

    Attributes
    ----------
    calibrations : one, or one for each calibrated cell
    cells : shape (n,), position of each row's calibration
    """

    calibrations: tuple[ConformalCalibration, ...]
    cells: IntArray

    @classmethod
    def of(
        cls, whole: ConformalCalibration, grouped: GroupedCalibration | None, by: GroupedRows | None, n: int
    ) -> CellRows:
        """Of n rows of a model; ``by`` says their groups where it is calibrated by group."""
        if grouped is None or by is None:
            return cls((whole,), np.zeros(n, dtype=np.int64))
        return cls(grouped.calibrations, np.array(grouped.of_declared, dtype=np.int64)[by.positions[:, grouped.at]])

    def only(self, rows: BoolArray) -> CellRows:
        """Of some of the rows."""
        return CellRows(self.calibrations, self.cells[rows])

    def thresholds(self, level: Decimal) -> FloatArray:
        """Largest score with which a label enters its row's set, shape (n, K)."""
        found: FloatArray = np.array([c.thresholds(level) for c in self.calibrations])[self.cells]
        return found

    def sets(self, proba: npt.ArrayLike, level: Decimal) -> BoolArray:
        """Prediction sets of the rows, shape (n, K)."""
        scores = np.asarray(proba, dtype=np.float64)
        found = np.zeros(scores.shape, dtype=np.bool_)
        for cell in np.unique(self.cells).tolist():
            inside = self.cells == cell
            found[inside] = self.calibrations[cell].sets(scores[inside], level)
        return found

    def covered(self, proba: npt.ArrayLike, labels: IntArray, level: Decimal) -> tuple[BoolArray, BoolArray]:
        """Whether each row's own label scores within its threshold, and whether strictly within, shape (n,)."""
        scores = true_label_scores(proba, labels)
        own = np.take_along_axis(self.thresholds(level), labels[:, None], axis=1)[:, 0]
        return scores <= own, scores < own

    def design_effects(
        self, proba: npt.ArrayLike, y_index: npt.ArrayLike, groups: Groups, level: Decimal
    ) -> DesignEffects:
        """As ``coverage_law.design_effects``, with each row's own thresholds."""
        labels = np.asarray(y_index, dtype=np.int64)
        return effects_of(self.covered(proba, labels, level)[0], labels, groups, self.calibrations[0].n_classes)


def cells_verdict(
    rows: CellRows,
    proba: npt.ArrayLike,
    y_index: npt.ArrayLike,
    groups: Groups,
    level: Decimal,
    floor: float,
    classes: Sequence[object],
    calibration_effects: DesignEffects | None = None,
    budget: float = COVERAGE_BUDGET,
) -> tuple[CoverageOf, ...]:
    """As ``coverage_verdict``, for sets that are calibrated by group: coverage of all rows and of each class.

    Given how many rows of a class are in each cell, the number covered is a sum of independent beta-binomial numbers.
    Cells that are calibrated with all rows share rows with the others; this is left out of account, since few rows are
    in such cells.

    Parameters
    ----------
    rows : calibrations of the n test rows
    calibration_effects : of the calibration split; None takes the test split's, which has the same patients' law
    """
    labels = np.asarray(y_index, dtype=np.int64)
    covered, strict = rows.covered(proba, labels, level)
    effects = effects_of(covered, labels, groups, len(classes))
    of_calibration = calibration_effects or effects
    tail = budget / (2 * (len(classes) + 1))

    def judged(label: object | None, ks: Sequence[int], effect: tuple[float, float]) -> CoverageOf:
        chosen = np.isin(labels, ks)
        pairs = [(k, c) for k in ks for c in range(len(rows.calibrations)) if (chosen & _in(rows, labels, k, c)).any()]
        counts = [int(_in(rows, labels, k, c).sum()) for k, c in pairs]
        laws = [_law(rows.calibrations[c], k, level, effect[0], floor) for k, c in pairs]
        promised, pmf = pooled_law(laws, counts, effect[1]) if laws else (float(level), np.ones(1))
        band = band_of(promised, pmf, tail)
        n = int(chosen.sum())
        return CoverageOf(
            label=label,
            coverage=float(covered[chosen].mean()) if n else None,
            strict_coverage=float(strict[chosen].mean()) if n else None,
            n_calibration=sum(law.rows for law in laws),
            n_test=n,
            effective_n_calibration=sum(law.effective_rows for law in laws),
            effective_n_test=effective_size(n, effect[1]),
            promised=band.promised,
            lower=band.lower,
            upper=band.upper,
            floor=floor,
            limit=min(floor, band.lower),
        )

    everything = judged(None, range(len(classes)), (of_calibration.marginal, effects.marginal))
    of_class = (
        judged(label, (k,), (of_calibration.per_class[k], effects.per_class[k])) for k, label in enumerate(classes)
    )
    return (everything, *of_class)


@dataclass(frozen=True, slots=True)
class GroupCoverage:
    """Coverage of one class in one group of patients.

    Attributes
    ----------
    grouping, cell, label : which
    coverage : share of its test rows whose set holds their label; None without rows
    n_test, effective_n_test : test rows, and independent rows worth as much
    limit : coverage below it is refused; None where it is not judged, for too few rows
    """

    grouping: str
    cell: str
    label: object
    coverage: float | None
    n_test: int
    effective_n_test: int
    limit: float | None

    @property
    def is_kept(self) -> bool:
        """Whether nothing is held against it."""
        return self.limit is None or (self.coverage is not None and self.coverage >= self.limit)


def group_verdict(
    rows: CellRows,
    by: GroupedRows,
    proba: npt.ArrayLike,
    y_index: npt.ArrayLike,
    groups: Groups,
    level: Decimal,
    floors: Sequence[float],
    classes: Sequence[object],
    calibration_effects: DesignEffects,
    min_rows: int,
    budget: float = GROUP_BUDGET,
) -> tuple[GroupCoverage, ...]:
    """Coverage of every class in every cell of every grouping, against a floor.

    It is refused where so few rows are covered as a model that covers the floor reaches with probability
    ``budget`` / (classes and cells judged) at most: the lower limit of the beta-binomial law with that mean, its sizes
    divided by design effects since patients repeat.

    Parameters
    ----------
    rows, by : calibrations and groups of the n test rows
    floors : of each grouping
    min_rows : fewest test rows of a class in a cell that are judged
    """
    labels = np.asarray(y_index, dtype=np.int64)
    covered, _ = rows.covered(proba, labels, level)
    group = None if groups is None else np.asarray(groups)
    cells = [
        (g, grouping, at, k, (by.positions[:, g] == at) & (labels == k))
        for g, grouping in enumerate(by.groupings.declared)
        for at in range(len(grouping.cells))
        for k in range(len(classes))
    ]
    n_judged = sum(int(inside.sum()) >= min_rows for *_, inside in cells)
    found = []
    for g, grouping, at, k, inside in cells:
        n = int(inside.sum())
        effective = effective_size(n, design_effect(covered[inside], None if group is None else group[inside]))
        limit = None
        if n >= min_rows:
            behind = int(np.bincount(rows.cells[inside]).argmax())  # a cell is calibrated as a whole, or with all rows
            n_calibration = rows.calibrations[behind].sizes[k]
            law = CoverageLaw(n_calibration, n_calibration / calibration_effects.per_class[k], floors[g])
            limit = min(floors[g], law.band(effective, budget / n_judged).lower)
        share = float(covered[inside].mean()) if n else None
        found.append(GroupCoverage(grouping.name, grouping.cells[at], classes[k], share, n, effective, limit))
    return tuple(found)


def _law(calibration: ConformalCalibration, k: int, level: Decimal, effect: float, floor: float) -> CoverageLaw:
    """The law of a class's coverage by one calibration."""
    return CoverageLaw.of(calibration.sizes[k], level, effect, floor, calibration.confidence)


def _in(rows: CellRows, labels: IntArray, k: int, cell: int) -> BoolArray:
    """Rows of a class in a calibrated cell."""
    found: BoolArray = (labels == k) & (rows.cells == cell)
    return found
