"""Verdicts on coverage by group: the law of sets that are calibrated by group, and a floor that holds for many groups."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from scipy.stats import betabinom

from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.coverage_law import DesignEffects
from ml_core.lab.measuring.coverage_verdicts import coverage_verdict
from ml_core.lab.measuring.group_coverage import GROUP_BUDGET, CellRows, cells_verdict, group_verdict
from ml_core.serve.model.groupings import GroupedRows, Groupings
from ml_core.serve.model.manifest import GroupFacts, GroupingFacts
from tests.toy_scores import binary_rows

LEVEL = Decimal("0.9")
NO_REPEATS = DesignEffects(1.0, (1.0, 1.0))
WARDS = Groupings(
    GroupFacts(
        declared=(
            GroupingFacts(
                name="ward",
                column="ward",
                is_feature=False,
                cells=("a", "b", "c"),
                levels=("a", "b", "c"),
                level_cells=(0, 1, 2),
            ),
        )
    )
)


def in_wards(n: int, seed: int, n_cells: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and wards; the scores of ward c are as many shifts less sure."""
    rows, rng = binary_rows(n, seed, base=-1.0), np.random.default_rng(seed + 1)
    wards = rng.integers(0, n_cells, n)
    p1 = rows.proba[:, 1] ** (1 + 0.5 * wards)
    return np.column_stack([1 - p1, p1]), rows.y, wards


def by_ward(wards: np.ndarray) -> GroupedRows:
    return GroupedRows(WARDS, wards[:, None])


def test_sets_by_cell_follow_the_beta_binomial_law_in_each_cell() -> None:
    """Over resplits, the number covered of a cell's test rows of a class is beta-binomial with the cell's own size.

    3,000 splits; without ties the law is exact, so the tails beyond its 5 % and 95 % points have binomial counts.
    """
    splits, n, m = 3_000, 99, 60
    rng, below, above = np.random.default_rng(7), 0, 0
    law = betabinom(m, n + 1 - 10, 10)
    low, high = law.ppf(0.05), law.ppf(0.95)
    p_low, p_high = law.cdf(low - 1), law.sf(high)
    for _ in range(splits):
        scores = rng.random((2, n + m)) ** np.array([[1.0], [3.0]])  # two cells of different laws
        calibrations = tuple(calibrate(np.column_stack([1 - s[:n], s[:n]]), np.zeros(n, np.int64), 2) for s in scores)
        proba = np.concatenate([np.column_stack([1 - s[n:], s[n:]]) for s in scores])
        rows = CellRows(calibrations, np.repeat([0, 1], m))
        covered, _ = rows.covered(proba, np.zeros(2 * m, np.int64), LEVEL)
        for cell in (0, 1):
            found = covered[rows.cells == cell].sum()
            below, above = below + (found < low), above + (found > high)
    for count, p in ((below, p_low), (above, p_high)):
        expected, spread = 2 * splits * p, np.sqrt(2 * splits * p * (1 - p))
        assert abs(count - expected) < 4 * spread  # one failure in 16,000 seeds


def test_one_cell_is_judged_as_without_cells() -> None:
    proba, y, _ = in_wards(3_000, 3)
    test, test_y, _ = in_wards(1_000, 4)
    calibration = calibrate(proba, y, 2)
    rows = CellRows((calibration,), np.zeros(1_000, dtype=np.int64))
    about = (test, test_y, None, LEVEL, 0.88, (0, 1), NO_REPEATS)
    ours, theirs = cells_verdict(rows, *about), coverage_verdict(calibration, *about)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.label, one.coverage, one.n_test, one.n_calibration) == (
            other.label, other.coverage, other.n_test, other.n_calibration,
        )  # fmt: skip
        assert (one.lower, one.upper, one.promised) == pytest.approx((other.lower, other.upper, other.promised))
    assert np.array_equal(rows.sets(test, LEVEL), calibration.sets(test, LEVEL))


def verdicts(seed: int, floor: float = 0.88, *, by_group: bool) -> tuple[bool, bool]:
    """Whether coverage per class, and in each group, is kept, for one calibration and one test split."""
    proba, y, wards = in_wards(4_000, 1_000 + 2 * seed)
    test, test_y, test_wards = in_wards(2_000, 500_000 + 2 * seed)
    whole = calibrate(proba, y, 2)
    own = tuple(calibrate(proba[wards == c], y[wards == c], 2) for c in range(3))
    rows = CellRows(own, test_wards) if by_group else CellRows((whole,), np.zeros(len(test_y), dtype=np.int64))
    about = (test, test_y, None, LEVEL)
    classes = cells_verdict(rows, *about, 0.88, (0, 1), NO_REPEATS)
    groups = group_verdict(rows, by_ward(test_wards), *about, [floor], (0, 1), NO_REPEATS, 50)
    per_class = all(row.coverage is not None and row.limit <= row.coverage for row in classes)
    return per_class, all(group.is_kept for group in groups)


def test_a_valid_model_is_hardly_ever_refused_and_one_without_group_calibration_is() -> None:
    splits = 150
    valid = [verdicts(seed, by_group=True) for seed in range(splits)]
    # The budgets are .04 and .004; 3 standard errors of 150 draws above each.
    assert sum(not per_class for per_class, _ in valid) <= 0.04 * splits + 3 * np.sqrt(0.04 * splits)
    assert sum(not kept for _, kept in valid) <= GROUP_BUDGET * splits + 3 * np.sqrt(GROUP_BUDGET * splits)
    per_class_only = [verdicts(seed, by_group=False)[1] for seed in range(10)]
    assert not any(per_class_only)  # class 1 of ward c is covered .79


def test_cells_with_too_few_rows_are_not_judged_and_more_cells_make_wider_limits() -> None:
    proba, y, _ = in_wards(4_000, 11)
    whole = calibrate(proba, y, 2)
    test, test_y, test_wards = in_wards(600, 13)
    rows = CellRows((whole,), np.zeros(600, dtype=np.int64))
    about = (rows, by_ward(test_wards), test, test_y, None, LEVEL, [0.8], (0, 1), NO_REPEATS)
    few, many = group_verdict(*about, min_rows=120), group_verdict(*about, min_rows=1)
    assert {g.limit is None for g in few if g.n_test < 120} == {True}
    assert {g.limit is None for g in few if g.n_test >= 120} == {False}
    pairs = [(f.limit, m.limit) for f, m in zip(few, many, strict=True) if f.limit is not None and m.limit is not None]
    assert pairs
    assert all(wider <= narrow for narrow, wider in pairs)
    assert [g.cell for g in many if not g.n_test] == ["unknown", "unknown"]
    assert all(g.is_kept for g in many if not g.n_test)


def test_repeated_patients_widen_the_limit() -> None:
    proba, y, _ = in_wards(4_000, 17)
    test, test_y, test_wards = in_wards(900, 19)
    rows = CellRows((calibrate(proba, y, 2),), np.zeros(900, dtype=np.int64))
    patients = np.arange(900) // 3
    test, test_y, test_wards = (
        test[patients * 3],
        test_y[patients * 3],
        test_wards[patients * 3],
    )  # the same row three times
    by = by_ward(test_wards)

    def limits(groups: np.ndarray | None) -> list[float]:
        found = group_verdict(rows, by, test, test_y, groups, LEVEL, [0.8], (0, 1), NO_REPEATS, 50)
        return [g.limit for g in found if g.limit is not None]

    assert all(wide < narrow for wide, narrow in zip(limits(patients), limits(None), strict=True))
