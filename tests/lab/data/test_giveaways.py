"""A column that gives the label away is found; one that only names rows, or is good, is not."""

import numpy as np
import pytest

from ml_core.lab.data.giveaways import GIVES_AWAY, Readings, giveaways

RNG = np.random.default_rng(11)
N = 2_000


def coded(values):
    distinct, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64), distinct


def number(name, values):
    return Readings(name, coded(values)[0], np.asarray(values, dtype=np.float64))


@pytest.fixture(scope="module")
def y():
    return RNG.integers(0, 3, N)


def test_a_copy_of_the_label_tells_every_class(y):
    (found,) = giveaways([Readings("copy", y.astype(np.int64))], y, 3)
    assert found.every_class
    assert set(found.auc) == {0, 1, 2}
    assert min(found.auc.values()) == 1.0


def test_a_number_written_down_afterwards_tells_whatever_its_order(y):
    shuffled = np.array([2.0, 0.0, 1.0])[y] + RNG.normal(0, 0.05, N)  # the middle class is no end of the order
    (found,) = giveaways([number("after", shuffled)], y, 3)
    assert found.every_class


def test_one_class_told_is_not_every_class(y):
    (found,) = giveaways([number("part", np.where(y == 2, 9.0, RNG.normal(0, 1, N)))], y, 3)
    assert (list(found.auc), found.every_class) == ([2], False)


def test_names_noise_and_good_columns_tell_nothing(y):
    columns = [
        Readings("name", np.arange(N)),
        number("noise", RNG.normal(size=N)),
        number("good", y + RNG.normal(0, 1, N)),
        Readings("nothing", np.full(N, -1)),
    ]
    assert giveaways(columns, y, 3) == ()


def test_being_empty_can_give_the_label_away(y):
    values = np.where(y == 1, np.nan, RNG.normal(size=N))
    codes = np.full(N, -1, dtype=np.int64)
    known = ~np.isnan(values)
    codes[known] = coded(values[known])[0]
    (found,) = giveaways([Readings("gap", codes, values)], y, 3)
    assert list(found.auc) == [1]


def test_the_limit_is_where_the_area_says():
    """Two normal classes whose distance gives an area of .97 are no giveaway, and one of .99 is."""
    from scipy.stats import norm

    y = np.tile([0, 1], 20_000)
    for area, expected in ((0.97, 0), (0.99, 1)):
        distance = norm.ppf(area) * np.sqrt(2)
        values = RNG.normal(size=y.size) + distance * y
        assert len(giveaways([number("x", values)], y, 2)) == expected
    assert 0.97 < GIVES_AWAY < 0.99
