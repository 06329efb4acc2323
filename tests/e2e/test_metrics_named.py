"""Two live workers show every metric that rules and dashboard name, and Prometheus answers every query in them."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.documents import write_document
from ml_core.serve import metrics
from ml_core.serve.http.traffic import OTHER
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.monitor_state import Alarm, HealthFigure, ModelHealth, MonitorState, boot_id
from ml_core.serve.rollout.rollout_state import GuardLimits
from tests.deploy.queries import (
    CONFIG,
    GIVEN,
    RULES,
    alerts,
    board_queries,
    declared,
    named_metrics,
    recorded,
    rules,
    selected,
    substituted,
)
from tests.e2e.workplace import free_port
from tests.faults.place import FaultPlace, Served, until
from tests.serve.answering.stored import Home
from tests.toy_models import NAME, toy_record

pytestmark = pytest.mark.e2e

QUERIES = {**{rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}, **board_queries()}
NAMED = sorted({name for query in QUERIES.values() for name in named_metrics(query)} - recorded() - GIVEN)
WORKERS, BATCH = 2, 7


@dataclass
class Running:
    """A service of two workers, and the requests it has answered.

    Attributes
    ----------
    asked : records that were answered before anything was broken
    by_worker : how many of these each worker says it has answered
    counted : what the metrics said of that
    """

    home: Home
    place: FaultPlace
    served: Served
    asked: int
    by_worker: dict[int, int]
    counted: dict[str, float]


def answers_by_worker(place: FaultPlace) -> dict[int, int]:
    return {report.pid: report.slots[0].answers for report in place.reports()}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Toy models v1, promoted, and v2; calls run on the pool, where they can be given up."""
    place = FaultPlace(tmp_path_factory.mktemp("named"), NAME)
    home = Home(place.home)
    home.promote(home.v1)
    place.break_model(quick=False)
    with place.served(SURETY_WORKERS=str(WORKERS), SURETY_DEADLINE_MS="500") as served:
        asked = 0

        def both_have_answered() -> bool:
            nonlocal asked
            for _ in range(20):  # each on a connection of its own, which the system gives to either worker
                served.predict(toy_record())
            reply = served.post("/predict_batch", {"records": [toy_record()] * BATCH})
            assert reply.status_code == 200
            asked += 20 + BATCH
            until(lambda: sum(answers_by_worker(place).values()) == asked, 10, "the workers report all answers")
            return len(answers_by_worker(place)) == WORKERS and all(answers_by_worker(place).values())

        until(both_have_answered, 60, "both workers have answered")
        counted = {name: served.metric(name) for name in ("surety_answers_total", "surety_log_rows_total")}
        yield Running(home, place, served, asked, answers_by_worker(place), counted)


@pytest.fixture(scope="module")
def eventful(running: Running) -> Running:
    """The same service after every counted event has happened."""
    home, place, served = running.home, running.place, running.served

    def seen(name: str, **labels: str) -> None:
        until(lambda: served.metric(name, **labels) > 0, 15, f"{name} {labels}")

    assert served.post("/predict", {"features": {}}).status_code == 422
    assert served.get("/a-path-of-a-scanner").status_code == 404
    label = {
        "request_id": served.predict(toy_record())["request_id"],
        "label": 1,
        "observed_at": utc_text(utc_now()),
    }
    reply = served.post("/labels", {"labels": [label]})
    assert (reply.status_code, reply.json().get("accepted")) == (200, 1), reply.text
    place.obeyed(place.change(changes.shadow(home.v2)), workers=WORKERS)
    served.predict(toy_record())
    seen("surety_shadow_total", outcome="scored")
    place.obeyed(place.change(changes.canary(home.v2, 0.5, GuardLimits(set_size=2.0))), workers=WORKERS)
    place.obeyed(place.change(changes.rollback("error_share")), workers=WORKERS)
    seen("surety_rollbacks", guard="error_share")
    place.break_model({"do": "hang", "ms": 1500}, quick=False)
    assert served.predict(toy_record())["fallback_reason"] == "deadline"
    seen("surety_abandoned_calls_total")
    place.break_model(quick=False)
    place.obeyed(place.change(changes.circuit("champion", "forced_open")), workers=WORKERS)
    assert served.predict(toy_record())["fallback_reason"] == "circuit_open"
    seen("surety_circuit_transitions_total", after="open")
    publish_alarm(home)
    seen("surety_alarm", reason="coverage:1")
    seen("surety_live_coverage", label="1")
    (home.settings.rollouts / f"{NAME}.json").write_text("{")
    seen("surety_home_failures_total", what="rollout.unreadable")
    return running


def publish_alarm(home: Home) -> None:
    """What the monitor publishes about a champion whose sets miss too often, with every figure that it may know."""
    alarm = Alarm(reason="coverage:1", since="2026-11-24T08:00:00Z", says="too many misses", false_alarm="rarely")
    figures = tuple(HealthFigure(name=name, value=0.5, label="1") for name in metrics.HEALTH)
    health = ModelHealth(model_version="1", alarms=(alarm,), figures=figures)
    state = MonitorState(
        model_name=NAME, published_at="2026-11-24T08:00:00Z", boot=boot_id(), beat_s=time.monotonic(),
        models={home.hash_of(home.v1): health},
    )  # fmt: skip
    write_document(home.settings.monitor_state, state)


@pytest.fixture(scope="module")
def shown(eventful: Running) -> dict[str, list[Sample]]:
    """Samples of ``/metrics`` by name."""
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(eventful.served.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def test_counters_are_sums_over_the_workers(running: Running) -> None:
    assert len(running.by_worker) == WORKERS
    assert all(running.by_worker.values())
    assert sum(running.by_worker.values()) == running.asked
    assert running.counted == {"surety_answers_total": running.asked, "surety_log_rows_total": running.asked}


@pytest.mark.parametrize("name", NAMED)
def test_named_metric_is_there_with_its_labels(name: str, shown: dict[str, list[Sample]]) -> None:
    wanted = {
        label for query in QUERIES.values() for metric, labels in selected(query) if metric == name for label in labels
    }
    wanted = (wanted | declared().get(name, frozenset())) - {"job"}
    assert name in shown
    for sample in shown[name]:
        assert wanted <= sample.labels.keys()
        assert all(sample.labels[label] for label in wanted & {"model_name", "model_version"})


def test_rules_and_dashboard_name_every_metric_of_ours() -> None:
    assert declared().keys() <= set(NAMED)


class Prometheus:
    """A running Prometheus, queried over its API."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, what: str, **parameters: str) -> Any:
        reply = httpx.get(f"{self._address}/api/v1/{what}", params=parameters, timeout=10)
        reply.raise_for_status()  # 503 while it starts, which `until` bears
        return reply.json()["data"]

    def series(self, query: str) -> list[dict[str, Any]]:
        """The present result of the query."""
        return self.ask("query", query=query)["result"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def prometheus(eventful: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The project's configuration with the address of that service, fifteen times as fast."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs Debian's package prometheus (apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{eventful.served.port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(
            [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=out, stderr=out,
        )  # fmt: skip
    asked = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until(
            lambda: float(asked.series('count_over_time(up{job="surety"}[1m])')[0]["value"][1]) >= 4, 60, "four scrapes"
        )
        yield asked
    finally:
        process.terminate()
        process.wait(30)


def test_prometheus_evaluates_every_rule(prometheus: Prometheus) -> None:
    def evaluated() -> bool:
        groups = prometheus.ask("rules")["groups"]
        return {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}

    until(evaluated, 20, "every rule has been evaluated without an error")
    assert sum(len(group["rules"]) for group in prometheus.ask("rules")["groups"]) == len(rules())


@pytest.mark.parametrize("where", board_queries())
def test_panel_has_something_to_show(where: str, prometheus: Prometheus) -> None:
    assert prometheus.series(substituted(board_queries()[where])) != []


def test_alarm_of_the_monitor_arrives_with_its_reason(prometheus: Prometheus) -> None:
    def firing() -> list[dict[str, Any]]:
        found = prometheus.ask("alerts")["alerts"]
        return [
            alert for alert in found if alert["labels"]["alertname"] == "SuretyAlarm" and alert["state"] == "firing"
        ]

    until(firing, 20, "the alert fires")
    (alert,) = firing()
    assert alert["labels"]["reason"] == "coverage:1"
    assert alert["annotations"]["summary"] == f"{NAME} v1 is suspect: coverage:1"
    assert alert["annotations"]["runbook"] == alerts()["SuretyAlarm"]["annotations"]["runbook"]


def test_paths_of_scanners_do_not_become_series(prometheus: Prometheus, eventful: Running) -> None:
    kept = {series["metric"]["endpoint"] for series in prometheus.series("bentoml_service_request_total")}
    assert {"/predict", OTHER} <= kept
    assert "/a-path-of-a-scanner" not in eventful.served.get("/metrics").text
