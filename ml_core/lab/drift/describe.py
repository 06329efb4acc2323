"""The report on one feature: its state, its flags and its numbers, from both sides and the findings of a rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ml_core.lab.drift.current_window import FEWEST, CategoryCurrent, CurrentColumn, NumberCurrent
from ml_core.lab.drift.drift_report import DriftReport, Finding
from ml_core.lab.drift.drift_rules import Limits, finite, missing_finding
from ml_core.lab.drift.reference_window import FAR, CategoryReference, NumberReference, ReferenceColumn

__all__ = ["described"]

_ROUNDING = 1e-9  # of the value: far above the rounding of a mean, far below any spread that matters


def described(
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
        return "all_missing"
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
