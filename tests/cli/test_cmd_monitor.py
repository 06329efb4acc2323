"""monitor as a person types it."""

from __future__ import annotations

import pytest

from ml_core.cli.cmd_monitor import STANDBY_S
from ml_core.serve.home.homes import open_home
from tests.cli.typing_surety import last_entry, report
from tests.folder_files import rollout_file
from tests.serve.answering.builders import slot_report


def canary_with(run, home, failures: int) -> None:
    run("rollout", "canary", "0.5", "v2")
    report(
        home,
        stage=2,
        generation=2,
        slots=[slot_report(answers=500, calls=500, failures=failures, set_sizes={"1": 500})],
    )


def test_a_look_at_a_good_canary_exits_with_zero(run, home):
    canary_with(run, home, failures=2)
    told = run("monitor", "--once")
    assert (told.code, told.result["mode"], told.result["rolled_back"], told.result["workers_alive"]) == (
        0,
        "canary",
        None,
        1,
    )
    assert home.store.read().mode == "canary"


def test_a_look_that_takes_a_canary_back_exits_with_three(run, home):
    canary_with(run, home, failures=200)
    told = run("monitor", "--once")
    assert (told.code, "guard error_share" in told.result["rolled_back"]) == (3, True)
    assert [v["guard"] for v in told.result["verdicts"] if v["tripped"]] == ["error_share"]
    state = home.store.read()
    assert (state.mode, state.rollbacks, last_entry(home)["who"]) == ("off", {"error_share": 1}, "monitor")
    assert run("monitor", "--once").code == 0


def test_a_look_where_nothing_is_live_exits_with_zero(run, empty):
    assert (run("monitor", "--once").code, run("monitor", "--once").result["mode"]) == (0, None)


@pytest.mark.parametrize(
    "arguments",
    [(), ("--once", "--every", "5s"), ("--every", "5"), ("--every", "0s"), ("--every", "soon"), ("--every", "-1s")],
)
def test_a_monitor_needs_either_once_or_a_duration(run, home, arguments):
    assert run("monitor", *arguments).code == 2


def test_a_look_at_a_damaged_state_is_broken(run, home):
    rollout_file(home.settings).write_bytes(b"{")
    told = run("monitor", "--once")
    assert (told.code, told.out) == (1, "")


def test_a_monitor_that_goes_on_survives_what_it_cannot_read_and_tells_what_it_did(run, home, monkeypatch):
    canary_with(run, home, failures=200)
    whole, pauses = rollout_file(home.settings).read_bytes(), []
    rollout_file(home.settings).write_bytes(b"{")

    def pause(seconds):
        pauses.append(seconds)
        rollout_file(home.settings).write_bytes(whole)
        if len(pauses) == 2:
            raise SystemExit(0)

    monkeypatch.setattr("ml_core.cli.cmd_monitor.time.sleep", pause)
    told = run("monitor", "--every", "1m")
    assert (pauses, "is no RolloutState" in told.err) == ([60.0, 60.0], True)
    assert "guard error_share" in told.result["rolled_back"]


def test_a_monitor_beside_another_stands_by_and_acts_when_that_ends(run, home, monkeypatch):
    canary_with(run, home, failures=200)
    other = open_home(home.settings).seat(f"monitor/{home.settings.model_name}")
    assert other.take()
    pauses = []

    def pause(seconds):
        pauses.append((seconds, home.store.read().mode))
        other.leave()
        if len(pauses) == 2:
            raise SystemExit(0)

    monkeypatch.setattr("ml_core.cli.cmd_monitor.time.sleep", pause)
    told = run("monitor", "--every", "1m")
    assert pauses == [(STANDBY_S, "canary"), (60.0, "off")]
    assert "standing by" in told.err


def test_a_look_beside_a_monitor_that_acts_changes_nothing_and_tells_what_that_published(run, home):
    canary_with(run, home, failures=200)
    other = open_home(home.settings).seat(f"monitor/{home.settings.model_name}")
    assert other.take()
    told = run("monitor", "--once")
    other.leave()
    assert (told.code, told.result["rolled_back"], home.store.read().mode) == (0, None, "canary")
    assert "changes nothing" in told.err
    assert run("monitor", "--once").code == 3
