"""The status of a model in six facts, with the next step."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.object_stores import objects_of
from ml_core.serve.log.log_places import place_of
from ml_core.serve.model.promotion_record import GateReport, PromotionRecord, plain_gate, plain_promotion
from ml_core.serve.rollout.monitor_state import ModelHealth, MonitorState, MonitorView
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import WorkerReport, beating, read_reports

__all__ = ["ModelStatus", "model_status"]

_DRIFT = "drift"
_SOME_CONFIG = Path("configs/NAME.yaml")


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
    next_action : the command that comes next, as it is typed; ``none`` where nothing needs doing
    is_empty : nothing of the model is in this home
    """

    model_registered: bool
    registry_uri: str
    drift_status: Literal["nominal", "drift_detected"]
    deployment_gate: Literal["passed", "failed"]
    api_endpoint: str
    next_action: str
    is_empty: bool


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
    has_log: bool
    has_table: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the model is here."""
        return not (self.entries or self.promotion or self.rollout or self.has_log)

    @property
    def registered(self) -> bool:
        return self.promotion is not None or any(entry["event"] == "model.registered" for entry in self.entries)

    @property
    def alarms(self) -> list[str]:
        """Reasons of the alarms of the champion."""
        return [] if self.health is None else [alarm.reason for alarm in self.health.alarms]

    @property
    def health(self) -> ModelHealth | None:
        """What the monitor has published of the champion."""
        if self.monitor is None or self.champion_hash is None:
            return None
        return self.monitor.models.get(self.champion_hash)


def model_status(settings: Settings, endpoint: str, config: Path = _SOME_CONFIG) -> ModelStatus:
    """The status of the configured model.

    Parameters
    ----------
    endpoint : address of the service, e.g. ``http://localhost:3000``
    config : the model's YAML, for the next command

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
        next_action=_next_action(seen, shlex.quote(settings.model_name), shlex.quote(str(config))),
        is_empty=seen.is_empty,
    )


def _read(settings: Settings) -> _Records:
    entries = [e for e in open_home(settings).journal.entries() if e.get("model") == settings.model_name]
    promotion = plain_promotion(settings, settings.model_name)
    rollout = RolloutStore(settings).read()
    alive = beating(read_reports(open_home(settings).heartbeats(settings.model_name)))
    view = MonitorView(settings)
    view.look()
    champion = _champion_hash(rollout, promotion, alive)
    judged = champion or next((str(e["model_hash"]) for e in reversed(entries) if e.get("model_hash")), None)
    gate = plain_gate(settings, judged) if judged is not None else None
    if gate is None and promotion is not None and promotion.model_hash == judged:
        gate = promotion.gate
    return _Records(
        entries=entries,
        promotion=promotion,
        gate=gate,
        rollout=rollout,
        alive=alive,
        monitor=view.state,
        is_monitored=view.is_fresh,
        champion_hash=champion,
        has_log=any(place_of(settings).files()),
        has_table=_has_table(settings),
    )


def _has_table(settings: Settings) -> bool:
    """Whether the feature store has rows of the model; told by names alone, since Delta Lake takes a second to load."""
    objects = objects_of(settings)
    if objects is not None:
        return any("/_delta_log/" in name for name in objects.names(f"features/models/{settings.model_name}"))
    own = settings.feature_store.glob(f"models/{settings.model_name}/*/_delta_log")
    shared = settings.feature_store.glob("*/_delta_log")  # of a release that kept one table for all models
    return any(own) or any(shared)


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


def _next_action(seen: _Records, name: str, config: str) -> str:
    """One command; it names the model, so that it runs whatever SURETY_MODEL_NAME says."""
    if not seen.registered:
        return f"surety train --config {config}" if seen.has_table else f"surety features run --config {config}"
    if seen.promotion is None:
        return f"surety promote --model {name} --config {config}"
    if not seen.alive:
        return f"make serve MODEL={name} CONFIG={config}"
    if not seen.is_monitored:
        return f"surety monitor --every 5s --model {name}"
    is_told_all = seen.health is not None and not seen.health.unverified  # outcomes that came can stand for the others
    if is_told_all and any(reason.startswith("coverage:") for reason in seen.alarms):
        return f"surety recalibrate --config {config} --shadow"
    if _DRIFT in seen.alarms:
        return f"surety retrain --config {config} --if-drift --shadow"
    if seen.alarms:
        return f"surety alarms show --model {name}"
    if seen.health is not None and seen.health.unverified:
        return f"surety coverage check --model {name}"
    if seen.rollout is not None and seen.rollout.mode == "shadow":
        return f"surety rollout canary 0.1 --model {name}"
    if seen.rollout is not None and seen.rollout.mode == "canary":
        return f"surety rollout full --model {name}"
    return "none"
