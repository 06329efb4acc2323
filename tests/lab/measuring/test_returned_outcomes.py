"""What missing outcomes leave open: bounds that always hold, a test of the gaps, and a weighted estimate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from ml_core.lab.measuring.returned_outcomes import (
    OutcomeCell,
    coverage_bounds,
    inverse_chance_coverage,
    observed_coverage,
    return_test,
)

CLASSES = 3
SETS = [(), (0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)]
ANSWER = st.tuples(st.sampled_from(SETS), st.integers(0, 2), st.integers(0, 2), st.booleans())
"""Set, predicted class, outcome, and whether the outcome returns."""


def cells_of(answers: list[tuple[tuple[int, ...], int, int, bool]]) -> list[OutcomeCell]:
    found: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for members, prediction, outcome, returned in answers:
        found.setdefault((members, prediction), [0] * (CLASSES + 1))[outcome if returned else CLASSES] += 1
    return [OutcomeCell(s, p, tuple(n[:CLASSES]), n[CLASSES]) for (s, p), n in found.items()]


def two(holds: tuple[int, int, int], lacks: tuple[int, int, int]) -> list[OutcomeCell]:
    """Two classes: outcomes 0 and 1, and missing ones, of answers whose set is {1}, and whose set is {0}."""
    return [OutcomeCell((1,), 1, holds[:2], holds[2]), OutcomeCell((0,), 0, lacks[:2], lacks[2])]


# --- bounds -------------------------------------------------------------------------------------------------------


@given(st.lists(ANSWER, max_size=40), st.sampled_from([None, 0, 1, 2]))
def test_true_coverage_lies_within_the_bounds_whatever_the_missing_outcomes_are(answers, k):
    of_class = [(k is None or outcome == k, outcome in members) for members, _, outcome, _ in answers]
    hits = [covered for is_counted, covered in of_class if is_counted]
    bounds = coverage_bounds(cells_of(answers), k)
    if hits:
        assert bounds is not None
        assert bounds.lowest <= sum(hits) / len(hits) <= bounds.highest


@given(st.lists(ANSWER, min_size=1, max_size=40), st.sampled_from([0, 1, 2]))
def test_both_bounds_are_reached_by_some_outcomes(answers, k):
    """Missing outcomes outside the set are all of the class in the worst case, those inside in the best."""
    bounds = coverage_bounds(cells_of(answers), k)
    other = (k + 1) % CLASSES

    def reached(counts_if_inside: bool) -> float | None:
        made = [(s, p, o if back else k if (k in s) == counts_if_inside else other, True) for s, p, o, back in answers]
        return observed_coverage(cells_of(made), k)

    for shown, inside in ((False, "lowest"), (True, "highest")):
        found = reached(shown)
        if found is not None:
            assert bounds is not None
            assert found == pytest.approx(getattr(bounds, inside))


@given(st.lists(ANSWER, max_size=40), st.sampled_from([None, 0, 1, 2]))
def test_without_missing_outcomes_nothing_is_open(answers, k):
    cells = cells_of([(*answer[:3], True) for answer in answers])
    observed, bounds, weighted = (
        observed_coverage(cells, k),
        coverage_bounds(cells, k),
        inverse_chance_coverage(cells, k),
    )
    assert (observed is None) == (bounds is None)
    if observed is not None:
        assert bounds is not None
        assert bounds.lowest == bounds.highest == observed
        assert weighted is not None
        assert weighted.estimate == pytest.approx(observed)
        assert weighted.lower <= observed <= weighted.upper


def test_an_outcome_that_is_no_class_is_returned_and_counts_for_none():
    cells = [OutcomeCell((1,), 1, (0, 3), 1, other=4)]
    assert (cells[0].due, cells[0].came, observed_coverage(cells, 1)) == (8, 7, 1.0)
    assert coverage_bounds(cells, 1) is not None


# --- the test -----------------------------------------------------------------------------------------------------


def test_return_that_depends_on_the_set_is_found_and_told_in_shares():
    found = return_test(two((10, 70, 20), (15, 5, 80)), 1)
    assert (found.inside, found.outside) == (0.8, 0.2)
    assert found.p_value < 1e-9


def test_return_that_differs_only_among_the_sets_that_hold_the_class_is_found_too():
    cells = [
        OutcomeCell((1,), 1, (10, 70), 20),
        OutcomeCell((0, 1), 1, (10, 10), 80),
        OutcomeCell((0,), 0, (45, 5), 50),
    ]
    found = return_test(cells, 1)
    assert found.inside == found.outside == 0.5
    assert found.p_value < 1e-9


@pytest.mark.parametrize(
    "cells",
    [[], two((0, 0, 50), (0, 0, 50)), two((5, 45, 0), (45, 5, 0)), two((5, 5, 10), (0, 0, 0))],
    ids=["no answer", "none returned", "all returned", "one set"],
)
@pytest.mark.parametrize("k", [None, 1])
def test_where_there_is_nothing_to_compare_nothing_is_found(cells, k):
    assert return_test(cells, k).p_value == 1.0


def test_rare_sets_are_tested_together_with_the_next_one_if_need_be():
    rare = [OutcomeCell((k,), k, (2, 0, 0), 0) for k in range(3)]
    full, empty = OutcomeCell((0, 1, 2), 0, (10, 10, 10), 30), OutcomeCell((), 0, (0, 0, 0), 40)
    assert return_test([*rare, full], None).p_value == 1.0  # nothing else is left
    found = return_test([*rare, full, empty], None)
    assert found.p_value == chi2_contingency([[6, 40], [30, 30]], correction=False, lambda_="log-likelihood").pvalue
    assert (found.inside, found.outside) == (30 / 60, 6 / 46)


# --- the estimate -------------------------------------------------------------------------------------------------


def test_each_returned_outcome_stands_for_the_missing_ones_of_its_cell():
    """Of class 1: 70 x 100/80 covered, and 5 x 100/20 missed."""
    cells = two((10, 70, 20), (15, 5, 80))
    found = inverse_chance_coverage(cells, 1)
    assert found is not None
    assert found.estimate == pytest.approx(87.5 / (87.5 + 25))
    assert found.lower < found.estimate < found.upper < (observed_coverage(cells, 1) or 0.0)
    assert found.rows == 75


def test_repeated_patients_widen_the_interval():
    cells = two((10, 70, 20), (15, 5, 80))
    once, repeated = inverse_chance_coverage(cells, 1), inverse_chance_coverage(cells, 1, effect=2.0)
    assert once is not None
    assert repeated is not None
    assert repeated.estimate == once.estimate
    assert repeated.lower < once.lower < once.upper < repeated.upper


@pytest.mark.parametrize(
    "cells", [[], two((10, 70, 20), (0, 0, 80)), two((50, 0, 0), (50, 0, 0))], ids=["no answer", "a side", "no outcome"]
)
def test_no_estimate_is_made_where_nothing_stands_for_the_missing(cells):
    assert inverse_chance_coverage(cells, 1) is None


def test_a_cell_with_few_outcomes_borrows_from_its_side():
    cells = [OutcomeCell((1,), 1, (0, 20), 20), OutcomeCell((0, 1), 0, (0, 0), 2), OutcomeCell((0,), 0, (9, 1), 10)]
    found = inverse_chance_coverage(cells, 1)
    assert found is not None
    assert found.estimate == pytest.approx(42 / (42 + 2))
