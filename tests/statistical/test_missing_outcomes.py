"""Outcomes that never come, in simulation: bounds, weighting and words keep what is said of them, with two seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import binom, norm

from ml_core.lab.measuring.returned_outcomes import (
    OutcomeCell,
    coverage_bounds,
    inverse_chance_coverage,
    observed_coverage,
    return_test,
)

pytestmark = pytest.mark.slow

NOISE = 1e-6  # chance that a limit of this file fails without cause
REPLAYS, ANSWERS = 1_000, 1_000
SEEDS = (20261201, 777)


@dataclass(frozen=True)
class Law:
    """Two classes whose scores are normal, one apart; the sets of level 0.9 on either side of known thresholds.

    Attributes
    ----------
    death : share of class 1 ("dead")
    holds, lacks : chance that the outcome returns where the set holds 1, and where it does not
    shift : how far the dead look healthier than those that calibrated
    """

    death: float = 0.3
    holds: float = 0.8
    lacks: float = 0.2
    shift: float = 0.0

    @property
    def coverage(self) -> float:
        """True coverage of the dead."""
        return float(norm.sf(norm.ppf(0.1) + self.shift))

    def draw(self, rng: np.random.Generator) -> tuple[list[OutcomeCell], float]:
        """Due answers by cell, and the share of the dead among them that their set held."""
        dead = rng.random(ANSWERS) < self.death
        score = rng.normal(dead * (1.0 - self.shift * dead), 1.0)
        has = np.stack([score <= norm.ppf(0.9), score >= 1.0 + norm.ppf(0.1)], axis=1)
        prediction = (score > 0.5).astype(int)
        returned = rng.random(ANSWERS) < np.where(has[:, 1], self.holds, self.lacks)
        cells: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for row, k, y, back in zip(has.tolist(), prediction.tolist(), dead.tolist(), returned.tolist(), strict=True):
            counts = cells.setdefault((tuple(np.flatnonzero(row).tolist()), k), [0, 0, 0])
            counts[int(y) if back else 2] += 1
        made = [OutcomeCell(s, k, (n[0], n[1]), n[2]) for (s, k), n in cells.items()]
        return made, float(has[dead, 1].mean())


RECIPE = Law(shift=0.84)
"""The dead are covered .67, and outcomes return for 80 % of the sets that hold 1 and for 20 % of the others."""


@pytest.fixture(scope="module", params=SEEDS)
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


@pytest.mark.parametrize("law", [RECIPE, Law(), Law(holds=0.3, lacks=0.9), Law(holds=0.6, lacks=0.6)], ids=str)
def test_the_weighted_interval_holds_the_true_coverage_as_often_as_it_says(
    law: Law, rng: np.random.Generator, record_property
) -> None:
    inside, estimates, within = 0, [], 0
    for _ in range(REPLAYS):
        cells, of_these = law.draw(rng)
        found, bounds = inverse_chance_coverage(cells, 1), coverage_bounds(cells, 1)
        assert found is not None
        assert bounds is not None
        inside += found.lower <= law.coverage <= found.upper
        within += bounds.lowest <= of_these <= bounds.highest
        estimates.append(found.estimate)
    record_property("inside", inside / REPLAYS)
    assert within == REPLAYS
    assert inside >= binom(REPLAYS, 0.95).ppf(NOISE)
    spread = np.std(estimates) / np.sqrt(REPLAYS)
    assert abs(np.mean(estimates) - law.coverage) <= norm.isf(NOISE / 2) * spread + 0.005  # a ratio is biased by 1/n


def test_in_the_recipe_what_is_seen_is_wrong_and_the_weighted_estimate_is_not(rng: np.random.Generator) -> None:
    seen, weighted, told = [], [], 0
    for _ in range(200):
        cells, _ = RECIPE.draw(rng)
        observed, found = observed_coverage(cells, 1), inverse_chance_coverage(cells, 1)
        assert observed is not None
        assert found is not None
        seen.append(observed)
        weighted.append(found.estimate)
        told += return_test(cells, 1).p_value < 0.001 and abs(found.estimate - observed) > 0.02
    odds = 4 * RECIPE.coverage / (1 - RECIPE.coverage)
    assert np.mean(seen) == pytest.approx(odds / (1 + odds), abs=0.01)  # .89: within the band of a valid model
    assert np.mean(weighted) == pytest.approx(RECIPE.coverage, abs=0.01)
    assert told == 200


@pytest.mark.parametrize("returned", [0.95, 0.5, 0.05])
def test_where_return_does_not_depend_on_the_set_it_is_not_said_to(returned: float, rng: np.random.Generator) -> None:
    """The exact test errs less often than it says; the G-test a little more often where few outcomes are missing."""
    law = Law(holds=returned, lacks=returned)
    found = [return_test(law.draw(rng)[0], k).p_value for _ in range(REPLAYS) for k in (None, 1)]
    for level in (0.05, 0.001):
        for k in (0, 1):
            assert sum(p < level for p in found[k::2]) <= binom(REPLAYS, 1.3 * level).ppf(1 - NOISE)
