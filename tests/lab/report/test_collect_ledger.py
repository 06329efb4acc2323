"""Detectors, and labels that have come or not, as the monitor's ledger and the log say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.clock import microseconds
from ml_core.base.settings import Settings
from ml_core.lab.report.collect_ledger import (
    detectors_of,
    known_outcomes,
    label_facts,
    missing_outcomes,
    thinned_trail,
)
from ml_core.lab.report.collect_period import DAY, Known, period_of
from ml_core.lab.report.facts_outcomes import Labels
from ml_core.lab.report.gaps import Gaps
from ml_core.lab.watching.alarms import hold
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.lab.watching.outcome_counts import DueAnswer
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.reader import PredictionLog
from tests.lab.report.known_ledger import BEGAN, MODEL, ledger
from tests.serve.log.filled import THIRD, bulk_row, fill, row, settings_in
from tests.toy_models import toy_model


def none_in(folder):
    """The ledger of a monitor that has never run, in a home of its own."""
    return open_ledger_tables(Settings(home=folder / "none"), "toy")


def test_what_is_known_of_a_model_is_counted(tmp_path):
    path = ledger(tmp_path)
    assert known_outcomes(path, MODEL) == Known(BEGAN, BEGAN + timedelta(days=5, minutes=204), 63)
    assert known_outcomes(path, "cc") is None
    assert known_outcomes(none_in(tmp_path), MODEL) is None


@pytest.fixture
def log(tmp_path):
    """Ten answers on 5 January, and on the 7th five and a bulk call of a hundred."""
    settings = settings_in(tmp_path)
    fill(settings, [row(n) for n in range(10)])
    fill(settings, [row(n, THIRD) for n in range(5)] + [bulk_row(settings, 1, THIRD, answers=100)], THIRD)
    return PredictionLog(settings.log)


BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 1, 8, 12, tzinfo=UTC)


def labels(log, path, horizon: float, gaps: Gaps | None = None):
    period = period_of(NOON, 30 * DAY, timedelta(days=horizon))
    store = LabelStore(open_label_tables(Settings(home=log._folder.parents[1]), "toy"), log.known)
    return label_facts(path, log, store, period, horizon, gaps or Gaps())


def test_answers_wait_until_their_horizon_has_passed_those_of_bulk_calls_too(log, tmp_path):
    none = none_in(tmp_path)
    assert labels(log, none, 2) == Labels(waiting=105, horizon_days=2, next_at=NOON + timedelta(days=1, hours=-3))
    assert labels(log, none, 30).waiting == 115
    assert labels(log, none, 0) == Labels(horizon_days=0)


def test_without_a_monitor_no_outcome_is_called_missing(log, tmp_path):
    assert labels(log, none_in(tmp_path), 2).missing == 0
    assert labels(log, ledger(tmp_path), 2).missing == 10


def test_outcomes_that_were_sent_in_are_never_called_missing(log, tmp_path):
    store, ids = (
        LabelStore(open_label_tables(Settings(home=tmp_path), "toy"), log.known),
        [raw for raw, _ in log.ids_given(log.files()[0], BEGINNING, NOON)],
    )
    store.add([AnswerLabel(raw, 1) for raw in ids[:4]], "test")
    found = labels(log, ledger(tmp_path), 2)
    assert (found.missing, found.uncounted) == (6, 4)
    assert labels(log, none_in(tmp_path), 2).uncounted == 4


def test_files_that_cannot_be_read_are_not_counted_and_leave_a_gap(log, tmp_path):
    damaged = log.files()[0].path
    damaged.write_bytes(b"no database at all" * 1_000)
    gaps = Gaps()
    assert labels(log, none_in(tmp_path), 30, gaps).waiting == 105
    assert [(gap.part, damaged.name in gap.reason) for gap in gaps.found] == [("coverage", True)]


# --- detectors -------------------------------------------------------------------------------------------------------


MARCH = datetime(2026, 3, 1, tzinfo=UTC)
TRAILS = st.lists(st.floats(0.0, 1e9), max_size=200).map(lambda values: list(enumerate(values)))


@given(TRAILS, st.integers(1, 50))
def test_a_thinned_trail_keeps_its_peak_its_end_and_its_order(trail, most):
    kept = thinned_trail(trail, most)
    assert len(kept) <= most + 1
    assert kept == sorted(kept)
    assert set(kept) <= set(trail)
    if trail:
        assert kept[-1] == trail[-1]
        assert max(value for _, value in kept) == max(value for _, value in trail)


@pytest.fixture
def path(tmp_path):
    """A ledger with a drift alarm and a quiet coverage detector of one model."""
    file = open_ledger_tables(Settings(home=tmp_path), "toy")
    with Ledger.changing(file) as ledger:
        drift = {"threshold": 1_000.0, "evidence": 2_000.0, "windows": 12, "alarm_at": 11}
        quiet = {"mu0": 0.12, "threshold": 5e4, "evidence": [1.0, 2.0, 3.0, 4.0, 5.0], "labels": 70, "misses": 4}
        ledger.keep_detector("aa", "drift", drift, "2026-03-09T08:00:00.000000Z")
        ledger.keep_detector("aa", "coverage:1", quiet, None)
        ledger.keep_detector("bb", "coverage:all", quiet, None)
        for day in range(10):
            ledger.add_evidence("aa", "drift", round((MARCH + timedelta(days=day)).timestamp() * 1e6), float(day))
    return file


def test_detectors_are_told_with_their_promise_and_their_alarm(path):
    found = detectors_of(path, "aa", MARCH)
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
    assert "in 50,000 outcomes while" in detectors_of(path, "bb", MARCH)["coverage:all"].promise


def test_an_alarm_that_is_held_is_not_told_as_one(path):
    assert detectors_of(path, "aa", MARCH)["drift"].alarm_at is not None
    with Ledger.changing(path) as ledger:
        hold(ledger, "aa", ["drift"])
    assert detectors_of(path, "aa", MARCH)["drift"].alarm_at is None


def test_what_missing_outcomes_leave_open_is_told_of_the_latest_due_answers(tmp_path):
    settings, manifest = settings_in(tmp_path), toy_model().bundle.manifest
    assert missing_outcomes(settings, MODEL, manifest, BEGAN) is None
    with Ledger.changing(open_ledger_tables(settings, settings.model_name)) as ledger:
        answers = [
            DueAnswer(n.to_bytes(16, "big"), microseconds(BEGAN), MODEL, own=True, members=(n % 2,), prediction=n % 2)
            for n in range(20)
        ]
        ledger.outcomes.add(answers, {answer.request_id: 1 for answer in answers[:10]})
    assert missing_outcomes(settings, MODEL, manifest, BEGAN) is None
    found = missing_outcomes(settings, MODEL, manifest, BEGAN + timedelta(days=settings.label_horizon_days + 2))
    assert found is not None
    assert (found.due, found.missing, found.unverified) == (20, 10, ())
    one = found.classes[-1]
    assert (one.label, one.observed, one.lowest, one.highest) == ("1", 0.5, 5 / 15, 10 / 15)


def test_a_trail_begins_with_the_period(path):
    trail = detectors_of(path, "aa", MARCH + timedelta(days=4))["drift"].trail
    assert [point.value for point in trail] == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert trail[0].at == MARCH + timedelta(days=4)


def test_a_monitor_that_never_ran_has_no_detectors(tmp_path):
    assert detectors_of(none_in(tmp_path), "aa", MARCH) == {}
