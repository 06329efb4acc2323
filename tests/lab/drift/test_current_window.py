"""A window in which patients repeat is tested as the independent rows it is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.lab.drift.current_window import independent_share, summarised, thinned
from ml_core.lab.drift.detect import judged
from ml_core.lab.drift.drift_rules import Limits
from ml_core.lab.drift.reference_window import ReferenceWindow
from tests.lab.drift.windows import COLUMNS, arrays, published

PEOPLE = st.lists(st.one_of(st.none(), st.integers(0, 8)), min_size=1, max_size=60)


@given(PEOPLE)
def test_rows_are_worth_at_most_what_they_are_and_at_least_one_row(people):
    share = independent_share(people)
    assert 1.0 - 1e-9 <= share * len(people) <= len(people) + 1e-9
    if None not in people and len(set(people)) == len(people):
        assert share == pytest.approx(1.0)


@given(PEOPLE, PEOPLE)
def test_repeats_of_the_reference_make_the_rows_worth_less_and_never_more(people, reference):
    assert 0.0 < independent_share(people, reference) <= independent_share(people) + 1e-12
    assert independent_share(people, list(range(50))) == pytest.approx(independent_share(people))


@pytest.mark.parametrize("rule", ["ks_mean_shift", "extended"])
@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_rows_that_stand_twice_tell_as_much_as_once(rule, shift):
    window = ReferenceWindow.read(published(5_000), COLUMNS)
    once = arrays(400, 7)
    once["age"] = once["age"] + shift
    twice = {name: np.repeat(cells, 2) for name, cells in once.items()}
    alone, doubled = (summarised(window, rows, extended=rule == "extended") for rows in (once, twice))
    for one, two in zip(
        judged(window, alone, Limits(), rule), judged(window, doubled, Limits(), rule, share=0.5), strict=True
    ):
        assert (one.drifted, one.n_current) == (two.drifted, pytest.approx(two.n_current, abs=1))
        assert two.current_mean == pytest.approx(one.current_mean, nan_ok=True)
        assert two.missing_current == pytest.approx(one.missing_current, abs=0.005)
        for before, after in zip(one.findings, two.findings, strict=True):
            assert np.log(after.p_value + 1e-12) == pytest.approx(np.log(before.p_value + 1e-12), abs=0.3)


def test_a_share_of_one_changes_nothing():
    window = ReferenceWindow.read(published(1_000), COLUMNS)
    for name, column in summarised(window, arrays(300, 8), extended=True).items():
        assert thinned(window.columns[name], column, 1.0) is column


def test_odd_columns_are_thinned_without_a_fault():
    reference = {"empty": np.full(100, np.nan), "when": np.zeros(100, dtype="datetime64[D]"), "x": np.arange(100.0)}
    window = ReferenceWindow.of(reference, list(reference))
    now = {**reference, "x": np.where(np.arange(100) % 2, np.inf, 1.0)}
    for name, column in summarised(window, now, extended=True).items():
        found = thinned(window.columns[name], column, 0.1)
        assert (found.rows, found.count + found.missing <= 10) == (10, True)
