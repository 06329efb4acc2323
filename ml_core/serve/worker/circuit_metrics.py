"""Brings what circuits and pools have counted into the metrics, once a second instead of at every call."""

from __future__ import annotations

from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.metrics import ABANDONED, CIRCUIT_CALLS, CIRCUIT_TRANSITIONS, CIRCUITS, STUCK
from ml_core.serve.running.circuit_breaker import BreakerSnapshot

__all__ = ["CircuitMetrics"]

_STATES = ("closed", "open", "half_open")
_OUTCOMES = {
    "success": "successes",
    "failure": "failures",
    "ignored": "ignored",
    "late": "late",
    "rejected": "rejected",
    "slow": "slow",
}


class CircuitMetrics:
    """Adds the growth of every model's counts since the last time; a model that has left holds no circuit any more."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[BreakerSnapshot | None, int]] = {}
        self._models: dict[str, LiveModel] = {}

    def publish(self, live: Live) -> None:
        """Add what is new."""
        models = {model.model.tag: model for _, model in live.models()}
        for tag in self._models.keys() - models.keys():
            self._part_from(self._models[tag])
        for model in models.values():
            self._publish(model)
        self._models = models

    def _part_from(self, model: LiveModel) -> None:
        """Add its last calls; should it come back, it is loaded anew and counts from nothing."""
        self._publish(model)
        labels = (model.manifest.name, model.model.version)
        for state in _STATES:
            CIRCUITS.labels(*labels, state).set(0)
        STUCK.labels(*labels).set(0)
        del self._before[model.model.tag]

    def _publish(self, model: LiveModel) -> None:
        labels = (model.manifest.name, model.model.version)
        now, abandoned = model.guard.breaker.snapshot(), model.guard.pool.abandoned_total
        before, abandoned_before = self._before.get(model.model.tag, (None, 0))
        for outcome, field in _OUTCOMES.items():
            grown = getattr(now, field) - (getattr(before, field) if before is not None else 0)
            if grown > 0:
                CIRCUIT_CALLS.labels(*labels, outcome).inc(grown)
        known = {t[:3]: t[3] for t in before.transitions} if before is not None else {}
        for start, end, reason, count in now.transitions:
            grown = count - known.get((start, end, reason), 0)
            if grown > 0:
                CIRCUIT_TRANSITIONS.labels(*labels, start, end, reason).inc(grown)
        for state in _STATES:
            CIRCUITS.labels(*labels, state).set(1 if now.state == state else 0)
        if abandoned > abandoned_before:
            ABANDONED.labels(*labels).inc(abandoned - abandoned_before)
        STUCK.labels(*labels).set(model.guard.pool.stuck)
        self._before[model.model.tag] = (now, abandoned)
