from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from ml_core.lab.drift.detect import detect_drift
from ml_core.lab.drift.drift_report import FEATURE_FLAGS, FEATURE_STATES, counted, drifted_share, should_retrain

RNG = np.random.default_rng(3)


def reports(drifted: int, steady: int, skipped: int = 0):
    """Real reports with so many features of each kind."""
    sample = RNG.normal(size=200)
    far, few = sample + 5.0, sample[:10]
    kinds = [*[far] * drifted, *[sample] * steady, *[few] * skipped]
    names = [f"x{i}" for i in range(len(kinds))]
    return detect_drift(dict.fromkeys(names, sample), dict(zip(names, kinds, strict=True)), names)


@pytest.mark.parametrize(
    ("drifted", "steady", "advised"), [(0, 5, False), (1, 4, True), (1, 5, False), (3, 12, True), (2, 9, False)]
)
def test_retraining_is_advised_from_the_threshold_on(drifted, steady, advised):
    assert should_retrain(reports(drifted, steady), 0.20) is advised


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.6, 0.7, 1.0])
def test_a_share_equal_to_the_threshold_is_enough(threshold):
    drifted = round(10 * threshold)
    assert should_retrain(reports(drifted, 10 - drifted), threshold)


def test_skipped_features_count_on_neither_side():
    found = reports(drifted=1, steady=4, skipped=20)
    assert (len(counted(found)), drifted_share(found)) == (5, 0.2)
    assert should_retrain(found)


def test_where_nothing_was_tested_nothing_is_advised():
    assert not should_retrain(reports(0, 0, skipped=3))
    assert not should_retrain([])


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.1, float("nan")])
def test_a_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        should_retrain([], threshold)


def test_a_report_is_json():
    found = json.loads(json.dumps([asdict(r) for r in reports(1, 1, 1)], allow_nan=False))
    assert [r["state"] for r in found] == ["drifted", "ok", "too_few"]


def test_every_state_and_flag_has_a_sentence():
    assert all(FEATURE_STATES.values())
    assert all(FEATURE_FLAGS.values())
