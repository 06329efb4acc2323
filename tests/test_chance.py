"""The seeds of statistical tests: the same numbers in every run, and others where they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from tests.chance import USUAL, other_seeds


def drawn(chance: str, seed: object) -> float:
    with other_seeds(chance):
        return float(np.random.default_rng(seed).random())  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0, 7, np.int64(7)])
def test_seeds_draw_other_numbers_where_asked_and_each_time_the_same(seed):
    usual, other = drawn(USUAL, seed), drawn("2", seed)
    assert usual == np.random.default_rng(seed).random()
    assert other == drawn("2", seed)
    assert len({usual, other, drawn("3", seed), drawn("2", int(seed) + 1)}) == 4


def test_a_generator_stays_itself():
    rng = np.random.default_rng(1)
    with other_seeds("2"):
        assert np.random.default_rng(rng) is rng
