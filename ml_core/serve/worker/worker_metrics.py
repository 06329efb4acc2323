"""Sets the Prometheus metrics of one worker from its report, its circuits and what the monitor published."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

from prometheus_client import Gauge

from ml_core.serve import metrics
from ml_core.serve.answering.live import LiveModel
from ml_core.serve.log.labels import ImportedCounts
from ml_core.serve.log.prediction_store import LogOutcome
from ml_core.serve.rollout.monitor_state import (
    HealthFigure,
    ModelHealth,
    MonitorState,
    MonitorView,
    Validities,
    Validity,
)
from ml_core.serve.rollout.processes import ServerProcesses
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.worker_reports import WorkerLogReport, WorkerReport
from ml_core.serve.running.circuit_breaker import BreakerSnapshot, CircuitState

__all__ = ["WorkerMetrics"]

_OUTCOMES = {
    "success": "successes",
    "failure": "failures",
    "ignored": "ignored",
    "late": "late",
    "rejected": "rejected",
    "slow": "slow",
}


class WorkerMetrics:
    """Brings the metrics up to date once a second; counters grow by what is new since the last time.

    Alarms that are over and models that are no longer loaded go back to 0.

    Parameters
    ----------
    model_name : of the models that are served
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._alarms: set[tuple[str, str, str]] = set()
        self._figures: set[tuple[str, ...]] = set()
        self._known: dict[str, tuple[LiveModel, BreakerSnapshot | None, int]] = {}
        self._logged: dict[LogOutcome, int] = dict.fromkeys(get_args(LogOutcome), 0)
        for outcome in self._logged:
            metrics.LOG_ROWS.labels(outcome)  # there from the start, so that the first loss is seen as a growth

    def publish(
        self,
        report: WorkerReport,
        circuits: Mapping[LiveModel, BreakerSnapshot],
        validity: Validities,
        monitor: MonitorView,
        state: RolloutState | None,
    ) -> None:
        """Set the metrics to what is true now.

        Parameters
        ----------
        report : of this worker
        circuits : the models that are live, with their circuits at the moment of the report
        validity, monitor : what the monitor published
        state : of the rollout; None where there is none yet
        """
        age = monitor.age_s
        metrics.MONITOR_AGE.labels(self._model_name).set(-1.0 if age is None else age)
        metrics.ROLLOUT_GENERATION.labels(self._model_name).set(report.generation)
        metrics.ROLLOUT_PROBLEM.set(1 if report.problem else 0)
        metrics.CANARY_HELD.labels(self._model_name).set(report.canary_held)
        if report.log is not None:
            self._publish_log(report.log)
        if state is not None:
            for guard, n in state.rollbacks.items():
                metrics.ROLLBACKS.labels(state.model_name, guard).set(n)
        if circuits:
            self._publish_models(circuits, validity)
            self._publish_figures(circuits, monitor.state if monitor.is_fresh else None)

    def _publish_log(self, log: WorkerLogReport) -> None:
        metrics.LOG_PENDING.set(log.pending)
        metrics.LOG_PROBLEM.set(1 if log.problem else 0)
        if log.shipping is not None:
            metrics.LOG_UNSHIPPED.set(log.shipping.unshipped)
            metrics.LOG_UNSHIPPED_BYTES.set(log.shipping.bytes)
            metrics.LOG_UNSHIPPED_AGE.set(log.shipping.oldest_s)
        for outcome, before in self._logged.items():
            now = getattr(log, outcome)
            metrics.LOG_ROWS.labels(outcome).inc(now - before)
            self._logged[outcome] = now

    def publish_disk(self, home: Path) -> None:
        """Set how large the disk of the home is, and how much of it the service may still use."""
        disk = os.statvfs(home)
        metrics.HOME_FREE.labels(self._model_name).set(disk.f_bavail * disk.f_frsize)
        metrics.HOME_SIZE.labels(self._model_name).set(disk.f_blocks * disk.f_frsize)

    def publish_imported(self, counts: ImportedCounts) -> None:
        """Set how many labels commands have brought in."""
        for outcome, n in counts.model_dump().items():
            metrics.LABELS_IMPORTED.labels(outcome).set(n)

    def publish_processes(self, processes: ServerProcesses) -> None:
        """Set how many processes there are and should be."""
        for role, n in processes.expected.items():
            metrics.WORKERS.labels(role).set(processes.alive[role])
            metrics.WORKERS_EXPECTED.labels(role).set(n)

    def _publish_models(self, models: Mapping[LiveModel, BreakerSnapshot], validity: Validities) -> None:
        tags = {model.model.tag for model in models}
        for tag in self._known.keys() - tags:
            self._part_from(tag)
        on: set[tuple[str, str, str]] = set()
        for model, circuit in models.items():
            self._publish_calls(model, circuit)
            _set_one(metrics.CIRCUITS, model, get_args(CircuitState), circuit.state)
            word, reasons = validity.get(model.model.model_hash, ("unmonitored", ()))
            _set_one(metrics.VALIDITY, model, get_args(Validity), word)
            on |= {(*_labels(model), reason) for reason in reasons if word == "suspect"}
        for labels in self._alarms | on:
            metrics.ALARM.labels(*labels).set(labels in on)
        self._alarms |= on

    def _publish_figures(self, models: Iterable[LiveModel], state: MonitorState | None) -> None:
        """Set what the monitor has measured of the live models; what it no longer measures becomes NaN."""
        health = {} if state is None else state.models
        now: dict[tuple[str, ...], float] = {
            (figure.name, *_labels(model), figure.label, figure.group): figure.value
            for model in models
            for figure in _figures_of(health, model)
        }
        for key in self._figures | now.keys():
            name, *labels = key
            metrics.HEALTH[name].labels(*labels).set(now.get(key, math.nan))
        self._figures = set(now)

    def _publish_calls(self, model: LiveModel, now: BreakerSnapshot) -> None:
        """Add the model's calls since the last time."""
        labels, abandoned = _labels(model), model.guard.pool.abandoned_total
        _, before, abandoned_before = self._known.get(model.model.tag, (model, None, 0))
        for outcome, field in _OUTCOMES.items():
            grown = getattr(now, field) - (0 if before is None else getattr(before, field))
            if grown > 0:
                metrics.CIRCUIT_CALLS.labels(*labels, outcome).inc(grown)
        known = {} if before is None else {change[:3]: change[3] for change in before.transitions}
        for start, end, reason, n in now.transitions:
            grown = n - known.get((start, end, reason), 0)
            if grown > 0:
                metrics.CIRCUIT_TRANSITIONS.labels(*labels, start, end, reason).inc(grown)
        if abandoned > abandoned_before:
            metrics.ABANDONED.labels(*labels).inc(abandoned - abandoned_before)
        metrics.STUCK.labels(*labels).set(model.guard.pool.stuck)
        self._known[model.model.tag] = (model, now, abandoned)

    def _part_from(self, tag: str) -> None:
        """Add the last calls of a model that is no longer loaded; loaded again, it counts from nothing."""
        model = self._known[tag][0]
        self._publish_calls(model, model.guard.breaker.snapshot())
        _set_one(metrics.CIRCUITS, model, get_args(CircuitState), None)
        _set_one(metrics.VALIDITY, model, get_args(Validity), None)
        metrics.STUCK.labels(*_labels(model)).set(0)
        del self._known[tag]


def _figures_of(health: Mapping[str, ModelHealth], model: LiveModel) -> list[HealthFigure]:
    """The figures that this release has a metric for."""
    found = health.get(model.model.model_hash)
    return [] if found is None else [figure for figure in found.figures if figure.name in metrics.HEALTH]


def _labels(model: LiveModel) -> tuple[str, str]:
    return model.manifest.name, model.model.version


def _set_one(gauge: Gauge, model: LiveModel, values: Iterable[str], current: str | None) -> None:
    """Set the gauge of a model to 1 for its current value and to 0 for the others."""
    for value in values:
        gauge.labels(*_labels(model), value).set(value == current)
