"""Follows the rollout from one worker: looks for changes, has them loaded beside, swaps them in, and reports."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ml_core.base.errors import ArtefactError, SuretyError
from ml_core.base.settings import Settings
from ml_core.serve import metrics
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.answering.shadow import Shadow
from ml_core.serve.log.prediction_store import PredictionStore
from ml_core.serve.rollout.census import Census, Identity
from ml_core.serve.rollout.monitor_state import MonitorState, MonitorView
from ml_core.serve.rollout.rollout_state import RolloutState, Slot
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import (
    REPORT_EVERY_S,
    CircuitReport,
    LogReport,
    SlotReport,
    WorkerReport,
    clear_lost,
    read_reports,
    write_report,
)
from ml_core.serve.worker.assembly import Assembler, start_anew
from ml_core.serve.worker.circuit_metrics import CircuitMetrics
from ml_core.serve.worker.health_metrics import HealthMetrics

__all__ = ["Follower", "Rejections"]

logger = logging.getLogger(__name__)

_RETRY_FIRST_S, _RETRY_MOST_S = 0.25, 60.0  # first soon: an isolated runner may only need a moment to load it

Rejections = Callable[[], int]


class Follower:
    """Keeps one worker's models as the rollout says.

    Parameters
    ----------
    settings : home, polling
    assembler : loads models
    service : gets what is live; ``service.problem`` says why it is not what the rollout says
    shadow : whose counts go into the report
    identity, expected : this process, and how many of each role its server should have
    rejected : how many requests were refused so far
    log : the prediction log, whose counts go into the report
    """

    def __init__(
        self,
        settings: Settings,
        assembler: Assembler,
        service: InferenceService,
        shadow: Shadow,
        identity: Identity,
        expected: dict[str, int],
        rejected: Rejections = lambda: 0,
        log: PredictionStore | None = None,
    ) -> None:
        self._settings = settings
        self._assembler = assembler
        self._service = service
        self._shadow = shadow
        self._identity = identity
        self._rejected = rejected
        self._log = log
        self._monitor = MonitorView(settings)
        self._health = HealthMetrics(settings.model_name)
        self._store = RolloutStore(settings)
        self._circuits = CircuitMetrics()
        self._state: RolloutState | None = None
        self._retry_at = 0.0
        self._retry_s = _RETRY_FIRST_S
        self._reported_at = 0.0
        self._warned: set[str] = set()
        self._runner_pids: frozenset[int] = frozenset()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="surety-follower", daemon=True)
        self.census = Census(identity.server, expected, pid=identity.pid)

    @property
    def state(self) -> RolloutState | None:
        """The rollout state that was read last."""
        return self._state

    @property
    def monitored(self) -> MonitorState | None:
        """What the monitor published last."""
        return self._monitor.state

    def begin(self) -> None:
        """Load what is to be served, before the first request; make the rollout state where there is none yet."""
        self._state = self._read()
        self._assemble()
        self._begin_state()
        self._service.validity = self._monitor.look()
        if self._state is not None:
            with suppress(OSError):
                clear_lost(self._settings.worker_reports, self._state.stage)

    def start(self) -> None:
        """Follow from now on, on a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following, and leave a last report."""
        self._stopping.set()
        self._report(self._service.live)

    @property
    def is_alive(self) -> bool:
        """False once a sibling has been missing for longer than it takes to bring one back."""
        return self.census.missing_s <= self._settings.missing_worker_s

    def look(self) -> None:
        """One look: obey a changed state, retry what failed, take the census, report."""
        state = self._read()
        if state is not None and state != self._state:
            self._state = state
            self._retry_s = _RETRY_FIRST_S
            self._assemble()
        elif self._service.problem and time.monotonic() >= self._retry_at:
            self._assemble()
        self._begin_state()
        live = self._service.live
        if live is not None:
            self._assembler.finish(live)
        self._service.validity = self._monitor.look()
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self._report(live)
            self._take_census(live)

    def _follow(self) -> None:
        while not self._stopping.wait(self._settings.poll_s):
            try:
                self.look()
            except Exception:  # nothing that goes wrong here may end the following
                logger.exception("rollout.look_failed")

    def _read(self) -> RolloutState | None:
        """The state as it lies there; the last one known where it cannot be read."""
        try:
            state = self._store.read()
        except ArtefactError as error:
            self._warn("rollout.unreadable", str(error))
            return self._state
        if state is None and self._state is not None:
            self._warn("rollout.gone", "the state file has gone; the last one known stays in force")
            return self._state
        return state

    def _assemble(self) -> None:
        before = self._service.live
        live, problem = self._assembler.assemble(self._state, before)
        self._service.problem = problem
        self._service.live = live
        if problem:
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, _RETRY_MOST_S)
        if live is not None and (before is None or live.generation != before.generation):
            logger.info("rollout.obeyed", extra={"generation": live.generation, "mode": live.mode})

    def _begin_state(self) -> None:
        """Make the rollout state where a model is live and there is none yet."""
        live = self._service.live
        if self._state is not None or live is None:
            return
        promoted = live.champion.model.promotion
        try:
            self._state = self._store.begin(
                live.champion.model.tag,
                promoted.promoted_at if promoted is not None else "",
                by="service",
                why="first start",
            )
        except (OSError, SuretyError) as error:
            self._warn("rollout.not_written", f"{type(error).__name__}: changes while running are not possible")
            return
        self._assemble()

    def _take_census(self, live: Live | None) -> None:
        try:
            reports = read_reports(self._settings.worker_reports)
        except OSError:
            return
        for lost in self.census.look(reports):
            metrics.forget_process(lost.pid)
        for role, n in self.census.expected.items():
            metrics.WORKERS.labels(role).set(self.census.alive[role])
            metrics.WORKERS_EXPECTED.labels(role).set(n)
        if "runner" in self.census.expected and live is not None:
            self._mark_runner(live, lost=self.census.has_lost("runner"))

    def _mark_runner(self, live: Live, *, lost: bool) -> None:
        """While the runner's process is gone, do not wait for it; a new one starts with a clean record."""
        pids = self.census.last_seen.get("runner", frozenset())
        is_new = bool(self._runner_pids) and not lost and pids != self._runner_pids
        if not lost:
            self._runner_pids = pids
        for _, model in live.models():
            if lost and model.guard.unavailable is None:
                model.guard.unavailable = "runner_lost"
                logger.warning("runner.lost", extra={"tag": model.model.tag})
            elif not lost and model.guard.unavailable == "runner_lost":
                model.guard.unavailable = None
            if is_new:
                start_anew(model)
                logger.info("runner.back", extra={"tag": model.model.tag})

    def _report(self, live: Live | None) -> None:
        me = self._identity
        stage = live.stage if live is not None else 0
        slots = () if live is None else tuple(_slot_report(live, slot, model) for slot, model in live.models())
        stuck = sum(model.guard.pool.stuck for _, model in live.models()) if live is not None else 0
        abandoned = sum(m.guard.pool.abandoned_total for _, m in live.models()) if live is not None else 0
        report = WorkerReport(
            server=me.server,
            role="api",
            index=me.index,
            pid=me.pid,
            started_at=me.started_at,
            beat_s=time.monotonic(),
            generation=live.generation if live is not None else 0,
            stage=stage,
            problem=self._service.problem or None,
            slots=slots,
            shadow=self._shadow.report(stage),
            log=None if self._log is None else _log_report(self._log, live),
            rejected=self._rejected(),
            abandoned=abandoned,
            stuck=stuck,
        )
        if live is not None:
            self._circuits.publish(live)
        self._health.publish(live, self._service.validity, self._monitor, report.log)
        metrics.ROLLOUT_GENERATION.labels(self._settings.model_name).set(report.generation)
        metrics.ROLLOUT_PROBLEM.set(1 if report.problem else 0)
        if self._state is not None:
            for guard, n in self._state.rollbacks.items():
                metrics.ROLLBACKS.labels(self._state.model_name, guard).set(n)
        try:
            write_report(self._settings.worker_reports, report)
        except OSError as error:
            self._warn("report.not_written", type(error).__name__)

    def _warn(self, event: str, problem: str) -> None:
        """Say once what goes wrong; counted each time."""
        metrics.HOME_FAILURES.labels(event).inc()
        if event not in self._warned:
            self._warned.add(event)
            logger.warning(event, extra={"reason": problem})


def _log_report(log: PredictionStore, live: Live | None) -> LogReport:
    counts = log.counts
    return LogReport(
        mode="standard" if live is None else live.flags.log_mode,
        stored=counts.stored,
        lost=counts.lost,
        refused=counts.refused,
        unanswered=counts.unanswered,
        pending=counts.pending,
        problem=counts.problem or None,
    )


def _slot_report(live: Live, slot: Slot, model: LiveModel) -> SlotReport:
    counts, circuit = live.counts.get(slot), model.guard.breaker.snapshot()
    opened = sum(n for _, after, _, n in circuit.transitions if after == "open")
    facts = {
        "slot": slot,
        "tag": model.model.tag,
        "model_hash": model.model.model_hash,
        "model_version": model.model.version,
        "where": model.guard.unavailable or model.guard.where,
        "circuit": CircuitReport(
            state=circuit.state,
            mode=circuit.mode,
            reason=circuit.reason,
            calls_in_window=circuit.calls_in_window,
            error_rate=circuit.error_rate,
            p95_ms=circuit.p95_ms,
            retry_after_s=circuit.retry_after_s,
            opened=opened,
        ),
    }
    if counts is None:
        return SlotReport.model_validate(facts)
    return SlotReport.model_validate(
        {
            **facts,
            "answers": counts.answers,
            "failures": counts.failures,
            "calls": counts.calls,
            "slow": counts.slow,
            "fallbacks": dict(counts.fallbacks),
            "set_sizes": {str(size): n for size, n in list(counts.set_sizes.items())},
        }
    )
