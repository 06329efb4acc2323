"""The circuit breaker: lets calls pass while the model is healthy and refuses them while it is not.

A state machine with an injected monotonic clock and no I/O. One lock guards its counts and is never held during a call.
A transition that is due is made by the next call, result or reading. Each process decides for itself, because each has
its own copy of the model.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ml_core.base.errors import CircuitOpen, ConfigError
from ml_core.serve.rollout.rollout_state import CircuitMode
from ml_core.serve.running.circuit_rules import Probes, Window

__all__ = ["BreakerSnapshot", "CircuitBreaker", "CircuitState", "Permit"]

CircuitState = Literal["closed", "open", "half_open"]

LEAST, MOST = 1e-6, 1e9  # bounds of every option, in ms, s or calls: neither zero nor endless


class Permit(NamedTuple):
    """Permission to make one call; the caller hands it back with the result.

    Attributes
    ----------
    generation : of the breaker when the permit was given; a result from an earlier generation counts as late
    probe : number of the probe; 0 for an ordinary call
    """

    generation: int
    probe: int


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """State, rates and totals of a breaker at one moment.

    Attributes
    ----------
    reason : why it last opened; None if it never has
    generation : grows by one at every transition
    error_rate, slow_rate, p95_ms : of the window; None below the minimum of calls
    retry_after_s : seconds until a call may pass; None if one may now
    successes, failures : calls that were counted as such, since the breaker was made
    slow : those of both that were slow
    ignored : permits released without a verdict
    rejected : calls refused
    late : results that came after a transition or after their probe's lease, and changed nothing
    transitions : (before, after, reason, how often), an operator's commands included; ``after`` is "would_open" where
        metrics-only mode lets calls pass all the same
    """

    name: str
    state: CircuitState
    mode: CircuitMode
    reason: str | None
    generation: int
    calls_in_window: int
    error_rate: float | None
    slow_rate: float | None
    p95_ms: float | None
    consecutive_failures: int
    retry_after_s: float | None
    successes: int
    failures: int
    slow: int
    ignored: int
    rejected: int
    late: int
    transitions: tuple[tuple[str, str, str, int], ...]


class CircuitBreaker:
    """Decides whether a call may be made, from how the last ones went.

    Three rules open it, judged after every result: failures in a row (whatever time lies between), the share of
    failures, and the p95 of all durations by nearest rank. An open circuit refuses calls until its wait is over. Then
    it is half-open and lets a few probes through. A probe that fails or is slow opens it again, for longer. When all
    probes are good, it closes with an empty window. A probe's place is free again when its lease ends. Where traffic is
    too thin for all probes, the circuit closes ``half_open_max_s`` after the first one if any succeeded; if none did,
    that time starts again.

    After a fork, the breaker of the child process is closed and empty.

    Parameters
    ----------
    name : of the circuit, in errors and snapshots
    failure_threshold : failures in a row that open it; None turns this rule off
    error_rate_threshold : share of failures in (0, 1] that opens it when reached; None turns this rule off
    latency_p95_threshold_ms : p95 that opens it when exceeded, and duration above which a call is slow; None turns this
        rule off
    window, window_s : the rates are those of the last ``window`` calls, none older than ``window_s`` seconds
    minimum_calls : fewest calls in the window for a rate to be judged, at most ``window``
    recovery_timeout_s, recovery_timeout_max_s : first and longest wait, s
    recovery_factor : growth of the wait with each failed round of probes
    jitter : largest share by which a wait is lengthened at random
    half_open_probes : probes of a round
    probe_lease_s, half_open_max_s : longest time of a probe and of a round, s
    clock : monotonic seconds
    rng : source of the jitter

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
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        if failure_threshold is None and error_rate_threshold is None and latency_p95_threshold_ms is None:
            raise ConfigError(name, "none of the three thresholds is set, so the circuit would never open: set one")
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
                raise ConfigError(name, f"{option} is {value}: set it from {least:g} to {most:g}")
        self.name, self.clock = name, clock
        self._slow_ms, self._is_timed = latency_p95_threshold_ms, window_s is not None
        self._window = Window(failure_threshold, error_rate_threshold, window, minimum_calls, window_s)
        self._first_wait_s, self._longest_wait_s = recovery_timeout_s, recovery_timeout_max_s
        self._factor, self._jitter = recovery_factor, jitter
        self._random = random.random if rng is None else rng.random  # the module's own is seeded anew in a child
        self._probes = Probes(half_open_probes, probe_lease_s, half_open_max_s)
        self._generation, self._would_open = 0, False
        self._begin()
        _living.add(self)

    def _begin(self) -> None:
        """Start closed and empty, with a new lock: when made, and in the child process after a fork."""
        # Reentrant: where the garbage collector ends a guarded coroutine on a thread that is in here, that coroutine
        # releases its permit in here as well.
        self._lock = threading.RLock()
        self._totals = dict.fromkeys(("successes", "failures", "slow", "ignored", "rejected", "late"), 0)
        self._transitions: Counter[tuple[str, str, str]] = Counter()
        self._reason: str | None = None
        self._next_wait_s, self._open_until_s = self._first_wait_s, 0.0
        self._set("closed", "auto")

    # --- one call -------------------------------------------------------------------------------------------------

    def acquire(self) -> Permit:
        """Permission to make a call now.

        Raises
        ------
        CircuitOpen
            The call must not be made; only the refusal is counted.
        """
        free_pass = self._free_pass  # read once: another thread may withdraw it between two reads
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

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Make the call in a ``with`` block: an exception counts as a failure and goes on to the caller.

        A refusal by another breaker, a cancellation and an interrupt (such as ``KeyboardInterrupt``) count as nothing.
        No lock is held inside the block, so it may await.

        Raises
        ------
        CircuitOpen
            The block is not entered.
        """
        permit, began_s = self.acquire(), self.clock()
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, CancelledError | CircuitOpen):
                self.fail(permit, (self.clock() - began_s) * 1000.0)
            else:
                self.release(permit)
            raise
        self.succeed(permit, (self.clock() - began_s) * 1000.0)

    # --- reading --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """Whether calls pass now; reading it takes no probe's place.

        It is "half_open" as soon as the wait is over. An override shows as "open" (forced open) or "closed" (disabled,
        metrics-only).
        """
        with self._lock:
            self._catch_up()
            return self._shown

    def is_open(self) -> bool:
        """Whether a call would be refused now; asking takes no probe's place."""
        with self._lock:
            return self._refused_for(self._catch_up()) is not None

    def snapshot(self) -> BreakerSnapshot:
        """State, rates and totals, all of one moment."""
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

    # --- an operator's commands: each begins a new generation ------------------------------------------------------

    def override(self, mode: CircuitMode) -> None:
        """Take the decision from the rules, or give it back to them; the state of the rules is kept meanwhile.

        Parameters
        ----------
        mode : "forced_open" refuses every call. "disabled" lets every call pass. "metrics_only" lets every call pass
            and counts how often the circuit would have opened. "auto": the rules decide again, from the state they had;
            the wait of an open circuit has gone on
        """
        with self._lock:
            self._catch_up()
            if mode != self._mode:
                self._move(self._state, mode, {"auto": "automatic", "forced_open": "forced"}.get(mode, mode))

    def reset(self) -> None:
        """Closed and automatic, with an empty window and the first wait."""
        with self._lock:
            self._catch_up()
            self._next_wait_s = self._first_wait_s
            self._move("closed", "auto", "reset")

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

    # --- everything below runs while the lock is held -------------------------------------------------------------

    def _is_timely(self, permit: Permit) -> bool:
        """Whether the permit still counts; it counts once. A permit that no longer does is counted as late."""
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
                self._transitions["closed", "would_open", reason] += 1
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
        """Make the transitions that are due, and give the time (s)."""
        now_s = self.clock()
        if self._mode == "auto" and self._state == "open" and now_s >= self._open_until_s:
            self._move("half_open", "auto", "wait_over")
        elif self._mode == "auto" and self._state == "half_open":
            self._probes.expire(now_s)
            self._close_if_convinced(now_s)
        return now_s

    def _refused_for(self, now_s: float) -> float | None:
        """Seconds (above 0) until a call may pass; None if one may now."""
        if self._free_pass is not None:
            return None
        if self._mode == "forced_open":
            return self._first_wait_s
        return self._open_until_s - now_s if self._state == "open" else self._probes.full_for(now_s)

    def _shown_reason(self) -> str | None:
        return "forced" if self._mode == "forced_open" else self._reason

    def _move(self, state: CircuitState, mode: CircuitMode, reason: str) -> None:
        before = self._shown
        self._generation += 1
        self._set(state, mode)
        self._transitions[before, self._shown, reason] += 1

    def _set(self, state: CircuitState, mode: CircuitMode) -> None:
        """Enter a state: with an empty window where calls pass; an open circuit keeps the window, to show why."""
        self._state, self._mode = state, mode
        self._would_open = False
        self._shown: CircuitState = state if mode == "auto" else "open" if mode == "forced_open" else "closed"
        self._probes.clear()
        self._free_pass: Permit | None = None
        if self._shown == "closed":
            self._window.clear()
            self._free_pass = Permit(self._generation, 0)


_living: weakref.WeakSet[CircuitBreaker] = weakref.WeakSet()


def _renew_after_fork() -> None:
    """Give each breaker of the child a new start: threads that held a lock at the fork are not there to release it."""
    for breaker in list(_living):
        breaker._generation += 1  # noqa: SLF001 - permits from before the fork are late
        breaker._begin()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)
