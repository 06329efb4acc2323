"""What a coverage rule can see, by exact laws."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from ml_core.lab.measuring.coverage_law import CoverageLaw
from ml_core.lab.measuring.coverage_power import coverage_proof, power_of_limit, power_of_proof
from ml_core.lab.measuring.coverage_verdicts import COVERAGE_BUDGET

NINETY = Decimal("0.9")
TAIL = COVERAGE_BUDGET / 6  # of two classes


def limit_of(n: int, m: int) -> float:
    return min(0.88, CoverageLaw.of(n, NINETY, floor=0.88).band(m, TAIL).lower)


def test_a_hundred_rows_on_either_side_turn_a_floor_of_88_into_one_of_78():
    assert limit_of(100, 100) == 0.78


@pytest.mark.parametrize(("m", "refused"), [(100, 0.032), (500, 0.159), (1_000, 0.300)])
def test_what_a_class_truly_covered_87_is_refused_with_at_a_thousand_calibration_rows(m, refused):
    limit = limit_of(1_000, m)
    by_hand = sum(binom.pmf(x, m, 0.87) for x in range(m + 1) if x / m < limit)
    assert power_of_limit(limit, m).refused(0.87) == pytest.approx(by_hand, abs=1e-12)
    assert by_hand == pytest.approx(refused, abs=5e-4)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3_000), st.floats(0.5, 1.0), st.floats(0.3, 1.0))
def test_a_rule_refuses_what_is_below_its_limit_and_its_power_is_the_chance_of_that(m, limit, true):
    rule = power_of_limit(limit, m)
    covered = np.arange(m + 1)
    assert (covered < rule.needed).tolist() == (covered / m < limit - 1e-12).tolist() or abs(
        limit * m - round(limit * m)
    ) < 1e-6
    assert rule.refused(true) == pytest.approx(float(binom.pmf(covered[: rule.needed], m, true).sum()), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(5, 3_000), st.floats(0.5, 0.99))
def test_what_a_rule_notices_is_refused_in_four_of_five_cases(m, limit):
    rule = power_of_limit(limit, m)
    assert rule.refused(rule.noticed) == pytest.approx(0.8, abs=1e-9)


def test_a_rule_without_rows_or_without_a_limit_notices_all_or_nothing():
    assert power_of_limit(0.0, 50).noticed == 0.0
    assert power_of_limit(0.88, 0).refused(0.99) == 1.0


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2_000), st.floats(0.5, 0.99), st.integers(0, 2_000))
def test_the_bound_exceeds_the_floor_exactly_where_the_rule_says_so(m, floor, covered):
    covered = min(covered, m)
    bound = coverage_proof(covered / m, m)
    assert abs(bound - floor) < 1e-9 or (bound > floor) == (covered >= power_of_proof(floor, m).needed)
    if covered:
        assert binom.sf(covered - 1, m, bound) == pytest.approx(0.05, abs=1e-9)


def test_a_class_at_the_floor_is_proven_in_at_most_one_case_of_twenty():
    for m in (30, 100, 500, 2_000):
        rule = power_of_proof(0.88, m)
        assert 1.0 - rule.refused(0.88) <= 0.05
        assert 1.0 - power_of_proof(0.88, m).refused(0.88) > 0.01  # and not far less often


@pytest.mark.slow
@pytest.mark.usefixtures("seeds")
@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("m", [100, 500, 1_000])
def test_simulated_refusals_are_as_frequent_as_the_power_says(m, seed):
    limit, draws = limit_of(1_000, m), 20_000
    found = np.random.default_rng(seed).random((draws, m), dtype=np.float32) < 0.87
    refused = int((found.mean(axis=1, dtype=np.float64) < limit - 1e-12).sum())
    assert binomtest(refused, draws, power_of_limit(limit, m).refused(0.87)).pvalue > 1e-5
