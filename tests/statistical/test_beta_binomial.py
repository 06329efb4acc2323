"""The law of coverage on fresh draws: mean, spread and shape against BetaBinomial(m, n + 1 - l, l)."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from scipy.stats import beta, betabinom, binomtest, kstest

from ml_core.lab.measuring.calibration import calibrate
from ml_core.serve.model.prediction_sets import misses_allowed
from tests.toy_scores import binary_rows
from tests.verdicts import beta_binomial_band

pytestmark = pytest.mark.slow

DRAWS = 2_000


def covered_counts(n, m, level, seed, class_index):
    """Covered rows among m fresh rows of a class, calibrated on n rows of it, in each of many draws."""
    rng = np.random.default_rng(seed)
    pool = binary_rows(400_000, seed)
    own = pool.proba[pool.y == class_index]
    counts = np.empty(DRAWS, dtype=np.int64)
    for i in range(DRAWS):
        drawn = own[rng.integers(0, own.shape[0], size=n + m)] * (1 - 1e-9 * rng.random((n + m, 1)))  # never tied
        calibration = calibrate(drawn[:n], np.full(n, class_index), 2)
        counts[i] = calibration.sets(drawn[n:], level)[:, class_index].sum()
    return counts


@pytest.mark.parametrize("level", ["0.80", "0.90", "0.95", "0.99"])
@pytest.mark.parametrize(("n", "m", "class_index"), [(200, 200, 1), (500, 2_000, 1), (2_000, 500, 0)])
def test_covered_counts_follow_the_beta_binomial_law(n, m, class_index, level):
    alpha = 1 - Decimal(level)
    misses = int((n + 1) * alpha)
    law = betabinom(m, n + 1 - misses, misses)

    counts = covered_counts(n, m, Decimal(level), seed=20_000 + n + m, class_index=class_index)

    uniform = np.random.default_rng(1).random(DRAWS)
    placed = law.cdf(counts - 1) + uniform * law.pmf(counts)  # uniform on (0, 1) if the law is right
    assert kstest(placed, "uniform").pvalue > 0.001
    assert counts.std() == pytest.approx(law.std(), rel=0.10)
    assert abs(counts.mean() - law.mean()) < 4 * law.std() / np.sqrt(DRAWS)


@pytest.mark.parametrize("tail", [0.05, 0.01])
def test_the_band_holds_back_no_more_than_its_tail_on_either_side(tail):
    n, m = 500, 500
    band = beta_binomial_band(n, m, Decimal("0.9"), tail)

    share = covered_counts(n, m, Decimal("0.9"), seed=5, class_index=1) / m

    noise = 3.5 * np.sqrt(tail * (1 - tail) / DRAWS)
    assert (share < band.lower).mean() <= tail + noise
    assert (share > band.upper).mean() <= tail + noise


@pytest.mark.parametrize("seed", [41, 42])
@pytest.mark.parametrize("confidence", ["0.80", "0.95"])
@pytest.mark.parametrize("n", [30, 200, 2_000])
def test_with_a_confidence_so_many_calibrations_truly_cover_the_level(n, confidence, seed):
    level, sure = Decimal("0.9"), Decimal(confidence)
    misses = misses_allowed(n, level, sure)
    kept = beta.sf(0.9, n + 1 - misses, misses)
    rng, ones = np.random.default_rng(seed), np.ones(n, dtype=np.int64)

    truly = np.empty(DRAWS)
    for i in range(DRAWS):
        score = rng.random(n)  # uniform, so that a threshold is the true coverage
        proba = np.column_stack([score, 1.0 - score])
        truly[i] = calibrate(proba, ones, 2, confidence=sure).thresholds(level)[1]

    assert kept >= float(sure)
    assert binomtest(int((truly >= 0.9).sum()), DRAWS, kept).pvalue > 1e-5
