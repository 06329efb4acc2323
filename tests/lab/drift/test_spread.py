from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import levene, wasserstein_distance

from ml_core.lab.drift.spread import Moments, brown_forsythe_p, integral_of, spread_around, wasserstein

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
