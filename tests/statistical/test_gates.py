"""How often the gates are wrong about a model that is right: false refusals and false promotions, by simulation."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from scipy.stats import binom, norm

from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.comparison import out_of_fold_losses, paired_auc_difference, unseen_rows_verdict
from ml_core.lab.measuring.coverage_law import design_effects
from ml_core.lab.measuring.coverage_verdicts import coverage_verdict, same_law_verdict
from ml_core.lab.measuring.evaluation import log_losses
from tests.toy_scores import binary_rows, repeated_patients
from tests.verdicts import is_covered, is_plausible, is_same, is_unseen

pytestmark = pytest.mark.slow

NINETY = Decimal("0.9")
SIZES = (200, 1_000, 5_000, 20_000)


def most_by_chance(rate: float, times: int) -> int:
    """A count that events of this rate exceed with probability 1e-4."""
    return int(binom(times, rate).ppf(1 - 1e-4))


def refusals(draw, n, m, times, floor=0.90):
    """How often any verdict on coverage refuses a model whose calibration and test rows are alike, and why."""
    refused = {"low": 0, "high": 0, "law": 0, "any": 0}
    for i in range(times):
        cal, test = draw(n, 2 * i), draw(m, 2 * i + 1)
        calibration = calibrate(cal.proba, cal.y, 2)
        effects = design_effects(calibration, cal.proba, cal.y, cal.groups, NINETY)
        verdict = coverage_verdict(calibration, test.proba, test.y, test.groups, NINETY, floor, [0, 1], effects)
        same = is_same(same_law_verdict(calibration, test.proba, test.y, test.groups))
        refused["low"] += not is_covered(verdict)
        refused["high"] += not is_plausible(verdict)
        refused["law"] += not same
        refused["any"] += not (is_covered(verdict) and is_plausible(verdict) and same)
    return refused


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_a_valid_model_is_refused_by_coverage_rules_in_at_most_5_percent(n, m):
    times = 500

    found = refusals(binary_rows, n, m, times)

    assert found["any"] <= most_by_chance(0.05, times), found
    assert found["law"] <= most_by_chance(0.005, times), found


@pytest.mark.parametrize("n", SIZES)
def test_ties_make_no_rule_refuse_more(n):
    times = 500

    found = refusals(lambda size, seed: binary_rows(size, seed, grid=50), n, n, times)

    assert found["any"] <= most_by_chance(0.05, times), found
    assert found["high"] <= most_by_chance(0.02, times), found


@pytest.mark.parametrize("n", SIZES)
def test_repeated_patients_make_no_rule_refuse_more(n):
    times = 500

    found = refusals(lambda size, seed: repeated_patients(round(size / 1.65), seed), n, n, times)

    assert found["any"] <= most_by_chance(0.05, times), found


def test_with_repeated_patients_taken_for_independent_rows_the_rules_would_refuse_too_often():
    # Why the design effect is measured: the same rows, each counted as a patient of its own.
    def alone(size, seed):
        rows = repeated_patients(round(size / 1.65), seed)
        return type(rows)(rows.proba, rows.y, np.arange(rows.y.size))

    times = 500
    taken_alone = refusals(alone, 5_000, 5_000, times)
    as_patients = refusals(lambda size, seed: repeated_patients(round(size / 1.65), seed), 5_000, 5_000, times)

    assert taken_alone["any"] > 2 * as_patients["any"]


# --- promotion ----------------------------------------------------------------------------------------------------


def equal_models(n, seed, prevalence, alike, repeats=1):
    """(y, p_new, p_old, groups): two equally good models whose errors have the correlation ``alike``.

    With ``repeats`` every patient has that many rows, whose labels and errors are half the patient's own.
    """
    rng = np.random.default_rng(seed)
    groups = np.arange(n) // repeats

    def noise():
        return (rng.normal(size=n) + (rng.normal(size=n)[groups] if repeats > 1 else 0.0)) / np.sqrt(min(repeats, 2))

    y = (noise() > norm.ppf(1 - prevalence)).astype(np.int64)
    shared = noise()
    new, old = (1.1 * y + np.sqrt(alike) * shared + np.sqrt(1 - alike) * noise() for _ in range(2))
    return y, new, old, groups


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("prevalence", [0.1, 0.3])
@pytest.mark.parametrize("n", [1_000, 4_000])
def test_an_equal_model_is_promoted_in_at_most_5_percent(n, prevalence, alike, repeats):
    times = 1_000
    promoted = 0
    for seed in range(times):
        found = paired_auc_difference(*equal_models(n, seed, prevalence, alike, repeats))
        promoted += found.difference >= 0.02 and found.lower_bound_95 > 0

    assert promoted <= 0.05 * times


def test_a_model_better_by_a_clear_margin_is_promoted():
    times, promoted = 200, 0
    for seed in range(times):
        y, new, old, groups = equal_models(5_000, seed, 0.1, 0.5)
        found = paired_auc_difference(y, new + 0.35 * y, old, groups)  # true AUC .78 and .84
        promoted += found.difference >= 0.02 and found.lower_bound_95 > 0

    assert promoted >= 0.95 * times


# --- unseen rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(200, 200), (150, 1_500), (1_500, 150)])
def test_an_honest_split_is_accused_in_at_most_1_of_1000(n, m):
    # Log losses of a rare class are as skewed as they come; a plain z-test would accuse too often.
    times, accused = 3_000, 0
    for i in range(times):
        parts = [repeated_patients(size, 2 * i + k) for k, size in enumerate((n, m))]
        losses = tuple(log_losses(p.proba, p.y) for p in parts)
        accused += not is_unseen(unseen_rows_verdict(losses, *zip(*((p.y, p.groups) for p in parts), strict=True)))

    assert accused <= most_by_chance(0.001, times)


def test_a_reference_accuses_no_honest_split_more_often():
    times, accused = 150, 0
    for seed in range(times):
        rng = np.random.default_rng(seed)
        features, losses, classes, groups = [], [], [], []
        for _ in range(2):
            group = np.repeat(np.arange(250), 2)
            x = rng.normal(size=(500, 3)) + rng.normal(size=(250, 3))[group]
            p1 = 1 / (1 + np.exp(-(x @ np.array([0.9, -0.5, 0.2]) - 2.2)))
            y = (rng.random(500) < p1).astype(np.int64)
            features.append(x)
            losses.append(log_losses(np.column_stack([1 - p1, p1]), y))
            classes.append(y)
            groups.append(group)
        reference = out_of_fold_losses(features, classes, groups, seed=seed)
        p_value = unseen_rows_verdict(losses, classes, groups, reference).p_value
        accused += p_value <= 0.05  # the tail is too rare to count; the level holds everywhere

    assert accused <= most_by_chance(0.05, times)
