"""What one worker writes about itself: its models, their circuits and counts, its prediction log."""

from __future__ import annotations

from ml_core.serve.answering.live import Live, LiveModel, SlotCounts
from ml_core.serve.log.prediction_store import PredictionStore
from ml_core.serve.rollout.rollout_state import Slot
from ml_core.serve.rollout.worker_reports import CircuitReport, SlotReport, WorkerLogReport
from ml_core.serve.running.circuit_breaker import BreakerSnapshot

__all__ = ["circuit_report", "log_report", "slot_report"]


def circuit_report(circuit: BreakerSnapshot) -> CircuitReport:
    """The circuit as reports and ``/status`` show it."""
    shown = {name: getattr(circuit, name) for name in CircuitReport.model_fields if name != "opened"}
    return CircuitReport(**shown, opened=sum(n for _, after, _, n in circuit.transitions if after == "open"))


def slot_report(live: Live, slot: Slot, model: LiveModel, circuit: BreakerSnapshot) -> SlotReport:
    """What that slot has done since the stage began."""
    counts = live.counts.get(slot, SlotCounts())
    return SlotReport(
        slot=slot,
        tag=model.model.tag,
        model_hash=model.model.model_hash,
        model_version=model.model.version,
        where=model.guard.unavailable or model.guard.where,
        circuit=circuit_report(circuit),
        answers=counts.answers,
        failures=counts.failures,
        calls=counts.calls,
        slow=counts.slow,
        fallbacks=dict(counts.fallbacks),
        set_sizes={str(size): n for size, n in list(counts.set_sizes.items())},
    )


def log_report(log: PredictionStore, live: Live | None) -> WorkerLogReport:
    """What became of this worker's answers in the prediction log."""
    counts = log.counts
    return WorkerLogReport(
        mode="standard" if live is None else live.flags.log_mode,
        stored=counts.stored,
        lost=counts.lost,
        refused=counts.refused,
        unanswered=counts.unanswered,
        pending=counts.pending,
        problem=counts.problem or None,
    )
