"""Reports that each process of a service writes about itself once a second; siblings, monitor and people read them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from ml_core.base.documents import PublishedDocument, document_bytes, parsed_document
from ml_core.base.errors import ArtefactError
from ml_core.serve.home.stores import Heartbeats
from ml_core.serve.rollout.rollout_state import Slot

__all__ = [
    "REPORT_EVERY_S",
    "CircuitReport",
    "ShadowReport",
    "ShippingReport",
    "SlotReport",
    "WorkerLogReport",
    "WorkerReport",
    "beating",
    "clear_lost",
    "machines_of",
    "read_reports",
    "summed",
    "write_worker_report",
]

REPORT_EVERY_S = 1.0
LOST_AFTER_S = 3.0
"""A process that has not reported for so long is lost; it reports every second, from a thread of its own."""
_KEEP_LOST_S = 86_400.0


class CircuitReport(PublishedDocument):
    """One circuit in one process; ``opened`` is how often it has opened."""

    state: str
    mode: str
    reason: str | None
    calls_in_window: int
    error_rate: float | None
    p95_ms: float | None
    retry_after_s: float | None
    opened: int


class SlotReport(PublishedDocument):
    """What one slot of one process has done since the stage began.

    Attributes
    ----------
    where : ``loop``, ``pool`` or ``runner``: where the model's arithmetic runs now
    answers : requests that were routed here
    failures : answers for which the model was called and failed
    fallbacks : answers that were a fallback's, by reason
    slow : model calls longer than the guards' ``slow_ms``
    set_sizes : answers by the number of labels in their set, as text because JSON keys are
    """

    slot: Slot
    tag: str
    model_hash: str
    model_version: str
    where: str
    circuit: CircuitReport
    answers: int = 0
    failures: int = 0
    calls: int = 0
    slow: int = 0
    fallbacks: dict[str, int] = Field(default_factory=dict)
    set_sizes: dict[str, int] = Field(default_factory=dict)


class ShadowReport(PublishedDocument):
    """Shadow scoring of one process since the stage began.

    Attributes
    ----------
    scored, dropped, failed : requests scored, left out because the queue was full, and given up because scoring failed
    agreed, same_set : scored ones with the same prediction, and with the same set
    mean_difference, max_difference : of the probabilities of the champion's prediction, absolute
    """

    scored: int = 0
    dropped: int = 0
    failed: int = 0
    agreed: int = 0
    same_set: int = 0
    mean_difference: float | None = None
    max_difference: float | None = None


class ShippingReport(PublishedDocument):
    """What of the prediction log on this machine waits for the database of the home, in rows; a bulk call is one.

    Attributes
    ----------
    shipped : since the process started
    unshipped : when this was written
    at_risk : most that waited at one moment of the last ten seconds; about what is lost with the machine's disk
    bytes : of the files they lie in
    oldest_s : how long the oldest has waited, at most
    problem : why nothing can be shipped now, None where it can
    """

    shipped: int
    unshipped: int
    at_risk: int
    bytes: int
    oldest_s: float
    problem: str | None


class WorkerLogReport(PublishedDocument):
    """The prediction log of one process since it started.

    Attributes
    ----------
    mode : ``standard`` or ``strict``
    stored, lost : answers that are in the log, and that never will be
    refused, unanswered : answers that strict mode kept back, and rows stored after it had given up
    pending : rows that wait
    problem : why nothing can be stored now, None where it can
    shipping : to the database of the home; None where answers stay on this machine
    """

    mode: str
    stored: int
    lost: int
    refused: int
    unanswered: int
    pending: int
    problem: str | None
    shipping: ShippingReport | None = None


class WorkerReport(PublishedDocument):
    """One process of a service.

    Attributes
    ----------
    server : names the ``bentoml serve`` it belongs to
    role, index : ``api`` or ``runner``, and its number there, from 1
    machine : on which it runs; reports of earlier releases name none
    beat_s : when it wrote this, on the system's monotonic clock; for the report of another machine, on that of ours
    generation, stage : of the rollout state it obeys; 0 where it has none
    problem : why it does not do what the rollout state says, None where it does
    canary_held : the champion answers the canary's share, since the monitor is silent or the home is away
    """

    server: str
    machine: str = ""
    role: Literal["api", "runner"]
    index: int
    pid: int
    started_at: str
    beat_s: float
    generation: int
    stage: int
    problem: str | None = None
    canary_held: bool = False
    slots: tuple[SlotReport, ...] = ()
    shadow: ShadowReport = ShadowReport()
    log: WorkerLogReport | None = None
    rejected: int = 0
    abandoned: int = 0
    stuck: int = 0


def write_worker_report(home: Heartbeats, report: WorkerReport, *, last: bool = False) -> None:
    """Replace the process's report.

    Parameters
    ----------
    last : the process ends

    Raises
    ------
    HomeUnreachable, OSError
        It was not written.
    """
    home.beat(_process(report), document_bytes(report), last=last)


def read_reports(home: Heartbeats, *, local: bool = False) -> list[WorkerReport]:
    """All reports, of living and lost processes on all machines; what cannot be read is passed over.

    Parameters
    ----------
    local : only of this machine, which takes no wait

    Raises
    ------
    HomeUnreachable
        Nothing is known of them, and the home cannot be asked now.
    """
    found = []
    for each in home.local_reports() if local else home.reports():
        try:
            report = parsed_document(each.content, "report", WorkerReport)
        except ArtefactError:
            continue
        if each.age_s is not None:  # clocks of two machines cannot be compared
            report = report.model_copy(update={"beat_s": time.monotonic() - each.age_s})
        found.append(report)
    return found


def _process(report: WorkerReport) -> str:
    """Name of its process, which no other has."""
    return f"{report.server}-{report.role}-{report.index}-{report.pid}"


def beating(reports: Iterable[WorkerReport], now_s: float | None = None) -> list[WorkerReport]:
    """Those that reported within the last ``LOST_AFTER_S`` seconds (monotonic clock)."""
    now = time.monotonic() if now_s is None else now_s
    return [r for r in reports if 0.0 <= now - r.beat_s <= LOST_AFTER_S]


def clear_lost(home: Heartbeats, reports: Iterable[WorkerReport], stage: int, now_s: float | None = None) -> None:
    """Remove the reports of lost processes that no guard needs: those of other stages, and those older than a day.

    Parameters
    ----------
    reports : that were read before ``now_s``, so that none seems to be of another boot

    Raises
    ------
    HomeUnreachable, OSError
        Some may still be there.
    """
    now = time.monotonic() if now_s is None else now_s
    ages = ((report, now - report.beat_s) for report in reports)
    home.clear(
        [
            _process(report)
            for report, age in ages
            if not 0.0 <= age <= _KEEP_LOST_S or (report.stage != stage and age > 2 * LOST_AFTER_S)
        ]
    )


def machines_of(reports: Iterable[WorkerReport], now_s: float | None = None) -> list[dict[str, Any]]:
    """What is known of each machine, in the order of their names: of its living processes, else of its last ones.

    ``unstored`` are answers that were given and are in no log yet. ``unshipped`` are rows of the log that lie on the
    machine alone, and ``at_risk`` the most of them at one moment of ten seconds: with ``unstored``, what is lost with a
    machine that does not come back.
    """
    now = time.monotonic() if now_s is None else now_s
    by_machine: dict[str, list[WorkerReport]] = {}
    for report in reports:
        by_machine.setdefault(report.machine, []).append(report)
    found = []
    for machine, all_of_it in sorted(by_machine.items()):
        living = beating(all_of_it, now)
        newest = max(all_of_it, key=lambda r: r.beat_s)
        told = [r for r in living or all_of_it if living or newest.beat_s - r.beat_s <= LOST_AFTER_S]
        shipping = [r.log.shipping for r in told if r.log is not None and r.log.shipping is not None]
        found.append(
            {
                "machine": machine,
                "alive": len(living),
                "age_s": round(max(0.0, now - newest.beat_s), 1),
                "generation": min(r.generation for r in told),
                "canary_held": any(r.canary_held for r in told),
                "unstored": sum(r.log.pending for r in told if r.log is not None),
                "unshipped": sum(each.unshipped for each in shipping),
                "at_risk": sum(each.at_risk for each in shipping),
                "problem": next((r.problem for r in told if r.problem), None),
            }
        )
    return found


def summed(reports: Iterable[WorkerReport], stage: int, slot: Slot) -> SlotReport | None:
    """The counts of one slot, summed over all processes that obeyed that stage, lost ones too; None where none did."""
    parts = [s for r in reports if r.stage == stage and r.role == "api" for s in r.slots if s.slot == slot]
    if not parts:
        return None
    fallbacks: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for part in parts:
        fallbacks.update(part.fallbacks)
        sizes.update(part.set_sizes)
    totals = {name: sum(getattr(p, name) for p in parts) for name in ("answers", "failures", "calls", "slow")}
    return parts[-1].model_copy(update={**totals, "fallbacks": dict(fallbacks), "set_sizes": dict(sizes)})
