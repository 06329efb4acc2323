"""The service in a report: its processes and circuits, the monitor, and the files of the prediction log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from ml_core.base.errors import LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.log_care.log_overview import overview
from ml_core.lab.report.facts import Monitoring, Serving
from ml_core.lab.report.facts_upkeep import CircuitNow, Circuits, CircuitTransition, LogStore, StoredFile
from ml_core.lab.report.gaps import Gaps
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.log_places import FileFacts
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.rollout.monitor_state import MonitorState, monitor_document
from ml_core.serve.rollout.rollout_state import Flags, RolloutState
from ml_core.serve.rollout.worker_reports import SlotReport, WorkerReport, beating

__all__ = ["circuits", "monitoring", "serving", "store_facts"]


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
    """Circuits of the processes that run, and how often each has opened; the times are not kept."""
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
    state = open_home(settings).documents.load(monitor_document(settings.model_name), MonitorState)
    is_seen = state is not None and (champion_hash is None or champion_hash in state.models)
    at = datetime.fromisoformat(state.published_at) if state is not None and is_seen else None
    return Monitoring(at, settings.monitor_timeout_s)


def _place(report: WorkerReport) -> tuple[str, str, int]:
    return report.server, report.role, report.index


def _now(worker: str, slot: SlotReport) -> CircuitNow:
    told = slot.circuit.model_dump(exclude={"retry_after_s"})
    return CircuitNow(worker=worker, slot=slot.slot, **told)


# --- the prediction log ----------------------------------------------------------------------------------------------


def store_facts(
    settings: Settings,
    reports: Sequence[WorkerReport],
    state: RolloutState | None,
    gaps: Gaps,
    *,
    verified_at: datetime | None,
) -> LogStore | None:
    """The log now; None where there is none.

    Parameters
    ----------
    reports : of processes, lost ones too, for what they could not store
    verified_at : now, to verify all chains; None to trust what was sealed, and verify none
    """
    files, log = overview(settings), PredictionLog.of(settings)
    walked = None if verified_at is None else gaps.asked("log", lambda: verify_log(settings), None)
    holds = {} if walked is None else {report.file: report.is_sound for report in walked.files}
    missing = () if walked is None else walked.missing
    if not files and not missing:
        return None
    stored = tuple(_file(facts, _answers(log, facts, gaps), holds) for facts in reversed(files))
    return LogStore(
        rows=sum(file.rows for file in stored),
        lost=sum(report.log.lost for report in reports if report.log is not None),
        mode=(Flags() if state is None else state.flags).log_mode,
        verified_at=None if walked is None else verified_at,
        broken=tuple(sorted([*(name for name, sound in holds.items() if not sound), *missing])),
        files=stored,
    )


def _answers(log: PredictionLog, facts: FileFacts, gaps: Gaps) -> int:
    """Answers of a file, of which a bulk call is one row; 0 and a gap where it cannot be read."""
    try:
        bulk = log.bulk_calls(facts.file)
    except LogDamaged as error:
        gaps.add("log", error)
        return 0
    return (facts.rows or 0) - len(bulk) + sum(bulk)


def _file(facts: FileFacts, answers: int, holds: Mapping[str, bool]) -> StoredFile:
    name = facts.file.path.name
    state = (
        "unreadable" if facts.rows is None else "live" if facts.is_live else "sealed" if facts.is_sealed else "closed"
    )
    return StoredFile(name, state, answers, facts.bytes, holds.get(name, True if facts.is_sealed else None))
