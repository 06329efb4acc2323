"""The status of a model in six facts, with the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ml_core.base.documents import read_document
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.serve.model.promotion_record import GateReport, PromotionRecord, gate_path, promotion_path
from ml_core.serve.rollout.monitor_state import MonitorState, MonitorView
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import WorkerReport, beating, read_reports

__all__ = ["ModelStatus", "model_status"]

_DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Status of the configured model.

    Attributes
    ----------
    model_registered : a version of the model was registered from here, or promoted
    registry_uri : of MLflow, without credentials
    drift_status : whether the drift alarm of the champion is on
    deployment_gate : verdict on the champion; without a champion, on the version that was judged last
    api_endpoint : where records are sent
    next_action : one sentence
    """

    model_registered: bool
    registry_uri: str
    drift_status: Literal["nominal", "drift_detected"]
    deployment_gate: Literal["passed", "failed"]
    api_endpoint: str
    next_action: str


@dataclass(frozen=True, slots=True)
class _Records:
    """The records of the home that decide the status."""

    entries: Sequence[Mapping[str, Any]]
    promotion: PromotionRecord | None
    gate: GateReport | None
    rollout: RolloutState | None
    alive: Sequence[WorkerReport]
    monitor: MonitorState | None
    is_monitored: bool
    champion_hash: str | None

    @property
    def registered(self) -> bool:
        return self.promotion is not None or any(entry["event"] == "model.registered" for entry in self.entries)

    @property
    def alarms(self) -> list[str]:
        """Reasons of the alarms of the champion."""
        if self.monitor is None or self.champion_hash is None:
            return []
        health = self.monitor.models.get(self.champion_hash)
        return [] if health is None else [alarm.reason for alarm in health.alarms]


def model_status(settings: Settings, endpoint: str) -> ModelStatus:
    """The status of the configured model.

    Parameters
    ----------
    endpoint : address of the service, e.g. ``http://localhost:3000``

    Raises
    ------
    ArtefactError
        A record in the home cannot be read.
    """
    seen = _read(settings)
    return ModelStatus(
        model_registered=seen.registered,
        registry_uri=settings.registry_shown,
        drift_status="drift_detected" if _DRIFT in seen.alarms else "nominal",
        deployment_gate="passed" if seen.gate is not None and seen.gate.passed else "failed",
        api_endpoint=f"{endpoint.rstrip('/')}/predict",
        next_action=_next_action(seen),
    )


def _read(settings: Settings) -> _Records:
    entries = [e for e in Journal(settings.journal).entries() if e.get("model") == settings.model_name]
    promotion = read_document(promotion_path(settings.promotions, settings.model_name), PromotionRecord)
    rollout = RolloutStore(settings).read()
    alive = beating(read_reports(settings.worker_reports))
    view = MonitorView(settings)
    view.look()
    champion = _champion_hash(rollout, promotion, alive)
    judged = champion or next((str(e["model_hash"]) for e in reversed(entries) if e.get("model_hash")), None)
    gate = read_document(gate_path(settings.gates, judged), GateReport) if judged is not None else None
    if gate is None and promotion is not None and promotion.model_hash == judged:
        gate = promotion.gate
    return _Records(entries, promotion, gate, rollout, alive, view.state, view.is_fresh, champion)


def _champion_hash(
    rollout: RolloutState | None, promotion: PromotionRecord | None, alive: Sequence[WorkerReport]
) -> str | None:
    """Hash of the champion: as workers report it, else as it was promoted."""
    for report in alive:
        for slot in report.slots:
            if slot.slot == "champion":
                return slot.model_hash
    if promotion is None:
        return None
    is_other = rollout is not None and rollout.champion != promotion.bento_tag
    return None if is_other else promotion.model_hash


def _next_action(seen: _Records) -> str:
    if not seen.registered:
        return "train a model: surety train --config configs/NAME.yaml"
    if seen.promotion is None:
        return "judge and promote the challenger: surety promote --model NAME --config configs/NAME.yaml"
    if not seen.alive:
        return "start the service: make serve"
    if not seen.is_monitored:
        return "start the monitor: surety monitor --every 5s"
    if seen.alarms:
        return f"look into {', '.join(seen.alarms)}: surety report; then surety retrain --if-drift --shadow"
    if seen.rollout is not None and seen.rollout.mode == "shadow":
        return f"compare {seen.rollout.challenger} in shadow: surety rollout show; then surety rollout canary 0.1"
    if seen.rollout is not None and seen.rollout.mode == "canary":
        return f"let the guards watch {seen.rollout.challenger}; then surety rollout full"
    return "none"
