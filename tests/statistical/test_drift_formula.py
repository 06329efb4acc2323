"""The rule ks_mean_shift is its formula: on a hundred thousand windows, ties and holes among them."""

from __future__ import annotations

import pytest

from tests.lab.drift.test_detect import agreeing, random_cases

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:ks_2samp")]


@pytest.mark.parametrize(("seed", "cases"), [(seed, 10_000) for seed in range(100, 110)])
def test_decisions_are_the_formulas(seed, cases):
    same, drifted = agreeing(random_cases(cases, seed, largest=120))
    assert same
    assert 0.05 < drifted / cases < 0.9  # the cases decide something
