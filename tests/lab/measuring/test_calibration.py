from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import BadModelOutput, CalibrationDisagrees, CalibrationTooSmall, InvalidCalibration
from ml_core.lab.measuring.calibration import (
    agree_with_mapie,
    calibrate,
    check_large_enough,
    mapie_thresholds,
    needed_rows,
)
from ml_core.serve.model.prediction_sets import ConformalCalibration
from tests.toy_scores import binary_rows, many_class_rows

NINETY = Decimal("0.9")
probability = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), st.floats(0, 1, width=32), st.floats(0, 1))


def test_scores_are_sorted_per_class():
    calibration = calibrate([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]], [0, 0, 1], 2)

    assert [s.tolist() for s in calibration.scores] == [[0.25, 0.5], [0.25]]


def test_marginal_pools_the_scores_of_all_classes():
    calibration = calibrate([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]], [0, 0, 1], 2, "marginal")

    assert [s.tolist() for s in calibration.scores] == [[0.25, 0.25, 0.5]] * 2


@given(
    st.lists(st.tuples(probability, st.integers(0, 1)), min_size=1, max_size=200),
    st.decimals("0.5", "0.999", places=3),
    st.sampled_from(["class_conditional", "marginal"]),
)
def test_in_sample_coverage_is_never_below_k_of_n(rows, level, guarantee):
    # k = ceil((n + 1) level) calibration scores lie within the threshold, ties only add to them. In float32 they fall
    # out: 1 - p was kept in float32 and compared with a 1 - p in float64.
    p1 = np.array([p for p, _ in rows])
    y = np.array([label for _, label in rows])
    proba = np.column_stack([1.0 - p1, p1])

    sets = calibrate(proba, y, 2, guarantee).sets(proba, level)

    covered = sets[np.arange(y.size), y]
    for part in [np.ones(y.size, dtype=bool)] if guarantee == "marginal" else [y == 0, y == 1]:
        n = int(part.sum())
        assert covered[part].sum() >= min(n, ceil((n + 1) * Fraction(level)))


def test_order_of_rows_does_not_matter():
    rows = many_class_rows(300, 3, seed=1)
    order = np.random.default_rng(0).permutation(300)

    one, other = calibrate(rows.proba, rows.y, 3), calibrate(rows.proba[order], rows.y[order], 3)

    assert one.calibration_id == other.calibration_id


@pytest.mark.parametrize("y", [[0, 2], [0, -1], [0], [0.0, 1.0], [[0], [1]]])
def test_labels_that_do_not_fit_are_refused(y):
    with pytest.raises(InvalidCalibration):
        calibrate([[0.5, 0.5], [0.5, 0.5]], y, 2)


def test_probabilities_that_do_not_fit_are_refused():
    with pytest.raises(BadModelOutput):
        calibrate([[0.5, 0.3, 0.2]], [0], 2)


# --- enough rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "rows"), [("0.5", 1), ("0.8", 4), ("0.9", 9), ("0.95", 19), ("0.99", 99), ("0.999", 999)]
)
def test_needed_rows_are_ceil_one_over_alpha_less_one(level, rows):
    assert needed_rows(Decimal(level)) == rows


@given(st.decimals("0.5", "0.999", places=3))
def test_with_the_needed_rows_the_threshold_is_finite_and_with_one_less_it_is_not(level):
    n = needed_rows(level)

    def threshold(size):
        scores = np.linspace(0, 1, size)
        return ConformalCalibration("class_conditional", (scores, scores)).thresholds(level)[0]

    assert np.isfinite(threshold(n))
    assert np.isinf(threshold(n - 1))


def test_a_class_too_small_is_refused_by_name_when_training():
    rows = binary_rows(200, seed=1)
    kept = np.concatenate([np.flatnonzero(rows.y == 0), np.flatnonzero(rows.y == 1)[:8]])
    calibration = calibrate(rows.proba[kept], rows.y[kept], 2)

    with pytest.raises(CalibrationTooSmall, match=r"class 'readmitted' has 8 calibration rows; confidence 0.9 needs 9"):
        check_large_enough(calibration, NINETY, ["not", "readmitted"])
    check_large_enough(calibration, Decimal("0.8"), ["not", "readmitted"])


# --- MAPIE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["0.8", "0.9", "0.95", "0.99"])
@pytest.mark.parametrize("guarantee", ["class_conditional", "marginal"])
def test_mapie_computes_the_same_thresholds(level, guarantee):
    rows = binary_rows(5_000, seed=5, grid=200)
    calibration = calibrate(rows.proba, rows.y, 2, guarantee)

    thresholds = agree_with_mapie(calibration, rows.proba, rows.y, Decimal(level), [0, 1])

    assert thresholds == mapie_thresholds(rows.proba, rows.y, Decimal(level), guarantee)


def test_mapie_computes_the_same_thresholds_for_many_classes():
    rows = many_class_rows(3_000, 5, seed=6)

    agree_with_mapie(calibrate(rows.proba, rows.y, 5), rows.proba, rows.y, NINETY, list("abcde"))


@pytest.mark.parametrize(
    ("positives", "comparable"), [(0, False), (1, False), (8, False), (9, False), (10, True), (11, True)]
)
def test_a_class_too_small_for_mapie_is_not_compared(positives, comparable):
    rows = binary_rows(2_000, seed=7)
    kept = np.concatenate([np.flatnonzero(rows.y == 0), np.flatnonzero(rows.y == 1)[:positives]])
    proba, y = rows.proba[kept], rows.y[kept]

    assert np.isfinite(mapie_thresholds(proba, y, NINETY)[1]) == comparable
    agree_with_mapie(calibrate(proba, y, 2), proba, y, NINETY, [0, 1])


def test_a_threshold_off_by_one_bit_is_a_disagreement():
    rows = binary_rows(2_000, seed=8)
    honest = calibrate(rows.proba, rows.y, 2)
    moved = ConformalCalibration("class_conditional", (honest.scores[0], np.nextafter(honest.scores[1], 1.0)))

    with pytest.raises(CalibrationDisagrees, match="class 'yes'"):
        agree_with_mapie(moved, rows.proba, rows.y, NINETY, ["no", "yes"])


def test_swapped_classes_are_a_disagreement():
    rows = binary_rows(2_000, seed=8)
    honest = calibrate(rows.proba, rows.y, 2)
    swapped = ConformalCalibration("class_conditional", honest.scores[::-1])

    with pytest.raises(CalibrationDisagrees):
        agree_with_mapie(swapped, rows.proba, rows.y, NINETY, [0, 1])


def test_where_mapies_float_product_lands_above_a_whole_number_it_takes_the_next_score_and_we_do_not():
    # 450 * 0.54 is 243; in floats, 450 * (1 - 0.46) is 243.00000000000003, so MAPIE takes the 244th.
    p = np.linspace(0.001, 0.9, 449)
    proba = np.column_stack([p, 1.0 - p])
    y = np.zeros(449, dtype=np.int64)
    calibration = calibrate(proba, y, 2)
    ordered = np.sort(1.0 - p)

    assert calibration.thresholds(Decimal("0.54"))[0] == ordered[242]
    assert mapie_thresholds(proba, y, Decimal("0.54"))[0] == ordered[243]
    agree_with_mapie(calibration, proba, y, Decimal("0.54"), [0, 1])


@settings(max_examples=40, deadline=None)
@given(st.integers(30, 300), st.integers(0, 2**31), st.decimals("0.5", "0.95", places=3))
def test_mapie_agrees_at_any_level(n, seed, level):
    rows = many_class_rows(n, 3, seed, grid=50)

    agree_with_mapie(calibrate(rows.proba, rows.y, 3), rows.proba, rows.y, level, [0, 1, 2])


def test_mapie_agrees_at_the_levels_inside_a_calibration_with_a_confidence():
    rows = binary_rows(2_000, seed=8, grid=50)
    sure = calibrate(rows.proba, rows.y, 2, confidence=Decimal("0.95"))

    assert agree_with_mapie(sure, rows.proba, rows.y, NINETY, (0, 1)) == sure.thresholds(NINETY)
    assert sure.thresholds(NINETY) != calibrate(rows.proba, rows.y, 2).thresholds(NINETY)


def test_a_calibration_that_lacks_its_confidence_disagrees_with_mapie(monkeypatch):
    rows = binary_rows(2_000, seed=8)
    sure = calibrate(rows.proba, rows.y, 2, confidence=Decimal("0.95"))
    plain = calibrate(rows.proba, rows.y, 2).thresholds(NINETY)
    monkeypatch.setattr(ConformalCalibration, "thresholds", lambda *_: plain)

    with pytest.raises(CalibrationDisagrees):
        agree_with_mapie(sure, rows.proba, rows.y, NINETY, (0, 1))


@pytest.mark.parametrize(("confidence", "rows"), [("0.5", 9), ("0.95", 29), ("0.99", 44)])
def test_a_confidence_needs_more_rows(confidence, rows):
    needed = needed_rows(NINETY, Decimal(confidence))

    assert needed == rows
    assert 1 - 0.9**needed >= float(confidence)
