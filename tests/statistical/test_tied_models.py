"""In-sample coverage of 1,000 small XGBoost models whose float32 probabilities are full of ties."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import xgboost

from ml_core.lab.measuring.calibration import calibrate

pytestmark = pytest.mark.slow

MODELS = 1_000
LEVELS = tuple(Decimal(level) for level in ("0.80", "0.90", "0.95", "0.99"))


def small_model(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """P(1) in float32 and labels of calibration rows that a model of a few stumps scores with few distinct values."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(150, 600))
    x = np.round(rng.normal(size=(2 * n, 4)), 1)
    y = (rng.random(2 * n) < 1 / (1 + np.exp(-(x[:, 0] - 0.5 * x[:, 1] - rng.uniform(0, 2.5))))).astype(np.int64)
    params = {"objective": "binary:logistic", "max_depth": 2, "eta": 0.3, "nthread": 1, "seed": seed}
    booster = xgboost.train(params, xgboost.DMatrix(x[:n], y[:n]), num_boost_round=int(rng.integers(3, 12)))
    return booster.inplace_predict(x[n:]), y[n:]


def test_in_sample_coverage_reaches_k_of_n_in_every_model():
    ties = []
    for seed in range(MODELS):
        p1, y = small_model(seed)
        ties.append(1 - np.unique(p1).size / p1.size)
        p1 = p1.astype(np.float64)
        proba = np.column_stack([1.0 - p1, p1])
        for guarantee in ("class_conditional", "marginal"):
            calibration = calibrate(proba, y, 2, guarantee)
            for level in LEVELS:
                covered = calibration.sets(proba, level)[np.arange(y.size), y]
                parts = [y == 0, y == 1] if guarantee == "class_conditional" else [np.ones(y.size, dtype=np.bool_)]
                for part in parts:
                    n = int(part.sum())
                    assert covered[part].sum() >= min(n, ceil((n + 1) * Fraction(level))), (seed, guarantee, level)
    assert np.median(ties) > 0.5  # the models are what they are said to be
