"""Weighted sets under four shifts of who comes, on encounters of Diabetes 130: the outcome given the features stays."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.training.density_ratio import fit_density_ratio
from ml_core.serve.model.weighted_sets import DensityRatio, WeightedCalibration, effective_rows
from tests.statistical.diabetes_rows import DATA, unseen_encounters

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason="the published data set is not beside this folder"),
]

NINETY = Decimal("0.9")
DRAWS = 4
LIVE = 20_000


def _standard(values: pd.Series) -> np.ndarray:
    numbers = values.to_numpy(dtype=np.float64)
    return (numbers - numbers.mean()) / numbers.std()


SHIFTS: dict[str, tuple[Callable[[pd.DataFrame], np.ndarray], int]] = {
    "more earlier stays": (lambda f: 0.8 * np.minimum(_standard(f["number_inpatient"]), 3), 0),
    "younger": (lambda f: -1.2 * _standard(f["age"].str.extract(r"(\d+)", expand=False).astype(int)), 1),
    "fewer discharged home": (lambda f: -1.5 * (f["discharge_disposition_id"].astype(str) == "1").to_numpy(), 0),
    "longer stays": (lambda f: 1.2 * _standard(f["time_in_hospital"]), 0),
}
"""Log odds of an encounter to come, from its columns alone, and the class that loses its coverage."""


def coverages(shift: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage per class without and with weights, and what the calibration rows are worth, each (draws, 2)."""
    given = unseen_encounters()
    rows, log_odds = given.rows, SHIFTS[shift][0](given.frame)
    who = np.unique(rows.groups, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    before, after, worth = [], [], []
    for _ in range(DRAWS):
        place = rng.random(who.max() + 1)[who]
        calibrates = np.flatnonzero(place < 0.5)
        rest = np.flatnonzero(place >= 0.5)
        chance = np.exp(log_odds[rest])
        live = rng.choice(rest, LIVE, p=chance / chance.sum())
        unlabelled, asked = live[place[live] < 0.625], live[place[live] >= 0.625]
        ratio = DensityRatio(fit_density_ratio(given.matrix[calibrates], given.matrix[unlabelled]))
        plain = calibrate(rows.proba[calibrates], rows.y[calibrates], 2)
        weights = ratio.weights(given.matrix[calibrates])
        of_class = [calibrates[rows.y[calibrates] == k] for k in (0, 1)]
        sorted_weights = tuple(
            weights[rows.y[calibrates] == k][np.argsort(1.0 - rows.proba[of_class[k], k], kind="stable")]
            for k in (0, 1)
        )
        weighted = WeightedCalibration(plain, sorted_weights, ratio)
        found = weighted.rows(rows.proba[asked], NINETY, ratio.weights(given.matrix[asked])).sets
        y = rows.y[asked]
        for store, sets in ((before, plain.sets(rows.proba[asked], NINETY)), (after, found)):
            hits = sets[np.arange(y.size), y]
            store.append([hits[y == k].mean() for k in (0, 1)])
        worth.append([effective_rows(w) for w in sorted_weights])
    return np.array(before), np.array(after), np.array(worth)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("shift", SHIFTS)
def test_weights_bring_the_lost_class_back(shift: str, seed: int) -> None:
    lost = SHIFTS[shift][1]
    before, after, worth = (found.mean(axis=0) for found in coverages(shift, seed))

    assert before[lost] < 0.87
    assert abs(after[lost] - 0.9) < abs(before[lost] - 0.9)
    # the mean of 4 draws varies by the rows' worth and by the error of a ratio that is estimated from 5,000 answers
    noise = 3.5 * np.sqrt(0.09 / DRAWS * (1 / worth + 4 / LIVE)) + 0.015
    assert (np.abs(after - 0.9) < noise).all(), (shift, before, after, worth)
    assert worth.min() >= 100
