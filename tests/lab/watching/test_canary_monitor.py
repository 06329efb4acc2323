"""The monitor: all workers' counts together, judged, and a bad canary taken back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.lab.watching.canary_monitor import GUARDS, MOST_STARTS, START_EVERY_S, Monitor, guard_counts
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import write_worker_report
from tests.folder_files import heartbeats
from tests.serve.rollout.states import V1, V2, limits, report, slot_report
from tests.serve.running.fake_clock import FakeClock


class Place:
    """A home with a canary running, and workers that report what a test says."""

    def __init__(self, home: Path, **guards: Any) -> None:
        self.settings = Settings(home=home, model_name="risk")
        self.clock = FakeClock(1_000.0)
        self.monitor = Monitor(self.settings, self.clock)
        self.store = RolloutStore(self.settings)
        self.store.begin(V1, "", why="first start")
        _, self.state = self.store.change(changes.canary(V2, 0.1, limits(**guards)), why="test")

    def workers(self, *challengers: dict[str, Any], beat_s: float | None = None) -> None:
        """One worker for each of these counts of the challenger."""
        for pid, counts in enumerate(challengers, start=1):
            one = report(
                pid,
                self.clock() if beat_s is None else beat_s,
                stage=self.state.stage,
                generation=self.state.generation,
                slots=(slot_report(**counts), slot_report("champion", answers=900, calls=900)),
            )
            write_worker_report(heartbeats(self.settings), one)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def fine(n: int) -> dict[str, Any]:
    return {"answers": n, "calls": n, "failures": n // 200, "set_sizes": {"1": n // 2, "2": n - n // 2}}


def test_healthy_canary_stays_however_often_it_is_looked_at(place: Place) -> None:
    for n in range(0, 4_000, 40):
        place.workers(fine(n), fine(n))
        place.clock.advance(5)
        assert place.monitor.look().rolled_back == ""
    state = place.store.read()
    assert state is not None
    assert state.mode == "canary"


def test_half_of_a_guards_budget_is_the_stages_and_half_of_the_rest_the_first_later_starts(place: Place) -> None:
    each = limits().false_alarm / len(GUARDS)
    place.workers(fine(5_000))
    assert [v.needed for v in place.monitor.look().verdicts] == pytest.approx([-math.log(each / 2)] * len(GUARDS))
    place.clock.advance(START_EVERY_S)
    place.workers(fine(5_000))
    place.monitor.look()
    late = fine(5_200)
    place.workers({**late, "failures": late["failures"] + 100})
    verdict = next(v for v in place.monitor.look(act=False).verdicts if v.guard == "error_share")
    assert verdict.observations == 200
    assert verdict.needed == pytest.approx(-math.log(each / 4))


@pytest.mark.parametrize(
    ("guard", "counts"),
    [
        ("error_share", {"answers": 150, "calls": 150, "failures": 30}),
        ("fallback_share", {"answers": 150, "calls": 20, "fallbacks": {"circuit_open": 60}}),
        ("slow_share", {"answers": 150, "calls": 150, "slow": 45}),
        ("set_size", {"answers": 400, "calls": 400, "set_sizes": {"2": 400}}),
    ],
)
def test_canary_that_breaks_a_limit_is_taken_back_and_the_guard_is_named(
    place: Place, guard: str, counts: dict[str, Any]
) -> None:
    place.workers(counts, counts)
    look = place.monitor.look()
    assert f"guard {guard}" in look.rolled_back
    state = place.store.read()
    assert state is not None
    assert (state.mode, state.champion, state.challenger) == ("off", V1, None)
    assert state.rollbacks == {guard: 1}
    entry = Journal(place.settings.journal).entries()[-1]
    assert (entry["who"], entry["why"]) == ("monitor", look.rolled_back)
    assert entry["before"]["challenger"] == V2


def test_counts_of_lost_workers_speak_as_well(place: Place) -> None:
    bad = {"answers": 150, "calls": 150, "failures": 30}
    place.workers(bad, bad, beat_s=place.clock() - 500)
    assert place.monitor.look().alive == 0
    state = place.store.read()
    assert state is not None
    assert state.mode == "off"


def test_no_guard_trips_before_the_minimum(place: Place) -> None:
    place.workers({"answers": 99, "calls": 99, "failures": 99})
    assert place.monitor.look().rolled_back == ""
    place.workers({"answers": 100, "calls": 100, "failures": 100})
    assert place.monitor.look().rolled_back


def test_counts_of_another_stage_do_not_speak(place: Place) -> None:
    bad = slot_report(answers=500, calls=500, failures=500)
    write_worker_report(heartbeats(place.settings), report(1, place.clock(), stage=place.state.stage - 1, slots=(bad,)))
    look = place.monitor.look()
    assert (look.challenger, look.verdicts, look.rolled_back) == (None, (), "")


def test_late_change_is_not_hidden_by_a_long_good_start(place: Place) -> None:
    n = 0
    while n < 20_000:
        n += 500
        place.workers({"answers": n, "calls": n, "failures": n // 500, "set_sizes": {"1": n}})
        place.clock.advance(60)
        assert place.monitor.look().rolled_back == ""
    failures, answered_since = n // 500, 0
    while answered_since < 1_000:
        answered_since += 50
        failures += 10  # every fifth call from now on
        place.workers(
            {"answers": n + answered_since, "calls": n + answered_since, "failures": failures, "set_sizes": {"1": n}}
        )
        place.clock.advance(6)
        if place.monitor.look().rolled_back:
            break
    assert answered_since <= 600  # from the stage's beginning alone it would take more than 2,000 (see test_guards.py)


def test_starts_are_bounded_and_their_parts_of_the_budget_too(place: Place) -> None:
    for n in range(200):
        place.workers(fine(100 + n))
        place.clock.advance(START_EVERY_S)
        place.monitor.look()
    memory = (place.settings.monitor / "risk.json").read_text()
    assert memory.count('"number"') == MOST_STARTS + 1
    parts = [0.5] + [0.5 / (j * (j + 1)) for j in range(1, 10_000)]
    assert sum(parts) <= 1.0


def starts(place: Place) -> list[int]:
    memory = json.loads((place.settings.monitor / "risk.json").read_text())
    return [start["number"] for start in memory["starts"]]


@pytest.mark.parametrize("clock_s", [5.0, 1e9])
def test_a_monitor_on_another_machine_goes_on_with_the_starts_of_the_one_before(place: Place, clock_s: float) -> None:
    for n in range(3):
        place.workers(fine(100 + n))
        place.clock.advance(START_EVERY_S)
        place.monitor.look()
    before = starts(place)
    other = Monitor(place.settings, FakeClock(clock_s))
    other.look()
    other.look()
    assert starts(place)[: len(before)] == before == [0, 1, 2]


def test_after_a_restart_of_the_system_the_guards_begin_anew(place: Place) -> None:
    for n in range(3):
        place.workers(fine(100 + n))
        place.clock.advance(START_EVERY_S)
        place.monitor.look()
    place.workers(fine(1))
    Monitor(place.settings, FakeClock(5.0)).look()
    assert starts(place) == [0]


def test_looking_without_acting_changes_nothing(place: Place) -> None:
    place.workers({"answers": 500, "calls": 500, "failures": 400})
    before = place.store.read()
    look = place.monitor.look(act=False)
    assert [v.guard for v in look.verdicts] == list(GUARDS)
    assert any(v.tripped for v in look.verdicts)
    assert place.store.read() == before
    assert not place.settings.monitor.exists()


def test_somebody_faster_than_the_monitor_wins(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.workers({"answers": 500, "calls": 500, "failures": 400})
    read = place.store.read

    def read_and_be_overtaken() -> object:
        stale = read()
        monkeypatch.undo()
        place.store.change(changes.rollback(), why="a person")
        return stale

    monkeypatch.setattr(place.monitor._store, "read", read_and_be_overtaken)
    assert place.monitor.look().rolled_back == ""
    now = read()
    assert now is not None
    assert (now.why, now.rollbacks) == ("a person", {})


def test_set_sizes_are_judged_in_labels(tmp_path: Path) -> None:
    place = Place(tmp_path, set_size=2.0, classes=4)
    place.workers({"answers": 400, "calls": 400, "set_sizes": {"3": 400}})
    verdict = next(v for v in place.monitor.look(act=False).verdicts if v.guard == "set_size")
    assert (verdict.observed, verdict.limit, verdict.tripped) == (3.0, 2.0, True)


def test_limit_that_cannot_be_broken_never_trips(tmp_path: Path) -> None:
    place = Place(tmp_path, set_size=2.5, classes=2)
    place.workers({"answers": 5_000, "calls": 5_000, "set_sizes": {"2": 5_000}})
    assert place.monitor.look().rolled_back == ""


def test_every_guard_counts_what_it_is_about() -> None:
    one = slot_report(answers=10, calls=8, failures=2, slow=1, fallbacks={"a": 3}, set_sizes={"0": 1, "1": 4, "2": 5})
    assert guard_counts(one, 2) == {
        "error_share": {0.0: 6, 1.0: 2},
        "fallback_share": {0.0: 7, 1.0: 3},
        "slow_share": {0.0: 7, 1.0: 1},
        "set_size": {0.0: 1, 0.5: 4, 1.0: 5},
    }


def test_home_where_nothing_is_live_is_looked_at_in_peace(tmp_path: Path) -> None:
    look = Monitor(Settings(home=tmp_path, model_name="risk")).look()
    assert (look.state, look.alive, look.rolled_back) == (None, 0, "")
