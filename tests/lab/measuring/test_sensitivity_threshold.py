"""A threshold for a wanted sensitivity: it keeps its confidence, one that is merely picked does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController, recall
from scipy.stats import beta, binom, norm

from ml_core.base.errors import CannotJudge
from ml_core.lab.measuring.sensitivity_threshold import fewest_rows, sensitivity_threshold

DRAWS = 2_000


def drawn(n: int, seed: int) -> np.ndarray:
    """Probabilities of n rows of the class: the normal distribution function of N(1, 1) draws."""
    return norm.cdf(np.random.default_rng(seed).normal(1.0, 1.0, n))


def true_sensitivity(threshold: float) -> float:
    return float(norm.sf(norm.ppf(threshold), loc=1.0))


@pytest.mark.parametrize(("n", "wanted", "confidence"), [(50, 0.8, 0.95), (200, 0.9, 0.95), (200, 0.8, 0.9)])
def test_the_wanted_sensitivity_is_reached_in_as_many_draws_as_stated(n, wanted, confidence):
    reached = sum(
        true_sensitivity(sensitivity_threshold(drawn(n, seed), wanted, confidence).threshold) >= wanted
        for seed in range(DRAWS)
    )
    ranks = np.arange(1, n + 1)
    rank = int((binom.sf(ranks - 1, n, 1 - wanted) >= confidence).sum())
    exact = float(beta.cdf(1 - wanted, rank, n + 1 - rank))
    assert exact >= confidence
    assert binom.ppf(1e-4, DRAWS, exact) <= reached <= binom.ppf(1 - 1e-4, DRAWS, exact)


def test_one_that_is_picked_where_the_calibration_rows_reach_it_misses_in_half_of_the_draws():
    n, wanted, missed = 200, 0.8, 0
    for seed in range(DRAWS):
        picked = float(np.sort(drawn(n, seed))[round((1 - wanted) * n)])  # 80 % of the rows are at or above it
        missed += true_sensitivity(picked) < wanted
    assert 0.4 < missed / DRAWS < 0.6


@given(
    st.lists(st.integers(1, 30), min_size=14, max_size=80),
    st.sampled_from([0.5, 0.8]),
    st.sampled_from([0.8, 0.95]),
)
def test_the_next_higher_rank_would_not_do(scores, wanted, confidence):
    own = np.sort(np.array(scores) / 31)
    found = sensitivity_threshold(own, wanted, confidence)
    below = int((own < found.threshold).sum())
    assert found.sensitivity == pytest.approx(1 - below / own.size)
    assert binom.sf(below, own.size, 1 - wanted) >= confidence
    higher = own[own > found.threshold]
    if higher.size:
        at = int((own < higher[0]).sum())
        assert binom.sf(at, own.size, 1 - wanted) < confidence


def test_mapie_controls_the_same_sensitivity():
    own, others = np.unique(drawn(300, 5).round(3)), norm.cdf(np.random.default_rng(6).normal(-1, 1, 900)).round(3)
    found = sensitivity_threshold(own, 0.8, 0.95)
    x, y = np.concatenate([own, others]), np.repeat([1, 0], [own.size, others.size])
    grid = np.sort(own)[:120]
    controller = BinaryClassificationController(
        lambda p: np.column_stack([1 - np.asarray(p), np.asarray(p)]),
        recall,
        target_level=0.8,
        confidence_level=0.95,
        list_predict_params=grid,
        fwer_method="fixed_sequence",
    ).calibrate(x, y)
    theirs = max(controller.valid_predict_params)
    # Learn-then-test takes Hoeffding-Bentkus p-values, which are a little larger than exact ones
    assert theirs <= found.threshold
    assert int((own < found.threshold).sum()) - int((own < theirs).sum()) <= 4


def test_specificity_is_that_of_the_other_rows_with_its_interval():
    found = sensitivity_threshold(drawn(100, 1), 0.8, 0.95, others=np.linspace(0, 1, 51)[:50])
    spared = int((np.linspace(0, 1, 51)[:50] < found.threshold).sum())
    assert (found.other_rows, found.specificity) == (50, spared / 50)
    assert binom.sf(spared - 1, 50, found.specificity_lower) == pytest.approx(0.025)
    assert binom.cdf(spared, 50, found.specificity_upper) == pytest.approx(0.025)
    alike = sensitivity_threshold(np.full(20, 0.5), 0.8, 0.95, others=[0.1, 0.2])
    assert (alike.specificity, alike.specificity_upper) == (1.0, 1.0)
    assert sensitivity_threshold(np.full(20, 0.5), 0.8, 0.95, others=[0.7]).specificity_lower == 0.0


def test_repeated_patients_make_it_more_careful():
    own = drawn(400, 2)
    plain, careful = (sensitivity_threshold(own, 0.8, 0.95, effect=effect) for effect in (1.0, 2.0))
    assert careful.threshold < plain.threshold
    assert careful.sensitivity > plain.sensitivity


@pytest.mark.parametrize(("wanted", "confidence"), [(0.8, 0.95), (0.95, 0.95), (0.5, 0.6)])
def test_too_few_rows_are_told_with_how_many_are_needed(wanted, confidence):
    n = fewest_rows(wanted, confidence)
    assert sensitivity_threshold(np.linspace(0.1, 0.9, n), wanted, confidence).threshold == pytest.approx(0.1)
    if n > 1:
        with pytest.raises(CannotJudge, match=f"at least {n} are needed"):
            sensitivity_threshold(np.linspace(0.1, 0.9, n - 1), wanted, confidence)


@pytest.mark.parametrize(
    ("wanted", "confidence"), [(0.0, 0.9), (1.0, 0.9), (0.8, 0.0), (0.8, 1.0), (float("nan"), 0.9)]
)
def test_shares_that_are_none_are_refused(wanted, confidence):
    with pytest.raises(ValueError, match="expected a share"):
        sensitivity_threshold([0.5] * 100, wanted, confidence)
