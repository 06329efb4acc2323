"""What `/health` and `/status` say of a service that works, that falls back, and that lacks a process."""

from __future__ import annotations

import shutil
import time

import pytest

from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.log.prediction_store import LogCounts
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.worker_reports import write_worker_report
from ml_core.serve.worker.status import ServiceStatus
from tests.folder_files import heartbeats
from tests.homes import bento_store
from tests.serve.answering.builders import live_model, live_of, opened, worker_report
from tests.serve.answering.stored import Home, Worker


@pytest.fixture
def home(tmp_path):
    with bento_store(tmp_path / "bento"):
        made = Home(tmp_path / "home")
        made.promote(made.v1)
        yield made


def status_of(worker: Worker, home: Home) -> ServiceStatus:
    return ServiceStatus(home.settings, worker.service, worker.follower)


def test_health_is_ok_while_the_champion_answers(home):
    worker = Worker(home)
    assert status_of(worker.look(), home).health() == "ok"


def test_health_is_degraded_while_the_champions_circuit_is_open(home):
    worker = Worker(home)
    opened(worker.live.champion)
    assert status_of(worker, home).health() == "degraded"
    worker.live.champion.guard.breaker.override("auto")
    assert status_of(worker, home).health() == "ok"


def test_health_is_degraded_while_the_champion_cannot_be_reached(home):
    worker = Worker(home)
    worker.live.champion.guard.unavailable = "runner_lost"
    assert status_of(worker, home).health() == "degraded"


def test_health_looks_at_the_champion_alone(home):
    champion, challenger = live_model(), opened(live_model())
    status = ServiceStatus(home.settings, InferenceService(live_of(champion, challenger=challenger, mode="canary")))
    assert status.health() == "ok"


def test_health_is_unavailable_without_a_model(home):
    status = ServiceStatus(home.settings, InferenceService(None))
    assert (status.health(), status.is_alive(), status.report()["ready"]) == ("unavailable", True, False)


def test_health_is_degraded_from_the_moment_a_process_is_missing(home):
    worker = Worker(home, expected={"api": 2})
    worker.look()
    status = status_of(worker, home)
    assert (status.health(), status.is_alive()) == ("degraded", True)
    write_worker_report(heartbeats(home.settings), worker_report(2, time.monotonic()))
    worker.look()
    assert status.health() == "ok"


def test_status_tells_living_processes_from_lost_ones_and_leaves_out_other_servers(home):
    worker = Worker(home)
    for pid, beat_s, server in ((2, time.monotonic() - 60, "s"), (3, time.monotonic(), "another")):
        write_worker_report(heartbeats(home.settings), worker_report(pid, beat_s, server=server, rejected=5))
    worker.look()
    found = {p["pid"]: p for p in status_of(worker, home).report()["workers"]["processes"]}
    assert {pid: p["alive"] for pid, p in found.items()} == {1_001: True, 2: False}
    assert (found[2]["rejected"], found[2]["role"], found[1_001]["circuits"]) == (5, "api", {"champion": "closed"})
    assert found[1_001].keys() == {
        "role", "index", "pid", "alive", "generation", "problem", "canary_held", "circuits", "shadow", "log", "rejected", "abandoned",
        "stuck",
    }  # fmt: skip


def test_status_shows_the_circuit_of_every_model_and_the_share_it_answers(home):
    worker = Worker(home)
    home.change(changes.full(home.v2))
    opened(worker.look().live.champion)
    champion, previous = status_of(worker, home).report()["models"]
    assert (champion["slot"], champion["weight"], previous["slot"], previous["weight"]) == (
        "champion", 1.0, "previous", 0.0,
    )  # fmt: skip
    assert champion["circuit"] == {
        "state": "open", "mode": "forced_open", "reason": "forced", "retry_after_s": 60.0, "error_rate": None,
        "p95_ms": None,
    }  # fmt: skip
    assert previous["circuit"]["state"] == "closed"


# --- a worker knows how it is -----------------------------------------------------------------------------------------


class BrokenLog:
    """A prediction log that cannot store."""

    counts = LogCounts(stored=5, lost=2, problem="OSError: no room")


def test_a_problem_of_the_log_is_seen_in_health_and_status(home):
    worker = Worker(home)
    worker.follower._log = BrokenLog()
    told = status_of(worker.look(), home).report()
    (process,) = told["workers"]["processes"]
    assert (told["health"], process["log"]["problem"], process["log"]["lost"]) == ("degraded", "OSError: no room", 2)
    worker.follower._log.counts = LogCounts(stored=7, lost=2)
    assert status_of(worker, home).health() == "ok"


def test_a_worker_tells_of_itself_from_memory(home, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    worker = Worker(home).look()
    monkeypatch.setattr("ml_core.serve.worker.rollout_follower.write_worker_report", full)
    worker.live.champion.guard.pool.abandoned_total = 3
    worker.look()
    (process,) = status_of(worker, home).report()["workers"]["processes"]
    assert (process["pid"], process["abandoned"], process["alive"]) == (1_001, 3, True)
    shutil.rmtree(home.settings.worker_reports)
    home.settings.worker_reports.write_text("no folder")
    (process,) = status_of(worker.look(), home).report()["workers"]["processes"]
    assert (process["pid"], process["alive"]) == (1_001, True)


def test_a_lost_parent_is_said(home, monkeypatch):
    worker = Worker(home).look()
    assert status_of(worker, home).report()["notes"] == []
    monkeypatch.setattr("ml_core.serve.worker.rollout_follower.os.getppid", lambda: 1)
    told = status_of(worker.look(), home).report()
    assert (told["health"], len(told["notes"])) == ("degraded", 1)
    assert "has gone" in told["notes"][0]


def test_another_number_of_workers_than_expected_is_said(home):
    worker = Worker(home, expected={"api": 2}).look()
    assert status_of(worker, home).report()["notes"] == []  # the other one may still be starting
    worker.follower.processes._missing_since -= 6
    assert status_of(worker.look(), home).report()["notes"] == ["1 processes of role api report, 2 are expected"]
    for pid in (2, 3):
        write_worker_report(heartbeats(home.settings), worker_report(pid, time.monotonic()))
    assert status_of(worker.look(), home).report()["notes"] == ["3 processes of role api report, 2 are expected"]


def test_what_bentoml_was_asked_for_in_vain_is_said(home, monkeypatch):
    monkeypatch.setenv("BENTOML_CONFIG_OPTIONS", "services.Surety.workers=4")
    (note,) = status_of(Worker(home), home).report()["notes"]
    assert "services.Surety.workers" in note
