from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, fisher_exact, levene, wasserstein_distance

from ml_core.lab.drift.two_sample import (
    Moments,
    brown_forsythe_p,
    compare_counts,
    integral_of,
    jensen_shannon,
    spread_around,
    two_by_two_p,
    wasserstein,
)

COUNTS = st.lists(st.integers(0, 60), min_size=1, max_size=12)


def ints(*values):
    return np.array(values, dtype=np.int64)


def compare(reference, current, rest=None, other=0):
    return compare_counts(ints(*reference), ints(*current), rest, other)


def test_frequent_levels_are_compared_by_chi_square():
    found = compare([400, 300, 200, 100], [500, 150, 200, 150])
    expected = chi2_contingency([[400, 300, 200, 100], [500, 150, 200, 150]], correction=False)
    assert (found.test, found.p_value) == ("chi-square", pytest.approx(expected.pvalue))
    assert found.distance == pytest.approx(jensenshannon([0.4, 0.3, 0.2, 0.1], [0.5, 0.15, 0.2, 0.15]))


def test_two_levels_with_few_rows_are_compared_by_fishers_test():
    found = compare([98, 2], [90, 10])
    assert (found.test, found.p_value) == ("chi-square", pytest.approx(chi2_p([[98, 2], [90, 10]])))
    found = compare([99, 1], [96, 4])
    assert (found.test, found.p_value) == ("fisher exact", pytest.approx(fisher_exact([[99, 1], [96, 4]]).pvalue))


def chi2_p(table):
    return chi2_contingency(table, correction=False).pvalue


def test_rare_levels_share_a_cell():
    found = compare([500, 400, 3, 3, 3], [500, 400, 4, 4, 4])
    assert found.p_value == pytest.approx(chi2_p([[500, 400, 9], [500, 400, 12]]))


def test_a_cell_that_stays_too_small_has_an_exact_test_of_its_own():
    found = compare([500, 450, 1], [450, 500, 8], other=0)
    assert found.test == "fisher exact | chi-square"
    parts = fisher_exact([[1, 950], [8, 950]]).pvalue, chi2_p([[500, 450], [450, 500]])
    assert found.p_value == pytest.approx(2 * min(parts))


def test_a_new_level_in_a_closed_list_is_found_and_has_its_own_share():
    found = compare([5_000, 5_000], [495, 490], other=15)
    assert found.p_value == pytest.approx(2 * fisher_exact([[0, 10_000], [15, 985]]).pvalue)
    assert found.distance == pytest.approx(jensenshannon([0.5, 0.5, 0], [0.495, 0.490, 0.015]))


def test_one_unseen_row_among_many_is_not_enough():
    assert compare([5_000, 5_000], [500, 499], other=1).p_value > 0.1


def test_levels_that_are_all_different_cannot_be_compared():
    assert compare([1] * 1_000, [0] * 1_000, other=1_000) is None


def test_unseen_levels_of_a_text_that_often_has_some_are_no_change():
    once = [1] * 500
    assert compare([500, *once], [510, *[0] * 500], other=490).p_value > 0.5
    assert compare([500, *once], [200, *[0] * 500], other=800).p_value < 1e-9


def test_unlisted_levels_of_a_reference_with_a_rest_are_an_ordinary_cell():
    found = compare([500, 400], [500, 380], rest=100, other=120)
    assert (found.test, found.p_value) == ("chi-square", pytest.approx(chi2_p([[500, 400, 100], [500, 380, 120]])))


def test_one_level_on_both_sides_cannot_be_compared():
    assert compare([100], [200]) is None


@given(COUNTS, st.randoms(use_true_random=False), st.integers(0, 20))
def test_any_counts_give_a_probability_and_a_distance(reference, random, other):
    current = [random.randint(0, 60) for _ in reference]
    if sum(reference) == 0 or sum(current) + other == 0:
        return
    found = compare(reference, current, other=other)
    if found is not None:
        assert 0.0 <= found.p_value <= 1.0
        assert 0.0 <= found.distance <= np.log(2) ** 0.5 + 1e-12


@given(COUNTS)
def test_equal_windows_do_not_differ(counts):
    if sum(counts) and (found := compare(counts, counts)) is not None:
        assert (found.p_value, found.distance) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-6))


def test_jensen_shannon_of_disjoint_shares_is_its_largest():
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 7.0])) == pytest.approx(np.log(2) ** 0.5)


@pytest.mark.parametrize("cells", [(0, 50, 0, 70), (50, 0, 70, 0)])
def test_shares_of_nothing_or_of_all_do_not_differ(cells):
    assert two_by_two_p(*cells) == 1.0


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
SAMPLES = st.lists(NUMBERS, min_size=1, max_size=50) | st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=50)


def array(values):
    return np.array(values, dtype=np.float64)


def w1(reference, current):
    points = np.sort(array(reference))
    center = float(np.median(points))
    return wasserstein(points, integral_of(points, center), center, np.sort(array(current)))


def around_median(values):
    return spread_around(float(np.median(values)), array(values))


@given(SAMPLES, SAMPLES)
def test_wasserstein_equals_scipys(reference, current):
    assert w1(reference, current) == pytest.approx(wasserstein_distance(reference, current), rel=1e-6, abs=1e-6)


@given(SAMPLES, SAMPLES)
def test_wasserstein_is_never_below_the_shift_of_the_mean(reference, current):
    assert w1(reference, current) >= abs(np.mean(reference) - np.mean(current)) - 1e-6


def test_wasserstein_of_a_shift_is_the_shift():
    sample = np.random.default_rng(0).normal(size=500)
    assert w1(sample, sample + 0.25) == pytest.approx(0.25)


@pytest.mark.parametrize(("n", "m", "scale"), [(30, 40, 1.0), (500, 90, 1.4), (31, 1_001, 0.6)])
def test_brown_forsythe_equals_scipys(n, m, scale):
    rng = np.random.default_rng(n)
    reference, current = rng.normal(size=n), rng.normal(3.0, scale, size=m)
    ours = brown_forsythe_p(around_median(reference), around_median(current))
    assert ours == pytest.approx(levene(reference, current, center="median").pvalue, rel=1e-9)


@pytest.mark.parametrize(("other", "expected"), [([5.0, 5.0, 5.0], 1.0), ([4.0, 6.0, 4.0, 6.0, 4.0, 6.0], 0.0)])
def test_brown_forsythe_without_any_variance_is_decided_by_the_distances(other, expected):
    assert brown_forsythe_p(around_median([2.0, 2.0, 2.0]), around_median(other)) == expected


def test_brown_forsythe_of_values_without_finite_squares_tells_nothing():
    with np.errstate(over="ignore"):
        far = around_median([1.0, 2.0, 1e200])
    assert brown_forsythe_p(far, around_median([1.0, 2.0, 3.0])) == 1.0


@given(SAMPLES, SAMPLES)
def test_merged_moments_are_those_of_both(first, second):
    merged, whole = Moments.of(array(first)).merged(Moments.of(array(second))), Moments.of(array(first + second))
    assert merged.count == whole.count
    assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)
    assert merged.sd == pytest.approx(whole.sd, rel=1e-6, abs=1e-4)


def test_moments_of_nothing_change_nothing():
    some = Moments.of(array([1.0, 2.0]))
    assert some.merged(Moments.of(array([]))) == some
    assert Moments.of(array([])).merged(some) == some
