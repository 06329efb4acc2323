"""Keeps one worker at the newest rollout state: loads what it names, swaps it in between two requests, and reports."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace

from ml_core.base.errors import ArtefactError, HomeUnreachable, SuretyError
from ml_core.base.reserve import keep_reserve
from ml_core.base.settings import Settings
from ml_core.serve import metrics
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live, LiveModel, SlotCounts
from ml_core.serve.answering.shadow import Shadow
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.labels import read_imported
from ml_core.serve.log.prediction_store import PredictionStore, ShippingCounts
from ml_core.serve.rollout.monitor_state import MonitorState, MonitorView
from ml_core.serve.rollout.processes import Identity, ServerProcesses
from ml_core.serve.rollout.rollout_state import RolloutState, Slot
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import (
    REPORT_EVERY_S,
    CircuitReport,
    ShippingReport,
    SlotReport,
    WorkerLogReport,
    WorkerReport,
    clear_lost,
    read_reports,
    write_worker_report,
)
from ml_core.serve.running.circuit_breaker import BreakerSnapshot
from ml_core.serve.worker.assembly import Assembler, start_anew
from ml_core.serve.worker.startup import command_of, start_notes
from ml_core.serve.worker.worker_metrics import WorkerMetrics

__all__ = ["RolloutFollower", "circuit_report", "log_report", "slot_report"]

logger = logging.getLogger(__name__)


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
        shipping=None if counts.shipping is None else _shipping_report(counts.shipping),
    )


def _shipping_report(counts: ShippingCounts) -> ShippingReport:
    return ShippingReport(**{**asdict(counts), "problem": counts.problem or None})


HOME_SILENCE_S = 15.0
"""Time without the home after which the champion answers a canary's share, since nobody can take the canary back."""
_SAY_HOME_AWAY_S = 3.0
_SAY_CLOCK_S = 5.0
_NAME_EVERY_S = 5.0
_RETRY_FIRST_S, _RETRY_MOST_S = 0.25, 60.0  # first soon: an isolated runner may only need a moment to load it


class RolloutFollower:
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

    Attributes
    ----------
    processes : the processes of this server, as their reports show them
    own : this worker's last report, which may not have reached the disk; None before the first
    """

    def __init__(
        self,
        settings: Settings,
        assembler: Assembler,
        service: InferenceService,
        shadow: Shadow,
        identity: Identity,
        expected: dict[str, int],
        rejected: Callable[[], int] = lambda: 0,
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
        self._metrics = WorkerMetrics(settings.model_name)
        self._store = RolloutStore(settings)
        self._home = open_home(settings)
        self._reports = self._home.heartbeats(settings.model_name)
        self._name_at = 0.0
        self._state: RolloutState | None = None
        self._retry_at = 0.0
        self._retry_s = _RETRY_FIRST_S
        self._reported_at = 0.0
        self._warned: set[str] = set()
        self._runner_pids: frozenset[int] = frozenset()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="surety-follower", daemon=True)
        self._parent = os.getppid()
        self._start_notes = start_notes(command_of(self._parent), os.environ)
        self._reporting = threading.Lock()
        self.own: WorkerReport | None = None
        self.processes = ServerProcesses(identity.server, expected, pid=identity.pid)

    @property
    def state(self) -> RolloutState | None:
        """The rollout state that was read last."""
        return self._state

    @property
    def home_silence_s(self) -> float:
        """Seconds for which the home has not been reached; 0 where it is a folder, infinite where it never was."""
        return self._store.silence_s

    @property
    def monitored(self) -> MonitorState | None:
        """What the monitor published last."""
        return self._monitor.state

    @property
    def log_problem(self) -> str:
        """Why answers cannot be stored at present, "" where they can."""
        return "" if self._log is None else self._log.counts.problem

    @property
    def has_lost_parent(self) -> bool:
        """Whether the process that started this worker, and that replaces lost ones, has gone."""
        return os.getppid() != self._parent

    @property
    def _parent_note(self) -> str:
        return f"the process {self._parent} that started the workers has gone: no lost worker is replaced"

    def notes(self) -> list[str]:
        """What an operator should know of this server, one sentence each."""
        live, found = self._service.live, [*self._start_notes, *self.processes.notes]
        if self.has_lost_parent:
            found.append(self._parent_note)
        if live is not None and live.missing:
            answers = "the previous one" if live.champion is live.previous else "what is left of it"
            found.append(f"the champion {live.missing} is not loaded; {answers} answers: {self._service.problem}")
        if (silence := self._store.silence_s) > _SAY_HOME_AWAY_S:
            known = "never since the start" if math.isinf(silence) else f"for {silence:.0f} s"
            found.append(f"the home has not been reached {known}: what was last known of the rollout holds")
        if abs(ahead := self._home.clock_ahead_s()) > _SAY_CLOCK_S:
            which = "ahead of" if ahead > 0 else "behind"
            off = f"the clock of this machine is {abs(ahead):.0f} s {which} the home's"
            found.append(f"{off}, and so are the times of its answers")
        shipping = None if self._log is None else self._log.counts.shipping
        if shipping is not None and shipping.problem:
            found.append(
                f"{shipping.unshipped} rows of the prediction log lie on this machine alone, for up to "
                f"{shipping.oldest_s:.0f} s: {shipping.problem}"
            )
        if live is not None and live.is_held:
            why = "the home cannot be reached" if silence > HOME_SILENCE_S else "the monitor is silent"
            found.append(f"{why}: the champion answers the canary's share")
        return found

    def begin(self) -> None:
        """Load what the rollout names, before the first request; write the first rollout state where there is none."""
        self._name_home()
        self._state = self._read()
        self._service.validity = self._monitor.look()
        self._assemble()
        self._begin_state()
        if self._state is not None:
            with suppress(OSError, HomeUnreachable):
                clear_lost(self._reports, read_reports(self._reports), self._state.stage)

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
        return self.processes.missing_s <= self._settings.missing_worker_s

    def look(self) -> None:
        """Read the state: obey it where it has changed, retry what failed, report and count processes once a second."""
        state = self._read()
        self._service.validity = self._monitor.look()
        if state is not None and state != self._state:
            self._state = state
            self._retry_s = _RETRY_FIRST_S
            self._assemble()
        elif self._service.problem and time.monotonic() >= self._retry_at:
            self._assemble()
        self._begin_state()
        live = self._service.live
        if live is not None:
            live = self._service.live = self._held(live)
            self._assembler.finish(live)
        now = time.monotonic()
        if not self._service.responder.served_by["home"] and now >= self._name_at:
            self._name_home()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            self._report(live)
            self._count_processes(live)
            self._look_after_disk()

    def _name_home(self) -> None:
        """Have answers say the home's name; where it cannot be had now, they say none meanwhile."""
        self._name_at = time.monotonic() + _NAME_EVERY_S
        try:
            name = self._home.name()
        except (SuretyError, OSError) as error:
            self._warn("home.not_named", type(error).__name__)
            return
        self._service.answer_as(self._service.responder.of_home(name))

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._home.documents.wait(self._settings.poll_s, self._stopping)
            try:
                self.look()
            except Exception:  # whatever goes wrong, this thread goes on
                logger.exception("rollout.look_failed")

    def _read(self) -> RolloutState | None:
        """The newest state that is known; the last one known where it cannot be read or is gone."""
        try:
            state = self._store.glimpse()
        except ArtefactError as error:
            self._warn("rollout.unreadable", str(error))
            return self._state
        if state is None and self._state is not None:
            self._warn("rollout.gone", "the state has gone; the last one known stays in force")
            return self._state
        return state

    def _assemble(self) -> None:
        before = self._service.live
        live, problem = self._assembler.assemble(self._state, before)
        self._service.problem = problem
        self._service.live = live = None if live is None else self._held(live)
        if problem:
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, _RETRY_MOST_S)
        if live is not None and (before is None or live.generation != before.generation):
            logger.info("rollout.obeyed", extra={"generation": live.generation, "mode": live.mode})

    def _held(self, live: Live) -> Live:
        """Leave a canary's share to the champion while nobody watches the canary, or could take it back here."""
        watched = live.guards is None or self._monitor.watches_canary
        held = live.mode == "canary" and not (watched and self._store.silence_s <= HOME_SILENCE_S)
        if held == live.is_held:
            return live
        logger.warning("canary.held" if held else "canary.released", extra={"generation": live.generation})
        return replace(live, is_held=held)

    def _look_after_disk(self) -> None:
        try:
            self._metrics.publish_disk(self._settings.home)
        except OSError as error:
            self._warn("disk.not_seen", type(error).__name__)
        keep_reserve(self._settings.home)

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
                live.champion.model.model_hash,
                by="service",
                why="first start",
            )
        except (OSError, SuretyError) as error:
            self._warn("rollout.not_written", f"{type(error).__name__}: changes while running are not possible")
            return
        self._assemble()

    def _count_processes(self, live: Live | None) -> None:
        try:
            reports = read_reports(self._reports, local=True)
        except OSError:
            return
        for lost in self.processes.look(reports):
            metrics.forget_process(lost.pid)
        if notes := self.processes.notes:
            self._say_once("processes.not_as_set", "; ".join(notes))
        if self.has_lost_parent:
            self._say_once("parent.lost", self._parent_note)
        self._metrics.publish_processes(self.processes)
        if "runner" in self.processes.expected and live is not None:
            self._mark_runner(live, lost=self.processes.has_lost("runner"))

    def _mark_runner(self, live: Live, *, lost: bool) -> None:
        """Call no model while the runner's process is gone; when a new one is there, begin with empty circuits."""
        pids = self.processes.last_seen.get("runner", frozenset())
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
        """Bring this worker's metrics up to date and write its report."""
        with self._reporting:  # the last report comes from another thread
            self._report_now(live)

    def _report_now(self, live: Live | None) -> None:
        models = [] if live is None else live.models()
        circuits = {model: model.guard.breaker.snapshot() for _, model in models}
        report = self.own = self._identity.report(
            generation=0 if live is None else live.generation,
            stage=0 if live is None else live.stage,
            problem=self._service.problem or None,
            canary_held=live is not None and live.is_held,
            slots=() if live is None else tuple(slot_report(live, slot, m, circuits[m]) for slot, m in models),
            shadow=self._shadow.report(0 if live is None else live.stage),
            log=None if self._log is None else log_report(self._log, live),
            rejected=self._rejected(),
            abandoned=sum(model.guard.pool.abandoned_total for model in circuits),
            stuck=sum(model.guard.pool.stuck for model in circuits),
        )
        self._metrics.publish(report, circuits, self._service.validity, self._monitor, self._state)
        try:
            self._metrics.publish_imported(read_imported(self._settings))
        except ArtefactError as error:
            self._warn("imported_labels.unreadable", str(error))
        try:
            write_worker_report(self._reports, report, last=self._stopping.is_set())
        except (OSError, HomeUnreachable) as error:
            self._warn("report.not_written", type(error).__name__)

    def _warn(self, event: str, problem: str) -> None:
        """Count what went wrong, and log it the first time."""
        metrics.HOME_FAILURES.labels(event).inc()
        self._say_once(event, problem)

    def _say_once(self, event: str, problem: str) -> None:
        if event not in self._warned:
            self._warned.add(event)
            logger.warning(event, extra={"reason": problem})
