"""The monitor over time: restarts, reboots, damaged memory, other monitors, and servers that come and go."""

from __future__ import annotations

import json

import pytest

from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.lab.watching.canary_monitor import START_EVERY_S, Monitor
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_state import GuardLimits
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import read_reports, write_worker_report
from tests.folder_files import heartbeats
from tests.serve.answering.builders import slot_report, worker_report
from tests.serve.running.fake_clock import FakeClock

A, B = "toy:v1-aaaaaaaa", "toy:v2-bbbbbbbb"
FINE = {"answers": 500, "calls": 500, "set_sizes": {"1": 500}}
BAD = {"answers": 500, "calls": 500, "failures": 200, "fallbacks": {"model_error": 200}, "set_sizes": {"1": 500}}


class Place:
    """A canary in its stage, with as many workers as a test reports for."""

    def __init__(self, home) -> None:
        self.settings = Settings(home=home, model_name="toy")
        self.store, self.clock = RolloutStore(self.settings), FakeClock()
        self.store.begin(A, "", why="first")
        self.stage = self.store.change(changes.canary(B, 0.5, GuardLimits(set_size=1.9)), why="try")[1].stage

    def report(self, pid=1, server="s", stage=None, **counts) -> None:
        report = worker_report(pid, self.clock(), slot_report(**counts), server=server, stage=stage or self.stage)
        write_worker_report(heartbeats(self.settings), report)

    def look(self, **options):
        return Monitor(self.settings, self.clock).look(**options)


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path / "home")


def test_counts_of_every_server_and_worker_are_summed(place):
    for pid, server in enumerate(("s", "s", "t")):
        place.report(pid, server, answers=40, calls=40, failures=3)
    look = place.look()
    assert (look.alive, look.challenger.answers, look.challenger.failures) == (3, 120, 9)
    assert next((v.guard, v.observations) for v in look.verdicts) == ("error_share", 120)


def test_bad_counts_that_no_worker_has_alone_are_found_together(place):
    for pid in range(8):
        place.report(pid, answers=20, calls=20, failures=5)
        look = place.look()
        assert bool(look.rolled_back) == (20 * (pid + 1) >= 100)
        if look.rolled_back:
            return
    pytest.fail("never taken back")


def test_a_canary_is_taken_back_once_and_then_there_is_none(place):
    place.report(**BAD)
    assert place.look().rolled_back
    for _ in range(3):
        assert (place.look().rolled_back, place.look().verdicts) == ("", ())
    assert sum(e["who"] == "monitor" for e in Journal(place.settings.journal).entries() if "who" in e) == 1


def test_of_two_monitors_one_takes_the_canary_back(place):
    place.report(**BAD)
    looks = [place.look(), place.look()]
    assert [bool(look.rolled_back) for look in looks] == [True, False]
    assert sum(place.store.read().rollbacks.values()) == 1


def test_a_new_canary_of_the_same_model_is_judged_by_its_own_counts(place):
    place.report(**BAD)
    place.look()
    place.stage = place.store.change(changes.canary(B, 0.5, GuardLimits(set_size=1.9)), why="again")[1].stage
    assert place.look().challenger is None  # the worker still reports the old stage
    place.report(**FINE)
    look = place.look()
    assert (look.rolled_back, look.challenger.answers) == ("", 500)


def test_the_old_canary_of_a_stage_that_is_over_is_not_judged(place):
    place.store.change(changes.rollback(), why="a person")
    place.report(**BAD)
    assert (place.look().verdicts, place.look().rolled_back) == ((), "")


@pytest.mark.parametrize("mode", ["shadow", "full"])
def test_only_a_canary_is_judged(place, mode):
    state = place.store.change({"shadow": changes.shadow(B), "full": changes.full(B)}[mode], why="x")[1]
    place.report(stage=state.stage, **BAD)
    assert place.look().verdicts == ()


def late_failures(place: Place, forget) -> bool:
    """Whether 200 failures in 1,000 answers are found after 40,000 good ones; ``forget`` comes between."""
    n = 40_000
    place.report(answers=n, calls=n, failures=n // 500, set_sizes={"1": n})
    assert not place.look().rolled_back
    place.clock.advance(START_EVERY_S)
    place.report(answers=n, calls=n, failures=n // 500, set_sizes={"1": n})
    assert not place.look().rolled_back
    forget()
    place.report(answers=n + 1_000, calls=n + 1_000, failures=n // 500 + 200, set_sizes={"1": n + 1_000})
    return bool(place.look().rolled_back)


def test_late_failures_are_found_by_a_monitor_that_was_started_anew_meanwhile(place):
    assert late_failures(place, lambda: None)


def test_they_would_not_be_found_from_the_beginning_of_the_stage_alone(place):
    assert not late_failures(place, lambda: (place.settings.monitor / "toy.json").unlink())


@pytest.mark.parametrize("content", [b"", b"{", b'{"stage": 1}'])
def test_damaged_memory_is_begun_anew(place, content):
    place.report(**FINE)
    place.look()
    (place.settings.monitor / "toy.json").write_bytes(content)
    assert place.look().rolled_back == ""
    place.report(**BAD)
    assert place.look().rolled_back


def test_after_a_reboot_the_memory_of_the_other_clock_is_begun_anew(place):
    place.clock.advance(1e6)
    place.report(**FINE)
    place.look()
    place.clock.now_s = 10.0
    place.report(**BAD)
    assert place.look().rolled_back


def test_after_a_reboot_late_failures_are_found_as_before(place):
    place.clock.advance(1e6)
    place.report(**FINE)
    place.look()
    place.clock.now_s = 10.0
    assert late_failures(place, lambda: None)


def test_a_new_stage_is_remembered_from_its_own_beginning(place):
    for _ in range(3):
        place.report(**FINE)
        place.look()
        place.clock.advance(START_EVERY_S)
    place.stage = place.store.change(changes.canary(B, 0.6, GuardLimits(set_size=1.9)), why="more")[1].stage
    place.report(**FINE)
    place.look()
    memory = json.loads((place.settings.monitor / "toy.json").read_text())
    assert (memory["stage"], [start["number"] for start in memory["starts"]]) == (place.stage, [0])


def test_lost_workers_of_the_stage_count_and_those_of_others_are_cleared(place):
    place.report(1, **{**FINE, "failures": 1})
    place.report(2, stage=99, **BAD)
    place.clock.advance(60)
    place.report(3, **FINE)
    look = place.look()
    assert (look.alive, look.challenger.answers, look.challenger.failures) == (1, 1_000, 1)
    assert {r.pid for r in read_reports(heartbeats(place.settings))} == {1, 3}


def test_a_look_without_acting_clears_and_remembers_nothing(place):
    place.report(2, stage=99, **BAD)
    place.clock.advance(60)
    place.report(1, **BAD)
    before = place.store.read()
    assert any(v.tripped for v in place.look(act=False).verdicts)
    assert place.store.read() == before
    assert len(read_reports(heartbeats(place.settings))) == 2
    assert not place.settings.monitor.exists()


def test_a_healthy_canary_that_is_watched_for_a_week_stays(place):
    n = 0
    for _ in range(7 * 24 * 12):
        n += 50
        place.clock.advance(START_EVERY_S)
        place.report(answers=n, calls=n, failures=n // 100, slow=n // 50, fallbacks={"deadline": n // 50},
                     set_sizes={"1": n // 2, "2": n - n // 2})  # fmt: skip
        assert place.look().rolled_back == ""
