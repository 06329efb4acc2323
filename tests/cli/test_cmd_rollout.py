"""The verbs of rollout as a person types them."""

from __future__ import annotations

import pytest

from ml_core.serve.rollout.rollout_state import GuardLimits
from tests.cli.typing_surety import last_entry, report
from tests.serve.answering.builders import slot_report
from tests.toy_models import NAME, toy_model

VERBS = ("show", "shadow", "canary", "full", "rollback", "flag", "breaker")


def test_show_before_anything_is_live(run, empty):
    told = run("rollout", "show")
    assert (told.code, told.result["model"], told.result["live"]) == (0, NAME, None)


def test_the_way_from_shadow_to_full_and_back(run, home):
    told = run("rollout", "shadow", "v3", "--why", "new lab codes")
    assert (told.code, told.result["mode"], told.result["challenger"], told.result["generation"]) == (
        0,
        "shadow",
        home.v3,
        2,
    )
    assert (last_entry(home)["why"], last_entry(home)["after"]["mode"]) == ("new lab codes", "shadow")
    told = run("rollout", "canary", "0.1", home.v2)
    assert (told.code, told.result["mode"], told.result["weight"], told.result["challenger"]) == (
        0,
        "canary",
        0.1,
        home.v2,
    )
    told = run("rollout", "full")  # the challenger, where there is one
    assert (told.code, told.result["champion"], told.result["previous"], told.result["mode"]) == (
        0,
        home.v2,
        home.v1,
        "off",
    )
    told = run("rollout", "rollback", "--why", "ward 3")
    assert (told.code, told.result["champion"], told.result["previous"]) == (0, home.v1, home.v2)
    assert home.store.read().generation == 5


def test_rollback_of_a_canary_keeps_the_champion(run, home):
    run("rollout", "canary", "0.5", "v2")
    told = run("rollout", "rollback")
    assert (told.code, told.result["champion"], told.result["challenger"], told.result["mode"]) == (
        0,
        home.v1,
        None,
        "off",
    )


@pytest.mark.parametrize("name", ["v2", "2", "tag"])
def test_a_model_is_named_by_its_version_or_its_tag(run, home, name):
    assert run("rollout", "full", home.v2 if name == "tag" else name).result["champion"] == home.v2


def test_the_promoted_model_is_meant_where_none_is_named(run, home):
    home.promote(home.v2, "2026-02-02T00:00:00Z")
    assert run("rollout", "full").result["champion"] == home.v2
    assert home.store.read().promotion_seen == "2026-02-02T00:00:00Z"


def test_the_guards_of_a_canary_are_those_asked_for(run, home):
    run("rollout", "canary", "0.2", "v2")
    mean = toy_model().bundle.manifest.metrics["mean_set_size"]
    assert home.store.read().guards == GuardLimits(set_size=mean + 0.25, classes=2)
    run(
        "rollout", "canary", "0.2", "v2", "--max-error-share", "0.1", "--max-fallback-share", "0.2", "--slow-ms", "50",
        "--max-slow-share", "0.3", "--max-set-size", "1.5", "--min-answers", "7", "--false-alarm", "0.001",
    )  # fmt: skip
    assert home.store.read().guards == GuardLimits(
        error_share=0.1, fallback_share=0.2, slow_ms=50, slow_share=0.3, set_size=1.5, minimum=7, false_alarm=0.001
    )


@pytest.mark.parametrize(
    ("typed", "flag", "value"),
    [
        ("confidence_level=0.95", "confidence_level", "0.95"),
        ("confidence_level=null", "confidence_level", None),
        ("shadow=false", "shadow", False),
        ("shadow_share=0.25", "shadow_share", 0.25),
        ("fallback=scorecard,prior", "fallback", ["scorecard", "prior"]),
        ("fallback=", "fallback", []),
    ],
)
def test_a_flag_is_set(run, home, typed, flag, value):
    run("rollout", "flag", "confidence_level=0.8")
    assert run("rollout", "flag", typed).code == 0
    assert run("rollout", "show").result["flags"][flag] == value


def test_several_flags_are_one_change(run, home):
    assert run("rollout", "flag", "shadow=false", "shadow_share=0.5").result["generation"] == 2


@pytest.mark.parametrize(
    ("order", "mode"),
    [("open", "forced_open"), ("disable", "disabled"), ("watch", "metrics_only"), ("auto", "auto"), ("reset", "auto")],
)
def test_circuits_are_told_what_to_do(run, home, order, mode):
    assert run("rollout", "breaker", order).code == 0
    told = home.store.read().circuits["champion"]
    assert (told.mode, told.resets) == (mode, int(order == "reset"))


def test_show_tells_what_is_live_what_was_counted_and_what_the_guards_say(run, home):
    run("rollout", "canary", "0.5", "v2")
    counted = [slot_report("champion", answers=30, calls=30), slot_report(answers=20, calls=20, failures=1)]
    report(home, slots=counted, stage=2, generation=2)
    shown = run("rollout", "show").result
    assert (shown["mode"], shown["champion"], shown["challenger"], shown["workers_alive"]) == (
        "canary",
        home.v1,
        home.v2,
        1,
    )
    assert [(s["slot"], s["answers"], s["failures"]) for s in shown["slots"]] == [
        ("champion", 30, 0),
        ("challenger", 20, 1),
    ]
    assert [v["guard"] for v in shown["verdicts"]] == ["error_share", "fallback_share", "slow_share", "set_size"]
    assert not any(v["tripped"] for v in shown["verdicts"])
    table = run("rollout", "show", "--output", "table")
    assert (table.code, home.v2 in table.out) == (0, True)


def test_workers_that_obey_are_counted(run, home):
    report(home, generation=9)
    told = run("rollout", "flag", "shadow=false")
    assert (told.code, told.result["workers_alive"], told.result["workers_obeying"]) == (0, 1, 1)


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(run, verb):
    told = run("rollout", verb, "--help")
    assert (told.code, f"Example: surety rollout {verb}" in told.out) == (0, True)
