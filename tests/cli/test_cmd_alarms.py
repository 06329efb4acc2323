"""alarms as a person types it."""

from __future__ import annotations

import time

import pytest

from ml_core.base.documents import read_document, write_document
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.monitor_state import MonitorState
from tests.cli.typing_surety import last_entry
from tests.lab.watching.ward import HORIZON_DAYS, Ward, patients, unforeseen


@pytest.fixture
def suspect(ward) -> Ward:
    """Class 1 has lost its coverage, and the monitor has said so."""
    ward.answer(unforeseen(450, seed=1))
    ward.pass_days(HORIZON_DAYS + 1)
    ward.look()
    return ward


def test_where_no_monitor_has_run_there_are_no_alarms_and_that_is_said(run):
    told = run("alarms", "show")
    assert (told.code, told.result, "surety monitor" in told.err) == (0, [], True)


def test_without_alarms_the_exit_status_is_zero(run, ward):
    ward.answer(patients(60, seed=2))
    ward.pass_days(HORIZON_DAYS + 1)
    ward.look()
    told = run("alarms", "show")
    assert (told.code, told.result, told.err) == (0, [], "")


def test_an_alarm_that_is_on_is_shown_with_its_promise_and_exits_with_three(run, suspect):
    told = run("alarms", "show")
    (row,) = told.result
    assert (told.code, told.err) == (3, "")
    assert (row["alarm"], row["model_version"], row["model_hash"]) == (
        "coverage:1",
        "1",
        suspect.home.hash_of(suspect.home.v1),
    )
    assert "label 1" in row["says"]
    assert row["false_alarm"].startswith(
        "at most once in 50,000 labels on average while none of the blocks of 8 labels is"
    )
    assert row["since"].startswith(suspect.now.date().isoformat())


def test_a_table_says_the_same(run, suspect, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    told = run("alarms", "show", "--output", "table")
    assert (told.code, "coverage:1" in told.out, "once in 50,000 labels" in told.out) == (3, True, True)
    nothing = run("alarms", "show", "--model", "other", "--output", "table")
    assert (nothing.code, nothing.out.strip()) == (0, "nothing to show")


def test_alarms_of_a_silent_monitor_are_shown_and_its_silence_too(run, suspect):
    path = suspect.home.settings.monitor_state
    state = read_document(path, MonitorState)
    write_document(path, state.model_copy(update={"beat_s": time.monotonic() - 1_000}))
    told = run("alarms", "show")
    assert (told.code, len(told.result), "silent" in told.err) == (3, 1, True)


def test_an_acknowledged_alarm_is_off_after_the_next_look_and_in_the_journal(run, suspect):
    told = run("alarms", "acknowledge", "coverage:1", "--why", "a table of wrong outcomes")
    model_hash = suspect.home.hash_of(suspect.home.v1)
    assert (told.code, told.result) == (0, [{"alarm": "coverage:1", "model_version": "1", "model_hash": model_hash}])
    entry = last_entry(suspect.home)
    assert (entry["event"], entry["alarm"], entry["why"]) == (
        "alarm.acknowledged",
        "coverage:1",
        "a table of wrong outcomes",
    )
    suspect.look()
    assert (run("alarms", "show").code, suspect.workers[0].service.validity[model_hash]) == (0, ("valid", ()))


def test_an_alarm_that_is_not_on_cannot_be_acknowledged(run, suspect):
    for alarm in ("drift", "coverage:0", "coverage"):
        told = run("alarms", "acknowledge", alarm, "--why", "x")
        assert (told.code, told.out, f"alarm {alarm}" in told.err, told.err.count("\n")) == (1, "", True, 1)
    assert run("alarms", "acknowledge", "coverage:1", "--why", "x").code == 0
    assert run("alarms", "acknowledge", "coverage:1", "--why", "again").code == 1


def test_only_the_version_that_is_named_is_acknowledged(run, suspect):
    suspect.home.change(changes.full(suspect.home.v2))
    suspect.look()
    assert run("alarms", "acknowledge", "coverage:1", "--why", "x", "--version", "2").code == 1
    assert run("alarms", "show").code == 3
    told = run("alarms", "acknowledge", "coverage:1", "--why", "x", "--version", "1")
    assert (told.code, [row["model_version"] for row in told.result]) == (0, ["1"])


def test_a_damaged_ledger_is_broken_and_nothing_is_said_to_be_done(run, suspect):
    ledger = suspect.home.settings.monitor / f"{suspect.home.settings.model_name}.ledger.db"
    ledger.write_bytes(b"no database " * 100)
    told = run("alarms", "acknowledge", "coverage:1", "--why", "x")
    assert (told.code, told.out, ledger.name in told.err) == (1, "", True)
    assert last_entry(suspect.home)["event"] == "alarm.raised"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("show", "drift"),
        ("acknowledge",),
        ("acknowledge", "drift"),
        ("acknowledge", "--why", "x"),
        ("mute", "drift"),
    ],
)
def test_wrong_usage_exits_with_two(run, arguments):
    assert run("alarms", *arguments).code == 2


@pytest.mark.parametrize("arguments", [(), ("show",), ("acknowledge",)])
def test_help_has_an_example(run, arguments):
    told = run("alarms", *arguments, "--help")
    assert (told.code, "Example: surety alarms" in told.out) == (0, True)
