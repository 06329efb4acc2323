"""The report on one feature, and the advice that follows from all reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "FEATURE_FLAGS",
    "FEATURE_STATES",
    "About",
    "DriftReport",
    "Finding",
    "Rule",
    "drifted_share",
    "should_retrain",
    "counted",
]

Rule = Literal["ks_mean_shift", "extended"]
About = Literal["values", "missing"]

FEATURE_STATES = {
    "drifted": "the rule says that the feature drifted",
    "ok": "tested, no drift, and nothing that would have kept the rule from seeing one",
    "warned": "tested and no drift by the rule; the flags say what the rule did not see or may be blinded by",
    "constant": "one and the same value on both sides",
    "too_few": "fewer than 30 values on a side (or too few subjects to publish a reference): not tested",
    "all_missing": "a side has no value at all: not tested",
    "not_judged": "the rule cannot compare such values (texts without order or that hardly repeat; dates): not tested",
}
"""Every feature has exactly one of these states."""

FEATURE_FLAGS = {
    "sentinel_in_reference": "a few reference values lie so far off that they at least double its standard deviation, "
    "so that a shift of the mean looks small",
    "far_outside_reference": "current values beyond everything the reference holds, by more than five times the span "
    "of its middle 90 %",
    "overflow": "values so large that their mean or standard deviation is no finite number",
    "infinite_values": "infinities on a side, left out of every number",
    "unreadable_values": "values of another kind (a text among numbers), counted as missing",
    "unseen_category": "current values that the reference does not hold",
    "missing_rate_changed": "the share of missing values moved by more than five points, and not by chance",
    "constant_reference": "the reference holds a single value",
    "constant_current": "the current window holds a single value",
}
"""What else was noticed. A flag never changes the verdict of ``ks_mean_shift``."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One test of one feature.

    Attributes
    ----------
    about : ``values`` or ``missing`` (the share of missing values)
    test : the test or tests behind the p-value
    p_value : in [0, 1]
    adjusted_p_value : the same after the correction for all tests of the check; equal where the rule corrects nothing
    effect : size of the change in units of ``effect_measure``; None where it has no finite size
    effect_limit : the size that must be exceeded
    large : the effect exceeds its limit
    changed : large, and the adjusted p-value is below alpha
    """

    about: About
    test: str
    p_value: float
    adjusted_p_value: float
    effect: float | None
    effect_measure: str
    effect_limit: float
    large: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The report on one feature. Numbers are plain floats, or None.

    Attributes
    ----------
    feature : its name
    ks_statistic : two-sample Kolmogorov-Smirnov distance D, in [0, 1]; None where values have no order
    p_value : of the rule's test of the values: of D (``ks_mean_shift``), or as ``findings`` tell (``extended``)
    drifted : the rule's verdict
    reference_mean, current_mean, mean_shift : in the feature's unit (of positions, for levels); shift = current -
        reference
    state : one of ``FEATURE_STATES``
    flags : of ``FEATURE_FLAGS``
    tested : counts in ``should_retrain``: its values were tested, or it drifted
    kind : ``number``, ``category``, ``text`` or ``unjudged``
    method : how ``p_value`` came about, e.g. ``ks exact``
    ks_uncertainty : the true D lies in [ks_statistic, ks_statistic + ks_uncertainty]; above 0 only where the reference
        is a grid of order statistics and not every value
    reference_sd : standard deviation of the reference, ddof 0
    n_reference, n_current : finite values on each side
    missing_reference, missing_current : shares of rows, in [0, 1]
    findings : the tests, each with its effect
    """

    feature: str
    ks_statistic: float | None
    p_value: float | None
    drifted: bool
    reference_mean: float | None
    current_mean: float | None
    mean_shift: float | None
    state: str
    flags: tuple[str, ...]
    tested: bool
    kind: str
    method: str
    ks_uncertainty: float
    reference_sd: float | None
    n_reference: int
    n_current: int
    missing_reference: float
    missing_current: float
    findings: tuple[Finding, ...]


def counted(reports: Sequence[DriftReport]) -> tuple[DriftReport, ...]:
    """The reports that count: values tested (at least 30 on both sides, of a kind the rule judges), or drifted."""
    return tuple(report for report in reports if report.tested)


def drifted_share(reports: Sequence[DriftReport]) -> float:
    """Share of the tested features that drifted; 0.0 where none was tested."""
    among = counted(reports)
    return sum(report.drifted for report in among) / len(among) if among else 0.0


def should_retrain(reports: Sequence[DriftReport], threshold_fraction: float = 0.20) -> bool:
    """Whether at least that share of the tested features drifted.

    The threshold itself is enough: 1 of 5 at 0.20 says yes. Skipped features (``too_few``, ``all_missing``,
    ``not_judged``) count on neither side, and where nothing was tested nothing is advised.

    Parameters
    ----------
    reports : of one check
    threshold_fraction : unitless, in (0, 1]

    Raises
    ------
    ValueError
        The threshold lies outside (0, 1].
    """
    if not 0.0 < threshold_fraction <= 1.0:
        raise ValueError(f"threshold {threshold_fraction}, expected one in (0, 1]")
    return drifted_share(reports) >= threshold_fraction
