from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction
from itertools import pairwise
from math import comb, exp, inf, log, nan

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ml_core.lab.watching import canary_guards as guards
from ml_core.lab.watching.canary_guards import judge_guard, log_evidence

# Rounding of sums of up to 1e9 terms: what is exact in theory is so to this share, or to this much near 0.
REL, ABS = 1e-12, 1e-9

limits = st.floats(1e-4, 0.999)
values = st.floats(0.0, 1.0)
histograms = st.dictionaries(values, st.integers(0, 1_000_000), max_size=6)
small_histograms = st.dictionaries(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(0, 12))


def plus(counts, value, times=1):
    """The counts after one value more."""
    return {**counts, value: counts.get(value, 0) + times}


def at_most(smaller, larger):
    return smaller <= larger + max(ABS, REL * abs(larger))


def wealth(counts, limit):
    """The e-value by definition, in exact arithmetic: one bet after the other, then the mean over the stakes."""
    m = Fraction(limit)
    total = Fraction(0)
    for share in guards._FRACTIONS:
        own = Fraction(1)
        for value, count in counts.items():
            own *= (1 + Fraction(share) / m * (Fraction(value) - m)) ** count
        total += own
    return total / len(guards._FRACTIONS)


# --- by hand ------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_stakes(monkeypatch):
    """Stakes 1 and 2 for the limit 0.25, in place of the grid."""
    monkeypatch.setattr(guards, "_FRACTIONS", np.array([0.25, 0.5]))


@pytest.mark.usefixtures("two_stakes")
@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({1: 1}, (1.75 + 2.5) / 2),  # 1 + 1 * 0.75, 1 + 2 * 0.75
        ({0: 1}, (0.75 + 0.5) / 2),  # 1 - 1 * 0.25, 1 - 2 * 0.25
        ({0.5: 1}, (1.25 + 1.5) / 2),
        ({0.25: 7}, 1.0),  # at the limit nothing is won or lost
        ({0: 1, 1: 1}, (0.75 * 1.75 + 0.5 * 2.5) / 2),
        ({0: 2, 0.5: 1, 1: 3}, (0.75**2 * 1.25 * 1.75**3 + 0.5**2 * 1.5 * 2.5**3) / 2),
    ],
)
def test_evidence_is_the_mean_of_the_bets_worked_out_by_hand(counts, expected):
    assert exp(log_evidence(counts, 0.25)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.25, 0.5, 0.9])
def test_one_value_moves_the_evidence_in_proportion_to_its_distance_from_the_limit(limit):
    # E = 1 + (mean share) (x / limit - 1) after one value, whatever the grid; so all values tell the same share.
    shares = [(exp(log_evidence({x: 1}, limit)) - 1) / (x / limit - 1) for x in (0.0, limit / 3, (1 + limit) / 2, 1.0)]

    assert shares == pytest.approx([shares[0]] * 4, rel=1e-9)
    assert 0 < shares[0] < 1


def test_the_grid_is_of_shares_that_can_neither_lose_all_nor_bet_against_the_canary():
    assert (guards._FRACTIONS > 0).all()
    assert (guards._FRACTIONS < 1).all()
    assert guards._FRACTIONS[0] <= 0.001
    assert guards._FRACTIONS[-1] >= 0.95
    assert max(b / a for a, b in pairwise(guards._FRACTIONS)) < 1.25


@pytest.mark.parametrize("counts", [{}, {0: 0}, {0.0: 0, 0.5: 0, 1.0: 0}])
def test_without_data_there_is_no_evidence(counts):
    assert log_evidence(counts, 0.05) == 0.0


@pytest.mark.parametrize("limit", [0.01, 0.02, 0.05, 0.25])
def test_all_values_1_give_nearly_the_most_there_can_be(limit):
    n = 20
    most = n * log(1 / limit)

    # One stake of 0.95 / limit or more is worth 1 / 40 of the mean at least.
    assert most - n * log(1 / 0.95) - log(40) <= log_evidence({1: n}, limit) < most


# --- properties ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(small_histograms, st.floats(0.01, 0.99))
def test_evidence_equals_the_product_of_the_bets_in_exact_arithmetic(counts, limit):
    exact = wealth(counts, limit)

    assert log_evidence(counts, limit) == pytest.approx(log(exact.numerator) - log(exact.denominator), abs=1e-9)


@given(histograms, limits)
def test_a_0_never_raises_the_evidence(counts, limit):
    assert at_most(log_evidence(plus(counts, 0.0), limit), log_evidence(counts, limit))


@given(histograms, limits)
def test_a_1_never_lowers_the_evidence(counts, limit):
    assert at_most(log_evidence(counts, limit), log_evidence(plus(counts, 1.0), limit))


@given(histograms, limits, values, values)
def test_evidence_grows_with_the_value(counts, limit, a, b):
    smaller, larger = sorted((a, b))

    assert at_most(log_evidence(plus(counts, smaller), limit), log_evidence(plus(counts, larger), limit))


@given(histograms, limits, limits)
def test_evidence_falls_as_the_limit_rises(counts, a, b):
    strict, lenient = sorted((a, b))

    assert at_most(log_evidence(counts, lenient), log_evidence(counts, strict))


@given(histograms, limits, st.randoms(use_true_random=False))
def test_only_counts_matter_not_their_order_nor_values_never_seen(counts, limit, random):
    shuffled = list(counts.items())
    random.shuffle(shuffled)
    unseen = {0.123: 0, 0.456: 0}

    assert log_evidence(unseen | dict(shuffled), limit) == pytest.approx(log_evidence(counts, limit), rel=REL, abs=ABS)


@given(histograms, limits, st.integers(0, 1_000_000))
def test_values_at_the_limit_change_nothing(counts, limit, times):
    assume(limit not in counts)

    assert log_evidence({**counts, limit: times}, limit) == pytest.approx(log_evidence(counts, limit), rel=REL, abs=ABS)


def expectation(counts, limit, law):
    """Expected e-value after one more value of this law, as a multiple of the present one."""
    now = log_evidence(counts, limit)
    return sum(p * exp(log_evidence(plus(counts, value), limit) - now) for value, p in law.items())


@given(histograms, limits, st.floats(0.0, 1.0))
def test_one_more_bernoulli_value_of_a_mean_within_the_limit_raises_no_expectation(counts, limit, share):
    p = share * limit

    assert expectation(counts, limit, {0.0: 1 - p, 1.0: p}) <= 1 + 1e-7


@given(histograms, limits)
def test_one_more_bernoulli_value_of_mean_limit_keeps_the_expectation(counts, limit):
    assert expectation(counts, limit, {0.0: 1 - limit, 1.0: limit}) == pytest.approx(1.0, abs=1e-7)


@given(histograms, limits, st.lists(st.tuples(values, st.floats(0.01, 1.0)), min_size=1, max_size=5))
def test_one_more_value_of_any_law_keeps_the_expectation_if_its_mean_is_the_limit(counts, limit, drawn):
    total = sum(weight for _, weight in drawn)
    law: dict[float, float] = {}
    for value, weight in drawn:
        law[value] = law.get(value, 0.0) + weight / total
    mean = sum(value * p for value, p in law.items())
    # A share of 0s or of 1s brings the mean to the limit.
    end, part = (0.0, 1 - limit / mean) if mean > limit else (1.0, (limit - mean) / (1 - mean))
    mixed = {value: (1 - part) * p for value, p in law.items()}
    mixed[end] = mixed.get(end, 0.0) + part

    assert expectation(counts, limit, mixed) == pytest.approx(1.0, abs=1e-7)


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 0.99))
def test_the_expected_e_value_of_any_number_of_values_is_1_at_the_limit(n, limit):
    expected = sum(
        comb(n, k) * limit**k * (1 - limit) ** (n - k) * exp(log_evidence({0: n - k, 1: k}, limit))
        for k in range(n + 1)
    )

    assert expected == pytest.approx(1.0, rel=1e-9)


# --- the ends of the range ----------------------------------------------------------------------------------------


@given(
    st.dictionaries(values, st.integers(0, 1_000_000_000), max_size=6),
    st.floats(0.0, 1.0, exclude_min=True, exclude_max=True),
)
@example({0.0: 3, 1.0: 1}, 5e-324)
@example({0.0: 10**9, 1.0: 10**9}, 0.5)
def test_evidence_is_never_nan_and_has_its_bound_for_any_limit_and_large_counts(counts, limit):
    evidence = log_evidence(counts, limit)

    assert evidence == inf or at_most(evidence, sum(counts.values()) * -log(limit))


@pytest.mark.parametrize(("share", "sign"), [(0.04, 1), (0.02, -1), (0.01, -1)])
def test_a_billion_values_are_summed_without_losing_the_answer(share, sign):
    ones = round(share * 1e9)
    evidence = log_evidence({0: 10**9 - ones, 1: ones}, 0.02)

    # Within the best stake of the grid and its fortieth part.
    best = max(ones * np.log1p(f * (1 / 0.02 - 1)) + (10**9 - ones) * np.log1p(-f) for f in guards._FRACTIONS.tolist())
    assert best - log(40) - 1e-3 <= evidence <= best + 1e-3
    assert evidence * sign > 0


# --- the verdict --------------------------------------------------------------------------------------------------


def test_verdict_carries_what_it_was_judged_on():
    verdict = judge_guard("errors", {0: 30, 1: 10}, 0.05, false_alarm=0.01, minimum=20)

    assert (verdict.guard, verdict.limit, verdict.observations) == ("errors", 0.05, 40)
    assert verdict.observed == 0.25
    assert verdict.log_evidence == log_evidence({0: 30, 1: 10}, 0.05)
    assert verdict.needed == pytest.approx(4.605170186)  # log 100
    assert verdict.tripped
    with pytest.raises(FrozenInstanceError):
        verdict.tripped = False


def test_verdict_without_data_observes_nothing_and_does_not_trip():
    verdict = judge_guard("errors", {0: 0}, 0.05, false_alarm=0.01, minimum=0)

    assert (verdict.observed, verdict.observations, verdict.log_evidence) == (None, 0, 0.0)
    assert not verdict.tripped


def test_observed_set_size_is_the_mean_share():
    assert judge_guard("set size", {0.0: 1, 0.5: 2, 1.0: 1}, 0.6, false_alarm=0.01, minimum=0).observed == 0.5


@pytest.mark.parametrize(("minimum", "tripped"), [(0, True), (29, True), (30, True), (31, False)])
def test_nothing_trips_before_the_minimum(minimum, tripped):
    assert judge_guard("errors", {1: 30}, 0.05, false_alarm=0.01, minimum=minimum).tripped is tripped


@pytest.mark.usefixtures("two_stakes")
def test_trips_from_the_evidence_needed_on():
    # Three values of 1: (1.75 ** 3 + 2.5 ** 3) / 2 = 10.4921875.
    def tripped(false_alarm):
        return judge_guard("errors", {1: 3}, 0.25, false_alarm=false_alarm, minimum=0).tripped

    assert tripped(1 / 10.4921)
    assert not tripped(1 / 10.4922)


@pytest.mark.parametrize(("short_by", "tripped"), [(0.0, True), (1e-12, False)])
def test_evidence_of_just_what_is_needed_trips(monkeypatch, short_by, tripped):
    monkeypatch.setattr(guards, "log_evidence", lambda counts, limit: -log(0.01) - short_by)

    assert judge_guard("errors", {1: 3}, 0.25, false_alarm=0.01, minimum=0).tripped is tripped


@given(histograms, limits, st.floats(1e-6, 0.5), st.integers(0, 1_000))
def test_trips_exactly_with_enough_observations_and_enough_evidence(counts, limit, false_alarm, minimum):
    verdict = judge_guard("errors", counts, limit, false_alarm=false_alarm, minimum=minimum)

    assert verdict.tripped == (sum(counts.values()) >= minimum and log_evidence(counts, limit) >= verdict.needed)
    assert verdict.needed > 0


@given(st.integers(0, 100_000), st.integers(0, 100_000), limits)
def test_nothing_trips_where_the_observed_mean_is_within_the_limit(zeros, ones, limit):
    # The geometric mean of the factors 1 + stake (x - limit) is at most their mean, 1 + stake (observed - limit).
    assume(ones <= limit * (zeros + ones))

    assert log_evidence({0: zeros, 1: ones}, limit) <= ABS


# --- input that makes no sense ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.0, 1.0, -0.1, 1.5, nan, inf])
@pytest.mark.parametrize("counts", [{}, {0: 1, 1: 1}])
def test_a_limit_that_cannot_be_judged_is_refused(limit, counts):
    with pytest.raises(ValueError, match="limit"):
        log_evidence(counts, limit)


@pytest.mark.parametrize("value", [-0.01, 1.01, 2, nan, inf])
@pytest.mark.parametrize("count", [0, 1])
def test_values_outside_0_and_1_are_refused(value, count):
    with pytest.raises(ValueError, match="value"):
        log_evidence({0: 5, value: count}, 0.05)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="-1 observations"):
        log_evidence({0: 5, 1: -1}, 0.05)


@pytest.mark.parametrize("false_alarm", [0.0, 1.0, -0.1, 2.0, nan])
def test_a_false_alarm_probability_that_is_none_is_refused(false_alarm):
    with pytest.raises(ValueError, match="false alarm"):
        judge_guard("errors", {}, 0.05, false_alarm=false_alarm, minimum=0)


def test_a_negative_minimum_is_refused():
    with pytest.raises(ValueError, match="minimum"):
        judge_guard("errors", {}, 0.05, false_alarm=0.01, minimum=-1)


def test_verdict_refuses_what_the_evidence_refuses():
    with pytest.raises(ValueError, match="limit"):
        judge_guard("errors", {0: 1}, 1.0, false_alarm=0.01, minimum=0)
