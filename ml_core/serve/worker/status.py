"""What operators read: `/status`, `/health` and the probes, from this worker and from the reports of its siblings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.rollout.rollout_state import Flags
from ml_core.serve.rollout.worker_reports import WorkerReport, beating, read_reports
from ml_core.serve.worker.rollout_follower import Follower

__all__ = ["Status"]


class Status:
    """The state of the service as seen from one worker.

    Parameters
    ----------
    settings : where the reports lie
    inference : what is live here
    follower : the rollout and the census; None in a process of its own, without siblings
    """

    def __init__(self, settings: Settings, inference: InferenceService, follower: Follower | None = None) -> None:
        self._settings = settings
        self._inference = inference
        self._follower = follower

    def is_alive(self) -> bool:
        """Whether nobody has been missing for too long."""
        return self._follower is None or self._follower.is_alive

    def health(self) -> str:
        """``ok``, ``degraded`` while fallbacks answer or somebody is missing, ``unavailable`` while nothing can."""
        live = self._inference.live
        if live is None:
            return "unavailable"
        guard = live.champion.guard
        short = self._follower is not None and self._follower.census.missing_s > 0
        return "degraded" if short or guard.unavailable is not None or guard.breaker.is_open() else "ok"

    def report(self) -> dict[str, Any]:
        """The object of ``/status``. Reads files: not for the event loop."""
        live = self._inference.live
        return {
            "ready": live is not None,
            "health": self.health(),
            "problem": self._inference.problem or None,
            "models": [] if live is None else _models(live, self._inference.validity),
            "rollout": None if live is None else self._rollout(live),
            "flags": (Flags() if live is None else live.flags).model_dump(mode="json"),
            "workers": self._workers(),
            "monitor": self._monitor(),
        }

    def _rollout(self, live: Live) -> dict[str, Any]:
        state = self._follower.state if self._follower is not None else None
        return {
            "generation": live.generation,
            "mode": live.mode,
            "weight": live.weight if live.mode == "canary" else 0.0,
            "pinned": self._settings.model or None,
            "rollbacks": state.rollbacks if state is not None else {},
            "changed_at": state.changed_at if state is not None else None,
            "changed_by": state.changed_by if state is not None else None,
            "why": state.why if state is not None else None,
        }

    def _monitor(self) -> dict[str, Any] | None:
        """What the monitor has published; None where it never has."""
        state = self._follower.monitored if self._follower is not None else None
        if state is None:
            return None
        return {
            "published_at": state.published_at,
            "models": {
                model_hash: {"model_version": health.model_version, "alarms": [a.model_dump() for a in health.alarms]}
                for model_hash, health in state.models.items()
            },
        }

    def _workers(self) -> dict[str, Any]:
        if self._follower is None:
            return {"expected": {}, "alive": {}, "missing_s": 0.0, "processes": []}
        census = self._follower.census
        try:
            reports = [r for r in read_reports(self._settings.worker_reports) if r.server == census.server]
        except OSError:
            reports = []
        living = {r.pid for r in beating(reports)}
        return {
            "expected": census.expected,
            "alive": census.alive,
            "missing_s": round(census.missing_s, 1),
            "processes": [_process(report, alive=report.pid in living) for report in reports],
        }


def _models(live: Live, validity: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_model(live, slot, model, validity) for slot, model in live.models()]


def _model(live: Live, slot: Any, model: LiveModel, validity: Mapping[str, Any]) -> dict[str, Any]:
    manifest, loaded = model.manifest, model.model
    circuit = model.guard.breaker.snapshot()
    gate = loaded.gate
    return {
        "slot": slot,
        "weight": live.share(slot),
        "model_name": manifest.name,
        "model_version": loaded.version,
        "model_hash": loaded.model_hash,
        "bento_tag": loaded.tag,
        "feature_version": manifest.feature_version,
        "guarantee": manifest.guarantee,
        "confidence_level": float(manifest.confidence_level),
        "calibration_rows": dict(zip(map(str, manifest.classes), model.calibration.sizes, strict=True)),
        "promoted_at": loaded.promotion.promoted_at if loaded.promotion else None,
        "gate": None if gate is None else {"passed": gate.passed, "judged_at": gate.judged_at, "on": gate.judged_on},
        "validity": validity.get(loaded.model_hash, ("unmonitored", ()))[0],
        "validity_reasons": list(validity.get(loaded.model_hash, ("unmonitored", ()))[1]),
        "where": model.guard.where,
        "unavailable": model.guard.unavailable,
        "circuit": {
            "state": circuit.state,
            "mode": circuit.mode,
            "reason": circuit.reason,
            "retry_after_s": circuit.retry_after_s,
            "error_rate": circuit.error_rate,
            "p95_ms": circuit.p95_ms,
        },
    }


def _process(report: WorkerReport, *, alive: bool) -> dict[str, Any]:
    return {
        "role": report.role,
        "index": report.index,
        "pid": report.pid,
        "alive": alive,
        "generation": report.generation,
        "problem": report.problem,
        "circuits": {slot.slot: slot.circuit.state for slot in report.slots},
        "shadow": report.shadow.model_dump(),
        "log": None if report.log is None else report.log.model_dump(),
        "rejected": report.rejected,
        "abandoned": report.abandoned,
        "stuck": report.stuck,
    }
