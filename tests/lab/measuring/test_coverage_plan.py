"""What is said of sizes before there is data."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from scipy.stats import beta, betabinom, binomtest

from ml_core.lab.measuring import coverage_plan
from ml_core.lab.measuring.coverage_detector import highest_miss_rate
from ml_core.lab.measuring.coverage_plan import PlannedSizes, median_delay, plan_cells, rows_needed
from ml_core.serve.model.prediction_sets import misses_allowed

SIZES = PlannedSizes(rows=20_000, class_share=0.11)
NINETY = Decimal("0.9")


@pytest.fixture
def few_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_plan, "_STREAMS", 5)


def test_cells_tell_the_exact_laws_of_their_sizes(few_streams):
    ours, others = plan_cells(SIZES)
    assert [(c.of, c.calibration_rows, c.test_rows) for c in (ours, others)] == [
        ("class", 440, 440),
        ("others", 3_560, 3_560),
    ]
    misses = misses_allowed(440, NINETY)
    law = beta(441 - misses, misses)
    assert (ours.covers, ours.likely_from, ours.likely_to) == pytest.approx((law.mean(), *law.ppf([0.05, 0.95])))
    below = round(ours.limit * 440) - 1
    assert ours.valid_refused == pytest.approx(betabinom.cdf(below, 440, 441 - misses, misses))
    assert ours.valid_refused <= 0.04 / 6
    assert list(ours.refused) == ["0.88", "0.87", "0.85", "0.80"]
    assert sorted(ours.refused.values()) == list(ours.refused.values())
    assert ours.alarm_above == highest_miss_rate(440, NINETY)
    assert ours.noticed < others.noticed < 0.88


def test_groups_divide_the_rows(few_streams):
    assert plan_cells(replace(SIZES, groups=4))[0] == plan_cells(replace(SIZES, rows=5_000))[0]


def test_a_confidence_keeps_all_but_one_in_twenty_calibrations_above_the_level(few_streams):
    plain, sure = plan_cells(SIZES)[0], plan_cells(replace(SIZES, confidence=Decimal("0.95")))[0]
    assert plain.likely_from < 0.9 <= sure.likely_from
    assert sure.alarm_above == pytest.approx(0.1)


@pytest.mark.parametrize("confidence", [None, Decimal("0.95")])
def test_a_promise_holds_at_the_rows_it_is_said_to_need_and_not_at_a_little_fewer(confidence):
    meaning, covered, seen, proven = rows_needed(replace(SIZES, confidence=confidence))
    assert meaning.calibration_rows == (9 if confidence is None else 29)
    assert meaning.rows <= covered.rows <= seen.rows <= proven.rows
    sizes = replace(SIZES, confidence=confidence)
    enough, short = seen.calibration_rows, int(seen.calibration_rows * 0.8)
    for n, notices in ((enough, True), (short, False)):
        power = coverage_plan.power_of_limit(sizes.limit(n, n), n).refused(0.85)
        assert (power >= 0.8) == notices


def test_a_level_that_no_hospital_can_show_is_said_to_need_too_much():
    needs = rows_needed(replace(SIZES, floor=0.8999))
    assert needs[-1].rows is None


@pytest.mark.slow
@pytest.mark.usefixtures("seeds")
@pytest.mark.parametrize("seed", [21, 22])
def test_valid_models_are_refused_and_proven_as_often_as_planned(seed):
    ours, _ = plan_cells(SIZES)
    rng, draws = np.random.default_rng(seed), 20_000
    n, m, misses = ours.calibration_rows, ours.test_rows, misses_allowed(ours.calibration_rows, NINETY)
    scores = np.sort(rng.random((draws, n)), axis=1)[:, n - misses]
    found = rng.binomial(m, scores) / m
    assert binomtest(int((found < ours.limit - 1e-12).sum()), draws, ours.valid_refused).pvalue > 1e-5
    needed = coverage_plan.power_of_proof(SIZES.floor, m).needed
    assert binomtest(int((found * m > needed - 0.5).sum()), draws, ours.proven).pvalue > 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("seeds")
@pytest.mark.parametrize("seed", [31, 32])
def test_delays_are_those_of_the_detectors_own_table(seed):
    mu0 = highest_miss_rate(2_000, NINETY)
    assert median_delay(mu0, 0.20, 0.10, seed) == pytest.approx(260, rel=0.25)
    assert median_delay(mu0, 0.15, 0.10, seed) == pytest.approx(650, rel=0.35)
    assert median_delay(highest_miss_rate(50, NINETY), 0.15, 0.10, seed) is None
