"""Compares a current window with a reference window, and reports the state of each feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ml_core.features.columns import Column
from ml_core.lab.drift.current_window import FEWEST, CategoryCurrent, CurrentColumn, NumberCurrent, summarised, thinned
from ml_core.lab.drift.drift_columns import Table
from ml_core.lab.drift.drift_report import DriftReport, Finding, Rule
from ml_core.lab.drift.drift_rules import (
    Limits,
    adjusted,
    basic_findings,
    extended_findings,
    finite,
    missing_finding,
)
from ml_core.lab.drift.ks import p_values
from ml_core.lab.drift.reference_window import (
    FAR,
    CategoryReference,
    NumberReference,
    ReferenceColumn,
    ReferenceWindow,
)

__all__ = ["detect_drift", "detect_score_drift", "judged"]

_ROUNDING = 1e-9  # of the value: far above the rounding of a mean, far below any spread that matters


def detect_drift(
    reference: Table | ReferenceWindow,
    current: Table,
    feature_cols: Sequence[str] | None = None,
    alpha: float = 0.05,
    min_shift_fraction: float = 0.10,
    *,
    rule: Rule = "ks_mean_shift",
    columns: Sequence[Column] = (),
) -> list[DriftReport]:
    """One report for each feature, in the order asked for; none is left out.

    ``ks_mean_shift`` (the default): drifted if the two-sample Kolmogorov-Smirnov test gives p < alpha *and* the mean
    moved by more than ``min_shift_fraction`` reference standard deviations (ddof 0), on the finite values, at least 30
    on each side. The p-value is exact up to 1,000 values a side. It does not correct for the number of features, and
    cannot see a change of variance, of missing values or of shares that keep the mean.

    ``extended``: numbers by the smaller of KS and Brown-Forsythe p-value, doubled, with W1 over a robust scale as
    effect; levels, and numbers with at most ten distinct values, by chi-square or Fisher's test with the
    Jensen-Shannon distance as effect; missing values by a 2 x 2 test. All p-values are corrected together
    (Benjamini-Hochberg at alpha), and a change counts if its effect is large as well.

    Both say "per check": over repeated checks false alarms add up. See ``ml_core.lab.drift.sequential`` for that.

    Parameters
    ----------
    reference, current : frames of raw values, or arrays of shape (n,) by name (see ``columns.features_in``); or a
        ``ReferenceWindow``, made once and used for many checks
    feature_cols : columns to compare; all of the reference if not given
    alpha : unitless, in (0, 1)
    min_shift_fraction : unitless, >= 0
    columns : a column table, to say what is a category; without it types decide

    Raises
    ------
    DataError
        A column is missing on one side.
    ValueError
        A limit is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> before, after = {"age": rng.normal(60, 10, 500)}, {"age": rng.normal(66, 10, 500)}
    >>> [(r.feature, r.state, r.method) for r in detect_drift(before, after, ["age"])]
    [('age', 'drifted', 'ks exact')]
    """
    limits = Limits(alpha, min_shift_fraction)
    if isinstance(reference, ReferenceWindow):
        window = reference if feature_cols is None else reference.only(feature_cols)
    else:
        names = [str(name) for name in reference] if feature_cols is None else feature_cols
        window = ReferenceWindow.of(reference, names, columns)
    return judged(window, summarised(window, current, extended=rule == "extended"), limits, rule)


def detect_score_drift(
    reference: ReferenceWindow,
    probabilities: Table,
    alpha: float = 0.05,
    min_shift_fraction: float = 0.10,
    *,
    rule: Rule = "ks_mean_shift",
    share: float = 1.0,
) -> list[DriftReport]:
    """One report for the distribution of P(label) of each label.

    These are not features: leave them out of ``should_retrain``.

    Parameters
    ----------
    reference : with ``scores``, as a model's own reference has
    probabilities : one column per label, in [0, 1]; labels that the reference lacks are not looked at
    share : of the rows that count as independent, in (0, 1]; see ``current_window.independent_share``

    Raises
    ------
    DataError
        A label of the reference is missing.
    ValueError
        A limit is out of its range.
    """
    limits, window = Limits(alpha, min_shift_fraction), ReferenceWindow(reference.rows, reference.scores)
    return judged(window, summarised(window, probabilities, extended=rule == "extended"), limits, rule, share)


def judged(
    window: ReferenceWindow, current: Mapping[str, CurrentColumn], limits: Limits, rule: Rule, share: float = 1.0
) -> list[DriftReport]:
    """The reports on columns that are already summarised, in memory or from a stream.

    Parameters
    ----------
    share : of the current rows that count as independent, in (0, 1]; ``n_current`` counts these
    """
    if share < 1.0:
        current = {name: thinned(window.columns[name], column, share) for name, column in current.items()}
    distances = {name: c.distance for name, c in current.items() if c.distance is not None}
    ks = dict(zip(distances, p_values(list(distances.values())).tolist(), strict=True))
    pairs = {name: (column, current[name]) for name, column in window.columns.items()}
    with np.errstate(over="ignore", invalid="ignore"):  # for values near the largest float, which get a flag
        if rule == "extended":
            single = [extended_findings(*pair, ks.get(name), limits) for name, pair in pairs.items()]
            findings = adjusted(single, limits.alpha)
        else:
            findings = [basic_findings(*pair, ks.get(name), limits) for name, pair in pairs.items()]
        told = zip(pairs.items(), findings, strict=True)
        return [_described(name, *pair, of_feature, limits) for (name, pair), of_feature in told]


def _described(
    name: str, reference: ReferenceColumn, current: CurrentColumn, findings: Sequence[Finding], limits: Limits
) -> DriftReport:
    """The report on a feature, given what the rule's tests found."""
    values = next((finding for finding in findings if finding.about == "values"), None)
    drifted = any(finding.changed for finding in findings)
    flags = _flags(reference, current, findings, limits)
    mean, sd = reference.mean_and_sd
    return DriftReport(
        feature=name,
        ks_statistic=None if current.distance is None else current.distance.value,
        p_value=None if values is None else values.p_value,
        drifted=drifted,
        reference_mean=finite(mean),
        current_mean=finite(current.mean),
        mean_shift=finite(current.mean - mean),
        state=_state(reference, current, values, flags, drifted=drifted),
        flags=flags,
        tested=drifted or values is not None,
        kind=_kind(reference),
        method="none" if values is None else values.test,
        ks_uncertainty=0.0 if current.distance is None else reference.resolution,
        reference_sd=finite(sd),
        n_reference=reference.count,
        n_current=current.count,
        missing_reference=_share(reference.missing, reference.rows),
        missing_current=_share(current.missing, current.rows),
        findings=tuple(findings),
    )


def _kind(reference: ReferenceColumn) -> str:
    if isinstance(reference, NumberReference):
        return "number"
    return reference.feature.kind if isinstance(reference, CategoryReference) else "unjudged"


def _state(
    reference: ReferenceColumn,
    current: CurrentColumn,
    values: Finding | None,
    flags: Sequence[str],
    *,
    drifted: bool,
) -> str:
    if drifted:
        return "drifted"
    if any(side.rows and side.missing == side.rows for side in (reference, current)):
        # Levels of too few patients are withheld from a reference, and read as missing.
        is_withheld = isinstance(reference, CategoryReference) and reference.rows < FEWEST
        return "too_few" if is_withheld else "all_missing"
    if values is not None:
        return "constant" if _same_constant(reference, current) else "warned" if flags else "ok"
    published = not isinstance(reference, NumberReference) or len(reference.points) > 0
    if min(reference.count, current.count) < FEWEST or not published:
        return "too_few"
    return "constant" if _same_constant(reference, current) else "not_judged"


def _flags(
    reference: ReferenceColumn, current: CurrentColumn, findings: Sequence[Finding], limits: Limits
) -> tuple[str, ...]:
    told = next((finding for finding in findings if finding.about == "missing"), None)
    missing = told or missing_finding(reference, current, limits)
    of_kind: dict[str, bool] = {}
    if isinstance(reference, NumberReference) and isinstance(current, NumberCurrent):
        of_kind = _number_flags(reference, current)
    elif isinstance(reference, CategoryReference) and isinstance(current, CategoryCurrent):
        of_kind = _category_flags(reference, current)
    found = {**of_kind, "missing_rate_changed": missing is not None and missing.changed}
    return tuple(flag for flag, holds in found.items() if holds)


def _number_flags(reference: NumberReference, current: NumberCurrent) -> dict[str, bool]:
    described = len(reference.points) > 0
    unseen = current.cells is not None and reference.ranks is None and not reference.drawn_in
    return {
        "sentinel_in_reference": described and reference.has_sentinel,
        "far_outside_reference": described and current.count > 0 and _far_outside(reference, current),
        "overflow": _overflows(reference, current),
        "infinite_values": reference.infinite + current.infinite > 0,
        "unreadable_values": reference.unreadable + current.unreadable > 0,
        "unseen_category": unseen and current.cells is not None and bool(current.cells[-1]),
        "constant_reference": described and _constant(reference) is not None,
        "constant_current": current.count > 0 and current.low == current.high,
    }


def _category_flags(reference: CategoryReference, current: CategoryCurrent) -> dict[str, bool]:
    unlisted = reference.rest is None and current.other > 0
    return {
        "unseen_category": unlisted or bool(((reference.counts == 0) & (current.counts > 0)).any()),
        "constant_reference": reference.count > 0 and _constant(reference) is not None,
        "constant_current": current.count > 0 and current.counts.max(initial=0) == current.count,
    }


def _far_outside(reference: NumberReference, current: NumberCurrent) -> bool:
    room = FAR * reference.core
    return room > 0.0 and bool(current.low < reference.points[0] - room or current.high > reference.points[-1] + room)


def _overflows(reference: NumberReference, current: NumberCurrent) -> bool:
    told = [reference.mean, reference.sd] if reference.count else []
    return not np.isfinite([*told, current.mean] if current.count else told).all()


def _same_constant(reference: ReferenceColumn, current: CurrentColumn) -> bool:
    """Whether both sides hold one and the same value."""
    value = _constant(reference)
    if value is None or not current.count:
        return False
    if isinstance(current, NumberCurrent):
        return current.low == current.high == value
    return isinstance(current, CategoryCurrent) and int(current.counts[int(value)]) == current.count


def _constant(reference: ReferenceColumn) -> float | None:
    """The single value of a reference, or the position of its single level; None where it holds several."""
    if isinstance(reference, NumberReference):
        points = reference.points
        if not len(points) or points[0] != points[-1]:
            return None
        spread_out = reference.drawn_in and reference.sd > _ROUNDING * abs(points[0])  # before tails were drawn in
        return None if spread_out else float(points[0])
    if not isinstance(reference, CategoryReference) or reference.rest:
        return None
    held = np.flatnonzero(reference.counts)
    return float(held[0]) if held.size == 1 else None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
