"""What the documents say of the law of coverage is that law."""

from __future__ import annotations

import re
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, betabinom

DOCS = Path(__file__).resolve().parents[1] / "docs"
CONCEPTS = (DOCS / "concepts.md").read_text()
ROWS = [
    [float(cell.replace(",", "")) for cell in line.strip("| ").split(" | ")]
    for line in CONCEPTS.splitlines()
    if re.match(r"\| [\d,]+ \| 0\.", line)
]


def test_table_of_the_spread_was_found() -> None:
    assert [int(n) for n, *_ in ROWS] == [200, 500, 1_000, 2_000, 5_000]


@pytest.mark.parametrize(("n", "sd", "one_in_twenty", "one_in_a_hundred"), ROWS)
def test_spread_of_coverage_is_that_of_the_beta_law(
    n: float, sd: float, one_in_twenty: float, one_in_a_hundred: float
) -> None:
    k = ceil((n + 1) * 9 / 10)
    law = beta(k, n + 1 - k)
    assert law.std() == pytest.approx(sd, rel=0.04)  # two digits are shown
    assert law.ppf([0.05, 0.01]) == pytest.approx([one_in_twenty, one_in_a_hundred], abs=6e-4)


@pytest.mark.parametrize(("n", "share"), [(200, 57), (5_000, 51)])
def test_sound_model_is_seen_to_keep_its_level_little_more_than_half_of_the_time(n: int, share: int) -> None:
    k = ceil((n + 1) * 9 / 10)
    assert round(100 * betabinom(n, k, n + 1 - k).sf(ceil(0.9 * n) - 1)) == share
    assert f"{share} %" in CONCEPTS


def test_rule_with_a_fixed_level_accuses_nearly_every_sound_model() -> None:
    streams, labels, window, every = 2_000, 3_000, 200, 50
    missed = np.random.default_rng(20_140).random((streams, labels)) < 0.1
    sums = np.concatenate([np.zeros((streams, 1)), missed.cumsum(axis=1)], axis=1)
    looks = np.arange(window, labels + 1, every)
    accused = (sums[:, looks] - sums[:, looks - window] > 0.12 * window).any(axis=1)
    told = re.search(r"in (\d+) of 100 streams", (DOCS / "decisions" / "alarms-that-keep-their-word.md").read_text())
    assert told is not None
    assert 100 * accused.mean() == pytest.approx(float(told[1]), abs=1.5)  # four standard errors
