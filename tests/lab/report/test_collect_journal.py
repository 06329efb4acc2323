from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ml_core.base.journal import Journal
from ml_core.lab.report.collect_journal import rollout_facts
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_state import Flags, GuardLimits
from tests.serve.answering.stored import Home, Worker

AT = "2026-11-23T10:15:30.000000Z"


def told(event, **facts):
    (entry,) = rollout_facts([{"at": AT, "event": event, "by": "mkeller", "model": "toy", **facts}], None).journal
    return entry


@pytest.fixture
def home(tmp_path) -> Home:
    """v1 is live."""
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    Worker(home)
    return home


def events(home: Home) -> list[tuple[str, str]]:
    found = rollout_facts(Journal(home.settings.journal).entries(), home.store.read())
    return [(entry.event, entry.what) for entry in reversed(found.journal)]


def test_a_rollout_is_told_step_by_step(home):
    limits = GuardLimits(set_size=1.5)
    for change in (
        changes.shadow(home.v2),
        changes.canary(home.v2, 0.1, limits),
        changes.canary(home.v2, 0.5, limits),
        changes.rollback(),
        changes.full(home.v2),
        changes.rollback(),
        changes.flags({"shadow_share": 0.5, "confidence_level": "0.95"}),
        changes.circuit("champion", "forced_open"),
    ):
        home.change(change)
    assert events(home) == [
        ("trust began", ""),
        ("rollout begins", home.v1),
        ("shadow", home.v2),
        ("canary", f"{home.v2}, 10 % of the traffic"),
        ("canary", f"{home.v2}, 50 % of the traffic"),
        ("canary ends", f"{home.v2} is taken out"),
        ("new champion", f"{home.v2}, before: {home.v1}"),
        ("rollback", f"{home.v1}, before: {home.v2}"),
        ("flag set", "confidence_level=0.95, shadow_share=0.5"),
        ("circuits ordered", "champion: forced_open"),
    ]


def test_the_newest_decision_comes_first_with_who_and_why(home):
    home.store.change(changes.shadow(home.v2), why="new lab codes", by="mkeller")
    newest = rollout_facts(Journal(home.settings.journal).entries(), None).journal[0]
    assert (newest.event, newest.by, newest.why) == ("shadow", "mkeller", "new lab codes")
    assert newest.at is not None


def test_flags_are_told_where_they_differ_from_their_defaults(home):
    assert rollout_facts([], home.store.read()).flags == {}
    home.change(changes.flags({"fallback": [], "shadow": False, "log_mode": "strict"}))
    assert rollout_facts([], home.store.read()).flags == {"fallback": "none", "shadow": "false", "log_mode": "strict"}
    assert Flags().shadow is True


@pytest.mark.parametrize(
    ("event", "facts", "what", "on", "why"),
    [
        (
            "gate.judged",
            {"passed": False, "version": "4", "rules": [{"rule": "brier", "passed": False}, {"rule": "auc", "passed": True}]},
            "gate refused",
            "version 4",
            "failed: brier",
        ),
        ("gate.judged", {"passed": True, "version": "4", "model_hash": "ab" * 32}, "gate passed", "version 4, abababababab", ""),
        (
            "promotion.decided",
            {"decision": "refused", "version": "4", "rules": [{"rule": "r", "passed": False, "note": "worse by 0.02"}]},
            "promotion refused",
            "version 4",
            "worse by 0.02",
        ),
        ("promotion.decided", {"decision": "promoted", "version": "4"}, "promotion agreed", "version 4", ""),
        ("promotion.recorded", {"version": "4", "champion_version": "3"}, "promoted", "version 4", "in place of version 3"),
        ("promotion.recorded", {"version": "1", "champion_version": None}, "promoted", "version 1", "the first of its name"),
        ("model.registered", {"version": "1", "data": "table v1 version 2"}, "model registered", "version 1", "from table v1 version 2"),
        ("model.imported", {"tag": "toy:v1-ab"}, "model imported", "toy:v1-ab", ""),
        (
            "model.retrained",
            {"model_version": "5", "rows_added": 1200, "gate": True, "shadow": True, "reasons": ["drift: age", "alarm drift"]},
            "retrained",
            "version 5, 1,200 newly known outcomes: passed its gate, scored in shadow from now on",
            "drift: age; alarm drift",
        ),
        (
            "model.recalibrated",
            {"version": "6", "recalibrated_from": "5", "rows": {"calibration": 800, "test": 210}, "gate": True, "shadow": False},
            "recalibrated",
            "version 6, the scorer of version 5 on 1,010 outcomes: passed its gate",
            "",
        ),
        (
            "alarm.acknowledged",
            {"alarm": "coverage:1", "model_hash": "ab" * 32, "why": "known", "who": "lee"},
            "alarm acknowledged",
            "coverage:1, model abababababab",
            "known",
        ),
        ("log.erased", {"answers": 3}, "person erased from the log", "3 answers", ""),
        ("something.else", {"tag": "toy:v1-ab", "why": "because"}, "something else", "toy:v1-ab", "because"),
    ],
)  # fmt: skip
def test_every_event_is_told_in_words(event, facts, what, on, why):
    entry = told(event, **facts)
    assert (entry.event, entry.what, entry.why) == (what, on, why)
    assert entry.at == datetime(2026, 11, 23, 10, 15, 30, tzinfo=UTC)


def test_an_alarm_is_the_monitors_doing_whoever_runs_it():
    entry = told("alarm.raised", alarm="drift", tag="toy:v1-ab", says="what is asked has changed")
    assert (entry.by, entry.what, entry.why) == ("monitor", "drift, toy:v1-ab", "what is asked has changed")


def test_missing_outcomes_are_told_when_they_begin_and_end_to_hide_coverage():
    entry = told("coverage.unverified", tag="toy:v1-ab", reasons=["outcomes:0", "outcomes:1"], says="none has come")
    assert (entry.by, entry.what, entry.why) == ("monitor", "outcomes:0, outcomes:1, toy:v1-ab", "none has come")
    assert told("coverage.verified", tag="toy:v1-ab", reasons=[], says="").event == "coverage verified again"
    entry = told("detector.restarted", alarm="coverage:1", tag="toy:v1-ab", says="of outcomes that depended on the set")
    assert (entry.event, entry.by, entry.what) == ("detector restarted", "monitor", "coverage:1, toy:v1-ab")


def test_files_of_the_log_that_one_command_sealed_are_one_entry():
    def sealed(minute, file, event="log.sealed"):
        return {
            "at": f"2026-11-23T10:{minute:02d}:00.000000Z",
            "event": event,
            "by": "me",
            "model": "toy",
            "file": file,
        }

    found = rollout_facts(
        [sealed(1, "b"), sealed(2, "a"), sealed(3, "c", "log.pruned"), sealed(30, "d", "log.pruned")], None
    )
    assert [(entry.event, entry.what) for entry in found.journal] == [
        ("log pruned", "d"),
        ("log pruned", "c"),
        ("log sealed", "2 files, a to b"),
    ]


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"event": "rollout.changed"},
        {"event": "rollout.changed", "before": [], "after": "x"},
        {"event": "gate.judged", "at": 7},
    ],
)
def test_an_entry_of_another_form_is_told_as_far_as_it_can_be(entry):
    (found,) = rollout_facts([entry], None).journal
    assert found.at is None
