"""What operators read: `/status`, `/health` and the probes, from this worker and the reports of the other processes."""

from __future__ import annotations

import math
from typing import Any

from ml_core.base.errors import HomeUnreachable
from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.home.homes import open_home
from ml_core.serve.rollout.monitor_state import Validities
from ml_core.serve.rollout.rollout_state import Flags, Slot
from ml_core.serve.rollout.worker_reports import WorkerReport, beating, machines_of, read_reports
from ml_core.serve.worker.rollout_follower import RolloutFollower, circuit_report

__all__ = ["ServiceStatus"]


_CIRCUIT_FIELDS = {"state", "mode", "reason", "retry_after_s", "error_rate", "p95_ms"}
_PROCESS_FIELDS = {
    "role", "index", "pid", "generation", "problem", "canary_held", "shadow", "log", "rejected", "abandoned", "stuck",
}  # fmt: skip


class ServiceStatus:
    """The state of the service as seen from one worker.

    Parameters
    ----------
    settings : where the reports lie
    inference : what is live here
    follower : the rollout and the processes of this server; None where there is only this process
    """

    def __init__(
        self, settings: Settings, inference: InferenceService, follower: RolloutFollower | None = None
    ) -> None:
        self._settings = settings
        self._reports = open_home(settings).heartbeats(settings.model_name)
        self._inference = inference
        self._follower = follower

    def is_alive(self) -> bool:
        """Whether no process of this server has been missing for too long."""
        return self._follower is None or self._follower.is_alive

    def health(self) -> str:
        """``ok``, ``degraded``, or ``unavailable`` without a model.

        Degraded: fallbacks answer, answers cannot be stored, a process is missing or the one that replaces it has gone.
        """
        live, follower = self._inference.live, self._follower
        if live is None:
            return "unavailable"
        guard = live.champion.guard
        if follower is not None and (
            follower.processes.missing_s > 0 or follower.log_problem or follower.has_lost_parent
        ):
            return "degraded"
        return "degraded" if live.missing or guard.unavailable is not None or guard.breaker.is_open() else "ok"

    def report(self) -> dict[str, Any]:
        """The object of ``/status``. It reads files, so it must not be called on the event loop."""
        live = self._inference.live
        return {
            "ready": live is not None,
            "health": self.health(),
            "problem": self._inference.problem or None,
            "notes": [] if self._follower is None else self._follower.notes(),
            "models": [] if live is None else [_model(live, s, m, self._inference.validity) for s, m in live.models()],
            "rollout": None if live is None else self._rollout(live),
            "flags": (Flags() if live is None else live.flags).model_dump(mode="json"),
            "workers": self._workers(),
            "home": self._home(),
            "monitor": self._monitor(),
        }

    def _rollout(self, live: Live) -> dict[str, Any]:
        state = self._follower.state if self._follower is not None else None
        last: dict[str, Any] = {"rollbacks": {}, "changed_at": None, "changed_by": None, "why": None}
        return {
            "generation": live.generation,
            "mode": live.mode,
            "weight": live.weight if live.mode == "canary" else 0.0,
            "canary_held": live.is_held,
            "not_loaded": live.missing or None,
            "pinned": self._settings.model or None,
            **(last if state is None else state.model_dump(include=set(last))),
        }

    def _monitor(self) -> dict[str, Any] | None:
        """What the monitor has published; None where it never has."""
        state = self._follower.monitored if self._follower is not None else None
        return None if state is None else state.model_dump(include={"published_at", "models"})

    def _home(self) -> dict[str, Any]:
        """Where this machine stands, and what is known of all machines of the home."""
        silence = 0.0 if self._follower is None else self._follower.home_silence_s
        try:
            reports = read_reports(self._reports)
        except (OSError, HomeUnreachable):
            reports = []
        return {
            "name": self._inference.responder.served_by["home"],
            "machine": self._settings.machine_name,
            "silence_s": None if math.isinf(silence) else round(silence, 1),
            "machines": machines_of(reports),
        }

    def _workers(self) -> dict[str, Any]:
        if self._follower is None:
            return {"expected": {}, "alive": {}, "missing_s": 0.0, "processes": []}
        processes, own = self._follower.processes, self._follower.own
        try:
            reports = [r for r in read_reports(self._reports, local=True) if r.server == processes.server]
        except OSError:
            reports = []
        if own is not None:  # its file may lie on a full disk
            reports = [own if r.pid == own.pid else r for r in reports]
            reports += [] if own in reports else [own]
        living = {r.pid for r in beating(reports)}
        return {
            "expected": processes.expected,
            "alive": processes.alive,
            "missing_s": round(processes.missing_s, 1),
            "processes": [_process(report, alive=report.pid in living) for report in reports],
        }


def _model(live: Live, slot: Slot, model: LiveModel, validity: Validities) -> dict[str, Any]:
    manifest, loaded = model.manifest, model.model
    gate = loaded.gate
    word, reasons = validity.get(loaded.model_hash, ("unmonitored", ()))
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
        "validity": word,
        "validity_reasons": list(reasons),
        "where": model.guard.where,
        "unavailable": model.guard.unavailable,
        "circuit": circuit_report(model.guard.breaker.snapshot()).model_dump(include=_CIRCUIT_FIELDS),
    }


def _process(report: WorkerReport, *, alive: bool) -> dict[str, Any]:
    return {
        "alive": alive,
        **report.model_dump(include=_PROCESS_FIELDS),
        "circuits": {slot.slot: slot.circuit.state for slot in report.slots},
    }
