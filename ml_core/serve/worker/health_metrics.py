"""Puts into the metrics what the monitor has published and how the prediction log is doing."""

from __future__ import annotations

from typing import get_args

from ml_core.serve import metrics
from ml_core.serve.answering.live import Live
from ml_core.serve.log.prediction_store import LogOutcome
from ml_core.serve.rollout.monitor_state import MonitorView, Validities, Validity
from ml_core.serve.rollout.worker_reports import LogReport

__all__ = ["HealthMetrics"]


class HealthMetrics:
    """Gauges of one worker; an alarm that is over, and a model that has left, go back to 0.

    Parameters
    ----------
    model_name : of the models that are served
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._alarms: set[tuple[str, str, str]] = set()
        self._models: set[tuple[str, str]] = set()
        for outcome in get_args(LogOutcome):
            metrics.LOG_ROWS.labels(outcome)  # there from the start, so that the first loss is seen as a growth

    def publish(self, live: Live | None, validity: Validities, monitor: MonitorView, log: LogReport | None) -> None:
        """Set the gauges to what is true now."""
        age = monitor.age_s
        metrics.MONITOR_AGE.labels(self._model_name).set(-1.0 if age is None else age)
        if log is not None:
            metrics.LOG_PENDING.set(log.pending)
            metrics.LOG_PROBLEM.set(1 if log.problem else 0)
        if live is not None:
            self._publish_models(live, validity)

    def _publish_models(self, live: Live, validity: Validities) -> None:
        on: set[tuple[str, str, str]] = set()
        models = {(model.manifest.name, model.model.version) for _, model in live.models()}
        for gone in self._models - models:
            for each in get_args(Validity):
                metrics.VALIDITY.labels(*gone, each).set(0)
        self._models = models
        for _, model in live.models():
            name, version = model.manifest.name, model.model.version
            word, reasons = validity.get(model.model.model_hash, ("unmonitored", ()))
            for each in get_args(Validity):
                metrics.VALIDITY.labels(name, version, each).set(each == word)
            on |= {(name, version, reason) for reason in reasons}
        for labels in self._alarms | on:
            metrics.ALARM.labels(*labels).set(labels in on)
        self._alarms |= on
