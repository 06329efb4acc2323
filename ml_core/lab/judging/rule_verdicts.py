"""Functions that make rule verdicts, for the deployment gate and the promotion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ml_core.lab.measuring.coverage_power import (
    NOTICED_WITH,
    PROOF_CONFIDENCE,
    RulePower,
    coverage_proof,
    power_of_limit,
    power_of_proof,
)
from ml_core.lab.measuring.coverage_verdicts import CoverageOf
from ml_core.lab.measuring.group_coverage import GroupCoverage
from ml_core.serve.model.promotion_record import RuleVerdict

__all__ = [
    "above",
    "at_least",
    "at_most",
    "claim",
    "coverage_ceiling_rules",
    "coverage_floor_rules",
    "coverage_proof_rules",
    "enough_rows_rules",
    "finite_metric",
    "group_floor_rule",
]

_ONE_POINT = 0.01  # below the floor: the coverage for which a rule states its power


def at_least(rule: str, value: float | None, limit: float, note: str = "") -> RuleVerdict:
    """Passes if the value is there and not below the limit."""
    return _judged(rule, value, limit, value is not None and value >= limit, note)


def at_most(rule: str, value: float | None, limit: float, note: str = "") -> RuleVerdict:
    """Passes if the value is there and not above the limit."""
    return _judged(rule, value, limit, value is not None and value <= limit, note)


def above(rule: str, value: float | None, limit: float, note: str = "") -> RuleVerdict:
    """Passes if the value is there and above the limit."""
    return _judged(rule, value, limit, value is not None and value > limit, note)


def claim(rule: str, passed: bool, note: str) -> RuleVerdict:  # noqa: FBT001 - it is the verdict
    """A rule without a number."""
    return RuleVerdict(rule=rule, value=None, limit=None, passed=passed, note=note)


def coverage_floor_rules(
    rows: Sequence[CoverageOf], name: str = "coverage", notes: Mapping[object, str] | None = None
) -> list[RuleVerdict]:
    """``coverage`` and ``coverage_class_<label>``: not below the floor, as far as chance allows to tell.

    Each says its power: how likely it refuses one point below the floor, and which coverage it notices.

    Parameters
    ----------
    name : of the rule, before ``_class_<label>``
    notes : what else to say of a class, by its label
    """
    found = []
    for row in rows:
        power = _power(power_of_limit(row.limit, row.effective_n_test), row)
        more = (notes or {}).get(row.label, "")
        text = "; ".join(part for part in (_band(row), power, more) if part)
        found.append(at_least(f"{name}{_suffix(row)}", row.coverage, row.limit, text))
    return found


def coverage_proof_rules(rows: Sequence[CoverageOf]) -> list[RuleVerdict]:
    """``coverage_proven`` and ``coverage_proven_class_<label>``: the lower confidence bound exceeds the floor.

    A model below the floor in all rows or in one class passes them all with a chance of 5 % at most, since it must
    pass each.
    """
    found = []
    for row in rows:
        size = row.effective_n_test
        bound = None if row.coverage is None else coverage_proof(row.coverage, size)
        rule = power_of_proof(row.floor, size)
        note = (
            f"lower {PROOF_CONFIDENCE:.0%} bound of the coverage found; it must exceed the floor; with {size} "
            f"independent rows {_power(rule, row)}; even as good as promised ({row.promised:.4f}) it is refused with "
            f"chance {rule.refused(row.promised):.2f}"
        )
        found.append(above(f"coverage_proven{_suffix(row)}", bound, row.floor, note))
    return found


def _power(rule: RulePower, row: CoverageOf) -> str:
    """The power of a rule in words; nothing where the floor is no coverage that could be missed."""
    wrong = row.floor - _ONE_POINT
    if wrong <= 0.0 or not rule.rows:
        return ""
    whom = "a model" if row.label is None else "a class"
    return (
        f"this rule would refuse {whom} truly covered {wrong:g} with chance {rule.refused(wrong):.2f}, and notices a "
        f"true coverage of {rule.noticed:.4f} or less with {NOTICED_WITH:.0%}"
    )


def enough_rows_rules(y_index: npt.NDArray[np.int64], classes: Sequence[object], needed: int) -> list[RuleVerdict]:
    """``rows_class_<label>``: each class has the test rows it takes to judge at all."""
    counts = np.bincount(y_index, minlength=len(classes))
    pairs = zip(classes, counts, strict=True)
    return [at_least(f"rows_class_{label}", float(n), needed, "test rows of the class") for label, n in pairs]


def coverage_ceiling_rules(rows: Sequence[CoverageOf]) -> list[RuleVerdict]:
    """``coverage_ceiling`` per class: not above what a valid calibration reaches by chance, ties aside."""
    note = "rows strictly inside the threshold; more than chance explains means that scores are not what they claim"
    return [at_most(f"coverage_ceiling{_suffix(row)}", row.strict_coverage, row.upper, note) for row in rows]


def group_floor_rule(grouping: str, found: Sequence[GroupCoverage]) -> RuleVerdict:
    """``coverage_by_<grouping>``: no class of any group is covered too rarely; the lowest one gives the numbers.

    Parameters
    ----------
    found : coverage of every class in every cell of the grouping
    """
    judged = [(one.coverage - one.limit, one) for one in found if one.limit is not None and one.coverage is not None]
    few = sorted({f"{one.cell}, class {one.label}" for one in found if one.limit is None and one.n_test})
    left_out = f"; not judged for too few test rows: {'; '.join(few)}" if few else ""
    if not judged:
        return claim(f"coverage_by_{grouping}", passed=True, note=f"no group has the rows to be judged{left_out}")
    lowest = min(judged, key=lambda pair: pair[0])[1]
    low = [f"{one.cell}, class {one.label}" for gap, one in judged if gap < 0]
    too_low = f"; too low: {'; '.join(low)}" if low else ""
    note = (
        f"lowest against its limit: {lowest.cell}, class {lowest.label}, {lowest.n_test} test rows worth "
        f"{lowest.effective_n_test} independent ones; {len(judged)} classes of groups are judged{too_low}{left_out}"
    )
    return at_least(f"coverage_by_{grouping}", lowest.coverage, lowest.limit or 0.0, note)


def finite_metric(metrics: Mapping[str, float], name: str) -> float | None:
    """The metric, or None where the rows could not give it or it is no finite number."""
    value = metrics.get(name)
    return value if value is not None and np.isfinite(value) else None


def _judged(rule: str, value: float | None, limit: float, passed: bool, note: str) -> RuleVerdict:  # noqa: FBT001
    text = note if value is not None else f"missing; {note}" if note else "missing"
    return RuleVerdict(rule=rule, value=value, limit=float(limit), passed=bool(passed), note=text)


def _suffix(row: CoverageOf) -> str:
    return "" if row.label is None else f"_class_{row.label}"


def _band(row: CoverageOf) -> str:
    return (
        f"floor {row.floor:g}, promised {row.promised:.4f}, band from {row.lower:.4f} with {row.n_calibration} "
        f"calibration and {row.n_test} test rows, worth {row.effective_n_calibration:.0f} and {row.effective_n_test} "
        "independent ones"
    )
