"""What the promise survives and what it does not: a change of class shares, and a change of who comes."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from ml_core.lab.measuring.calibration import calibrate
from tests.toy_scores import ScoredRows

pytestmark = pytest.mark.slow

NINETY = Decimal("0.9")
DRAWS = 60


def patients(n: int, rng: np.random.Generator, moved_by: float = 0.0, readmitted: float | None = None) -> ScoredRows:
    """Rows with true P(1 | x), about 9 % readmitted.

    ``moved_by`` shifts one strong feature by that many standard deviations and leaves P(1 | x) alone (covariate
    shift). ``readmitted`` redraws rows so that this share of them is readmitted, the same within each class (label
    shift).
    """
    wanted = n if readmitted is None else 12 * n
    x = rng.normal(size=(wanted, 2))
    x[:, 0] += moved_by
    p1 = 1 / (1 + np.exp(-(1.0 * x[:, 0] + 0.7 * x[:, 1] - 2.9)))
    y = (rng.random(wanted) < p1).astype(np.int64)
    kept = np.arange(n)
    if readmitted is not None:
        ones = round(n * readmitted)
        kept = np.concatenate([np.flatnonzero(y == 1)[:ones], np.flatnonzero(y == 0)[: n - ones]])
    return ScoredRows(np.column_stack([1 - p1, p1])[kept], y[kept], kept)


def mean_coverage(guarantee: str, **shift: float) -> tuple[float, float, float]:
    """(all rows, class 0, class 1): calibrated before the shift, tested after it, averaged over draws."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(DRAWS):
        before, after = patients(4_000, rng), patients(4_000, rng, **shift)
        covered = calibrate(before.proba, before.y, 2, guarantee).sets(after.proba, NINETY)
        right = covered[np.arange(after.y.size), after.y]
        found.append((right.mean(), right[after.y == 0].mean(), right[after.y == 1].mean()))
    return tuple(np.mean(found, axis=0))


def test_without_shift_both_promises_hold():
    assert mean_coverage("marginal")[0] == pytest.approx(0.90, abs=0.005)
    assert mean_coverage("class_conditional") == pytest.approx((0.90, 0.90, 0.90), abs=0.008)


def test_label_shift_leaves_the_promise_per_class_untouched():
    assert mean_coverage("class_conditional", readmitted=0.20) == pytest.approx((0.90, 0.90, 0.90), abs=0.008)


def test_label_shift_breaks_a_marginal_promise():
    assert mean_coverage("marginal", readmitted=0.20)[0] < 0.85


def test_covariate_shift_breaks_both_promises():
    # A known limit, stated in the documentation: a drift alarm is the answer, not the set.
    assert mean_coverage("marginal", moved_by=1.0)[0] < 0.87
    assert mean_coverage("class_conditional", moved_by=1.0)[1] < 0.85
