"""Verdicts on a calibration from unseen rows: whether it covers, is plausible, and ranks scores of the same law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt
from scipy.stats import kstwo

from ml_core.base.arrays import BoolArray, FloatArray, IntArray
from ml_core.lab.measuring.coverage_law import (
    Band,
    CoverageLaw,
    DesignEffects,
    Groups,
    band_of,
    design_effect,
    effective_size,
    effects_of,
    pooled_law,
)
from ml_core.serve.model.conformity_scores import true_label_scores
from ml_core.serve.model.prediction_sets import ConformalCalibration

__all__ = [
    "COVERAGE_BUDGET",
    "SAME_LAW_BUDGET",
    "CoverageOf",
    "SameLawVerdict",
    "coverage_verdict",
    "same_law_verdict",
]

COVERAGE_BUDGET = 0.04
"""Chance that :func:`coverage_verdict` refuses a valid model by any of its limits, at most.

Shared equally by 2 (K + 1) limits (Bonferroni). With ``SAME_LAW_BUDGET`` and the 0.001 of the unseen-rows verdict a
gate that uses all three stays within 5 %.
"""

SAME_LAW_BUDGET = 0.005
"""Chance that :func:`same_law_verdict` refuses calibration scores of the test rows' own law, at most."""


@dataclass(frozen=True, slots=True)
class CoverageOf:
    """Coverage of all test rows, or of those of one class, with its limits. Without rows it is too low and too high.

    Attributes
    ----------
    label : class label; None for all rows together
    coverage : share of rows whose set holds their label; None without rows
    strict_coverage : the same without rows tied with the threshold; what the upper limit judges
    n_calibration, n_test : rows
    effective_n_calibration, effective_n_test : independent rows worth as much
    promised, lower, upper : the band
    floor : the smallest coverage the gate's owner accepts
    limit : what ``coverage`` is held against: min(floor, lower)
    """

    label: object | None
    coverage: float | None
    strict_coverage: float | None
    n_calibration: int
    n_test: int
    effective_n_calibration: float
    effective_n_test: int
    promised: float
    lower: float
    upper: float
    floor: float
    limit: float


@dataclass(frozen=True, slots=True)
class SameLawVerdict:
    """Kolmogorov-Smirnov distance of calibration and test scores, per class in class order.

    Attributes
    ----------
    distances, p_values : None for a class without rows on a side
    tail : a p-value below it refuses
    """

    distances: tuple[float | None, ...]
    p_values: tuple[float | None, ...]
    tail: float


def coverage_verdict(
    calibration: ConformalCalibration,
    proba: npt.ArrayLike,
    y_index: npt.ArrayLike,
    groups: Groups,
    level: Decimal,
    floor: float,
    classes: Sequence[object],
    calibration_effects: DesignEffects | None = None,
    budget: float = COVERAGE_BUDGET,
) -> tuple[CoverageOf, ...]:
    """Coverage on test rows, marginal and per class, against the floor and the band of a valid model.

    Coverage below ``limit`` is too low: below the floor *and* below what a valid model reaches by chance. If the floor
    is above the level, the band is that of a model that covers as much as the floor. Strict coverage above ``upper`` is
    too high: beyond chance, so scores or rows are not what they claim to be. With a ``marginal`` guarantee a class may
    still be too low, but never too high.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1], test rows by the scorer that will serve
    y_index : shape (n,), class indices
    groups : shape (n,), or None
    level : the configured confidence level
    floor : smallest coverage accepted, in [0, 1]
    classes : labels in class order
    calibration_effects : of the calibration split; None takes the test split's, which has the same patients' law
    budget : chance that a valid model is refused by any limit, at most
    """
    labels = np.asarray(y_index, dtype=np.int64)
    n_classes = calibration.n_classes
    scores = true_label_scores(proba, labels)
    thresholds = np.array(calibration.thresholds(level))[labels]
    covered, strict = scores <= thresholds, scores < thresholds
    effects = effects_of(covered, labels, groups, n_classes)
    sides = (calibration_effects or effects, effects)
    tail = budget / (2 * (n_classes + 1))
    counts = np.bincount(labels, minlength=n_classes)
    rows = [_judge_all(calibration, covered, strict, counts, sides, level, floor, tail)]
    for k, label in enumerate(classes):
        law = CoverageLaw.of(calibration.sizes[k], level, sides[0].per_class[k], floor, calibration.confidence)
        band = law.band(effective_size(int(counts[k]), sides[1].per_class[k]), tail)
        if calibration.guarantee == "marginal":
            band = Band(band.promised, band.lower, 1.0)
        of_class = labels == k
        rows.append(_judged(label, covered[of_class], strict[of_class], [law], sides[1].per_class[k], band, floor))
    return tuple(rows)


def same_law_verdict(
    calibration: ConformalCalibration,
    proba: npt.ArrayLike,
    y_index: npt.ArrayLike,
    groups: Groups,
    budget: float = SAME_LAW_BUDGET,
) -> SameLawVerdict:
    """Whether test rows score like calibration rows, at every level at once: two-sample Kolmogorov-Smirnov per class.

    Fails for calibrations of another class, another model or another scale, and for test rows the model has seen.
    Under a ``marginal`` guarantee the pooled scores are compared once. Ties make the test conservative. Both sizes are
    divided by the largest design effect found at the deciles of the calibration scores.

    Parameters
    ----------
    proba : shape (n, K), in [0, 1], test rows
    y_index : shape (n,), class indices
    groups : shape (n,), or None
    """
    labels = np.asarray(y_index, dtype=np.int64)
    scores = true_label_scores(proba, labels)
    n_tests = 1 if calibration.guarantee == "marginal" else calibration.n_classes
    group = None if groups is None else np.asarray(groups)
    results = []
    for k in range(n_tests):
        rows = labels == k if n_tests > 1 else np.ones(labels.size, dtype=np.bool_)
        results.append(_kolmogorov_smirnov(calibration.scores[k], scores[rows], None if group is None else group[rows]))
    distances, p_values = zip(*results, strict=True)
    return SameLawVerdict(tuple(distances), tuple(p_values), budget / n_tests)


def _judge_all(
    calibration: ConformalCalibration,
    covered: BoolArray,
    strict: BoolArray,
    counts: IntArray,
    sides: tuple[DesignEffects, DesignEffects],
    level: Decimal,
    floor: float,
    tail: float,
) -> CoverageOf:
    """The coverage of all rows together."""
    marginal = calibration.guarantee == "marginal"
    sizes = calibration.sizes[:1] if marginal else calibration.sizes
    tests = [int(counts.sum())] if marginal else [int(c) for c in counts]
    laws = [CoverageLaw.of(n, level, sides[0].marginal, floor, calibration.confidence) for n in sizes]
    promised, pmf = pooled_law(laws, tests, sides[1].marginal)
    return _judged(None, covered, strict, laws, sides[1].marginal, band_of(promised, pmf, tail), floor)


def _judged(
    label: object | None,
    covered: BoolArray,
    strict: BoolArray,
    laws: Sequence[CoverageLaw],
    test_effect: float,
    band: Band,
    floor: float,
) -> CoverageOf:
    n = int(covered.size)
    return CoverageOf(
        label=label,
        coverage=float(covered.mean()) if n else None,
        strict_coverage=float(strict.mean()) if n else None,
        n_calibration=sum(law.rows for law in laws),
        n_test=n,
        effective_n_calibration=sum(law.effective_rows for law in laws),
        effective_n_test=effective_size(n, test_effect),
        promised=band.promised,
        lower=band.lower,
        upper=band.upper,
        floor=floor,
        limit=min(floor, band.lower),
    )


def _kolmogorov_smirnov(calibration: FloatArray, test: FloatArray, groups: Groups) -> tuple[float | None, float | None]:
    """Two-sample distance and its asymptotic p-value with effective sizes; (None, None) without rows on a side."""
    if not calibration.size or not test.size:
        return None, None
    ordered = np.sort(test)
    points = np.concatenate([calibration, ordered])
    ours = np.searchsorted(calibration, points, side="right") / calibration.size
    theirs = np.searchsorted(ordered, points, side="right") / ordered.size
    distance = float(np.abs(ours - theirs).max())
    deciles = np.quantile(calibration, np.arange(1, 10) / 10)
    effect = max(design_effect(test <= decile, groups) for decile in deciles)
    size = calibration.size * test.size / (calibration.size + test.size) / effect
    return distance, float(kstwo.sf(distance, max(1, round(size))))
