"""What operators decide reaches every worker: orders for circuits, flags, promotions, pins; and what the worker tells."""

from __future__ import annotations

import time

import pytest

from ml_core.base.settings import Settings
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_state import GuardLimits
from ml_core.serve.rollout.worker_reports import read_reports, write_worker_report
from ml_core.serve.running.circuit_breaker import CircuitBreaker
from ml_core.serve.worker.startup import take_up_promotion
from tests.folder_files import heartbeats, rollout_file
from tests.homes import bento_store
from tests.serve.answering.builders import ask, toy_records, worker_report
from tests.serve.answering.stored import Home, Worker
from tests.serve.running.fake_clock import FakeClock

GUARDS = GuardLimits(set_size=1.9)
LATER = "2026-02-02T00:00:00Z"


@pytest.fixture(autouse=True)
def own_bento_store(tmp_path):
    with bento_store(tmp_path / "bento"):
        yield


@pytest.fixture
def home(tmp_path) -> Home:
    made = Home(tmp_path / "home")
    made.promote(made.v1)
    return made


@pytest.fixture
def workers(home) -> list[Worker]:
    return [Worker(home, index) for index in (1, 2, 3)]


def breaker(worker: Worker, slot: str = "champion"):
    return worker.live.at(slot).guard.breaker


def fail(circuit: CircuitBreaker) -> None:
    circuit.fail(circuit.acquire(), 1.0)


# --- orders for circuits ----------------------------------------------------------------------------------------------


def test_every_worker_obeys_an_order_to_stay_open_and_one_that_starts_later_too(home, workers):
    home.change(changes.circuit("champion", "forced_open"))
    everybody = [*(worker.look() for worker in workers), Worker(home, 4)]
    for worker in everybody:
        answer = ask(worker.live)
        assert (answer.fallback_reason, answer.lineage.slot) == ("circuit_open", "scorecard")
    home.change(changes.circuit("champion", "auto"))
    for worker in everybody:
        assert ask(worker.look().live).fallback_reason is None


@pytest.mark.parametrize("mode", ["disabled", "metrics_only"])
def test_a_circuit_that_is_told_never_to_open_does_not(home, workers, mode):
    home.change(changes.circuit("champion", mode))
    for worker in workers:
        found = breaker(worker.look())
        for _ in range(200):
            found.fail(found.acquire(), 900.0)
        assert (found.state, found.snapshot().mode) == ("closed", mode)


def test_a_reset_closes_what_was_open_once_and_not_again_at_every_look(home, workers):
    for worker in workers:
        for _ in range(5):
            fail(breaker(worker))
    home.change(changes.circuit("champion", "auto", reset=True))
    for worker in workers:
        assert breaker(worker.look()).state == "closed"
        for _ in range(5):
            fail(breaker(worker))
        assert breaker(worker.look()).state == "open"
    home.change(changes.flags({"shadow_share": 0.5}))
    assert [breaker(worker.look()).state for worker in workers] == ["open"] * 3
    home.change(changes.circuit("champion", "auto", reset=True))
    assert [breaker(worker.look()).state for worker in workers] == ["closed"] * 3


def test_an_order_that_is_taken_back_leaves_the_circuit_as_the_rules_had_it(home, workers):
    worker = workers[0]
    for _ in range(5):
        fail(breaker(worker))
    for mode, state in (("disabled", "closed"), ("auto", "open")):
        home.change(changes.circuit("champion", mode))
        assert breaker(worker.look()).state == state


def test_an_order_for_one_slot_leaves_the_others_alone(home, workers):
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    home.change(changes.circuit("challenger", "forced_open"))
    worker = workers[0].look()
    assert (breaker(worker, "challenger").snapshot().mode, breaker(worker).snapshot().mode) == ("forced_open", "auto")


def test_an_order_for_a_challenger_that_is_the_previous_champion_as_well_holds(home, workers):
    home.change(changes.full(home.v2))
    workers[0].look()
    home.change(changes.rollback())
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    home.change(changes.circuit("challenger", "forced_open"))
    for worker in (workers[0].look(), Worker(home, 4)):
        assert breaker(worker, "challenger").snapshot().mode == "forced_open"


def test_an_order_outlives_the_reload_of_the_model_it_is_for(home, workers):
    home.change(changes.shadow(home.v3))
    home.change(changes.circuit("challenger", "forced_open"))
    worker = workers[0].look()
    home.pass_gate(home.v3)
    home.change(changes.canary(home.v3, 0.5, GUARDS))
    assert breaker(worker.look(), "challenger").snapshot().mode == "forced_open"


def test_settling_the_traffic_takes_orders_back(home, workers):
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    home.change(changes.circuit("champion", "forced_open"))
    worker = workers[0].look()
    assert breaker(worker).snapshot().mode == "forced_open"
    home.change(changes.rollback())
    assert breaker(worker.look()).snapshot().mode == "auto"


def test_an_order_is_obeyed_while_the_new_champion_cannot_be_loaded(home, workers):
    home.file(home.v2).write_bytes(b"no model")
    home.change(changes.full(home.v2))
    home.change(changes.circuit("champion", "forced_open"))
    worker = workers[0].look()
    assert (worker.tags(), breaker(worker).snapshot().mode) == ({"champion": home.v1}, "forced_open")


# --- flags and the state file -----------------------------------------------------------------------------------------


def test_flags_are_live_at_the_next_look_and_models_stay_as_they_are(home, workers):
    worker, before = workers[0], workers[0].live.champion
    home.change(changes.flags({"confidence_level": "0.8", "fallback": ["prior"]}))
    worker.look()
    assert ask(worker.live).confidence_level == 0.8
    assert worker.live.champion is before
    before.guard.breaker.override("forced_open")
    assert ask(worker.live).lineage.slot == "prior"


def test_flags_are_live_also_while_the_new_champion_cannot_be_loaded(home, workers):
    home.file(home.v2).write_bytes(b"no model")
    home.change(changes.full(home.v2))
    home.change(changes.flags({"confidence_level": "0.8"}))
    assert ask(workers[0].look().live).confidence_level == 0.8


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"generation": 9}'], ids=["deleted", "empty", "torn", "short"])
def test_a_state_file_that_goes_or_breaks_leaves_the_last_state_in_force(home, workers, content, caplog):
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    worker, whole = workers[0].look(), rollout_file(home.settings).read_bytes()
    live = worker.live
    rollout_file(home.settings).unlink() if content is None else rollout_file(home.settings).write_bytes(content)
    for _ in range(5):
        worker.look(retry=True)
    assert (worker.live, worker.problem) == (live, "")
    assert sum(record.message.startswith("rollout.") for record in caplog.records) == 1  # said once
    rollout_file(home.settings).write_bytes(whole)
    home.change(changes.rollback())
    assert worker.look().live.mode == "off"


def test_a_state_file_made_anew_with_the_old_number_is_obeyed(home, workers):
    rollout_file(home.settings).unlink()
    home.store.begin(home.v2, "", why="made anew")
    worker = workers[0].look()
    assert (worker.live.generation, worker.tags()["champion"]) == (1, home.v2)


def test_a_worker_that_starts_beside_a_broken_state_file_serves_the_promoted_model(home, workers):
    home.change(changes.full(home.v2))
    rollout_file(home.settings).write_bytes(b"{")
    later = Worker(home, 4)
    assert later.tags() == {"champion": home.v1}
    assert rollout_file(home.settings).read_bytes() == b"{"


# --- promotions and pins ----------------------------------------------------------------------------------------------


def start_server(home: Home, settings: Settings | None = None) -> None:
    settings = settings or home.settings
    take_up_promotion(settings, ModelLoader(settings))


def test_a_promotion_record_without_a_time_is_not_newer(home, workers):
    home.promote(home.v2, at="")
    take_up_promotion(home.settings, ModelLoader(home.settings))
    assert home.store.read().champion == home.v1


def test_a_newer_promotion_is_taken_up_when_a_server_starts_and_by_running_workers_with_it(home, workers):
    home.promote(home.v2, LATER)
    assert workers[0].look().tags() == {"champion": home.v1}  # nothing changes while a server runs
    start_server(home)
    state = home.store.read()
    assert (state.champion, state.previous, state.promotion_seen, state.changed_by) == (
        home.v2,
        home.v1,
        LATER,
        "service",
    )
    assert [worker.look().tags()["champion"] for worker in [*workers, Worker(home, 4)]] == [home.v2] * 4


def test_a_promotion_is_taken_up_once_so_that_a_rollback_holds(home, workers):
    home.promote(home.v2, LATER)
    start_server(home)
    home.change(changes.rollback())
    start_server(home)
    assert Worker(home, 4).tags()["champion"] == home.v1


def test_the_promotion_a_state_began_with_is_not_news(home, workers):
    home.change(changes.full(home.v2))
    before = home.store.read()
    start_server(home)
    assert home.store.read() == before


@pytest.mark.parametrize("damage", ["ungated", "missing", "corrupt"])
def test_a_promotion_that_cannot_be_served_is_left_and_said(home, workers, damage, caplog):
    home.promote(home.v2, LATER)
    if damage == "missing":
        home.folder(home.v2).rename(home.settings.home / "away")
    elif damage == "corrupt":
        home.file(home.v2).write_bytes(b"no model")
    else:
        home.pass_gate(home.v2, passed=False)
    before = home.store.read()
    start_server(home)
    assert home.store.read() == before
    assert "promotion.not_taken_up" in [record.message for record in caplog.records]


def test_a_first_start_needs_no_taking_up(tmp_path):
    home = Home(tmp_path / "new")
    home.promote(home.v1)
    start_server(home)
    assert home.store.read() is None


def test_a_pinned_model_is_served_whatever_the_rollout_says(home, workers):
    pinned = home.settings.model_copy(update={"model": home.v2})
    worker = Worker(home, 4, settings=pinned)
    assert worker.tags()["champion"] == home.v2
    home.promote(home.v2, LATER)
    start_server(home, pinned)
    home.change(changes.flags({"confidence_level": "0.8"}))
    assert home.store.read().champion == home.v1
    worker.look()
    assert (worker.tags()["champion"], ask(worker.live).confidence_level) == (home.v2, 0.8)


def test_a_pinned_model_needs_its_gate(home):
    worker = Worker(home, 4, settings=home.settings.model_copy(update={"model": home.v3}))
    assert worker.service.live is None
    assert "may not answer" in worker.problem


# --- what a worker tells ----------------------------------------------------------------------------------------------


def test_a_report_says_what_each_slot_has_done(home, workers):
    home.watch()
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    worker = workers[0].look()
    breaker(worker, "challenger").override("forced_open")
    for i, record in enumerate(toy_records(40)):
        ask(worker.live, record, subject=str(i))
    worker.look()
    report = next(r for r in read_reports(heartbeats(home.settings)) if r.index == 1)
    slots = {slot.slot: slot for slot in report.slots}
    assert (report.generation, report.stage, report.problem, report.pid) == (2, 2, None, 1_001)
    assert {name: slot.tag for name, slot in slots.items()} == worker.tags()
    assert slots["champion"].answers + slots["challenger"].answers == 40
    canary = slots["challenger"]
    assert (canary.calls, canary.failures, canary.fallbacks) == (0, 0, {"circuit_open": canary.answers})
    assert (canary.circuit.state, canary.circuit.mode) == ("open", "forced_open")
    assert (slots["champion"].calls, slots["champion"].where) == (slots["champion"].answers, "loop")
    assert sum(canary.set_sizes.values()) == canary.answers


def test_a_home_that_cannot_be_written_keeps_nobody_from_answering(home, workers, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ml_core.serve.worker.rollout_follower.write_worker_report", full)
    worker = workers[0].look().look()
    assert ask(worker.live).fallback_reason is None


def test_a_lost_runner_is_not_waited_for_until_it_is_back(home, workers):
    worker = Worker(home, 4, expected={"api": 1, "runner": 1})
    worker.follower.processes._is_running = lambda pid: False
    runner = worker_report(50, time.monotonic(), role="runner")
    write_worker_report(heartbeats(home.settings), runner)
    assert worker.look().live.champion.guard.unavailable is None
    write_worker_report(heartbeats(home.settings), runner.model_copy(update={"beat_s": time.monotonic() - 60}))
    assert worker.look().live.champion.guard.unavailable == "runner_lost"
    assert ask(worker.live).fallback_reason == "runner_lost"
    write_worker_report(heartbeats(home.settings), runner.model_copy(update={"pid": 51, "beat_s": time.monotonic()}))
    assert worker.look().live.champion.guard.unavailable is None
    assert ask(worker.live).fallback_reason is None


def test_a_runner_that_is_silent_and_runs_is_waited_for(home, workers):
    worker = Worker(home, 4, expected={"api": 1, "runner": 1})
    worker.follower.processes._is_running = lambda pid: pid == 50
    for beat in (time.monotonic(), time.monotonic() - 60):
        write_worker_report(heartbeats(home.settings), worker_report(50, beat, role="runner"))
        assert worker.look().live.champion.guard.unavailable is None


def test_a_sibling_that_is_missing_for_too_long_makes_the_worker_not_alive(home, workers):
    worker, clock = Worker(home, 4, expected={"api": 9}), FakeClock(time.monotonic() + 1.0)
    worker.follower.processes._clock = clock
    worker.look()
    clock.advance(home.settings.missing_worker_s)
    assert worker.follower.is_alive
    clock.advance(0.1)
    assert not worker.follower.is_alive


def test_reports_that_cannot_be_written_make_nobody_missing(home, workers, monkeypatch):
    worker = Worker(home, 4, expected={"api": 9})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ml_core.serve.worker.rollout_follower.write_worker_report", full)
    worker.look()
    worker.follower.processes._clock = FakeClock(time.monotonic() + 1e6)
    assert worker.look().follower.is_alive


def test_lost_reports_of_other_stages_are_cleared_when_a_worker_starts(home, workers):
    write_worker_report(heartbeats(home.settings), worker_report(7, time.monotonic() - 60, stage=99))
    Worker(home, 4)
    assert 7 not in {r.pid for r in read_reports(heartbeats(home.settings))}
