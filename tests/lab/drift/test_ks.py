from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from ml_core.lab.drift import ks
from ml_core.lab.drift.ks import (
    EXACT_UP_TO,
    distance_at_points,
    distance_of_counts,
    distance_of_sorted,
    method_of,
    p_values,
    resolution,
)

pytestmark = pytest.mark.filterwarnings("ignore:ks_2samp")  # scipy rounds a p-value of 1 to above 1

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SAMPLES = st.lists(FINITE, min_size=1, max_size=60) | st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=60)


def ordered(values):
    return np.sort(np.array(values, dtype=np.float64))


def in_order(law, size, seed):
    rng = np.random.default_rng(seed)
    return np.sort({"normal": rng.normal, "tied": lambda size: rng.integers(0, 40, size) * 1.0}[law](size=size))


@given(SAMPLES, SAMPLES)
def test_distance_equals_scipys(reference, current):
    found = distance_of_sorted(ordered(reference), ordered(current))
    assert found.value == pytest.approx(ks_2samp(reference, current, method="exact").statistic, abs=1e-12)


@given(SAMPLES, SAMPLES)
def test_the_place_it_names_is_that_far_apart(reference, current):
    found = distance_of_sorted(ordered(reference), ordered(current))
    i, j = found.at
    assert abs(i * found.m - j * found.n) == found.numerator


@given(SAMPLES, SAMPLES)
def test_distance_does_not_hang_on_the_side(reference, current):
    there = distance_of_sorted(ordered(reference), ordered(current))
    back = distance_of_sorted(ordered(current), ordered(reference))
    assert there.numerator == back.numerator


@given(SAMPLES)
def test_equal_samples_have_no_distance(sample):
    assert distance_of_sorted(ordered(sample), ordered(sample * 3)).numerator == 0


@given(SAMPLES, SAMPLES)
def test_looking_between_knots_loses_nothing(reference, current):
    points, now = ordered(reference), ordered(current)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ks, "_KNOTS", 5)
        found = distance_of_sorted(points, now)
    assert found.numerator == distance_of_sorted(points, now).numerator


@pytest.mark.parametrize("law", ["normal", "tied"])
@pytest.mark.parametrize(("n", "m"), [(200_000, 150_000), (70_000, 300_000), (300_000, 70_000)])
def test_large_samples_equal_scipy(law, n, m):
    reference, current = in_order(law, n, 1), in_order(law, m, 2)
    found, theirs = distance_of_sorted(reference, current), ks_2samp(reference, current, method="asymp")
    assert found.value == pytest.approx(theirs.statistic, abs=1e-12)
    assert p_values([found])[0] == pytest.approx(theirs.pvalue, rel=1e-9)


def test_two_large_equal_samples_have_no_distance():
    sample = in_order("normal", 150_000, 3)
    assert distance_of_sorted(sample, sample.copy()).numerator == 0


@pytest.mark.parametrize(
    ("n", "m", "method"), [(40, 30, "exact"), (EXACT_UP_TO, 700, "exact"), (EXACT_UP_TO + 1, 30, "asymp")]
)
def test_p_value_is_scipys_in_the_mode_that_is_told(n, m, method):
    rng = np.random.default_rng(n)
    reference, current = np.round(rng.normal(size=n), 1), np.round(rng.normal(0.2, 1.1, size=m), 1)
    found = distance_of_sorted(np.sort(reference), np.sort(current))
    assert method_of(n, m).startswith(f"ks {method}")
    assert p_values([found])[0] == pytest.approx(ks_2samp(reference, current, method=method).pvalue, rel=1e-9)


def test_p_values_of_no_distance_are_none():
    assert p_values([]).shape == (0,)


@given(SAMPLES, SAMPLES)
def test_counts_alone_give_the_same_distance(reference, current):
    points, now = ordered(reference), ordered(current)
    distinct, first, times = np.unique(points, return_index=True, return_counts=True)
    below, upto = (np.searchsorted(now, distinct, side=side) for side in ("left", "right"))
    found = distance_at_points(first, first + times - 1, below, upto, len(points), len(now))
    assert found.numerator == distance_of_sorted(points, now).numerator


def test_distance_between_counts_per_level():
    found = distance_of_counts(np.array([50, 30, 20]), np.array([20, 30, 50]))
    assert found.value == pytest.approx(0.3)  # 0.5 against 0.2 after the first level, 0.8 against 0.5 after the second


@given(st.lists(st.integers(0, 12).map(float), min_size=40, max_size=120), SAMPLES, st.integers(5, 30))
def test_a_grid_of_the_reference_bounds_the_distance(reference, current, size):
    whole, now = ordered(reference), ordered(current)
    ranks = np.round(np.linspace(0, len(whole) - 1, size)).astype(np.int64)
    found = distance_of_sorted(whole[ranks], now, ranks, len(whole))
    true = distance_of_sorted(whole, now).value
    assert found.value <= true + 1e-12
    assert true <= found.value + resolution(whole[ranks], ranks, len(whole)) + 1e-12


def test_resolution_of_a_grid_is_about_one_cell():
    whole = in_order("normal", 100_000, 5)
    ranks = np.round(np.linspace(0, 99_999, 10_000)).astype(np.int64)
    assert resolution(whole[ranks], ranks, 100_000) <= 1 / 9_999
