"""Rollout states and reports for tests: valid ones, of which a test changes what it is about."""

from __future__ import annotations

from typing import Any

import orjson

from ml_core.base.documents import Document
from ml_core.serve.rollout.rollout_state import GuardLimits, RolloutState
from ml_core.serve.rollout.worker_reports import CircuitReport, SlotReport, WorkerReport

V1, V2, V3 = (f"risk:v{n}-{n * 8}" for n in ("1", "2", "3"))


def state(**changes: Any) -> RolloutState:
    """Only a champion, as a first start makes it."""
    facts = {
        "model_name": "risk",
        "generation": 1,
        "stage": 1,
        "champion": V1,
        "changed_at": "2026-01-01T00:00:00.000000Z",
        "changed_by": "test",
        "why": "",
    }
    return RolloutState.model_validate({**facts, **changes})


def limits(**changes: Any) -> GuardLimits:
    return GuardLimits.model_validate({"set_size": 1.9, **changes})


def slot_report(slot: str = "challenger", **changes: Any) -> SlotReport:
    circuit = CircuitReport(
        state="closed",
        mode="auto",
        reason=None,
        calls_in_window=0,
        error_rate=None,
        p95_ms=None,
        retry_after_s=None,
        opened=0,
    )
    facts = {
        "slot": slot, "tag": V2, "model_hash": "2" * 64, "model_version": "2", "where": "loop", "circuit": circuit,
    }  # fmt: skip
    return SlotReport.model_validate({**facts, **changes})


def report(pid: int = 1, beat_s: float = 100.0, **changes: Any) -> WorkerReport:
    facts = {
        "server": "host-1-1", "role": "api", "index": pid, "pid": pid, "started_at": "2026-01-01T00:00:00.000000Z",
        "beat_s": beat_s, "generation": 1, "stage": 1,
    }  # fmt: skip
    return WorkerReport.model_validate({**facts, **changes})


def of_a_later_release(document: Document) -> bytes:
    """The document as a release would write it that says one thing more in each of its parts."""

    def more(part: Any) -> Any:
        if isinstance(part, Document):
            return {name: more(getattr(part, name)) for name in type(part).model_fields} | {"of_a_later_release": 1}
        if isinstance(part, dict):
            return {key: more(each) for key, each in part.items()}
        return [more(each) for each in part] if isinstance(part, tuple) else part

    return orjson.dumps(more(document), default=str)
