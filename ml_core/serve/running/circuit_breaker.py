"""The circuit breaker: calls pass while the model is healthy, are refused while it is not, and probes find out when.

A state machine with an injected monotonic clock and no I/O. One lock guards the bookkeeping and is never held during a
call. A transition that has become due is made by whoever looks next (call, result or read); reading changes nothing
else. Each process decides for itself, because each has its own copy of the model.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from ml_core.base.errors import CircuitOpen, ConfigError
from ml_core.serve.running.circuit_calls import Calls
from ml_core.serve.running.circuit_rules import Probes, Window
from ml_core.serve.running.circuit_views import NO_PERMIT, BreakerSnapshot, Mode, Permit, State, Transition

__all__ = ["BreakerSnapshot", "Breakers", "CircuitBreaker", "Permit", "Transition"]

LEAST, MOST = 1e-6, 1e9  # what is neither zero nor endless, in ms, s or calls
MOST_NEWS_WAITING = 10_000  # a listener that hangs must not fill the memory; snapshots count every transition

logger = logging.getLogger(__name__)


class CircuitBreaker(Calls):
    """Decides whether a call may be made, from how the last ones went.

    Three rules, judged after every result, open it: failures in a row (whatever time lies between), the share of
    failures, and the p95 of all durations by nearest rank. Open, it refuses calls until its wait is over; then it is
    half-open and lets a few probes through. One that fails or is slow opens it again, for longer; when all are good it
    closes with an empty window. A probe's place is free again when its lease ends. Where traffic is too thin for all
    probes, it closes ``half_open_max_s`` after the first one if any succeeded; if none did, the time starts again.

    A child process after a fork begins as if newly made.

    Parameters
    ----------
    name : of the circuit, in errors, snapshots and transitions
    failure_threshold, error_rate_threshold, latency_p95_threshold_ms : failures in a row; share in (0, 1], reached;
        milliseconds, exceeded, beyond which a call is slow. None turns a rule off
    window, window_s : the rates look back on so many calls, and at most so many seconds
    minimum_calls : calls without which no rate is judged, at most ``window``
    recovery_timeout_s, recovery_timeout_max_s : seconds of the first and the longest wait
    recovery_factor, jitter : growth of the wait with each failed round; share it is lengthened by at random, at most
    half_open_probes, probe_lease_s, half_open_max_s : probes of a round; seconds a probe and a round may take
    excluded : exceptions that say nothing about the model; refusals and cancellation never do
    is_failure : tells a bad result, instead of which the caller gets :class:`BadModelOutput`
    clock, rng : monotonic seconds; source of the jitter

    Raises
    ------
    ConfigError
        An argument is out of range, or no rule is left that could open the circuit.
    """

    def __init__(
        self,
        name: str,
        *,
        failure_threshold: int | None = 5,
        error_rate_threshold: float | None = 0.5,
        latency_p95_threshold_ms: float | None = 500.0,
        window: int = 100,
        minimum_calls: int = 20,
        window_s: float | None = None,
        recovery_timeout_s: float = 60.0,
        recovery_timeout_max_s: float = 300.0,
        recovery_factor: float = 2.0,
        jitter: float = 0.1,
        half_open_probes: int = 3,
        probe_lease_s: float = 30.0,
        half_open_max_s: float = 120.0,
        excluded: tuple[type[BaseException], ...] = (),
        is_failure: Callable[[Any], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        if failure_threshold is None and error_rate_threshold is None and latency_p95_threshold_ms is None:
            raise ConfigError(name, "without any of the three thresholds the circuit would never open")
        for option, value, least, most in (
            ("failure_threshold", failure_threshold, 1, MOST),
            ("error_rate_threshold", error_rate_threshold, LEAST, 1),
            ("latency_p95_threshold_ms", latency_p95_threshold_ms, LEAST, MOST),
            ("minimum_calls", minimum_calls, 1, window),
            ("window_s", window_s, LEAST, MOST),
            ("recovery_timeout_s", recovery_timeout_s, LEAST, recovery_timeout_max_s),
            ("recovery_timeout_max_s", recovery_timeout_max_s, LEAST, MOST),
            ("recovery_factor", recovery_factor, 1, MOST),
            ("jitter", jitter, 0, 1),
            ("half_open_probes", half_open_probes, 1, MOST),
            ("probe_lease_s", probe_lease_s, LEAST, MOST),
            ("half_open_max_s", half_open_max_s, LEAST, MOST),
        ):
            if value is not None and not least <= value <= most:
                raise ConfigError(name, f"{option} is {value}, but must be from {least:g} to {most:g}")
        self.name, self.clock, self.excluded = name, clock, (*excluded, CancelledError, CircuitOpen)
        self._is_failure, self._slow_ms, self._is_timed = is_failure, latency_p95_threshold_ms, window_s is not None
        self._window = Window(failure_threshold, error_rate_threshold, window, minimum_calls, window_s)
        self._first_wait_s, self._longest_wait_s = recovery_timeout_s, recovery_timeout_max_s
        self._factor, self._jitter = recovery_factor, jitter
        self._random = random.random if rng is None else rng.random  # the module's own is seeded anew in a child
        self._probes = Probes(half_open_probes, probe_lease_s, half_open_max_s)
        self._listeners: list[Callable[[Transition], None]] = []
        self._generation, self._would_open = 0, False
        self._begin()
        _living.add(self)

    def _begin(self) -> None:
        """Closed and empty, with a lock of its own: at first, and in the child after a fork."""
        # Reentrant: a stream the garbage collector closes while its thread is in here gives its permit back in here.
        self._lock = threading.RLock()
        self._news: queue.SimpleQueue[Transition | None] = queue.SimpleQueue()
        self._totals = dict.fromkeys(("successes", "failures", "slow", "ignored", "rejected", "late"), 0)
        self._transitions: Counter[tuple[str, str, str]] = Counter()
        self._reason: str | None = None
        self._next_wait_s, self._open_until_s = self._first_wait_s, 0.0
        self._set("closed", "auto")
        if self._listeners:
            self._start_telling()

    # --- one call -------------------------------------------------------------------------------------------------

    def acquire(self) -> Permit:
        """Leave to make a call now.

        Raises
        ------
        CircuitOpen
            The call must not be made; only the refusal is counted.
        """
        free_pass = self._free_pass  # read once: who has it was let in before it was withdrawn
        if free_pass is not None:
            return free_pass
        with self._lock:
            now_s = self._catch_up()
            retry_after_s = self._refused_for(now_s)
            if retry_after_s is not None:
                self._totals["rejected"] += 1
                raise CircuitOpen(self.name, self._shown, str(self._shown_reason()), retry_after_s)
            return self._free_pass or Permit(self._generation, self._probes.lend(now_s))

    def succeed(self, permit: Permit, duration_ms: float) -> None:
        """Count the call as a success."""
        self._settle(permit, duration_ms, failed=False)

    def fail(self, permit: Permit, duration_ms: float) -> None:
        """Count the call as a failure."""
        self._settle(permit, duration_ms, failed=True)

    def release(self, permit: Permit) -> None:
        """Give the permit back: the call says nothing about the model."""
        with self._lock:
            if self._is_timely(permit):
                self._totals["ignored"] += 1

    def record_success(self, duration_ms: float = 0.0) -> None:
        """Count a success of a call made without a permit; late unless every call passes now."""
        self._record(duration_ms, failed=False)

    def record_failure(self, duration_ms: float = 0.0) -> None:
        """Count a failure of a call made without a permit; late unless every call passes now."""
        self._record(duration_ms, failed=True)

    # --- what it says of itself -----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Whether calls pass now; reading takes no probe's place.

        "half_open" as soon as the wait is over. Forced open reads "open", disabled and metrics-only read "closed".
        """
        with self._lock:
            self._catch_up()
            return self._shown

    @property
    def mode(self) -> Mode:
        """Who decides: the rules, or an operator."""
        return self._mode

    def is_open(self) -> bool:
        """Whether a call would be refused now; takes no place."""
        with self._lock:
            return self._refused_for(self._catch_up()) is not None

    def snapshot(self) -> BreakerSnapshot:
        """Everything, at one moment."""
        with self._lock:
            now_s = self._catch_up()
            self._window.age(now_s)
            error_rate, slow_rate, p95_ms = self._window.rates()
            return BreakerSnapshot(
                name=self.name,
                state=self._shown,
                mode=self._mode,
                reason=self._shown_reason(),
                generation=self._generation,
                calls_in_window=len(self._window.calls),
                error_rate=error_rate,
                slow_rate=slow_rate if self._slow_ms is not None else None,
                p95_ms=p95_ms,
                consecutive_failures=self._window.in_a_row,
                retry_after_s=self._refused_for(now_s),
                transitions=tuple((*change, count) for change, count in self._transitions.items()),
                **self._totals,
            )

    def add_listener(self, listener: Callable[[Transition], None]) -> None:
        """Tell ``listener`` every later transition, in order, on a thread of this breaker; its errors are logged."""
        with self._lock:
            self._listeners.append(listener)
            is_first = len(self._listeners) == 1
        if is_first:
            self._start_telling()

    # --- an operator's commands: each begins a new generation; beneath an override the rules' state is kept -----------

    def force_open(self) -> None:
        """Refuse every call until told otherwise."""
        self._override("forced_open", "forced")

    def disable(self) -> None:
        """Let every call pass and judge nothing; results are counted on."""
        self._override("disabled", "disabled")

    def watch_only(self) -> None:
        """Let every call pass, and announce when the circuit would have opened."""
        self._override("metrics_only", "metrics_only")

    def automatic(self) -> None:
        """Let the rules decide again, from the state they had; an open circuit's wait has run on meanwhile."""
        self._override("auto", "automatic")

    def reset(self) -> None:
        """Closed and automatic, with an empty window and the first wait."""
        with self._lock:
            self._catch_up()
            self._next_wait_s = self._first_wait_s
            self._move("closed", "auto", "reset")

    def _override(self, mode: Mode, reason: str) -> None:
        with self._lock:
            self._catch_up()
            if mode != self._mode:
                self._move(self._state, mode, reason)

    # --- bookkeeping: what follows runs inside the lock -----------------------------------------------------------

    def _settle(self, permit: Permit, duration_ms: float, *, failed: bool) -> None:
        with self._lock:
            if not self._is_timely(permit):
                return
            slow = self._slow_ms is not None and duration_ms > self._slow_ms
            self._totals["failures" if failed else "successes"] += 1
            self._totals["slow"] += slow
            if permit.probe:
                self._judge_probe(failed=failed, slow=slow)
            else:
                self._window.add(self.clock() if self._is_timed else 0.0, duration_ms, failed=failed, slow=slow)
                self._judge_window()

    def _record(self, duration_ms: float, *, failed: bool) -> None:
        with self._lock:
            self._catch_up()
            self._settle(self._free_pass or NO_PERMIT, duration_ms, failed=failed)

    def _is_timely(self, permit: Permit) -> bool:
        """Whether the permit is still good, and then no more; otherwise it counts as late."""
        if permit.probe:
            self._catch_up()
        timely = permit.generation == self._generation
        if timely and permit.probe:
            timely = self._probes.leases.pop(permit.probe, None) is not None
        self._totals["late"] += not timely
        return timely

    def _judge_probe(self, *, failed: bool, slow: bool) -> None:
        if failed or slow:
            self._open("probe_failed" if failed else "probe_slow")
        else:
            self._probes.succeeded += 1
            self._close_if_convinced(self.clock())

    def _judge_window(self) -> None:
        reason = self._window.verdict()
        if self._mode == "metrics_only":
            if reason is not None and not self._would_open:
                self._announce("closed", "would_open", reason)
            self._would_open = reason is not None
        elif reason is not None and self._mode == "auto":
            self._open(reason)

    def _open(self, reason: str) -> None:
        wait_s = min(self._next_wait_s * (1.0 + self._jitter * self._random()), self._longest_wait_s)
        self._next_wait_s = min(self._next_wait_s * self._factor, self._longest_wait_s)
        self._open_until_s = self.clock() + wait_s
        self._reason = reason
        self._move("open", "auto", reason)

    def _close_if_convinced(self, now_s: float) -> None:
        if self._probes.are_convincing(now_s):
            self._next_wait_s = self._first_wait_s
            self._move("closed", "auto", "probes_succeeded")

    def _catch_up(self) -> float:
        """Seconds on the clock, after the transitions that are due by then."""
        now_s = self.clock()
        if self._mode == "auto" and self._state == "open" and now_s >= self._open_until_s:
            self._move("half_open", "auto", "wait_over")
        elif self._mode == "auto" and self._state == "half_open":
            self._probes.expire(now_s)
            self._close_if_convinced(now_s)
        return now_s

    def _refused_for(self, now_s: float) -> float | None:
        """Seconds, more than 0, until a call may pass; None if one may now."""
        if self._free_pass is not None:
            return None
        if self._mode == "forced_open":
            return self._first_wait_s
        return self._open_until_s - now_s if self._state == "open" else self._probes.full_for(now_s)

    def _shown_reason(self) -> str | None:
        return "forced" if self._mode == "forced_open" else self._reason

    def _move(self, state: State, mode: Mode, reason: str) -> None:
        before = self._shown
        self._generation += 1
        self._set(state, mode)
        self._announce(before, self._shown, reason)

    def _set(self, state: State, mode: Mode) -> None:
        """Begin an era; where calls pass, with an empty window. One in which they do not keeps it, to show why."""
        self._state, self._mode = state, mode
        self._would_open = False
        self._shown: State = state if mode == "auto" else "open" if mode == "forced_open" else "closed"
        self._probes.clear()
        self._free_pass: Permit | None = None
        if self._shown == "closed":
            self._window.clear()
            self._free_pass = Permit(self._generation, 0)

    def _announce(self, before: str, after: str, reason: str) -> None:
        self._transitions[before, after, reason] += 1
        if self._listeners and self._news.qsize() < MOST_NEWS_WAITING:
            self._news.put(Transition(self.name, before, after, reason, self._generation))

    def _start_telling(self) -> None:
        """Start the thread that tells the listeners; it ends when the breaker is gone."""
        weakref.finalize(self, self._news.put, None).atexit = False
        arguments = (self._news, self._listeners)
        threading.Thread(target=_tell, args=arguments, name=f"circuit-{self.name}", daemon=True).start()


class Breakers:
    """The breakers of a process, one per name."""

    def __init__(self) -> None:
        self._known: dict[str, CircuitBreaker] = {}

    def get(self, name: str, **options: Any) -> CircuitBreaker:
        """The breaker of that name; the options count when it is first asked for."""
        known = self._known.get(name)
        # setdefault is atomic: threads that make one at the same time all get the same.
        return self._known.setdefault(name, CircuitBreaker(name, **options)) if known is None else known


def _tell(news: queue.SimpleQueue[Transition | None], listeners: list[Callable[[Transition], None]]) -> None:
    while (transition := news.get()) is not None:
        for listener in tuple(listeners):
            try:
                listener(transition)
            except BaseException:
                logger.exception("circuit.listener_failed", extra={"circuit": transition.name})


_living: weakref.WeakSet[CircuitBreaker] = weakref.WeakSet()


def _renew_after_fork() -> None:
    """Locks held by threads that the fork left behind would never be released: each breaker begins anew."""
    for breaker in list(_living):
        breaker._generation += 1  # noqa: SLF001 - permits from before the fork are late
        breaker._begin()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)
