"""Power and false alarms of the domain classifier."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from ml_core.lab.drift.detect import detect_drift
from ml_core.lab.drift.domain_classifier import domain_classifier

pytestmark = pytest.mark.slow

NOISE = 1e-6  # chance that a limit of this file fails without cause
TIMES = 100


def rows(rng, rho, n=500, d=10):
    """Standard normal features: only the correlation of two neighbours hangs on rho."""
    x = rng.normal(size=(n, d))
    x[:, 1::2] = rho * x[:, ::2] + (1 - rho**2) ** 0.5 * x[:, 1::2]
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(d)])


def test_a_change_of_correlation_alone_is_found():
    rng = np.random.default_rng(31)
    found = sum(domain_classifier(rows(rng, 0.6), rows(rng, 0.0), seed=i).drifted for i in range(TIMES))
    assert found >= binom.ppf(NOISE, TIMES, 0.95)


def test_no_column_by_itself_shows_it():
    rng = np.random.default_rng(32)
    found = sum(
        any(r.drifted for r in detect_drift(rows(rng, 0.6), rows(rng, 0.0), rule="extended")) for _ in range(TIMES)
    )
    assert found <= binom.ppf(1 - NOISE, TIMES, 0.05)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_windows_of_one_law_are_told_apart_in_at_most_5_percent(rho):
    rng = np.random.default_rng(33)
    found = sum(domain_classifier(rows(rng, rho), rows(rng, rho), seed=i).drifted for i in range(TIMES))
    assert found <= binom.ppf(1 - NOISE, TIMES, 0.05)
