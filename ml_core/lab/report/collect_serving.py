"""What runs: the service's processes and their circuits, from their own reports, and the monitor."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ml_core.base.documents import read_document
from ml_core.base.settings import Settings
from ml_core.lab.report.facts import CircuitNow, Circuits, CircuitTransition, Monitoring, Serving
from ml_core.serve.rollout.monitor_state import MonitorState
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.worker_reports import SlotReport, WorkerReport, beating

__all__ = ["circuits", "monitoring", "serving"]


def serving(reports: Sequence[WorkerReport], state: RolloutState | None, clock_s: float | None) -> Serving | None:
    """The running service; None where no process has ever reported.

    Parameters
    ----------
    clock_s : the system's monotonic clock; None for now
    """
    if not reports:
        return None
    alive = beating(reports, clock_s)
    # A process that was replaced has its place taken; a whole server that is silent was stopped.
    servers, places = {r.server for r in alive}, {_place(r) for r in alive}
    lost = {_place(r) for r in reports if r.server in servers} - places
    return Serving(
        workers=sum(r.role == "api" for r in alive),
        lost=len(lost),
        mode="off" if state is None else state.mode,
        weight=0.0 if state is None else state.weight,
        problems=tuple(sorted({r.problem for r in alive if r.problem})),
    )


def circuits(reports: Sequence[WorkerReport], clock_s: float | None) -> Circuits:
    """Circuits of the processes that run, and how often each has opened; nobody keeps when."""
    alive = sorted(beating(reports, clock_s), key=_place)
    found = [(f"{r.role} {r.index}", slot) for r in alive for slot in r.slots]
    opened = [(worker, slot) for worker, slot in found if slot.circuit.opened]
    return Circuits(
        tuple(_now(worker, slot) for worker, slot in found),
        tuple(
            CircuitTransition(worker, slot.slot, "closed", "open", slot.circuit.reason or "", None, slot.circuit.opened)
            for worker, slot in opened
        ),
    )


def monitoring(settings: Settings, champion_hash: str | None) -> Monitoring:
    """When the monitor last looked at the champion, or, where none is known, at all.

    Raises
    ------
    ArtefactError
        What it published cannot be read.
    """
    state = read_document(settings.monitor_state, MonitorState)
    is_seen = state is not None and (champion_hash is None or champion_hash in state.models)
    at = datetime.fromisoformat(state.published_at) if state is not None and is_seen else None
    return Monitoring(at, settings.monitor_timeout_s)


def _place(report: WorkerReport) -> tuple[str, str, int]:
    return report.server, report.role, report.index


def _now(worker: str, slot: SlotReport) -> CircuitNow:
    circuit = slot.circuit
    return CircuitNow(
        worker=worker,
        slot=slot.slot,
        state=circuit.state,
        mode=circuit.mode,
        reason=circuit.reason,
        calls_in_window=circuit.calls_in_window,
        error_rate=circuit.error_rate,
        p95_ms=circuit.p95_ms,
        opened=circuit.opened,
    )
