"""monitor as a person types it."""

from __future__ import annotations

import pytest

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
