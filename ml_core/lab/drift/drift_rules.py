"""The two rules: which tests a feature gets, and how large a change must be to count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite

import numpy as np
from scipy.stats import false_discovery_control

from ml_core.lab.drift.current_window import FEWEST, CategoryCurrent, CurrentColumn, NumberCurrent
from ml_core.lab.drift.drift_report import About, Finding
from ml_core.lab.drift.ks import method_of
from ml_core.lab.drift.reference_window import CategoryReference, NumberReference, ReferenceColumn
from ml_core.lab.drift.two_sample import CountsCompared, brown_forsythe_p, compare_counts, two_by_two_p

__all__ = [
    "CATEGORY_LIMIT",
    "MISSING_LIMIT",
    "Limits",
    "adjusted",
    "basic_findings",
    "extended_findings",
    "finite",
    "missing_finding",
]

CATEGORY_LIMIT = 0.05
"""Jensen-Shannon distance of level shares that must be exceeded: at 1,000 rows a side and four levels, chance alone
gives about 0.03."""
MISSING_LIMIT = 0.05
"""Difference of the shares of missing values that must be exceeded."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of both rules.

    Attributes
    ----------
    alpha : in (0, 1), level of every test
    min_shift_fraction : >= 0, change of a number's law, in units of its scale, that must be exceeded
    """

    alpha: float = 0.05
    min_shift_fraction: float = 0.10

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha {self.alpha}, expected one in (0, 1)")
        if not (self.min_shift_fraction >= 0.0 and isfinite(self.min_shift_fraction)):
            raise ValueError(f"shift fraction {self.min_shift_fraction}, expected 0 or more")


def basic_findings(
    reference: ReferenceColumn, current: CurrentColumn, ks_p: float | None, limits: Limits
) -> list[Finding]:
    """``ks_mean_shift``: KS p < alpha and |mean shift| > fraction x reference sd (ddof 0), on finite values.

    Levels that have an order, or a place in a column table, are compared by their positions. Empty where the feature
    cannot be tested.
    """
    if ks_p is None or current.distance is None:
        return []
    mean, sd = reference.mean_and_sd
    shift, fraction = abs(current.mean - mean), limits.min_shift_fraction
    method = method_of(current.distance.n, current.distance.m)
    effect = finite(shift / sd) if sd > 0.0 else None
    large = bool(shift > fraction * sd)
    changed = large and ks_p < limits.alpha
    return [Finding("values", method, ks_p, ks_p, effect, "mean shift / sd", fraction, large, changed)]


def extended_findings(
    reference: ReferenceColumn, current: CurrentColumn, ks_p: float | None, limits: Limits
) -> list[Finding]:
    """``extended``: place or spread of numbers, shares of levels, shares of missing values.

    ``adjusted_p_value`` and ``changed`` are still those of a single test; see ``adjusted``.
    """
    values = None
    if isinstance(reference, NumberReference) and isinstance(current, NumberCurrent):
        values = _numbers(reference, current, ks_p, limits)
    elif isinstance(reference, CategoryReference) and isinstance(current, CategoryCurrent):
        values = _levels(reference, current, limits)
    missing = missing_finding(reference, current, limits)
    return [finding for finding in (values, missing) if finding is not None]


def missing_finding(reference: ReferenceColumn, current: CurrentColumn, limits: Limits) -> Finding | None:
    """The 2 x 2 test of missing values; None below 30 rows on a side, and where neither or all of them are missing."""
    lacking, total = reference.missing + current.missing, reference.rows + current.rows
    if min(reference.rows, current.rows) < FEWEST or lacking in (0, total):
        return None
    p_value = two_by_two_p(
        current.missing, current.rows - current.missing, reference.missing, reference.rows - reference.missing
    )
    effect = abs(current.missing / current.rows - reference.missing / reference.rows)
    return _single("missing", "2 x 2", p_value, effect, "difference of shares", MISSING_LIMIT, limits)


def adjusted(findings: list[list[Finding]], alpha: float) -> list[list[Finding]]:
    """The same findings with Benjamini-Hochberg's correction over all tests of the check.

    References
    ----------
    Benjamini & Hochberg (1995), Controlling the false discovery rate, JRSS-B 57(1), 289-300.
    """
    flat = [finding.p_value for of_feature in findings for finding in of_feature]
    if not flat:
        return findings
    corrected = iter(np.minimum(false_discovery_control(flat), 1.0).tolist())
    return [[_corrected(finding, next(corrected), alpha) for finding in of_feature] for of_feature in findings]


def finite(value: float | None) -> float | None:
    """The value as a plain float, None where it is no finite number."""
    return float(value) if value is not None and isfinite(value) else None


def _corrected(finding: Finding, p_value: float, alpha: float) -> Finding:
    return replace(finding, adjusted_p_value=p_value, changed=finding.large and p_value < alpha)


def _numbers(reference: NumberReference, current: NumberCurrent, ks_p: float | None, limits: Limits) -> Finding | None:
    if ks_p is None or current.distance is None:
        return None
    if current.cells is not None:
        compared = compare_counts(reference.few_counts, current.cells[:-1], None, int(current.cells[-1]))
        return _of_counts(compared, limits)
    if current.spread is None or current.wasserstein is None:
        return None
    p_value = min(1.0, 2.0 * min(ks_p, brown_forsythe_p(reference.spread, current.spread)))
    # W1 is never below the shift of the mean, which is known of all reference values and not only of the points
    distance, scale = float(np.fmax(current.wasserstein, abs(current.mean - reference.mean))), reference.robust_scale
    effect = distance / scale if scale > 0.0 else inf if distance > 0.0 else 0.0
    test = f"{method_of(current.distance.n, current.distance.m)} | brown-forsythe"
    return _single("values", test, p_value, effect, "W1 / robust scale", limits.min_shift_fraction, limits)


def _levels(reference: CategoryReference, current: CategoryCurrent, limits: Limits) -> Finding | None:
    if min(reference.count, current.count) < FEWEST:
        return None
    return _of_counts(compare_counts(reference.counts, current.counts, reference.rest, current.other), limits)


def _of_counts(compared: CountsCompared | None, limits: Limits) -> Finding | None:
    if compared is None:
        return None
    measure = "Jensen-Shannon distance"
    return _single("values", compared.test, compared.p_value, compared.distance, measure, CATEGORY_LIMIT, limits)


def _single(
    about: About, test: str, p_value: float, effect: float, measure: str, limit: float, limits: Limits
) -> Finding:
    large = effect > limit
    changed = large and p_value < limits.alpha
    return Finding(about, test, p_value, p_value, finite(effect), measure, limit, large, changed)
