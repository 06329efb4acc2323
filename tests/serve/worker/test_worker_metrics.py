"""The metrics of one worker: they grow by what is new, and speak of no model that has left."""

from __future__ import annotations

import math
import time

import pytest
from prometheus_client import REGISTRY

from ml_core.base.documents import write_document
from ml_core.base.settings import Settings
from ml_core.serve.answering.live import Live
from ml_core.serve.log.labels import ImportedCounts
from ml_core.serve.rollout.monitor_state import HealthFigure, ModelHealth, MonitorState, MonitorView, boot_id
from ml_core.serve.rollout.worker_reports import ShippingReport, WorkerLogReport
from ml_core.serve.worker.rollout_follower import circuit_report
from ml_core.serve.worker.worker_metrics import WorkerMetrics
from tests.serve.answering.builders import BROKEN, as_version, ask, live_model, live_of, opened, worker_report
from tests.serve.running.fake_clock import FakeClock
from tests.toy_models import NAME


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def publish(tmp_path):
    metrics, monitor = WorkerMetrics(NAME), MonitorView(Settings(home=tmp_path))

    def published(live: Live, validity=None, **facts) -> None:
        circuits = {model: model.guard.breaker.snapshot() for _, model in live.models()}
        metrics.publish(worker_report(1, time.monotonic(), **facts), circuits, validity or {}, monitor, None)

    return published


def states(version: str) -> dict[str, float]:
    return {
        state: sample("surety_circuits", model_name=NAME, model_version=version, state=state)
        for state in ("closed", "open", "half_open")
    }


def test_metrics_of_a_circuit_grow_by_what_it_counted_and_only_once(publish):
    clock = FakeClock()
    model = live_model(BROKEN["raises"](), model=as_version("72"), clock=clock)
    labels, live = {"model_name": NAME, "model_version": "72"}, live_of(model)
    for _ in range(8):
        ask(live)
    for _ in range(3):
        publish(live)
    calls = {
        outcome: sample("surety_circuit_calls_total", **labels, outcome=outcome) for outcome in ("failure", "rejected")
    }
    assert calls == {"failure": 5, "rejected": 3}
    opening = {"before": "closed", "after": "open", "reason": "consecutive_failures"}
    assert sample("surety_circuit_transitions_total", **labels, **opening) == 1
    assert states("72") == {"closed": 0, "open": 1, "half_open": 0}
    clock.advance(100)
    publish(live)
    assert states("72") == {"closed": 0, "open": 0, "half_open": 1}


def test_a_model_that_leaves_is_counted_to_its_last_call_and_holds_no_circuit(publish):
    leaving, staying = live_model(model=as_version("73")), live_model(model=as_version("74"))
    publish(live_of(leaving, previous=staying), {leaving.model.model_hash: ("valid", ())})
    ask(live_of(leaving))
    publish(live_of(staying))
    labels = {"model_name": NAME, "model_version": "73"}
    assert sample("surety_circuit_calls_total", **labels, outcome="success") == 1
    assert states("73") == {"closed": 0, "open": 0, "half_open": 0}
    assert sample("surety_validity", **labels, validity="valid") == 0
    assert states("74") == {"closed": 1, "open": 0, "half_open": 0}
    publish(live_of(opened(leaving)))
    assert states("73")["open"] == 1


def test_an_alarm_shows_while_it_is_on(publish):
    model = live_model(model=as_version("75"))
    labels = {"model_name": NAME, "model_version": "75"}
    publish(live_of(model), {model.model.model_hash: ("suspect", ("drift",))})
    assert sample("surety_alarm", **labels, reason="drift") == 1
    assert [sample("surety_validity", **labels, validity=v) for v in ("valid", "suspect", "unmonitored")] == [0, 1, 0]
    publish(live_of(model), {model.model.model_hash: ("valid", ())})
    assert sample("surety_alarm", **labels, reason="drift") == 0
    publish(live_of(model))
    assert [sample("surety_validity", **labels, validity=v) for v in ("valid", "suspect", "unmonitored")] == [0, 0, 1]


def test_a_model_that_is_unverified_says_so_and_has_no_alarm(publish):
    model = live_model(model=as_version("79"))
    labels = {"model_name": NAME, "model_version": "79"}
    publish(live_of(model), {model.model.model_hash: ("unverified", ("outcomes:1",))})
    assert [sample("surety_validity", **labels, validity=v) for v in ("valid", "suspect", "unverified")] == [0, 0, 1]
    assert not sample("surety_alarm", **labels, reason="outcomes:1")


def test_a_figure_of_the_monitor_shows_while_it_is_measured(tmp_path):
    model, settings = live_model(model=as_version("78")), Settings(home=tmp_path)
    metrics, monitor = WorkerMetrics(NAME), MonitorView(settings)
    labels = {"model_name": NAME, "model_version": "78", "label": "1", "group": ""}

    def measured(*figures: HealthFigure) -> float | None:
        health = ModelHealth(model_version="78", figures=figures)
        state = MonitorState(
            model_name=NAME,
            published_at="",
            boot=boot_id(),
            beat_s=time.monotonic(),
            models={model.model.model_hash: health},
        )
        write_document(settings.monitor_state, state, durable=False)
        monitor.look()
        metrics.publish(worker_report(1, time.monotonic()), {model: model.guard.breaker.snapshot()}, {}, monitor, None)
        return REGISTRY.get_sample_value("surety_live_coverage", labels)

    later_release = HealthFigure(name="of_a_later_release", value=1.0)
    assert measured(HealthFigure(name="live_coverage", value=0.875, label="1"), later_release) == 0.875
    assert math.isnan(measured())


def test_a_worker_says_which_generation_it_obeys_and_that_it_cannot(publish):
    live = live_of(live_model(model=as_version("76")))
    publish(live, problem="damaged", generation=7)
    assert sample("surety_rollout_problem") == 1
    assert sample("surety_rollout_generation", model_name=NAME) == 7
    publish(live, generation=8)
    assert sample("surety_rollout_problem") == 0
    assert sample("surety_monitor_age_seconds", model_name=NAME) == -1


def test_abandoned_calls_are_added_once_and_a_report_counts_openings_alone(publish):
    clock = FakeClock()
    model = live_model(BROKEN["raises"](), model=as_version("77"), clock=clock)
    model.guard.pool.abandoned_total = 3
    for _ in range(5):
        ask(live_of(model))
    clock.advance(100)
    for _ in range(2):
        publish(live_of(model))
    assert sample("surety_abandoned_calls_total", model_name=NAME, model_version="77") == 3
    report = circuit_report(model.guard.breaker.snapshot())
    assert (report.state, report.opened) == ("half_open", 1)


def test_answers_in_the_log_are_counted_once_by_what_became_of_them(publish):
    def rows() -> dict[str, float]:
        return {o: sample("surety_log_rows_total", outcome=o) for o in ("stored", "lost", "refused", "unanswered")}

    live = live_of(live_model(model=as_version("78")))
    before = rows()
    for stored, lost in ((40, 0), (40, 0), (45, 2)):
        log = WorkerLogReport(
            mode="standard",
            stored=stored,
            lost=lost,
            refused=0,
            unanswered=1,
            pending=3,
            problem="full" if lost else None,
        )
        publish(live, log=log)
    assert {outcome: n - before[outcome] for outcome, n in rows().items()} == {
        "stored": 45, "lost": 2, "refused": 0, "unanswered": 1,
    }  # fmt: skip
    assert (sample("surety_log_pending"), sample("surety_log_problem")) == (3, 1)


def test_rows_that_wait_for_the_database_are_measured(publish):
    def waiting() -> tuple[float, ...]:
        names = ("unshipped", "unshipped_bytes", "unshipped_age_seconds")
        return tuple(sample(f"surety_log_{name}") for name in names)

    live = live_of(live_model(model=as_version("80")))
    for unshipped, bytes_, oldest_s in ((7, 4_096, 2.5), (0, 0, 0.0)):
        shipping = ShippingReport(
            shipped=9, unshipped=unshipped, at_risk=9, bytes=bytes_, oldest_s=oldest_s, problem=None
        )
        log = WorkerLogReport(
            mode="standard", stored=1, lost=0, refused=0, unanswered=0, pending=0, problem=None, shipping=shipping
        )
        publish(live, log=log)
        assert waiting() == (unshipped, bytes_, oldest_s)


def test_the_disk_of_the_home_and_a_held_canary_are_measured(publish, tmp_path):
    WorkerMetrics(NAME).publish_disk(tmp_path)
    free, size = (sample(f"surety_home_{what}_bytes", model_name=NAME) for what in ("free", "size"))
    assert 0 <= free <= size > 0
    live = live_of(live_model(model=as_version("79")))
    for held in (True, False):
        publish(live, canary_held=held)
        assert sample("surety_canary_held", model_name=NAME) == held


def test_labels_that_a_command_has_brought_in_are_shown():
    WorkerMetrics(NAME).publish_imported(ImportedCounts(accepted=500, conflict=70))
    assert [sample("surety_labels_imported", outcome=o) for o in ("accepted", "conflict", "unknown")] == [500, 70, 0]
