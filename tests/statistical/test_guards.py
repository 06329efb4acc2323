"""How often the guards trip without cause, and how soon with one, when somebody looks after every observation."""

from __future__ import annotations

from math import ceil, log, sqrt

import numpy as np
import pytest
from scipy.stats import binom, norm

from ml_core.lab.watching.canary_guards import _log_mixture, judge_guard, log_evidence

pytestmark = pytest.mark.slow

STREAMS = 2_000
NOISE = 1e-6  # chance that a limit of this file fails without cause


def bernoulli(p):
    return {0.0: 1 - p, 1.0: p}


def drawn(law, n, seed):
    """Index of the value (in the order of the law) of each of n observations, shape (STREAMS, n)."""
    steps = np.cumsum(list(law.values()))[:-1]
    return np.searchsorted(steps, np.random.default_rng(seed).random((STREAMS, n)), side="right").astype(np.int8)


def drawn_in_turns(laws, n, seed):
    """The same where the law of each observation hangs on the one before it: ``laws[v]`` follows the v-th value."""
    steps = np.array([np.cumsum(list(law.values()))[:-1] for law in laws])
    uniform = np.random.default_rng(seed).random((n, STREAMS))
    index = np.zeros((n, STREAMS), dtype=np.int8)
    for i in range(n):
        index[i] = (uniform[i][:, None] >= steps[index[i - 1]]).sum(axis=1)
    return index.T


def first_trips(values, index, limit, false_alarm):
    """Observations each stream had when it tripped, looking after every one; n + 1 where it never did.

    A value raises the evidence by log(1 / limit) at most. So after a look with less than is needed, some looks that
    cannot trip are left out, and the outcome stays that of all looks.
    """
    n, needed = index.shape[1], -log(false_alarm)
    counts = np.stack([np.cumsum(index == v, axis=1, dtype=np.int32) for v in range(len(values))], axis=-1)
    trips, at, left = np.full(STREAMS, n + 1), np.ones(STREAMS, dtype=np.int64), np.arange(STREAMS)
    while left.size:
        evidence = _log_mixture(np.array(values), counts[left, at[left] - 1].astype(np.float64), limit)
        assert not np.isnan(evidence).any()
        trips[left[evidence >= needed]] = at[left[evidence >= needed]]
        at[left] += np.maximum(1, np.ceil((needed - evidence) / -log(limit) - 1e-9)).astype(np.int64)
        left = left[(evidence < needed) & (at[left] <= n)]
    return trips


def fewest_ones_to_trip(limit, false_alarm, n):
    """Smallest number of 1s among 0 .. n Bernoulli values that trips; a 0 never helps, so it only rises with n."""
    fewest = np.zeros(n + 1, dtype=np.int64)
    ones = 0
    for i in range(n + 1):
        while (
            ones <= i
            and not judge_guard("g", {0: i - ones, 1: ones}, limit, false_alarm=false_alarm, minimum=0).tripped
        ):
            ones += 1
        fewest[i] = ones
    return fewest


def chance_to_trip(fewest, p):
    """Exact chance that a Bernoulli(p) stream trips by its 0th .. n-th value: the law of its 1s, step by step."""
    alive = np.zeros(fewest.max() + 2)
    alive[0] = 1.0
    chance = np.zeros(fewest.size)
    for i in range(1, fewest.size):
        alive[1:] = alive[1:] * (1 - p) + alive[:-1] * p
        alive[0] *= 1 - p
        chance[i] = chance[i - 1] + alive[fewest[i] :].sum()
        alive[fewest[i] :] = 0.0
    return chance


def most_by_chance(rate):
    return int(binom(STREAMS, rate).ppf(1 - NOISE))


def least_by_chance(rate):
    return int(binom(STREAMS, rate).ppf(NOISE))


def test_the_vectorised_evidence_is_that_of_the_public_function():
    values = (0.0, 0.5, 1.0)
    counts = np.random.default_rng(0).integers(0, 5_000, (50, 3))

    together = _log_mixture(np.array(values), counts.astype(np.float64), 0.6)

    alone = [log_evidence(dict(zip(values, row.tolist(), strict=True)), 0.6) for row in counts]
    assert together == pytest.approx(alone, rel=1e-12)


# --- without cause ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.25])
def test_a_canary_at_the_limit_trips_no_more_often_than_stated(limit):
    n, false_alarm = 5_000, 0.01

    tripped = (first_trips((0.0, 1.0), drawn(bernoulli(limit), n, seed=11), limit, false_alarm) <= n).sum()
    exact = chance_to_trip(fewest_ones_to_trip(limit, false_alarm, n), limit)[-1]

    assert tripped <= most_by_chance(false_alarm)
    assert least_by_chance(exact) <= tripped <= most_by_chance(exact)


@pytest.mark.parametrize("false_alarm", [0.0025, 0.01, 0.05, 0.2])
@pytest.mark.parametrize("limit", [0.001, 0.02, 0.05, 0.25, 0.8])
def test_the_exact_chance_of_a_false_alarm_is_within_what_is_stated(limit, false_alarm):
    chance = chance_to_trip(fewest_ones_to_trip(limit, false_alarm, 5_000), limit)

    assert chance[-1] <= false_alarm
    assert (np.diff(chance) >= 0).all()


# Set sizes of 2 labels, as shares: empty, one label, both.
@pytest.mark.parametrize(
    ("limit", "law"),
    [
        (0.55, {0.0: 0.05, 0.5: 0.80, 1.0: 0.15}),
        (0.25, {0.0: 0.55, 0.5: 0.40, 1.0: 0.05}),
        (0.75, {0.0: 0.00, 0.5: 0.50, 1.0: 0.50}),
    ],
)
def test_set_sizes_of_mean_limit_trip_no_more_often_than_stated(limit, law):
    n, false_alarm = 5_000, 0.01
    assert sum(value * p for value, p in law.items()) == pytest.approx(limit, rel=1e-12)

    trips = first_trips(tuple(law), drawn(law, n, seed=13), limit, false_alarm)

    assert (trips <= n).sum() <= most_by_chance(false_alarm)


def test_values_that_hang_on_the_one_before_trip_no_more_often_than_stated_if_each_mean_is_the_limit():
    n, false_alarm, limit = 5_000, 0.01, 0.25
    wide, narrow = {0.0: 0.75, 0.5: 0.0, 1.0: 0.25}, {0.0: 0.5, 0.5: 0.5, 1.0: 0.0}

    trips = first_trips((0.0, 0.5, 1.0), drawn_in_turns([narrow, wide, wide], n, seed=14), limit, false_alarm)

    assert (trips <= n).sum() <= most_by_chance(false_alarm)


# --- with cause ---------------------------------------------------------------------------------------------------


def best_bet(limit, law):
    """Mean and standard deviation, per value, of the log-wealth of the stake that grows fastest under the law."""
    shares = np.linspace(0.0005, 0.9995, 2_000)
    values, p = np.array(list(law)), np.array(list(law.values()))
    logs = np.log1p(np.outer(shares, values / limit - 1.0))
    growth = logs @ p
    best = int(growth.argmax())
    return float(growth[best]), sqrt(max(0.0, float(logs[best] ** 2 @ p) - float(growth[best]) ** 2))


def enough_observations(growth, spread, needed):
    """Observations after which 95 in 100 streams must have tripped.

    The best of 40 stakes has to win ``needed`` and 40 times more, with its sum of n log-wealths 1.645 standard
    deviations below n times the mean. Solved for sqrt(n).
    """
    z = float(norm.ppf(0.95))
    return ceil(((z * spread + sqrt((z * spread) ** 2 + 4 * growth * (needed + log(40)))) / (2 * growth)) ** 2)


CAUSES = [
    (0.02, bernoulli(0.09), 0.01),
    (0.05, bernoulli(0.15), 0.01),
    (0.25, bernoulli(0.55), 0.01),
    (0.02, bernoulli(0.04), 0.01),
    (0.02, bernoulli(0.10), 0.0025),
    (0.05, bernoulli(0.20), 0.0025),
    (0.05, bernoulli(1.00), 0.0025),
    (0.55, {0.0: 0.02, 0.5: 0.68, 1.0: 0.30}, 0.01),  # mean 0.64
    (0.60, {0.0: 0.00, 0.5: 0.30, 1.0: 0.70}, 0.01),  # mean 0.85
]


@pytest.mark.parametrize(("limit", "law", "false_alarm"), CAUSES)
def test_a_canary_beyond_the_limit_is_taken_back_soon(limit, law, false_alarm):
    growth, spread = best_bet(limit, law)
    needed = -log(false_alarm)
    enough = enough_observations(growth, spread, needed)

    trips = first_trips(tuple(law), drawn(law, 4 * enough, seed=15), limit, false_alarm)

    assert (trips <= enough).mean() >= 0.95
    assert np.median(trips) <= 3 * needed / growth  # measured: 1.2 to 1.7 times
    # Wald: no bet reaches what is needed in fewer observations, on average, than at the fastest growth.
    assert trips.mean() >= needed / growth - 5 * trips.std() / sqrt(STREAMS)


@pytest.mark.parametrize(
    ("limit", "p", "false_alarm"), [(0.02, 0.10, 0.0025), (0.05, 0.20, 0.0025), (0.05, 0.15, 0.01), (0.25, 0.55, 0.01)]
)
def test_the_exact_delay_is_what_streams_show(limit, p, false_alarm):
    n = 400

    chance = chance_to_trip(fewest_ones_to_trip(limit, false_alarm, n), p)
    trips = first_trips((0.0, 1.0), drawn(bernoulli(p), n, seed=16), limit, false_alarm)

    for share in (0.1, 0.5, 0.9):
        by = int(np.searchsorted(chance, share))
        assert least_by_chance(chance[by]) <= (trips <= by).sum() <= most_by_chance(chance[by])
