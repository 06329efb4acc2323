"""Sets of MAPIE and crepes from given probabilities, in the shape of ours, for tests of agreement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from crepes import ConformalClassifier

from ml_core.lab.measuring.calibration import mapie_classifier
from tests.toy_scores import ScoredRows

CHUNK = 100_000


def mapie_sets(calibration: ScoredRows, proba: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """MAPIE's class-conditional sets, bool (n, K, levels): object k conformalised on class k, its column k taken."""
    n_classes = proba.shape[1]
    sets = np.empty((proba.shape[0], n_classes, len(levels)), dtype=np.bool_)
    for k in range(n_classes):
        own = calibration[calibration.y == k]
        mapie = mapie_classifier(own.proba, own.y, levels, range(n_classes))
        for start in range(0, proba.shape[0], CHUNK):
            part = slice(start, start + CHUNK)
            sets[part, k] = mapie.predict_set(proba[part])[1][:, k]
    return sets


def crepes_p_values(calibration: ScoredRows, proba: np.ndarray) -> np.ndarray:
    """crepes' unsmoothed class-conditional p-values (n, K); it decides with p >= 1 - confidence in floats.

    crepes loops over rows, so each distinct score is asked for once.
    """
    p_values = np.empty(proba.shape)
    for k in range(proba.shape[1]):
        own = calibration[calibration.y == k]
        distinct, where = np.unique(1.0 - proba[:, k], return_inverse=True)
        classifier = ConformalClassifier().fit(1.0 - own.proba[:, k])
        p_values[:, k] = classifier.predict_p(distinct, smoothing=False)[where]
    return p_values


def crepes_sets(p_values: np.ndarray, level: float) -> np.ndarray:
    """Membership as ``ConformalClassifier.predict_set`` decides it (crepes 0.9.1, base.py)."""
    return p_values >= 1 - level
