"""What so many rows can promise: shares, level, classes left out, and what the gate notices."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.errors import DataError
from ml_core.lab.journeys.project_sizes import choose_sizes
from ml_core.lab.measuring.calibration import needed_rows
from ml_core.lab.training.labelled_rows import split_of


def chosen(*counts, level=None):
    y = np.repeat(np.arange(len(counts)), counts)
    return choose_sizes(
        np.random.default_rng(1).permutation(y), np.arange(y.size), [f"k{k}" for k in range(len(counts))], level
    )


@given(counts=st.lists(st.integers(40, 900), min_size=2, max_size=5))
def test_whatever_the_classes_every_promise_can_be_kept(counts):
    sizes = chosen(*counts)
    assert sum(sizes.parts.values()) == sum(one.rows for one in sizes.classes)
    for one in sizes.classes:
        assert one.calibration >= needed_rows(sizes.level)
        assert one.test >= sizes.min_positives
        assert 0 <= one.likely_from < one.likely_to <= 1
        assert one.noticed <= float(sizes.level)
    assert Decimal("0.80") <= sizes.level <= Decimal("0.90")
    assert sizes.floor == sizes.level - Decimal("0.02")


def test_plenty_of_rows_train_more_and_ask_for_a_hundred():
    sizes = chosen(5_000, 600)
    assert (sizes.split.train, sizes.min_positives, sizes.level) == (0.5, 100, Decimal("0.90"))


def test_the_sizes_are_those_of_the_split():
    y, groups = np.tile([0, 1], 300), np.arange(600) // 3
    sizes = choose_sizes(y, groups, ["a", "b"])
    parts = split_of(groups, sizes.split)
    assert [one.calibration for one in sizes.classes] == np.bincount(y[parts == "calibration"]).tolist()


def test_the_rarest_classes_are_left_out_first():
    assert [label for label, _ in chosen(400, 300, 3, 8).left_out] == ["k2", "k3"]


def test_a_wanted_level_is_kept_or_refused():
    assert chosen(500, 500, level=Decimal("0.95")).level == Decimal("0.95")
    with pytest.raises(
        DataError, match=r"a promise of 0\.99 needs 99, which takes about 594 rows of each class: add rows"
    ):
        chosen(300, 200, level=Decimal("0.99"))
    with pytest.raises(DataError, match="add rows"):
        chosen(300, 4)


def test_rows_without_a_label_count_nowhere():
    y = np.concatenate([np.full(100, -1), np.tile([0, 1], 200)])
    assert sum(one.rows for one in choose_sizes(y, np.arange(y.size), ["a", "b"]).classes) == 400
