from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.coverage_law import design_effects
from ml_core.lab.measuring.coverage_verdicts import coverage_verdict, same_law_verdict
from ml_core.serve.model.prediction_sets import ConformalCalibration
from tests.toy_scores import ScoredRows, binary_rows, many_class_rows, repeated_patients
from tests.verdicts import beta_binomial_band, is_covered, is_plausible, is_same

NINETY = Decimal("0.9")


def calibration_of(rows: ScoredRows, guarantee="class_conditional") -> ConformalCalibration:
    return calibrate(rows.proba, rows.y, rows.proba.shape[1], guarantee)


def verdict(calibration, rows, floor=0.88, level=NINETY, **more):
    labels = list(range(rows.proba.shape[1]))
    return coverage_verdict(calibration, rows.proba, rows.y, rows.groups, level, floor, labels, **more)


def tampered(calibration: ConformalCalibration, change) -> ConformalCalibration:
    return ConformalCalibration(calibration.guarantee, tuple(change(list(calibration.scores))))


@pytest.fixture(scope="module")
def honest():
    return calibration_of(binary_rows(8_000, seed=1)), binary_rows(8_000, seed=2)


# --- what is said of an honest calibration ------------------------------------------------------------------------


def test_an_honest_calibration_passes_all_verdicts(honest):
    calibration, rows = honest

    found = verdict(calibration, rows)

    assert is_covered(found)
    assert is_plausible(found)
    assert is_same(same_law_verdict(calibration, rows.proba, rows.y, rows.groups))
    assert [r.label for r in found] == [None, 0, 1]
    assert [r.n_test for r in found] == [8_000, int((rows.y == 0).sum()), int((rows.y == 1).sum())]


def test_limits_are_those_of_the_exact_law_per_class(honest):
    calibration, rows = honest

    found = verdict(calibration, rows, budget=0.06)

    for k, row in enumerate(found[1:]):
        band = beta_binomial_band(calibration.sizes[k], int((rows.y == k).sum()), NINETY, 0.01)
        assert (row.lower, row.upper) == (band.lower, band.upper)
        assert row.limit == min(0.88, band.lower)


def test_limits_of_all_rows_hold_the_sum_of_the_classes(honest):
    # By simulation of the two independent beta-binomials: the stated tail lies beyond each limit.
    calibration, rows = honest
    found = verdict(calibration, rows, budget=0.06)[0]
    rng = np.random.default_rng(0)
    total = np.zeros(200_000)
    for k, n in enumerate(calibration.sizes):
        misses = int((n + 1) * Decimal("0.1"))
        total += rng.binomial(int((rows.y == k).sum()), rng.beta(n + 1 - misses, misses, size=total.size))

    share = total / 8_000

    assert (share < found.lower).mean() == pytest.approx(0.01, abs=0.0015)
    assert (share > found.upper).mean() == pytest.approx(0.01, abs=0.0015)


def test_ties_never_make_a_calibration_implausible():
    # A constant model: every row is tied with the threshold, so every label is in every set.
    rows = ScoredRows(np.tile([0.9, 0.1], (4_000, 1)), np.arange(4_000) % 10 // 9, np.arange(4_000))

    found = verdict(calibration_of(rows), rows)

    assert found[0].coverage == 1.0
    assert found[0].strict_coverage == 0.0
    assert is_covered(found)
    assert is_plausible(found)


def test_repeated_patients_widen_the_limits_on_both_sides():
    calibration_rows, rows = repeated_patients(4_000, seed=5), repeated_patients(4_000, seed=6)
    calibration = calibration_of(calibration_rows)
    effects = design_effects(calibration, calibration_rows.proba, calibration_rows.y, calibration_rows.groups, NINETY)

    alone = verdict(calibration, ScoredRows(rows.proba, rows.y, None))[1]
    together = verdict(calibration, rows, calibration_effects=effects)[1]

    assert together.lower < alone.lower
    assert together.upper > alone.upper
    assert together.effective_n_test < together.n_test == alone.effective_n_test
    assert together.effective_n_calibration == pytest.approx(together.n_calibration / effects.per_class[0])


def test_rows_repeated_by_a_patient_are_no_more_evidence_of_another_law_than_one():
    calibration = calibration_of(binary_rows(2_000, seed=1))
    rows = binary_rows(700, seed=3)
    copied = ScoredRows(np.repeat(rows.proba, 3, axis=0), np.repeat(rows.y, 3), np.repeat(rows.groups, 3))

    once = same_law_verdict(calibration, rows.proba, rows.y, rows.groups)
    thrice = same_law_verdict(calibration, copied.proba, copied.y, copied.groups)
    taken_alone = same_law_verdict(calibration, copied.proba, copied.y, None)

    assert thrice.distances == once.distances
    for k in (0, 1):
        assert taken_alone.p_values[k] < once.p_values[k] <= thrice.p_values[k]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_class_that_is_not_covered_is_refused_while_all_rows_together_look_fine(honest):
    _, rows = honest
    marginal = calibration_of(binary_rows(8_000, seed=1), "marginal")

    found = verdict(marginal, rows)

    assert found[0].coverage > 0.88
    assert is_covered([found[0]])
    assert not is_covered([found[2]])
    assert not is_covered(found)


def test_swapped_class_calibrations_are_refused(honest):
    calibration, rows = honest
    swapped = tampered(calibration, lambda scores: scores[::-1])

    found = verdict(swapped, rows)

    assert not is_covered(found)
    assert not is_plausible(found)
    assert not is_same(same_law_verdict(swapped, rows.proba, rows.y, rows.groups))


@pytest.mark.parametrize(
    "change", [lambda s: 2 * s, lambda s: np.minimum(2 * s, 1.0)], ids=["doubled", "doubled, cut at 1"]
)
def test_doubled_scores_cover_too_much_and_are_refused(honest, change):
    calibration, rows = honest
    doubled = tampered(calibration, lambda scores: [change(s) for s in scores])

    found = verdict(doubled, rows)

    assert is_covered(found)
    assert not is_plausible(found)
    assert not is_same(same_law_verdict(doubled, rows.proba, rows.y, rows.groups))


def test_halved_scores_cover_too_little(honest):
    calibration, rows = honest

    assert not is_covered(verdict(tampered(calibration, lambda scores: [s / 2 for s in scores]), rows))


def test_the_calibration_of_another_model_is_refused(honest):
    _, rows = honest
    other = binary_rows(8_000, seed=1, spread=0.2)  # a weaker model of the same rows

    assert not is_same(same_law_verdict(calibration_of(other), rows.proba, rows.y, rows.groups))


def test_test_rows_the_model_has_seen_score_too_well(honest):
    calibration, rows = honest
    leaked = ScoredRows(0.7 * rows.proba + 0.3 * np.eye(2)[rows.y], rows.y, rows.groups)

    assert not is_plausible(verdict(calibration, leaked))
    assert not is_same(same_law_verdict(calibration, leaked.proba, leaked.y, leaked.groups))


# --- floors -------------------------------------------------------------------------------------------------------


def test_small_samples_are_held_to_what_chance_allows_and_large_ones_to_the_floor():
    small = verdict(calibration_of(binary_rows(300, seed=1)), binary_rows(300, seed=2))[0]
    large = verdict(calibration_of(binary_rows(60_000, seed=1)), binary_rows(60_000, seed=2))[0]

    assert small.limit == small.lower < 0.88
    assert large.limit == 0.88 < large.lower


def test_a_level_below_the_floor_is_refused_once_there_are_rows_enough():
    calibration_rows, rows = binary_rows(40_000, seed=1), binary_rows(40_000, seed=2)

    assert not is_covered(verdict(calibration_of(calibration_rows), rows, floor=0.88, level=Decimal("0.8")))
    assert is_covered(verdict(calibration_of(calibration_rows), rows, floor=0.78, level=Decimal("0.8")))


# --- little data --------------------------------------------------------------------------------------------------


def test_a_class_without_test_rows_cannot_be_called_covered(honest):
    calibration, rows = honest
    negatives = rows[rows.y == 0]

    found = verdict(calibration, negatives)

    assert found[2].coverage is None
    assert not is_covered([found[2]])
    assert same_law_verdict(calibration, negatives.proba, negatives.y, negatives.groups).p_values[1] is None


def test_a_class_with_too_few_calibration_rows_is_always_covered_and_plausible(honest):
    _, rows = honest
    few = binary_rows(8_000, seed=1)
    few = few[np.concatenate([np.flatnonzero(few.y == 0), np.flatnonzero(few.y == 1)[:5]])]

    row = verdict(calibration_of(few), rows)[2]

    assert (row.coverage, row.promised, row.limit) == (1.0, 1.0, 0.88)
    assert is_covered([row])
    assert is_plausible([row])


def test_many_classes_are_judged_one_by_one():
    calibration = calibration_of(many_class_rows(6_000, 5, seed=1))

    rows = many_class_rows(6_000, 5, seed=2)
    found = verdict(calibration, rows)

    assert [r.label for r in found] == [None, 0, 1, 2, 3, 4]
    bands = [beta_binomial_band(n, (rows.y == k).sum(), NINETY, 0.04 / 12) for k, n in enumerate(calibration.sizes)]
    assert [(r.lower, r.upper) for r in found[1:]] == [(b.lower, b.upper) for b in bands]
    assert is_covered(found)
    assert is_plausible(found)


def test_a_marginal_promise_is_compared_once_over_all_classes(honest):
    _, rows = honest
    marginal = calibration_of(binary_rows(8_000, seed=1), "marginal")

    found = same_law_verdict(marginal, rows.proba, rows.y, rows.groups)

    assert len(found.p_values) == 1
    assert is_same(found)
    assert is_plausible(verdict(marginal, rows))  # class 0 is covered in excess, which a marginal promise allows
