from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.coverage_law import (
    CoverageLaw,
    band_of,
    design_effect,
    design_effects,
    effective_size,
)
from ml_core.serve.model.prediction_sets import misses_allowed
from tests.toy_scores import repeated_patients
from tests.verdicts import beta_binomial_band

NINETY = Decimal("0.9")


# --- the law ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "lower_5", "lower_1"),
    [(200, 200, 0.850, 0.825), (500, 500, 0.868, 0.852), (1000, 1000, 0.877, 0.867), (2000, 2000, 0.884, 0.877)],
)
def test_lower_limits_are_the_published_alarm_lines_of_the_exact_law(n, m, lower_5, lower_1):
    assert beta_binomial_band(n, m, NINETY, 0.05).lower == pytest.approx(lower_5, abs=5e-4)
    assert beta_binomial_band(n, m, NINETY, 0.01).lower == pytest.approx(lower_1, abs=5e-4)


@settings(deadline=None)
@given(
    st.integers(1, 3_000),
    st.integers(1, 400),
    st.decimals("0.5", "0.999", places=3),
    st.sampled_from([0.2, 0.05, 0.006]),
)
def test_limits_are_the_tightest_with_no_more_than_the_tail_beyond(n, m, level, tail):
    misses = int((n + 1) * (1 - level))
    band = beta_binomial_band(n, m, level, tail)
    if misses == 0:
        assert (band.promised, band.lower, band.upper) == (1.0, 1.0, 1.0)
        return
    law = betabinom(m, n + 1 - misses, misses)
    low, high = round(band.lower * m), round(band.upper * m)

    assert band.promised == pytest.approx(1 - misses / (n + 1))
    assert law.cdf(low - 1) <= tail * (1 + 1e-9)
    assert law.cdf(low) > tail * (1 - 1e-9)
    assert law.sf(high) <= tail * (1 + 1e-9)
    assert law.sf(high - 1) > tail * (1 - 1e-9)


def test_the_law_equals_scipys_beta_binomial():
    pmf = CoverageLaw.of(499, NINETY).pmf(300)

    assert pmf == pytest.approx(betabinom(300, 450, 50).pmf(np.arange(301)), rel=1e-9)


def test_the_law_stays_a_law_for_large_sizes():
    pmf = CoverageLaw.of(1_000_000, NINETY).pmf(500_000)

    assert pmf.sum() == pytest.approx(1.0)
    assert (pmf @ np.arange(500_001)) / 500_000 == pytest.approx(0.9, abs=1e-5)


def test_design_effects_widen_the_band_and_keep_its_middle():
    plain = beta_binomial_band(5_000, 5_000, NINETY, 0.01)
    wide = beta_binomial_band(5_000, 5_000, NINETY, 0.01, calibration_effect=1.8, test_effect=1.8)

    assert wide.promised == plain.promised
    assert wide.upper - wide.lower == pytest.approx(np.sqrt(1.8) * (plain.upper - plain.lower), rel=0.02)


def test_a_band_without_test_rows_excludes_nothing():
    assert beta_binomial_band(500, 0, NINETY, 0.01).lower == 0.0
    assert band_of(0.9, np.array([1.0]), 0.01).upper == 1.0


# --- design effect ------------------------------------------------------------------------------------------------


def test_independent_rows_have_no_design_effect():
    covered = np.random.default_rng(0).random(5_000) < 0.9

    assert design_effect(covered, None) == 1.0
    assert design_effect(covered, np.arange(5_000)) == 1.0


def test_rows_repeated_k_times_have_design_effect_k():
    covered = np.repeat(np.random.default_rng(0).random(1_000) < 0.9, 3)

    assert design_effect(covered, np.repeat(np.arange(1_000), 3)) == pytest.approx(3.0)


def test_the_closed_form_is_what_a_drawn_bootstrap_over_patients_approaches():
    rows = repeated_patients(1_500, seed=1)
    covered = calibrate(rows.proba, rows.y, 2, "marginal").sets(rows.proba, Decimal("0.8"))[
        np.arange(rows.y.size), rows.y
    ]
    rng = np.random.default_rng(2)
    hits, sizes = np.bincount(rows.groups, weights=covered), np.bincount(rows.groups)

    drawn = rng.multinomial(1_500, np.full(1_500, 1 / 1_500), size=4_000)
    means = (drawn @ hits) / (drawn @ sizes)
    expected = means.var() / (covered.mean() * (1 - covered.mean()) / covered.size)

    assert design_effect(covered, rows.groups) == pytest.approx(expected, rel=0.1)  # sd of a drawn variance: 2.2 %


def test_groups_may_be_text_and_in_any_order():
    covered = np.array([True, True, False, False, True, True])
    names = np.array(["b", "b", "a", "a", "c", "c"])
    order = [4, 0, 2, 5, 3, 1]

    assert design_effect(covered, names) == pytest.approx(2.0)
    assert design_effect(covered[order], names[order]) == pytest.approx(2.0)


def test_without_variation_the_design_effect_is_the_largest_the_group_sizes_allow():
    groups = np.array([1, 1, 1, 2])

    assert design_effect(np.ones(4, dtype=bool), groups) == (9 + 1) / 4
    assert design_effect(np.ones(0, dtype=bool), np.array([])) == 1.0


def test_opposed_rows_never_make_the_band_narrower():
    covered = np.tile([True, False], 50)

    assert design_effect(covered, np.repeat(np.arange(50), 2)) == 1.0


def test_design_effects_are_measured_per_class_and_for_all():
    rows = repeated_patients(3_000, seed=3)
    effects = design_effects(calibrate(rows.proba, rows.y, 2), rows.proba, rows.y, rows.groups, NINETY)

    assert effects.per_class[0] > 1.2  # most rows of a patient are of class 0, and resemble each other
    assert effects.marginal > 1.1
    assert 1.0 <= effects.per_class[1] < effects.per_class[0]


def test_limits_are_as_tight_as_a_tail_that_is_met_exactly_allows():
    assert band_of(0.75, np.array([0.25, 0.25, 0.5]), 0.25).lower == 0.5
    assert band_of(0.25, np.array([0.5, 0.25, 0.25]), 0.25).upper == 0.5


@pytest.mark.parametrize(("n", "effect", "size"), [(100, 1.0, 100), (100, 1.5, 66), (1, 5.0, 1), (0, 2.0, 0)])
def test_effective_size(n, effect, size):
    assert effective_size(n, effect) == size


def test_a_confidence_raises_the_law_to_that_of_the_rank_inside():
    law = CoverageLaw.of(1_000, Decimal("0.9"), confidence=Decimal("0.95"))
    assert law.promised == 1 - misses_allowed(1_000, Decimal("0.9"), Decimal("0.95")) / 1_001
    assert law.promised > 0.91
