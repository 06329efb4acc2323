from __future__ import annotations

import pytest

from ml_core.lab.report.facts import AnswerBucket, AnswerHistory, LevelShares, NumberShares, ShadowPair
from tests.lab.report.example_facts import NOW


@pytest.mark.parametrize(
    ("edges", "reference", "current"),
    [
        ((0.0, 1.0), (0.5, 0.5), (0.5, 0.5)),
        ((0.0, 1.0, 2.0), (0.5, 0.5), (1.0,)),
        ((0.0, 0.0, 1.0), (0.5, 0.5), (0.5, 0.5)),
        ((0.0, float("inf")), (1.0,), (1.0,)),
        ((0.0, float("nan"), 1.0), (0.5, 0.5), (0.5, 0.5)),
        ((0.0,), (), ()),
    ],
)
def test_bins_that_are_none_are_refused(edges, reference, current):
    with pytest.raises(ValueError, match="edges"):
        NumberShares(edges, reference, current)


def test_histogram_of_differences_is_checked_as_well():
    with pytest.raises(ValueError, match="edges"):
        ShadowPair("a", "b", scored=1, agreed=1, same_set=1, edges=(0.0, 1.0), counts=(1, 2))


def test_levels_without_a_share_are_refused():
    with pytest.raises(ValueError, match="levels and shares"):
        LevelShares(("a", "b"), (1.0,), (1.0, 0.0))


@pytest.mark.parametrize("quantiles", [(0.25, 0.75), (0.5, 0.25, 0.75), (0.5, 0.5, 0.5), ()])
def test_quantiles_without_a_middle_or_order_are_refused(quantiles):
    with pytest.raises(ValueError, match="quantiles"):
        AnswerHistory("P(1)", quantiles, ())


def test_bucket_with_other_quantiles_than_its_history_is_refused():
    with pytest.raises(ValueError, match="2 quantiles of a bucket, expected 1"):
        AnswerHistory("P(1)", (0.5,), (AnswerBucket(NOW, 1, quantiles=(0.1, 0.2)),))
