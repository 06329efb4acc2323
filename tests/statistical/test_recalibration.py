"""1,000 outcomes bring coverage back after a shift: the champion's scorer, calibrated anew, over resplits by patient."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, binom

from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.coverage_law import design_effects
from ml_core.serve.model.prediction_sets import misses_allowed
from tests.statistical.diabetes_rows import DATA, unseen_encounters
from tests.toy_scores import ScoredRows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason="the published data set is not beside this folder"),
]

NINETY = Decimal("0.9")
OUTCOMES = 1_000
HELD_OUT = 0.2  # of the patients; the test share of the split
RESPLITS = 800

WHO_COMES: dict[str, Callable[[pd.DataFrame], np.ndarray]] = {
    "with an earlier stay": lambda f: (f["number_inpatient"] >= 1).to_numpy(),
    "not discharged home": lambda f: (f["discharge_disposition_id"].astype(str) != "1").to_numpy(),
    "discharged home": lambda f: (f["discharge_disposition_id"].astype(str) == "1").to_numpy(),
}


def covered(calibrated_on: ScoredRows, live: ScoredRows) -> tuple[float, float]:
    within = calibrate(calibrated_on.proba, calibrated_on.y, 2).sets(live.proba, NINETY)[np.arange(live.y.size), live.y]
    return float(within[live.y == 0].mean()), float(within[live.y == 1].mean())


def before_and_after(rows: ScoredRows, comes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage per class of the live patients, (resplits, 2): calibrated on everybody, and on 1,000 of the live ones."""
    rng = np.random.default_rng(seed)
    who = np.unique(rows.groups, return_inverse=True)[1]
    before, after = [], []
    for _ in range(RESPLITS):
        place = rng.random(who.max() + 1)[who]
        calibrates = place < 0.3  # the champion's calibration, of patients as they came before
        live = np.flatnonzero(comes & ~calibrates)
        live = live[np.argsort(place[live], kind="stable")]
        known, later = live[:OUTCOMES], live[OUTCOMES:]
        later = later[who[later] != who[known[-1]]]
        patients = np.unique(who[known])
        held_out = rng.permutation(patients)[: round(HELD_OUT * patients.size)]
        anew = known[~np.isin(who[known], held_out)]
        before.append(covered(rows[calibrates], rows[later]))
        after.append(covered(rows[anew], rows[later]))
    return np.array(before), np.array(after)


def possible(share: float, effect: float, live: float) -> float:
    """5th percentile of coverage by the law: beta for the calibration, binomial for its rows and for the live ones.

    The patients of ``live`` rows of the class measure it, and a design effect widens both.
    """
    n = np.random.default_rng(0).binomial(round(OUTCOMES * (1 - HELD_OUT)), share, 40_000)
    misses = np.array([misses_allowed(int(k), NINETY) for k in range(OUTCOMES + 1)])[n]
    mean = 1 - misses / (n + 1)
    worth = n / effect + 1
    true = beta.rvs(worth * mean, worth * (1 - mean), random_state=1)
    seen = binom.rvs(max(1, round(live / effect)), true, random_state=2) / max(1, round(live / effect))
    return float(np.quantile(seen, 0.05))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("who", WHO_COMES)
def test_1000_outcomes_bring_the_coverage_of_both_classes_back(who: str, seed: int) -> None:
    given = unseen_encounters()
    comes = WHO_COMES[who](given.frame)
    rows = given.rows
    before, after = before_and_after(rows, comes, seed)
    fifth = np.quantile(after, 0.05, axis=0)
    pool = rows[np.flatnonzero(comes)]
    effects = design_effects(calibrate(pool.proba, pool.y, 2), pool.proba, pool.y, pool.groups, NINETY).per_class

    assert before.mean(axis=0).min() < 0.84  # the champion has lost a class
    assert after.mean(axis=0).min() >= 0.9 - 0.005
    for k in (0, 1):
        share = float((pool.y == k).mean())
        law = possible(share, effects[k], 0.7 * (pool.y == k).sum() - OUTCOMES * share)
        noise = 4 * np.sqrt(0.05 * 0.95 / RESPLITS) * after[:, k].std() / 0.103  # of a normal law's 5th percentile
        assert fifth[k] == pytest.approx(law, abs=noise)
        if share >= 0.14:  # with fewer rows of a class the law itself lies below
            assert fifth[k] >= 0.85 - noise / 4
