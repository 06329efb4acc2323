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


def encounters(rng, side, patients=300, rows_each=2):
    """Encounters of patients that are much alike, and of whom each is."""
    x = np.repeat(rows(rng, 0.6, patients), rows_each, axis=0)
    x = x + 0.05 * rng.normal(size=x.shape)
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]), np.repeat(
        [f"{side}{p}" for p in range(patients)], rows_each
    ).tolist()


@pytest.mark.parametrize("seed", [34, 35])
def test_windows_of_one_law_in_which_patients_repeat_are_told_apart_in_at_most_5_percent(seed):
    rng, found = np.random.default_rng(seed), 0
    for i in range(TIMES):
        (before, who), (now, who_now) = encounters(rng, "a"), encounters(rng, "b")
        found += domain_classifier(before, now, patients=(who, who_now), seed=i).drifted
    assert found <= binom.ppf(1 - NOISE, TIMES, 0.05)


def test_with_repeated_patients_a_change_of_correlation_is_still_found():
    rng, found, times = np.random.default_rng(36), 0, 40
    for i in range(times):
        (before, who), (now, who_now) = encounters(rng, "a", 500), encounters(rng, "b", 500)
        for k in range(0, now.shape[1], 2):
            now[f"x{k + 1}"] = now[f"x{k + 1}"].sample(frac=1.0, random_state=i).to_numpy()
        found += domain_classifier(before, now, patients=(who, who_now), seed=i).drifted
    assert found >= binom.ppf(NOISE, times, 0.95)
