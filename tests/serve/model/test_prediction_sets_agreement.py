"""Our sets against MAPIE's and crepes', row by row; each differs from us in one place, shown here.

* MAPIE admits a label whose score lies up to 1e-8 beyond the threshold. We compare exactly.
* crepes admits p = alpha. We ask for p > alpha, which is what the promise needs: the two part where (n + 1) alpha is a
  whole number.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from crepes import ConformalClassifier, WrapClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from ml_core.lab.measuring.calibration import MAPIE_TOLERANCE, calibrate
from tests.serve.model.agreement import crepes_p_values, crepes_sets, mapie_sets
from tests.toy_scores import ScoredRows, binary_rows, many_class_rows

LEVELS = ("0.80", "0.90", "0.95", "0.99")


def trimmed(rows: ScoredRows) -> ScoredRows:
    """The rows less a few, so that (n_k + 1) alpha is whole for no class and no level tested."""
    kept = []
    for k in range(rows.proba.shape[1]):
        own = np.flatnonzero(rows.y == k)
        size = own.size
        while any((size + 1) * (100 - int(Decimal(level) * 100)) % 100 == 0 for level in LEVELS):
            size -= 1
        kept.append(own[:size])
    return rows[np.sort(np.concatenate(kept))]


def count_of_differences(calibration_rows: ScoredRows, proba: np.ndarray) -> dict[str, int]:
    """Rows times labels times levels on which we differ from MAPIE outside its band, lie in it, differ from crepes."""
    n_classes = proba.shape[1]
    calibration = calibrate(calibration_rows.proba, calibration_rows.y, n_classes)
    theirs = mapie_sets(calibration_rows, proba, [float(level) for level in LEVELS])
    p_values = crepes_p_values(calibration_rows, proba)
    found = {"mapie": 0, "mapie_band": 0, "crepes": 0, "crepes_p": int((p_values != calibration.p_values(proba)).sum())}
    for i, level in enumerate(LEVELS):
        ours = calibration.sets(proba, Decimal(level))
        beyond = (1.0 - proba) - np.array(calibration.thresholds(Decimal(level)))
        band = (beyond > 0) & (beyond <= MAPIE_TOLERANCE)
        found["mapie"] += int((ours != theirs[:, :, i])[~band].sum())
        found["mapie_band"] += int(band.sum())
        found["crepes"] += int((ours != crepes_sets(p_values, float(level))).sum())
    return found


def test_binary_sets_equal_mapies_and_crepes_on_a_million_tie_heavy_rows():
    calibration = trimmed(binary_rows(6_000, seed=11, grid=4_000))
    rows = binary_rows(1_000_000, seed=12, grid=4_000)
    tied = np.isin(rows.proba, calibration.proba).any(axis=1)

    assert tied.mean() > 0.9  # nearly every row is tied with a calibration row
    assert count_of_differences(calibration, rows.proba) == {"mapie": 0, "mapie_band": 0, "crepes": 0, "crepes_p": 0}


def test_sets_of_four_classes_equal_mapies_and_crepes_on_a_million_tie_heavy_rows():
    calibration = trimmed(many_class_rows(6_000, 4, seed=13, grid=256))
    rows = many_class_rows(1_000_000, 4, seed=14, grid=256)

    assert count_of_differences(calibration, rows.proba) == {"mapie": 0, "mapie_band": 0, "crepes": 0, "crepes_p": 0}


def test_without_a_grid_sets_agree_outside_mapies_band():
    # Float32-born probabilities as trees give them, and as many more packed around every threshold of class 1.
    rows = binary_rows(60_000, seed=15)
    p1 = rows.proba[:, 1].astype(np.float32).astype(np.float64)
    born = ScoredRows(np.column_stack([1.0 - p1, p1]), rows.y, rows.groups)
    calibration_rows = trimmed(born[:10_000])
    calibration = calibrate(calibration_rows.proba, calibration_rows.y, 2)
    around = np.concatenate(
        [1.0 - calibration.thresholds(Decimal(level))[1] + np.linspace(-5e-8, 5e-8, 12_500) for level in LEVELS]
    )
    proba = np.concatenate([born.proba[10_000:], np.column_stack([1.0 - around, around])])

    found = count_of_differences(calibration_rows, proba)

    assert found["mapie_band"] > 4_000
    assert (found["mapie"], found["crepes"], found["crepes_p"]) == (0, 0, 0)


def test_mapie_admits_scores_just_beyond_the_threshold_and_we_do_not():
    calibration_rows = binary_rows(2_000, seed=16, grid=500)
    calibration = calibrate(calibration_rows.proba, calibration_rows.y, 2)
    threshold = calibration.thresholds(Decimal("0.9"))[1]
    p1 = 1.0 - (threshold + np.array([0.0, 0.5e-8, 2e-8]))
    proba = np.column_stack([1.0 - p1, p1])

    assert mapie_sets(calibration_rows, proba, [0.9])[:, 1, 0].tolist() == [True, True, False]
    assert calibration.sets(proba, Decimal("0.9"))[:, 1].tolist() == [True, False, False]


@pytest.mark.parametrize(("size", "whole"), [(98, False), (99, True), (100, False)])
def test_crepes_admits_p_equal_to_alpha_and_we_do_not(size, whole):
    scores = np.linspace(0.1, 0.9, size)
    proba = 1.0 - np.column_stack([np.linspace(0.0, 1.0, 2_001)] * 2)
    rows = ScoredRows(np.column_stack([1.0 - scores, 1.0 - scores]), np.zeros(size, dtype=np.int64), np.arange(size))
    calibration = calibrate(rows.proba, rows.y, 2)

    p_values = calibration.p_values(proba)[:, 0]
    ours = calibration.sets(proba, Decimal("0.9"))[:, 0]
    theirs = ConformalClassifier().fit(scores).predict_set(1.0 - proba[:, :1], confidence=0.9, smoothing=False)[:, 0]

    differs = ours != theirs.astype(bool)
    assert np.array_equal(differs, p_values == 0.1)
    assert differs.any() == whole


def test_crepes_own_class_conditional_classifier_gives_the_same_sets():
    # Through its public wrapper, to show that the helper above asks crepes the right question.
    class Given(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])

        def predict_proba(self, rows):
            return np.asarray(rows)

    calibration_rows, rows = trimmed(binary_rows(1_500, seed=17, grid=100)), binary_rows(1_000, seed=18, grid=100)
    wrapped = WrapClassifier(Given())
    wrapped.calibrate(calibration_rows.proba, calibration_rows.y, class_cond=True)
    calibration = calibrate(calibration_rows.proba, calibration_rows.y, 2)

    for level in LEVELS:
        theirs = wrapped.predict_set(rows.proba, labels=False, confidence=float(level), smoothing=False)
        assert np.array_equal(theirs.astype(bool), calibration.sets(rows.proba, Decimal(level)))
