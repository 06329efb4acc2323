"""Coverage of weighted sets, on rows weighted as the live ones come: its value, and the band of a valid model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from ml_core.base.arrays import BoolArray, FloatArray, IntArray
from ml_core.lab.measuring.coverage_law import CoverageLaw, Groups, band_of, holds_label, pooled_law, row_groups
from ml_core.lab.measuring.coverage_verdicts import COVERAGE_BUDGET, CoverageOf
from ml_core.serve.model.weighted_sets import effective_rows

__all__ = ["WeightedRows", "weighted_coverage", "weighted_verdict"]


@dataclass(frozen=True, eq=False)
class WeightedRows:
    """Labelled rows with their sets and weights.

    Attributes
    ----------
    sets : shape (n, K)
    y_index, weights : shape (n,)
    groups : shape (n,), or None where every row is its own
    """

    sets: BoolArray
    y_index: IntArray
    weights: FloatArray
    groups: Groups

    @property
    def covered(self) -> BoolArray:
        """Whether each row's set holds its label, shape (n,)."""
        return holds_label(self.sets, self.y_index)

    def of_class(self, k: int) -> BoolArray:
        """Rows of that class; of any class for -1."""
        return np.ones(self.y_index.size, dtype=np.bool_) if k < 0 else self.y_index == k

    def coverage(self, k: int = -1) -> float | None:
        """Share covered of the class's rows, each counting by its weight."""
        own = self.of_class(k)
        return float(np.average(self.covered[own], weights=self.weights[own])) if own.any() else None

    def worth(self, k: int = -1) -> float:
        """Independent rows of equal weight that say as much: Kish's effective size, divided by the design effect.

        The design effect is that of the weighted residuals, summed by group.
        """
        own = self.of_class(k)
        weights = self.weights[own]
        if not weights.size:
            return 0.0
        residuals = weights * (self.covered[own] - np.average(self.covered[own], weights=weights))
        alone = float((residuals**2).sum())
        group = row_groups(None if self.groups is None else np.asarray(self.groups)[own], weights.size)
        together = float((np.bincount(group, weights=residuals) ** 2).sum())
        effect = max(1.0, together / alone) if alone > 1e-12 * weights.size else 1.0
        return effective_rows(weights) / effect


def weighted_coverage(rows: WeightedRows, classes: Sequence[object]) -> dict[str, float]:
    """``coverage`` and ``coverage_class_<label>`` among patients of the mix that the weights describe."""
    found = {"coverage": rows.coverage()}
    found |= {f"coverage_class_{label}": rows.coverage(k) for k, label in enumerate(classes)}
    return {name: value for name, value in found.items() if value is not None}


def weighted_verdict(
    calibration: WeightedRows,
    test: WeightedRows,
    level: Decimal,
    floor: float,
    classes: Sequence[object],
    budget: float = COVERAGE_BUDGET,
) -> tuple[CoverageOf, ...]:
    """As ``coverage_verdict``, for weighted sets: weighted coverage of test rows against the floor and a band.

    The band is the beta-binomial one with effective sizes on either side, so it is an approximation: exact where all
    weights are equal. What is not in it is the error of the density ratio, which test rows cannot show: they are
    weighted by the same ratio.

    Parameters
    ----------
    calibration, test : rows of both parts, with the weights of the ratio
    """
    tail = budget / (2 * (len(classes) + 1))
    laws, counts = [], []
    rows: list[CoverageOf] = []
    for k, label in enumerate(classes):
        n, m = int(calibration.of_class(k).sum()), max(1, int(test.worth(k)))
        law = CoverageLaw(n, max(calibration.worth(k), 1.0), max(float(level), min(floor, 1.0)))
        laws.append(law)
        counts.append(m)
        rows.append(_judged(label, test, k, [law], m, law.promised, law.pmf(m), floor, tail))
    promised, pmf = pooled_law(laws, counts, 1.0)
    return (_judged(None, test, -1, laws, sum(counts), promised, pmf, floor, tail), *rows)


def _judged(
    label: object | None,
    test: WeightedRows,
    k: int,
    laws: Sequence[CoverageLaw],
    worth: int,
    promised: float,
    pmf: FloatArray,
    floor: float,
    tail: float,
) -> CoverageOf:
    band = band_of(promised, pmf, tail)
    coverage = test.coverage(k)
    return CoverageOf(
        label=label,
        coverage=coverage,
        strict_coverage=coverage,
        n_calibration=sum(law.rows for law in laws),
        n_test=int(test.of_class(k).sum()),
        effective_n_calibration=sum(law.effective_rows for law in laws),
        effective_n_test=worth,
        promised=promised,
        lower=band.lower,
        upper=1.0,
        floor=floor,
        limit=min(floor, band.lower),
    )
