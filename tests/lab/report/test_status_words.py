from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from ml_core.lab.report.facts import AnswerBucket, AnswerHistory, Gap, Monitoring, ReportFacts, Serving
from ml_core.lab.report.facts_outcomes import Labels
from ml_core.lab.report.facts_upkeep import CircuitNow, Circuits, LogStore
from ml_core.lab.report.status_words import (
    FALLBACKS_NOTED,
    ReportStatus,
    class_words,
    key_figures,
    no_outcomes,
    status_of,
)
from tests.lab.report.example_facts import NOW, bare_facts, example_facts

EXAMPLE = example_facts(features=12, days=90)


def quiet() -> ReportFacts:
    """The example without its alarms and its advice."""
    assert EXAMPLE.coverage is not None
    assert EXAMPLE.drift is not None
    classes = tuple(replace(c, detector=replace(c.detector, alarm_at=None)) for c in EXAMPLE.coverage.classes)
    features = tuple(replace(f, is_drifted=False, is_warned=False) for f in EXAMPLE.drift.features)
    detector = replace(EXAMPLE.drift.detector, alarm_at=None)
    drift = replace(EXAMPLE.drift, features=features, retrain_advised=False, detector=detector)
    return replace(EXAMPLE, coverage=replace(EXAMPLE.coverage, classes=classes), drift=drift)


def told(status: ReportStatus) -> str:
    return " ".join(f"{s.text} {s.first}" for s in status.sentences)


def test_all_is_well_only_says_what_is_known():
    status = status_of(quiet())
    assert status.overall == "ok"
    assert {s.level for s in status.sentences} == {"ok"}
    assert "readmission_risk, version 3, is served by 2 processes" in told(status)
    assert "no alarm is on" in told(status)
    assert "Retraining is not advised: 0 of 13 features drifted" in told(status)


def test_alarms_say_what_they_mean_and_what_to_do_first():
    status = status_of(EXAMPLE)
    coverage, drift = (
        next(s for s in status.sentences if s.text.startswith(f"{w} alarm")) for w in ("Coverage", "Drift")
    )
    assert status.overall == "attention"
    assert "class 1 (readmitted within 30 days) since 21 Nov 2026, 05:15 UTC" in coverage.text
    assert "hold this outcome for 90 %" in coverage.text
    assert "do not read a set without 1 as ruling it out" in coverage.text
    assert "less than one false alarm in 50,000 outcomes" in coverage.text
    assert "`surety recalibrate`" in coverage.first
    assert "`surety retrain`" in coverage.first
    assert "since 20 Nov 2026, 06:15 UTC" in drift.text
    assert drift.first
    assert "no alarm" not in told(status)


def test_missing_outcomes_that_leave_coverage_open_need_somebody():
    open_ = replace(EXAMPLE.missing, unverified=("no outcome has come of 45% of the answers",))
    status = status_of(replace(quiet(), missing=open_))
    assert status.overall == "attention"
    assert "Coverage cannot be verified: no outcome has come of 45% of the answers." in told(status)


def test_coverage_alarm_names_the_last_bucket_below_its_band():
    assert EXAMPLE.coverage is not None
    judged = EXAMPLE.coverage.classes[1]
    low = [b for b in judged.buckets if b.observed is not None and b.lower is not None and b.observed < b.lower]
    assert f"in the 7 days from {low[-1].start.day} " in told(status_of(EXAMPLE))


def test_pressing_sentences_come_first():
    levels = [
        s.level for s in status_of(replace(EXAMPLE, store=LogStore(10, 0, "standard", broken=("a.db",)))).sentences
    ]
    assert levels == sorted(levels, key=["broken", "attention", "ok", "unknown"].index)
    assert levels[0] == "broken"


def test_nothing_promoted_is_broken_and_says_how_to_begin():
    status = status_of(bare_facts())
    assert status.overall == "broken"
    assert "`surety promote --model readmission_risk`" in status.sentences[0].first


@pytest.mark.parametrize("serving", [None, Serving(workers=0)])
def test_a_service_that_does_not_run_is_broken(serving):
    status = status_of(replace(quiet(), serving=serving))
    assert status.overall == "broken"
    assert "does not run" in status.sentences[0].text


@pytest.mark.parametrize("monitoring", [None, Monitoring(None, 300.0)])
def test_a_monitor_that_never_looked_needs_somebody(monitoring):
    status = status_of(replace(quiet(), monitoring=monitoring))
    assert status.overall == "attention"
    assert "has never looked" in told(status)
    assert "no alarm is on" not in told(status)


@pytest.mark.parametrize(("seconds", "overall"), [(300, "ok"), (301, "attention")])
def test_a_monitor_is_stale_after_its_time(seconds, overall):
    look = Monitoring(NOW - timedelta(seconds=seconds), 300.0)
    assert status_of(replace(quiet(), monitoring=look)).overall == overall


def test_a_clock_that_ran_ahead_is_no_negative_age():
    look = Monitoring(NOW + timedelta(seconds=5), 300.0)
    assert "0 seconds before this report" in told(status_of(replace(quiet(), monitoring=look)))


@pytest.mark.parametrize(
    ("serving", "expected"),
    [
        (Serving(1), "is served by 1 process. No other version is on trial."),
        (Serving(2, mode="shadow"), "Version 4 is scored beside it"),
        (Serving(2, mode="canary", weight=0.1), "Version 4 answers 10 % of the requests on trial"),
    ],
)
def test_the_trial_is_told(serving, expected):
    assert expected in told(status_of(replace(quiet(), serving=serving)))


def test_a_model_without_a_passed_gate_needs_somebody():
    models = (replace(EXAMPLE.models[0], gate=None), *EXAMPLE.models[1:])
    assert "no passed gate" in told(status_of(replace(quiet(), models=models)))


def test_lost_processes_and_their_problems_need_somebody():
    status = status_of(
        replace(quiet(), serving=Serving(1, lost=1, problems=("cannot load v4: golden records differ",)))
    )
    assert status.overall == "attention"
    assert "cannot load v4: golden records differ." in told(status)
    assert "1 of the service's processes stopped reporting" in told(status)


def test_a_circuit_open_everywhere_is_broken_and_in_one_process_needs_somebody():
    open_one = CircuitNow("api 1", "champion", "open", reason="error_rate")
    closed = CircuitNow("api 2", "champion", "closed")
    everywhere = status_of(replace(quiet(), circuits=Circuits((open_one, replace(open_one, worker="api 2")))))
    somewhere = status_of(replace(quiet(), circuits=Circuits((open_one, closed))))
    assert (everywhere.overall, somewhere.overall) == ("broken", "attention")
    assert "error rate" in told(everywhere)
    assert "in api 1 (error rate)" in told(somewhere)


def test_a_challengers_open_circuit_is_not_the_champions():
    circuits = Circuits((CircuitNow("api 1", "champion", "closed"), CircuitNow("api 1", "challenger", "open")))
    status = status_of(replace(quiet(), circuits=circuits))
    assert status.overall == "attention"
    assert "The challenger's circuit is open in api 1 (by order)" in told(status)


@pytest.mark.parametrize(("fallbacks", "overall"), [(4, "ok"), (5, "attention")])
def test_many_fallbacks_need_somebody(fallbacks, overall):
    assert FALLBACKS_NOTED == 0.05
    history = AnswerHistory("P(1)", (0.5,), (AnswerBucket(NOW, 100, fallbacks),))
    assert status_of(replace(quiet(), answers=history)).overall == overall


def test_lost_rows_need_somebody_and_broken_chains_are_broken():
    lost = status_of(replace(quiet(), store=LogStore(100, 3, "standard")))
    broken = status_of(replace(quiet(), store=LogStore(100, 0, "standard", broken=tuple("abcde"))))
    assert (lost.overall, broken.overall) == ("attention", "broken")
    assert "3 answers could not be stored" in told(lost)
    assert "a, b, c and 2 more" in told(broken)


def test_what_is_not_known_yet_is_told_but_alarms_nobody():
    status = status_of(replace(quiet(), coverage=None, drift=None))
    assert status.overall == "ok"
    assert [s.level for s in status.sentences].count("unknown") == 2


def test_features_that_nobody_could_judge_are_no_all_clear():
    drift = quiet().drift
    assert drift is not None
    untested = replace(drift, features=tuple(replace(f, is_tested=False) for f in drift.features))
    text = told(status_of(replace(quiet(), drift=untested)))
    assert "no feature could be judged" in text
    assert "not advised" not in text


def test_noticed_features_are_named():
    drift = quiet().drift
    assert drift is not None
    warned = replace(drift, features=tuple(replace(f, is_warned=True) for f in drift.features[:7]))
    text = told(status_of(replace(quiet(), drift=warned)))
    assert "not clear whether glucose, age, bmi, bp_systolic, time_in_hospital and 2 more changed" in text


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (Labels(horizon_days=30.0), "count once their time has passed, 30 days after the prediction"),
        (Labels(waiting=118, horizon_days=30.0, next_at=NOW), "118 predictions wait .* the first is 23 Nov 2026"),
        (Labels(missing=7), "7 predictions are old enough, but no outcome was sent in"),
    ],
)
def test_why_there_are_no_outcomes(labels, expected):
    with_labels = replace(bare_facts(), labels=labels)
    assert re.search(expected, no_outcomes(with_labels))


def test_a_label_without_words_stands_alone():
    assert class_words(bare_facts(), "2") == "class 2"


@pytest.mark.parametrize(("lost", "n"), [(0, 1), (1, 2)])
def test_headline_counts_what_needs_somebody(lost, n):
    status = status_of(replace(quiet(), monitoring=None, store=LogStore(1, lost, "standard")))
    assert status.headline == ("One thing needs somebody to look." if n == 1 else "2 things need somebody to look.")


def test_what_could_not_be_read_is_told_once_and_wants_somebody_to_look():
    reason = "predictions-2026-11-23-w01.db: is no prediction log."
    status = status_of(replace(quiet(), gaps=(Gap("coverage", reason), Gap("performance", reason))))
    assert status.overall == "attention"
    assert [s.text for s in status.sentences if reason in s.text] == [f"Something could not be read: {reason}"]


def test_what_is_empty_because_it_could_not_be_read_is_not_called_missing():
    gaps = (Gap("coverage", "x."), Gap("drift", "y."))
    said = told(status_of(replace(quiet(), coverage=None, drift=None, gaps=gaps)))
    assert "is not known: outcomes could not be read" in said
    assert "not known yet: answers could not be read" in said


def test_a_champion_that_cannot_be_read_is_not_called_unpromoted():
    status = status_of(replace(quiet(), models=(), gaps=(Gap("models", "model.onnx: is not the one named."),)))
    assert status.overall == "broken"
    assert "The model that should answer could not be read." in told(status)
    assert "is promoted" not in told(status)


def test_the_latest_stretch_below_its_band_is_named_by_its_day_or_by_its_beginning():
    coverage = EXAMPLE.coverage
    weekly, daily = (
        told(status_of(replace(EXAMPLE, coverage=replace(coverage, bucket_s=s)))) for s in (604_800.0, 86_400.0)
    )
    assert re.search(r"; in the 7 days from \d+ \w+ 2026 they held it for", weekly)
    assert re.search(r"; on \d+ \w+ 2026 they held it for", daily)


# --- key figures -----------------------------------------------------------------------------------------------------


def test_figures_stand_beside_what_they_are_held_against():
    figures = {f.name: f for f in key_figures(EXAMPLE)}
    assert list(figures) == [
        "answers",
        "from a fallback",
        "coverage, class 0",
        "coverage, class 1",
        "area under the curve",
        "features drifted",
    ]
    assert figures["coverage, class 0"].beside == "promised 90 %"
    assert figures["coverage, class 1"].beside == "promised 90 %, alarm on"
    assert figures["area under the curve"].beside == "latest; 0.774 in training"
    assert [f.name for f in key_figures(EXAMPLE) if f.needs_attention] == ["coverage, class 1", "features drifted"]


def test_there_are_no_figures_of_nothing():
    assert key_figures(bare_facts()) == ()


def test_latest_area_is_the_last_one_known():
    assert EXAMPLE.performance is not None
    known = [b.auc for b in EXAMPLE.performance.buckets if b.auc is not None]
    bare = replace(bare_facts(), performance=replace(EXAMPLE.performance, trained_auc=None))
    assert [(f.value, f.beside) for f in key_figures(bare)] == [(f"{known[-1]:.3f}", "latest known")]
