"""How often the coverage detector and the bands accuse a valid model, and how soon the detector finds lost coverage."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from math import sqrt

import numpy as np
import pytest
from scipy.stats import beta, binom

from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.coverage_detector import THRESHOLD, DetectorState, highest_miss_rate, update
from ml_core.lab.measuring.coverage_law import design_effects
from ml_core.lab.measuring.live_coverage import BAND_TAIL, CoverageTarget, coverage_bands, misses_of
from ml_core.serve.model.prediction_sets import ConformalCalibration, misses_allowed
from tests.statistical.coverage_streams import alarm_labels
from tests.toy_scores import binary_rows, repeated_patients
from tests.verdicts import above_band, below_band

pytestmark = pytest.mark.slow

NINETY = Decimal("0.9")
STREAMS = 4_000
NOISE = 1e-6  # chance that a limit of this file fails without cause
CHANGE = 1_000


def most_by_chance(rate, times=STREAMS):
    return int(binom(times, rate).ppf(1 - NOISE))


def least_by_chance(rate, times=STREAMS):
    return int(binom(times, rate).ppf(NOISE))


def alarms(miss_rate, labels, mu0, threshold, seed, *, streams=STREAMS):
    """Number of the label at which each stream alarms, looking after every one; labels + 1 where it does not.

    ``miss_rate(t, missed)`` gives the chance of a miss at the t-th label (from 0), a number or one per stream, knowing
    which streams have missed the label before it.
    """
    rng = np.random.default_rng(seed)
    misses, missed = np.empty((streams, labels), dtype=bool), np.zeros(streams, dtype=bool)
    for t in range(labels):
        missed = rng.random(streams) < miss_rate(t, missed)
        misses[:, t] = missed
    return alarm_labels(misses, mu0, threshold)


@pytest.mark.parametrize("block", [12, 8])
def test_the_vectorised_detector_is_the_public_one(block):
    # Streams that hang together over 30 labels, so that variance ratios count.
    rng = np.random.default_rng(5)
    likely = np.repeat(rng.choice([0.05, 0.6], p=[0.8, 0.2], size=(STREAMS, 50)), 30, axis=1)
    stream = rng.random(likely.shape) < likely

    together = alarm_labels(stream, 0.11, block=block)

    assert 0.05 < (together <= 1_500).mean() < 0.95
    for i in range(0, STREAMS, 200):
        alone = update(DetectorState(0.11, block=block), stream[i])
        assert (alone.alarm_at or 1_501) == together[i]


# --- the guarantee ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu0", [0.01, 0.1, 0.1124, 0.17, 0.5])
def test_at_the_highest_miss_rate_the_mean_time_to_a_false_alarm_is_at_least_the_threshold(mu0):
    threshold = 500.0

    at = alarms(lambda *_: mu0, 20_000, mu0, threshold, seed=1)

    assert (at <= 20_000).all()
    assert at.mean() >= threshold - 4.75 * at.std() / sqrt(STREAMS)
    for labels in (25, 100, 250):
        assert (at <= labels).sum() <= most_by_chance(labels / threshold)


def test_misses_that_hang_on_the_one_before_keep_the_guarantee_if_none_is_likelier_than_stated():
    threshold = 500.0

    at = alarms(lambda _, missed: np.where(missed, 0.1, 0.07), 10_000, 0.1, threshold, seed=2)

    assert at.mean() >= threshold
    assert (at <= 100).sum() <= most_by_chance(100 / threshold)


def test_a_class_that_misses_less_than_stated_alarms_later():
    at_limit = alarms(lambda *_: 0.1, 20_000, 0.1, 500.0, seed=3)
    below = alarms(lambda *_: 0.08, 20_000, 0.1, 500.0, seed=4)

    assert np.median(below) > 2 * np.median(at_limit)  # measured: 3.4 times


# --- 3,000 labels without cause, and delays, by the size of the class's calibration --------------------------------


@lru_cache
def false_alarms(n, level=NINETY, labels=3_000):
    """Streams of valid models that alarm, each with a miss rate that its own calibration happened to give."""
    misses = misses_allowed(n, level)
    rates = beta(misses, n + 1 - misses).rvs(STREAMS, random_state=np.random.default_rng(n))
    return int((alarms(lambda *_: rates, labels, highest_miss_rate(n, level), THRESHOLD, seed=10 + n) <= labels).sum())


@lru_cache
def delays(n, after):
    """Labels from the change to the alarm, of the streams that had none before it."""
    mu0 = highest_miss_rate(n, NINETY)
    at = alarms(lambda t, _: 0.1 if t < CHANGE else after, CHANGE + 1_500, mu0, THRESHOLD, seed=20 + n)
    return at[at > CHANGE] - CHANGE


def median_is_at_most(limit, values):
    """Nothing shows that the median is larger."""
    return (values <= limit).sum() >= least_by_chance(0.5, values.size)


@pytest.mark.parametrize("n", [50, 200, 500, 1_000, 2_000, 5_000, 20_000])
def test_at_most_1_valid_model_in_20_alarms_within_3000_labels(n):
    assert false_alarms(n) <= most_by_chance(0.05)


@pytest.mark.parametrize("level", ["0.8", "0.95", "0.99"])
def test_the_same_holds_at_other_levels(level):
    assert false_alarms(1_000, Decimal(level)) <= most_by_chance(0.05)


@pytest.mark.parametrize("n", [2_000, 5_000, 20_000])
def test_lost_coverage_is_found_within_300_and_160_labels_where_2000_rows_or_more_calibrate_the_class(n):
    assert median_is_at_most(300, delays(n, 0.2))
    assert median_is_at_most(160, delays(n, 0.3))


@pytest.mark.parametrize(("n", "doubled", "trebled"), [(200, 440, 180), (500, 330, 160), (1_000, 290, 156)])
def test_a_smaller_calibration_finds_it_later(n, doubled, trebled):
    assert median_is_at_most(doubled, delays(n, 0.2))
    assert median_is_at_most(trebled, delays(n, 0.3))


def test_200_rows_are_too_few_for_300_labels():
    # Else the documentation is too modest, and the goal of larger sizes should be asked of this one.
    found = delays(200, 0.2)

    assert (found <= 300).sum() < least_by_chance(0.5, found.size)


def stated():
    """Rows of the table in the documentation: n, mu0, alarms in 3,000 labels, delays to 0.20 and 0.30."""
    rows = [line.replace(",", "").replace("%", "").split() for line in highest_miss_rate.__doc__.splitlines()]
    return [
        (int(r[0]), float(r[1]), float(r[2]) / 100, int(r[-2]), int(r[-1]))
        for r in rows
        if len(r) >= 6 and r[0].isdigit()
    ]


def test_there_is_a_table_to_hold_against_what_streams_show():
    assert [row[0] for row in stated()] == [50, 100, 200, 500, 1_000, 1_500, 2_000, 5_000, 20_000]


@pytest.mark.parametrize("row", [row for row in stated() if row[0] in {200, 500, 1_000, 2_000, 20_000}])
def test_the_documented_table_is_what_streams_show(row):
    n, mu0, rate, doubled, trebled = row

    assert highest_miss_rate(n, NINETY) == pytest.approx(mu0, abs=5.1e-4)
    # The table has noise of its own, a third and four fifths of that of this file; so 1.3 times the limits.
    assert abs(false_alarms(n) - rate * STREAMS) <= 1.3 * (most_by_chance(rate) - rate * STREAMS)
    for label, found in ((doubled, delays(n, 0.2)), (trebled, delays(n, 0.3))):
        off = 1.3 * (most_by_chance(0.5, found.size) / found.size - 0.5)
        assert (found < label).mean() <= 0.5 + off
        assert (found <= label).mean() >= 0.5 - off


@pytest.mark.parametrize("grid", [None, 50])
def test_valid_models_seldom_alarm_from_their_first_answer_to_their_3000th(grid):
    # The whole way: calibration scores, stored p-values, misses, detector; with tied scores too.
    models, labels, alarmed = 250, 3_000, np.zeros(2, dtype=np.int64)
    for i in range(models):
        cal, live = (
            binary_rows(4_500, 2 * i, base=0.0, grid=grid),
            binary_rows(2 * labels, 2 * i + 1, base=0.0, grid=grid),
        )
        calibration = calibrate(cal.proba, cal.y, 2)
        misses = misses_of(calibration.p_values(live.proba), live.y, (0, 1), calibration.sizes, NINETY)
        for k in (0, 1):
            state = DetectorState(highest_miss_rate(calibration.sizes[k], NINETY))
            alarmed[k] += update(state, misses[live.y == k][:labels]).is_alarmed

    assert alarmed.max() <= most_by_chance(0.05, models)


def test_labels_of_a_patient_right_after_another_raise_no_more_false_alarms_than_one_label_each():
    models, in_turn, first_only = 250, 0, 0
    for i in range(models):
        cal, live = repeated_patients(1_500, 2 * i), repeated_patients(2_300, 2 * i + 1)
        calibration = calibrate(cal.proba, cal.y, 2)
        effect = design_effects(calibration, cal.proba, cal.y, cal.groups, NINETY).per_class[0]
        start = DetectorState(highest_miss_rate(calibration.sizes[0], NINETY, effect))
        misses = misses_of(calibration.p_values(live.proba), live.y, (0, 1), calibration.sizes, NINETY)
        own = np.flatnonzero(live.y == 0)
        in_turn += update(start, misses[own]).is_alarmed
        first_only += update(start, misses[own[np.unique(live.groups[own], return_index=True)[1]]]).is_alarmed

    assert max(in_turn, first_only) <= most_by_chance(0.05, models)


# --- bands of windows ---------------------------------------------------------------------------------------------

SIZES = (200, 1_000, 5_000, 20_000)


def outside(draw, n, m, times, *, measured=False):
    """How often a band of a valid model is left: per band (all, class 0, class 1), below and above; any class at all."""
    below, above, any_class = np.zeros(3, dtype=int), np.zeros(3, dtype=int), 0
    for i in range(times):
        cal, live = draw(n, 2 * i), draw(m, 2 * i + 1)
        calibration = calibrate(cal.proba, cal.y, 2)
        effects = design_effects(calibration, cal.proba, cal.y, cal.groups, NINETY) if measured else None
        promise = CoverageTarget((0, 1), calibration.sizes, NINETY, effects=effects)
        covered = ~misses_of(calibration.p_values(live.proba), live.y, (0, 1), calibration.sizes, NINETY)
        bands = coverage_bands(covered, live.y, promise, live.groups if measured else None)
        below += [below_band(band) for band in bands]
        above += [above_band(band) for band in bands]
        any_class += not all(band.inside for band in bands[1:])
    return below, above, any_class


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_a_valid_model_leaves_no_band_more_often_than_its_tails(n, m):
    times, below, above = 600, 0, 0
    rng = np.random.default_rng(n + m)
    promise = CoverageTarget((0, 1), (n, n), NINETY)
    for _ in range(times):
        calibration = ConformalCalibration("class_conditional", tuple(np.sort(rng.random((2, n)))))
        p_values = calibration.p_values(rng.random((2 * m, 2)))
        y = np.repeat([0, 1], m)
        bands = coverage_bands(~misses_of(p_values, y, (0, 1), (n, n), NINETY), y, promise)
        below += np.array([below_band(band) for band in bands])
        above += np.array([above_band(band) for band in bands])

    assert below.max() <= most_by_chance(BAND_TAIL, times)
    assert above.max() <= most_by_chance(BAND_TAIL, times)
    assert (below + above)[1:].sum() <= most_by_chance(0.05, times)  # any class; those with both count twice


@pytest.mark.parametrize("n", SIZES)
def test_ties_make_a_valid_model_fall_below_no_more_often(n):
    times = 300

    below, _, _ = outside(lambda size, seed: binary_rows(size, seed, grid=50), n, n, times)

    assert below.max() <= most_by_chance(BAND_TAIL, times)


@pytest.mark.parametrize("n", SIZES)
def test_with_repeated_patients_a_valid_model_leaves_a_class_band_in_at_most_5_percent(n):
    times = 250

    _, _, any_class = outside(
        lambda size, seed: repeated_patients(round(size / 1.65), seed), n, n, times, measured=True
    )

    assert any_class <= most_by_chance(0.05, times)


@pytest.mark.parametrize(("true", "m", "found"), [(0.85, 500, 0.5), (0.80, 200, 0.9)])
def test_a_window_of_lost_coverage_is_mostly_seen(true, m, found):
    rng, times = np.random.default_rng(0), 400
    index, promise = np.zeros(m, dtype=np.int64), CoverageTarget((0, 1), (1_000, 1_000), NINETY)

    seen = np.array([below_band(coverage_bands(np.arange(m) < n, index, promise)[1]) for n in range(m + 1)])
    exact = float(binom(m, true).pmf(np.arange(m + 1)) @ seen)  # .710 and .910
    below = sum(below_band(coverage_bands(rng.random(m) < true, index, promise)[1]) for _ in range(times))

    assert exact >= found
    assert least_by_chance(exact, times) <= below <= most_by_chance(exact, times)
