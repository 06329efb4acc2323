"""A ward with real alarms, told; and the same ward with one piece after another missing or damaged."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from ml_core.base.errors import DataError
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.lab.report.collect import collect_facts
from ml_core.lab.report.facts import ReportFacts
from ml_core.lab.report.page import report_json, report_page
from ml_core.lab.report.status_words import status_of
from ml_core.lab.watching.live_performance import MaturedAnswers, bands_of, matured_answers, performance_of
from ml_core.serve.log.log_files import log_files
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.worker_reports import read_reports
from tests.folder_files import heartbeats
from tests.homes import bento_store
from tests.lab.report.outline import Outline
from tests.lab.watching.ward import HORIZON_DAYS, Ward, answered_files, patients
from tests.serve.answering.stored import Home
from tests.toy_models import NAME

DAYS, ROWS, WINDOW = 20, 200, 200
SINCE = timedelta(days=60)
MOST_BYTES = 5_000_000


@dataclass(frozen=True)
class Story:
    """A home as it was left, with the moments at which it was."""

    home: Path
    now: datetime
    clock_s: float

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, model_name=NAME, drift_window_rows=WINDOW)

    def told(self, since: timedelta = SINCE, **more) -> ReportFacts:
        return collect_facts(self.settings, since, self.now, clock_s=self.clock_s, **more)


@pytest.fixture(scope="module")
def lived(tmp_path_factory) -> Iterator[Story]:
    """Twenty days whose outcomes do not follow from what is asked; a month later, four days of strange glucose."""
    folder = tmp_path_factory.mktemp("ward")
    with bento_store(folder / "bento"):
        ward = Ward(folder, workers=2, drift_window_rows=WINDOW)
        ward.look()
        rng = np.random.default_rng(5)
        for day in range(DAYS):
            rows = patients(ROWS, seed=1_000 + day)
            outcome = rows["readmission_30d"].to_numpy().copy()
            rng.shuffle(outcome)
            ward.answer(rows.assign(readmission_30d=outcome))
            ward.pass_days(1)
        ward.pass_days(HORIZON_DAYS)
        ward.look()
        ward.home.change(changes.shadow(ward.home.v2))
        for day in range(4):
            strange = patients(ROWS, seed=2_000 + day)
            ward.answer(strange.assign(glucose=(strange["glucose"] * 1.6).clip(30, 600)))
            ward.look()
            ward.pass_days(1)
        clock_s = time.monotonic()
        for worker in ward.workers:
            worker.look()
        ward.close()
        yield Story(ward.home.settings.home, ward.now, clock_s + 1)


@pytest.fixture
def story(lived, tmp_path) -> Story:
    """A copy of its own."""
    shutil.copytree(lived.home, tmp_path / "home")
    return replace(lived, home=tmp_path / "home")


@pytest.fixture(scope="module")
def facts(lived) -> ReportFacts:
    return lived.told()


@pytest.fixture(scope="module")
def known(lived) -> MaturedAnswers:
    return matured_answers(lived.settings)


# --- what a ward's report tells -------------------------------------------------------------------------------------


def test_a_whole_ward_leaves_no_gap_and_is_told_on_a_page_that_can_be_mailed(facts):
    page = report_page(facts)
    assert facts.gaps == ()
    assert len(page.encode()) <= MOST_BYTES
    assert Outline(page).problems == []


def test_the_alarms_that_are_on_are_told_with_their_promise(facts, known):
    on = {f"coverage:{c.label}": c.detector for c in facts.coverage.classes if c.detector.alarm_at}
    on |= {"drift": facts.drift.detector} if facts.drift.detector.alarm_at else {}
    since = {alarm.reason: datetime.fromisoformat(alarm.since) for alarm in known.alarms}
    assert {reason: detector.alarm_at for reason, detector in on.items()} == since
    assert {"drift", "coverage:1"} <= set(since)
    assert all(detector.value >= detector.threshold for detector in on.values())
    assert all(detector.trail[-1].value == detector.value for detector in on.values())
    status = status_of(facts)
    assert status.overall == "attention"
    said = " ".join(sentence.text for sentence in status.sentences)
    assert "Coverage alarm for class 1 (readmitted within 30 days of discharge) since" in said
    assert "at most one false alarm in 50,000 outcomes of this class" in said
    assert "at most one false alarm in 1,000 windows" in said


def test_answers_of_the_period_are_those_of_the_log(facts, lived):
    answers = list(PredictionLog(lived.settings.log).rows(since=facts.since))
    assert sum(b.answers for b in facts.answers.buckets) == len(answers) == (DAYS + 4) * ROWS
    sizes = np.bincount([len(a.prediction_set) for a in answers], minlength=3)
    assert np.sum([b.set_sizes for b in facts.answers.buckets], axis=0).tolist() == sizes.tolist()
    assert facts.bucket_s == 86_400.0
    assert [b.start for b in facts.answers.buckets] == [
        facts.since + timedelta(days=k) for k in range(len(facts.answers.buckets))
    ]


def test_coverage_is_that_of_every_answer_whose_outcome_counts(facts, known):
    bands = {str(band.label): band for band in bands_of(known) if band.label is not None}
    for judged in facts.coverage.classes:
        assert (judged.rows, judged.observed) == (bands[judged.label].n, bands[judged.label].observed)
        assert judged.rows == sum(bucket.rows for bucket in judged.buckets)
        assert all(b.lower <= judged.promised <= b.upper for b in judged.buckets if b.rows)
    one = facts.coverage.classes[1]
    assert any(b.rows and b.observed < b.lower for b in one.buckets)


def test_performance_is_told_beside_what_training_found(facts, known):
    whole = performance_of(known)
    told = facts.performance
    assert sum(bucket.rows for bucket in told.buckets) == whole.n
    assert sum(bucket.positives for bucket in told.buckets) == whole.n_per_class[1]
    weighed = sum(bucket.rows * bucket.brier for bucket in told.buckets if bucket.rows) / whole.n
    assert weighed == pytest.approx(whole.brier)
    assert told.trained_auc == known.model.manifest.metrics["roc_auc"]


def test_what_is_expected_goes_on_where_outcomes_end(facts):
    told = {(s.measure, s.label): s.buckets for s in facts.expected.series}
    assert told.keys() == {("auc", ""), ("brier", ""), ("coverage", "0"), ("coverage", "1")}
    known = {b.start: b.brier for b in facts.performance.buckets if b.brier is not None}
    assert {b.start: b.realised for b in told["brier", ""] if b.realised is not None} == known
    still_open = [b for b in told["brier", ""] if b.expected is not None and b.realised is None]
    assert still_open
    assert min(b.start for b in still_open) > max(known)
    for b in told["brier", ""]:
        assert b.expected is None or b.low <= b.expected <= b.high
        assert b.expected is None or b.realised is None or abs(b.expected - b.realised) < 2 * (b.high - b.low)


def test_outcomes_are_counted_and_those_that_wait_have_a_day(facts, lived):
    assert (facts.labels.counted, facts.labels.waiting, facts.labels.missing) == (DAYS * ROWS, 4 * ROWS, 0)
    first = lived.now - timedelta(days=4) + timedelta(days=HORIZON_DAYS)
    assert facts.labels.next_at == first


def test_drift_shows_the_feature_that_moved_and_no_other(facts):
    assert [f.name for f in facts.drift.features if f.is_drifted] == ["glucose"]
    assert facts.drift.retrain_advised
    assert (facts.drift.n_current, facts.drift.n_reference) == (WINDOW, 1_993)
    glucose = next(f for f in facts.drift.features if f.name == "glucose")
    assert (glucose.unit, glucose.statistic_name) == ("mg/dL", "KS")
    assert glucose.shift_sd > 0.5
    assert glucose.shares.edges[-1] > 250.0
    (score,) = facts.drift.scores
    assert (score.label, sum(score.shares.current)) == ("1", pytest.approx(1.0))


def test_models_are_told_with_gate_promotion_and_calibration(facts):
    champion, challenger = facts.models
    assert (champion.slot, champion.version, challenger.slot) == ("champion", "1", "challenger")
    assert champion.gate.passed
    assert challenger.gate.passed
    assert champion.promoted_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert champion.calibration_rows == {"0": 663, "1": 104}
    assert list(champion.rows) == ["train", "validation", "calibration", "test"]
    assert champion.lineage["seed"] == "7"
    assert "xgboost" in champion.lineage


def test_what_runs_is_told(facts):
    assert (facts.serving.workers, facts.serving.lost, facts.serving.mode) == (2, 0, "shadow")
    assert [(c.worker, c.slot) for c in facts.circuits.now] == [
        ("api 1", "champion"),
        ("api 1", "challenger"),
        ("api 2", "champion"),
        ("api 2", "challenger"),
    ]
    assert facts.shadow[0].challenger.startswith(f"{NAME}:v2-")


def test_the_journal_is_told_newest_first(facts):
    events = [entry.event for entry in facts.rollout.journal]
    assert events[-1] == "rollout begins"
    assert events.index("shadow") < events.index("rollout begins")
    assert "alarm raised" in events


def test_the_log_is_told_file_by_file(facts, lived):
    assert facts.store.rows == (DAYS + 4) * ROWS
    assert [f.name for f in facts.store.files] == [f.path.name for f in reversed(log_files(lived.settings.log))]
    assert facts.store.verified_at is None
    assert lived.told(verify=True).store.verified_at == lived.now


def test_the_same_stores_and_moment_give_the_same_report(lived, facts):
    again = lived.told()
    assert (report_page(again), report_json(again)) == (report_page(facts), report_json(facts))


def test_a_short_period_has_hours_and_a_long_one_begins_with_the_first_answer(lived):
    short, long = lived.told(timedelta(days=2)), lived.told(timedelta(days=3_000))
    assert (short.bucket_s, len(short.answers.buckets)) == (3_600.0, 48)
    assert long.since == datetime(2026, 3, 1, tzinfo=UTC)
    assert long.answers.buckets[0].answers == ROWS


def test_outcomes_are_those_of_answers_a_horizon_before_the_period(lived):
    told = lived.told(timedelta(days=10))
    assert sum(b.answers for b in told.answers.buckets) == 4 * ROWS
    assert told.performance.bucket_s == 86_400.0
    assert [b.rows for b in told.performance.buckets] == [ROWS] * 6 + [0] * 5  # from 15 March; the last was on the 20th


def test_outcomes_nobody_sent_in_are_missing(lived, tmp_path):
    ward = Ward(tmp_path)
    ward.answer(patients(50, seed=3))
    del ward.due[:20]
    ward.pass_days(31)
    ward.look()
    ward.close()
    told = collect_facts(ward.home.settings, SINCE, ward.now)
    assert (told.labels.counted, told.labels.missing, told.labels.waiting) == (30, 20, 0)


def test_outcomes_that_enter_at_the_next_look_are_not_missing(tmp_path):
    ward = Ward(tmp_path)
    ward.answer(patients(50, seed=3))
    ward.pass_days(6)
    ward.look()
    known = 50 - len(ward.due)
    ward.now += timedelta(days=25)
    ward.close()
    told = collect_facts(ward.home.settings, SINCE, ward.now)
    assert (told.labels.counted, told.labels.missing) == (0, 50 - known)


# --- what is missing or damaged -------------------------------------------------------------------------------------


def spoil(path: Path) -> None:
    path.write_bytes(b"not what it was " * 1_000)


def damaged_log_file(story: Story) -> None:
    spoil(answered_files(story.settings)[-1].path)


def damaged_ledger(story: Story) -> None:
    spoil(story.settings.monitor / f"{story.settings.model_name}.ledger.db")


def damaged_rollout(story: Story) -> None:
    spoil(story.settings.rollouts / f"{NAME}.json")


def damaged_model(story: Story) -> None:
    spoil(next(story.settings.models.glob(f"{NAME}/v1-*/**/model.onnx")))


def damaged_promotion(story: Story) -> None:
    spoil(story.settings.promotions / f"{NAME}.signed.json")


def damaged_publication(story: Story) -> None:
    spoil(story.settings.monitor_state)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (damaged_log_file, {"answers", "coverage", "drift", "log"}),
        (damaged_ledger, {"coverage", "performance", "drift"}),
        (damaged_rollout, {"rollout", "models", "drift"}),
        (damaged_model, {"models", "lineage"}),
        (damaged_promotion, {"models", "lineage"}),
        (damaged_publication, {"coverage", "drift"}),
    ],
)
def test_what_cannot_be_read_is_told_and_the_rest_as_well(
    story, damage: Callable[[Story], None], parts: set[str], facts: ReportFacts
):
    damage(story)
    found = story.told()
    assert {gap.part for gap in found.gaps} == parts
    assert status_of(found).overall in {"attention", "broken"}
    assert "Not all could be read:" in Outline(report_page(found)).text
    alike = {"answers": "answers", "shadow": "shadow", "store": "log", "circuits": "circuits"}
    for part in (name for name, of_page in alike.items() if of_page not in parts and damage is not damaged_rollout):
        assert getattr(found, part) == getattr(facts, part)


def test_answers_of_a_damaged_file_are_missing_and_no_others(story):
    damaged = answered_files(story.settings)[-1]
    held = PredictionLog(story.settings.log).given(damaged, datetime(2026, 1, 1, tzinfo=UTC), story.now)[0]
    spoil(damaged.path)
    found = story.told()
    assert sum(b.answers for b in found.answers.buckets) == (DAYS + 4) * ROWS - held
    assert all(damaged.path.name in gap.reason for gap in found.gaps)


def test_a_drift_alarm_stays_on_without_the_answers_behind_it(story, facts):
    for path in story.settings.log.glob("predictions-*"):
        path.unlink()
    found = story.told()
    assert found.drift.detector == facts.drift.detector
    assert [f.name for f in found.drift.features if f.is_drifted] == ["glucose"]
    assert (found.drift.rule, found.drift.n_current) == ("extended", WINDOW)
    assert {f.shares for f in found.drift.features} == {None}
    assert (found.answers, found.store, found.gaps) == (None, None, ())
    assert "Drift alarm since" in Outline(report_page(found)).text


def test_before_a_monitor_has_looked_there_is_drift_advice_and_no_verdict_on_coverage(tmp_path):
    ward = Ward(tmp_path)
    ward.answer(patients(100, seed=3))
    ward.pass_days(1)
    ward.close()
    found = collect_facts(ward.home.settings, SINCE, ward.now)
    assert (found.coverage, found.performance, found.gaps) == (None, None, ())
    assert (found.labels.waiting, found.labels.missing, found.monitoring.last_look_at) == (100, 0, None)
    assert found.drift.detector is None
    assert len(found.drift.features) == 4
    assert "100 predictions wait for the day" in Outline(report_page(found)).text


def test_inputs_that_are_not_kept_leave_drift_untold(tmp_path):
    ward = Ward(tmp_path, log_inputs=False)
    ward.answer(patients(100, seed=3))
    ward.close()
    found = collect_facts(ward.home.settings, SINCE, ward.now + timedelta(minutes=1))
    assert (found.drift, found.gaps) == (None, ())
    assert sum(b.answers for b in found.answers.buckets) == 100


def test_a_promoted_model_that_was_never_served_is_told(tmp_path):
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    found = collect_facts(home.settings, SINCE, datetime(2026, 3, 1, tzinfo=UTC))
    assert [(m.slot, m.version) for m in found.models] == [("champion", "1")]
    assert (found.serving, found.answers, found.store, found.gaps) == (None, None, None, ())
    assert "The service does not run" in " ".join(s.text for s in status_of(found).sentences)


def test_a_model_that_was_only_registered_is_told(tmp_path):
    settings = Settings(home=tmp_path, model_name=NAME)
    Journal(settings.journal).append("model.registered", {"model": NAME, "version": "1", "data": "table v1 version 0"})
    found = collect_facts(settings, SINCE, datetime(2026, 3, 1, tzinfo=UTC))
    assert found.models == ()
    assert status_of(found).sentences[0].text.startswith(f"No model of the name {NAME} is promoted")


def test_a_name_nothing_is_known_of_is_an_error_that_names_those_that_are(tmp_path):
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    with pytest.raises(
        DataError, match=f"the model typo: .* knows nothing of it, there is {NAME}: give another --model"
    ):
        collect_facts(Settings(home=home.settings.home, model_name="typo"), SINCE, datetime(2026, 3, 1, tzinfo=UTC))
    with pytest.raises(DataError, match="nothing of any other model either"):
        collect_facts(Settings(home=tmp_path / "empty", model_name="typo"), SINCE, datetime(2026, 3, 1, tzinfo=UTC))


def test_a_home_is_only_read(story):
    def state() -> dict[str, tuple[int, int]]:
        return {
            str(path.relative_to(story.home)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(story.home.rglob("*"))
            if path.is_file() and not path.name.endswith("-shm")  # SQLite's notes on who reads
        }

    before = state()
    story.told(verify=True)
    assert state() == before
    assert len(read_reports(heartbeats(story.settings))) == 2
