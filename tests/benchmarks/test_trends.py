"""A trend's interval holds the truth as often as it says, also where neighbours are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.trends import CONFIDENCE, Trend, trend, verdict


def series(dice: np.random.Generator, n: int, growth: float, alike: float) -> np.ndarray:
    """A line with noise whose neighbours correlate; n points, noise of standard deviation 1."""
    noise = dice.normal(size=n)
    for i in range(1, n):
        noise[i] = alike * noise[i - 1] + np.sqrt(1 - alike**2) * noise[i]
    return growth * np.linspace(0, 1, n) + noise


def test_line_without_noise_is_known_exactly() -> None:
    found = trend([3.0, 4.0, 5.0, 6.0])
    assert (found.growth, found.low, found.high) == pytest.approx((3.0, 3.0, 3.0))


def test_rate_is_growth_by_the_time_it_took() -> None:
    assert trend([0.0, 1.0, 2.0]).per(4.0) == Trend(0.5, 0.5, 0.5)


def test_flat_series_neither_grows_nor_shrinks() -> None:
    found = trend([7.0] * 10)
    assert found == Trend(0.0, 0.0, 0.0)
    assert verdict(found, 0.0) == "holds"


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.5, 1.7]])
def test_too_few_points_leave_it_open(values: list[float]) -> None:
    assert verdict(trend(values), 0.1) == "open"


@pytest.mark.parametrize("alike", [0.0, 0.4])
@pytest.mark.parametrize("n", [30, 120])
def test_flat_noise_is_rarely_called_broken(n: int, alike: float) -> None:
    """At most as often as said; the limit is the 1 - 1e-6 quantile of the count at five times that rate.

    The correction is approximate where neighbours are alike and points few, hence the factor.
    """
    runs = 2_000
    dice = np.random.default_rng(5)
    broken = sum(verdict(trend(series(dice, n, 0.0, alike)), 0.0) == "broken" for _ in range(runs))
    assert broken <= stats.binom.ppf(1 - 1e-6, runs, 5 * (1 - CONFIDENCE) / 2)


def test_without_the_correction_alike_neighbours_would_be_called_broken_often() -> None:
    """What the correction is for: the plain interval at the same confidence."""
    runs, n = 500, 120
    dice = np.random.default_rng(5)
    plain = 0
    for _ in range(runs):
        y = series(dice, n, 0.0, 0.7)
        line = stats.linregress(np.linspace(0, 1, n), y)
        plain += line.slope > stats.t.ppf((1 + CONFIDENCE) / 2, n - 2) * line.stderr
    assert plain > 10


@pytest.mark.parametrize("n", [30, 120])
def test_growth_of_many_times_the_noise_is_called_broken(n: int) -> None:
    dice = np.random.default_rng(5)
    assert all(verdict(trend(series(dice, n, 12.0, 0.4)), 1.0) == "broken" for _ in range(100))


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=40),
    st.floats(-1e3, 1e3),
    st.floats(-50, 50),
)
def test_line_added_to_a_series_moves_its_trend_by_as_much(values: list[float], start: float, growth: float) -> None:
    line = start + growth * np.linspace(0, 1, len(values))
    plain, moved = trend(values), trend([a + b for a, b in zip(values, line, strict=True)])
    assert moved.growth == pytest.approx(plain.growth + growth, abs=1e-6)


@given(st.floats(-5, 5), st.floats(0, 5), st.floats(-5, 5))
def test_verdict_is_open_just_where_the_interval_holds_the_limit(growth: float, width: float, limit: float) -> None:
    found = Trend(growth, growth - width, growth + width)
    said = verdict(found, limit)
    assert (said == "broken") == (found.low > limit)
    assert (said == "holds") == (found.high <= limit and not found.low > limit)
