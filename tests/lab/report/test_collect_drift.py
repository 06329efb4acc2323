from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.lab.drift.drift_columns import Feature
from ml_core.lab.drift.reference_window import CategoryReference, NumberReference
from ml_core.lab.report.collect_drift import level_shares, number_shares, score_shares

VALUES = st.lists(st.floats(allow_infinity=True, width=64), max_size=60)


def reference(values) -> NumberReference:
    return NumberReference.of(np.asarray(values, dtype=np.float64))


def wards(counts, rest=None) -> CategoryReference:
    names = tuple(f"ward {k}" for k in range(len(counts)))
    feature = Feature("ward", "category", names, tabled=True)
    rows = sum(counts) + (rest or 0)
    return CategoryReference(feature, names, np.array(counts, dtype=np.int64), rest, rows)


@given(VALUES, VALUES, st.booleans())
def test_any_numbers_give_sound_bins_or_none(before, now, whole):
    found = number_shares(reference(before), np.array(now, dtype=np.float64), whole=whole)
    if found is None:
        return
    for side, values in ((found.reference, before), (found.current, now)):
        assert all(share >= 0.0 for share in side)
        assert sum(side) <= 1.0 + 1e-9
        held = [v for v in values if found.edges[0] <= v <= found.edges[-1]]
        present = [v for v in values if np.isfinite(v)]
        assert sum(side) == pytest.approx(len(held) / max(1, len(present)))


def test_bins_of_whole_numbers_hold_as_many_of_them_each():
    ages = np.arange(18.0, 97.0)
    found = number_shares(reference(ages), ages, whole=True)
    assert len({edge % 1 for edge in found.edges}) == 1
    assert np.ptp(found.current[:-1]) == pytest.approx(0.0)  # all but the last bin hold four ages


def test_a_shift_is_in_the_picture_and_a_few_far_values_are_not():
    rng = np.random.default_rng(0)
    before, shifted = rng.normal(100, 10, 5_000), rng.normal(180, 10, 1_000)
    found = number_shares(reference(before), np.append(shifted, [99_999.0] * 5), whole=False)
    assert 190.0 < found.edges[-1] < 250.0
    assert sum(found.current) == pytest.approx(0.97, abs=0.02)


def test_a_reference_that_is_not_published_has_no_picture():
    assert number_shares(reference([np.nan]), np.array([1.0]), whole=False) is None
    assert score_shares(reference([]), np.array([0.5])) is None


def test_numbers_too_large_for_a_picture_have_none():
    assert number_shares(reference([-1.7e308, 1.7e308]), np.array([1.0]), whole=False) is None


def test_scores_have_bins_over_all_of_their_range():
    found = score_shares(reference([0.1, 0.2]), np.array([0.95, 1.0]))
    assert (found.edges[0], found.edges[-1]) == (0.0, 1.0)
    assert (sum(found.reference), found.current[-2] + found.current[-1]) == (1.0, 1.0)


def test_levels_are_told_by_frequency_on_either_side():
    found = level_shares(wards([10, 60, 30]), np.array([0] * 9 + [2] + [-1] * 5))
    assert found.levels == ("ward 0", "ward 1", "ward 2")
    assert found.reference == (0.1, 0.6, 0.3)
    assert found.current == (0.9, 0.0, 0.1)


def test_rare_levels_and_those_not_listed_are_put_together():
    found = level_shares(wards([20] + [4] * 19, rest=4), np.array([0] * 8 + [19, 99]))
    assert (len(found.levels), found.levels[-1]) == (13, "all others")
    assert sum(found.reference) == pytest.approx(1.0)
    assert sum(found.current) == pytest.approx(1.0)
    assert found.current[-1] == pytest.approx(0.1)  # the one that is not listed; ward 19 is among the twelve


def test_levels_without_any_row_give_an_empty_picture():
    found = level_shares(wards([0, 0]), np.array([-1, -1]))
    assert (found.levels, found.reference, found.current) == ((), (), ())
