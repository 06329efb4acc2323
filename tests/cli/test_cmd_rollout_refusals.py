"""What rollout refuses, and what stays as it was: exit status 3 refused, 2 wrong usage, 1 failed."""

from __future__ import annotations

import pytest

from tests.cli.typing_surety import everything, report
from tests.serve.answering.stored import with_other_columns, with_other_labels


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
    home.store.path.write_bytes(b"{")
    for arguments in (("show",), ("flag", "shadow=false"), ("rollback",)):
        told = run("rollout", *arguments)
        assert (told.code, told.out, "is no RolloutState" in told.err) == (1, "", True)
    assert home.store.path.read_bytes() == b"{"


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
