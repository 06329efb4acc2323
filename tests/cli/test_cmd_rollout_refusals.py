"""What rollout refuses, and what stays as it was: exit status 3 refused, 2 wrong usage, 1 failed."""

from __future__ import annotations

import shutil
import time

import pytest

from ml_core.base.reserve import keep_reserve
from ml_core.serve.rollout import changes
from tests.cli.typing_surety import everything, last_entry, report
from tests.folder_files import rollout_file
from tests.serve.answering.stored import Home, Worker, with_other_columns, with_other_labels
from tests.serve.log.builders import fill, small_disk


@pytest.mark.parametrize("verb", [("canary", "0.5"), ("full",)])
@pytest.mark.parametrize("gate", [None, False])
def test_a_model_whose_gate_has_not_said_yes_is_not_put_before_callers(run, home, verb, gate):
    tag = home.v3 if gate is None else home.add("4", home.file(home.v3).parent, gate=False)
    before = everything(home)
    told = run("rollout", *verb, tag)
    assert (told.code, told.out, told.err.count("\n")) == (3, "", 1)
    assert "may not answer" in told.err
    assert everything(home) == before


@pytest.mark.parametrize(
    ("bundle", "words"), [(with_other_columns, "raw columns"), (with_other_labels, "other labels")]
)
@pytest.mark.parametrize("verb", [("shadow",), ("canary", "0.5"), ("full",)])
def test_a_model_of_another_contract_is_refused(run, home, bundle, words, verb):
    tag, before = home.add("9", bundle()), everything(home)
    told = run("rollout", *verb, tag)
    assert (told.code, words in told.err, everything(home) == before) == (3, True, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("full", "v1"),
        ("canary", "0.5", "v1"),
        ("shadow", "v1"),
        ("rollback",),
        ("breaker", "open", "--slot", "challenger"),
        ("breaker", "reset", "--slot", "previous"),
    ],
)
def test_what_makes_no_sense_from_here_is_a_sound_no(run, home, arguments):
    before = everything(home)
    told = run("rollout", *arguments)
    assert (told.code, told.out, everything(home) == before) == (3, "", True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("flag", "colour=red"), ("flag", "shadow"), ("flag", "=1"), ("flag",), ("flag", "confidence_level=2"),
        ("flag", "shadow_share=much"), ("flag", "fallback=prior,prior"), ("flag", "log_mode=fast"),
        ("canary", "0", "v2"), ("canary", "1", "v2"), ("canary", "1.5", "v2"), ("canary", "much", "v2"), ("canary",),
        ("canary", "0.5", "v2", "--min-answers", "0"), ("canary", "0.5", "v2", "--false-alarm", "1"),
        ("breaker", "explode"), ("breaker", "open", "--slot", "king"), ("breaker",),
        ("full",), ("shadow",),  # nothing is named, and the promoted model is live already
        ("full", "v2", "v3"), ("leap",), ("show", "--output", "xml"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_two_and_changes_nothing(run, home, arguments):
    before = everything(home)
    assert run("rollout", *arguments).code == 2
    assert everything(home) == before


def test_a_flag_that_is_not_known_is_named(run, home):
    assert "colour" in run("rollout", "flag", "colour=red").err


@pytest.mark.parametrize("arguments", [("full", "v7"), ("canary", "0.5", "nobody:v1-00000000"), ("shadow", "other:v2")])
def test_a_model_that_is_not_there_is_one_line_and_exit_one(run, home, arguments):
    told = run("rollout", *arguments)
    assert (told.code, told.out, told.err.count("\n")) == (1, "", 1)
    assert "surety import-model" in told.err


@pytest.mark.parametrize("arguments", [("full", "v2"), ("rollback",), ("flag", "shadow=false"), ("breaker", "open")])
def test_before_anything_is_live_there_is_nothing_to_change(run, empty, arguments):
    told = run("rollout", *arguments)
    assert (told.code, told.out, told.err.count("\n")) == (1, "", 1)
    assert "start the service" in told.err


def test_a_damaged_model_is_broken_and_no_sound_no(run, home):
    home.file(home.v2).write_bytes(b"no model")
    before = everything(home)
    told = run("rollout", "full", "v2")
    assert (told.code, "model.onnx" in told.err, everything(home) == before) == (1, True, True)


def test_a_damaged_state_is_said_and_left(run, home):
    rollout_file(home.settings).write_bytes(b"{")
    for arguments in (("show",), ("flag", "shadow=false"), ("rollback",)):
        told = run("rollout", *arguments)
        assert (told.code, told.out, "is no RolloutState" in told.err) == (1, "", True)
    assert rollout_file(home.settings).read_bytes() == b"{"


@pytest.mark.parametrize(
    "arguments",
    [
        ("shadow", "v3"), ("canary", "0.5", "v2"), ("full", "v2"), ("rollback",), ("flag", "shadow=false"),
        ("breaker", "open"),
    ],
)  # fmt: skip
def test_a_dry_run_shows_the_change_and_makes_none(run, home, arguments):
    if arguments == ("rollback",):
        run("rollout", "canary", "0.5", "v2")
    before, generation = everything(home), home.store.read().generation
    told = run("rollout", *arguments, "--dry-run")
    assert (told.code, told.result["before"]["generation"], told.result["after"]["generation"]) == (
        0,
        generation,
        generation + 1,
    )
    assert "nothing was changed" in told.err
    assert everything(home) == before


def test_a_dry_run_says_no_as_the_real_one_would(run, home):
    assert run("rollout", "full", "v3", "--dry-run").code == 3
    assert run("rollout", "flag", "colour=red", "--dry-run").code == 2


@pytest.mark.parametrize("facts", [{"generation": 1}, {"generation": 9, "problem": "model.onnx: is damaged"}])
def test_workers_that_do_not_do_it_are_told_and_exit_one(run, home, facts):
    report(home, **facts)
    told = run("rollout", "flag", "shadow=false", "--wait", "0")
    assert (told.code, told.result["workers_alive"]) == (1, 1)
    assert told.result["problems"] == ([facts["problem"]] if "problem" in facts else [])
    assert "not every worker" in told.err


def test_another_models_rollout_is_left_alone(run, home):
    before = everything(home)
    assert run("rollout", "flag", "shadow=false", "--model", "other").code == 1
    assert run("rollout", "rollback", "--model", "../../elsewhere").code != 0
    assert everything(home) == before


# --- a canary that nobody would watch ---------------------------------------------------------------------------------


def test_a_canary_needs_a_monitor_that_looks_or_is_unguarded(run, home):
    home.settings.monitor_state.unlink()
    told = run("rollout", "canary", "0.5", "v2")
    assert (told.code, "surety monitor --every 5s" in told.err, "--unguarded" in told.err) == (3, True, True)
    assert home.store.read().mode == "off"
    assert run("rollout", "canary", "0.5", "v2", "--unguarded").code == 0
    assert (home.store.read().mode, home.store.read().guards) == ("canary", None)


def test_a_monitor_that_has_been_silent_for_long_does_not_count(run, home, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr("ml_core.serve.rollout.monitor_state.time.monotonic", lambda: now + 31.0)
    assert run("rollout", "canary", "0.5", "v2").code == 3


# --- rollback looks at its target -------------------------------------------------------------------------------------


def test_rollback_says_what_it_found(run, home):
    run("rollout", "full", "v2")
    told = run("rollout", "rollback")
    assert (told.code, f"{home.v1} is there" in told.err, "golden answers" in told.err) == (0, True, True)


@pytest.mark.parametrize("how", ["gone", "damaged", "refused"])
def test_rollback_refuses_a_target_that_cannot_answer_and_says_what_to_do(run, home, how):
    run("rollout", "full", "v2")
    if how == "gone":
        shutil.rmtree(home.folder(home.v1))
    elif how == "damaged":
        home.file(home.v1).write_bytes(b"x")
    else:
        home.pass_gate(home.v1, passed=False)
    before = home.store.read()
    told = run("rollout", "rollback", "--why", "ward 3")
    assert (told.code, told.out, home.store.read()) == (3, "", before)
    for way in ("import-model --version 1", "surety rollout full TAG", "surety rollout breaker open"):
        assert way in told.err
    if how == "refused":
        run("rollout", "flag", f"despite_gate={home.v1}", "--why", "nothing better")
        assert run("rollout", "rollback").code == 0


def test_rollback_takes_a_challenger_out_though_the_champion_does_not_load_here(run, home):
    run("rollout", "canary", "0.5", "v2")
    home.file(home.v1).write_bytes(b"x")
    told = run("rollout", "rollback")
    assert (told.code, "could not be loaded" in told.err, home.store.read().mode) == (0, True, "off")


# --- on a full disk ---------------------------------------------------------------------------------------------------

EMERGENCY = [("breaker", "open"), ("rollback",), ("flag", "log_mode=strict")]


@pytest.fixture
def full_home(tmp_path, run):
    folder = tmp_path / "home"
    with small_disk(folder, "24m"):
        home = Home(folder)
        home.promote(home.v1)
        Worker(home)
        home.change(changes.full(home.v2))
        yield home


@pytest.mark.parametrize("words", EMERGENCY, ids=" ".join)
def test_an_emergency_command_works_on_a_full_disk(run, full_home, words):
    keep_reserve(full_home.settings.home)
    fill(full_home.settings.home)
    before = full_home.store.read()
    assert run("rollout", *words, "--why", "emergency").code == 0
    after = full_home.store.read()
    assert (after.generation, last_entry(full_home)["why"]) == (before.generation + 1, "emergency")


@pytest.mark.parametrize("words", EMERGENCY, ids=" ".join)
def test_without_a_reserve_it_says_one_line(run, full_home, words):
    fill(full_home.settings.home)
    before = full_home.store.read()
    told = run("rollout", *words)
    assert (told.code, told.out) == (1, "")
    (line,) = [line for line in told.err.splitlines() if line.startswith("surety:")]
    assert "No space left on device" in line
    assert "Traceback" not in told.err
    assert full_home.store.read() == before


def test_a_change_decided_on_what_somebody_else_has_changed_meanwhile_is_refused(run, home, monkeypatch):
    from ml_core.cli import cmd_rollout

    check = cmd_rollout._check_contract

    def checked_while_another_is_quicker(*arguments):
        home.store.change(changes.shadow(home.v3), why="the other operator")
        return check(*arguments)

    monkeypatch.setattr(cmd_rollout, "_check_contract", checked_while_another_is_quicker)
    told = run("rollout", "canary", "0.5", "v2")
    assert (told.code, told.out) == (1, "")
    assert "look again and repeat" in told.err
    assert (home.store.read().why, home.store.read().challenger) == ("the other operator", home.v3)
