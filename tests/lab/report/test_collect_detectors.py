from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.lab.report.collect_detectors import detectors_of, thinned
from ml_core.lab.watching.ledger import Ledger

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
TRAILS = st.lists(st.floats(0.0, 1e9), max_size=200).map(lambda values: list(enumerate(values)))


@given(TRAILS, st.integers(1, 50))
def test_a_thinned_trail_keeps_its_peak_its_end_and_its_order(trail, most):
    kept = thinned(trail, most)
    assert len(kept) <= most + 1
    assert kept == sorted(kept)
    assert set(kept) <= set(trail)
    if trail:
        assert kept[-1] == trail[-1]
        assert max(value for _, value in kept) == max(value for _, value in trail)


@pytest.fixture
def path(tmp_path):
    """A ledger with a drift alarm and a quiet coverage detector of one model."""
    file = tmp_path / "toy.ledger.db"
    with Ledger.changing(file) as ledger:
        drift = {"threshold": 1_000.0, "evidence": 2_000.0, "windows": 12, "alarm_at": 11}
        quiet = {"mu0": 0.12, "threshold": 5e4, "evidence": [1.0, 2.0, 3.0, 4.0, 5.0], "labels": 70, "misses": 4}
        ledger.keep_detector("aa", "drift", drift, "2026-03-09T08:00:00.000000Z")
        ledger.keep_detector("aa", "coverage:1", quiet, None)
        ledger.keep_detector("bb", "coverage:all", quiet, None)
        for day in range(10):
            ledger.add_evidence("aa", "drift", round((BEGAN + timedelta(days=day)).timestamp() * 1e6), float(day))
    return file


def test_detectors_are_told_with_their_promise_and_their_alarm(path):
    found = detectors_of(path, "aa", BEGAN)
    assert set(found) == {"drift", "coverage:1"}
    drift, quiet = found["drift"], found["coverage:1"]
    assert (drift.value, drift.threshold, drift.observations) == (2_000.0, 1_000.0, 12)
    assert drift.alarm_at == datetime(2026, 3, 9, 8, tzinfo=UTC)
    assert (
        drift.promise
        == "On average at most one false alarm in 1,000 windows of answers while what is asked stays alike."
    )
    assert (quiet.value, quiet.observations, quiet.alarm_at) == (15.0, 70, None)
    assert "one false alarm in 50,000 outcomes of this class" in quiet.promise
    assert "in 50,000 outcomes while" in detectors_of(path, "bb", BEGAN)["coverage:all"].promise


def test_a_trail_begins_with_the_period(path):
    trail = detectors_of(path, "aa", BEGAN + timedelta(days=4))["drift"].trail
    assert [point.value for point in trail] == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert trail[0].at == BEGAN + timedelta(days=4)


def test_a_monitor_that_never_ran_has_no_detectors(tmp_path):
    assert detectors_of(tmp_path / "none.db", "aa", BEGAN) == {}
