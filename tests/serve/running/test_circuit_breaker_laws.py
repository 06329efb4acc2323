"""Laws of the breaker under any sequence of events; its rules in the plainest terms; and another breaker beside it.

Times are quarters of a second, which floats hold exactly, so that every border is met exactly.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from interlock._state_machine import StateMachine
from interlock.config import Config
from interlock.outcome import Outcome
from interlock.state import State

from ml_core.base.errors import CircuitOpen
from ml_core.serve.running.circuit_breaker import BreakerSnapshot, CircuitBreaker, Permit
from tests.serve.running.fake_clock import FakeClock

QUICK_MS, SLOW_MS = 10.0, 600.0
FIRST_WAIT_S, LONGEST_WAIT_S, LEASE_S, LONGEST_ROUND_S = 8.0, 32.0, 5.0, 20.0


def reason_to_open(results: Sequence[Result], options: dict[str, Any], now_s: float) -> str | None:
    """The three rules as one would write them down, from all results since the circuit closed."""
    row = 0
    for result in reversed(results):
        if not result.failed:
            break
        row += 1
    if options["failure_threshold"] is not None and row >= options["failure_threshold"]:
        return "consecutive_failures"
    last = in_window(results, options, now_s)
    if len(last) < options["minimum_calls"]:
        return None
    rate = options["error_rate_threshold"]
    if rate is not None and Fraction(sum(r.failed for r in last), len(last)) >= Fraction(rate):
        return "error_rate"
    p95_ms = sorted(r.duration_ms for r in last)[math.ceil(Fraction(95 * len(last), 100)) - 1]
    limit_ms = options["latency_p95_threshold_ms"]
    return "latency_p95" if limit_ms is not None and p95_ms > limit_ms else None


def in_window(results: Sequence[Result], options: dict[str, Any], now_s: float) -> list[Result]:
    """The last ``window`` results, those younger than ``window_s``."""
    window_s = options["window_s"]
    return [r for r in results[-options["window"] :] if window_s is None or now_s - r.at_s < window_s]


@dataclass(frozen=True)
class Result:
    at_s: float
    duration_ms: float
    failed: bool


@dataclass
class Held:
    """A permit somebody has, when it was taken, and whether it was settled before."""

    permit: Permit
    taken_s: float
    used: bool = False


def asked(breaker: CircuitBreaker) -> Permit | float:
    """The permit, or the seconds to wait for one."""
    try:
        return breaker.acquire()
    except CircuitOpen as refusal:
        return refusal.retry_after_s


class BreakerLaws(RuleBasedStateMachine):
    """One breaker that is looked at after every step, and a twin that gets the same events and is never looked at."""

    sequences = 0

    @initialize(
        rules=st.tuples(
            st.sampled_from([None, 2, 3]), st.sampled_from([None, 0.5, 1.0]), st.sampled_from([None, 500.0])
        ).filter(any),
        window=st.integers(4, 40),
        minimum_calls=st.integers(1, 4),
        window_s=st.sampled_from([None, 10.0]),
        probes=st.integers(1, 3),
        jitter=st.sampled_from([0.0, 0.5]),
        lease_s=st.sampled_from([LEASE_S, 30.0]),
        start=st.sampled_from(["closed", "open", "half_open"]),
    )
    def make(
        self,
        rules: tuple[Any, Any, Any],
        window: int,
        minimum_calls: int,
        window_s: float | None,
        probes: int,
        jitter: float,
        lease_s: float,
        start: str,
    ) -> None:
        BreakerLaws.sequences += 1
        self.clock = FakeClock()
        self.options: dict[str, Any] = {
            "failure_threshold": rules[0],
            "error_rate_threshold": rules[1],
            "latency_p95_threshold_ms": rules[2],
            "window": window,
            "minimum_calls": minimum_calls,
            "window_s": window_s,
        }
        self.probes, self.jitter, self.lease_s = probes, jitter, lease_s
        self.breaker, self.twin = self.new_breaker(), self.new_breaker()
        self.held: list[Held] = []
        self.results: list[Result] = []  # since calls last began to pass
        self.open_until_s = -math.inf
        self.settled = self.refused = 0
        self.before = self.breaker.snapshot()
        if start != "closed":
            while not self.breaker.is_open():
                self.calls(n=1, failed=True, duration_ms=SLOW_MS)
        if start == "half_open":
            self.wait_ends()

    def new_breaker(self) -> CircuitBreaker:
        return CircuitBreaker(
            "toy",
            **self.options,
            recovery_timeout_s=FIRST_WAIT_S,
            recovery_timeout_max_s=LONGEST_WAIT_S,
            jitter=self.jitter,
            half_open_probes=self.probes,
            probe_lease_s=self.lease_s,
            half_open_max_s=LONGEST_ROUND_S,
            clock=self.clock,
            rng=random.Random(1),
        )

    # --- events ---------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.25, 1.0, LEASE_S, FIRST_WAIT_S, 10.0, LONGEST_ROUND_S, LONGEST_WAIT_S, 1e5]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.breaker.is_open())
    @rule()
    def wait_ends(self) -> None:
        self.clock.advance(math.ceil(4 * (self.breaker.snapshot().retry_after_s or 0.0)) / 4)

    @rule()
    def acquire(self) -> None:
        before = self.breaker.snapshot()
        out = len(self.probes_out(before))
        permit = asked(self.breaker)
        assert asked(self.twin) == permit, "reading has changed nothing"
        if not isinstance(permit, Permit):
            self.refused += 1
            assert before.state == "open" or out > 0, "refused without a reason"
            assert 0 < permit == before.retry_after_s
            return
        assert before.state != "open", "open admits nothing"
        assert before.retry_after_s is None
        assert permit.generation == before.generation
        assert (permit.probe > 0) == (before.state == "half_open")
        assert out < self.probes or before.state == "closed", "more probes than places"
        self.held.append(Held(permit, self.clock()))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), failed=st.booleans(), duration_ms=st.sampled_from([QUICK_MS, 500.0, SLOW_MS]))
    def settle(self, data: st.DataObject, failed: bool, duration_ms: float) -> None:
        self.settled_now(data.draw(st.sampled_from(self.held)), failed, duration_ms)

    @rule(n=st.integers(1, 4), failed=st.booleans(), duration_ms=st.sampled_from([QUICK_MS, SLOW_MS]))
    def calls(self, n: int, failed: bool, duration_ms: float) -> None:
        for _ in range(n):
            held = len(self.held)
            self.acquire()
            if len(self.held) > held:
                self.laws()
                self.settled_now(self.held[-1], failed, duration_ms)
            self.laws()

    def settled_now(self, held: Held, failed: bool, duration_ms: float) -> None:
        before = self.breaker.snapshot()
        late = self.is_late(held, before)
        for breaker in (self.breaker, self.twin):
            (breaker.fail if failed else breaker.succeed)(held.permit, duration_ms)
        held.used = held.used or bool(held.permit.probe)
        self.settled += 1
        after = self.breaker.snapshot()
        if late:
            assert after == replace(before, late=before.late + 1), "a late result changes nothing but that count"
        elif held.permit.probe:
            self.check_probe(before, after, failed, duration_ms)
        else:
            self.check_call(before, after, failed, duration_ms)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held))
        before = self.breaker.snapshot()
        late = self.is_late(held, before)
        for breaker in (self.breaker, self.twin):
            breaker.release(held.permit)
        held.used = held.used or bool(held.permit.probe)
        self.settled += 1
        after = self.breaker.snapshot()
        assert after.late == before.late + late
        assert after.ignored == before.ignored + (not late)
        assert replace(after, late=0, ignored=0, retry_after_s=None) == replace(
            before, late=0, ignored=0, retry_after_s=None
        )

    @precondition(lambda self: self.settled % 3 == 0)  # an operator does not do something all the time
    @rule(command=st.sampled_from(["forced_open", "disabled", "metrics_only", "auto", "auto", "reset"]))
    def operate(self, command: Any) -> None:
        before = self.breaker.snapshot()
        for breaker in (self.breaker, self.twin):
            breaker.reset() if command == "reset" else breaker.override(command)
        after = self.breaker.snapshot()
        mode = "auto" if command == "reset" else command
        assert after.mode == mode
        if command == "reset":
            assert (after.state, after.calls_in_window, after.consecutive_failures) == ("closed", 0, 0)
        assert (after.generation > before.generation) == (command == "reset" or before.mode != mode)
        if after.generation > before.generation and after.state == "closed":
            self.results = []

    # --- what must come of a result -------------------------------------------------------------------------------

    def is_late(self, held: Held, now: BreakerSnapshot) -> bool:
        permit = held.permit
        expired = bool(permit.probe) and self.clock() - held.taken_s >= self.lease_s
        return permit.generation != now.generation or held.used or expired

    def probes_out(self, now: BreakerSnapshot) -> list[Held]:
        return [h for h in self.held if h.permit.probe and not self.is_late(h, now)]

    def check_call(self, before: BreakerSnapshot, after: BreakerSnapshot, failed: bool, duration_ms: float) -> None:
        """Closed, and judged by the plain rules: opened exactly if one of them says so."""
        self.results.append(Result(self.clock(), duration_ms, failed))
        reason = reason_to_open(self.results, self.options, self.clock())
        if reason is not None and before.mode == "auto":
            assert (after.state, after.reason, after.generation) == ("open", reason, before.generation + 1)
            self.check_wait(after, FIRST_WAIT_S)
        else:
            assert (after.state, after.generation) == ("closed", before.generation)
        window = in_window(self.results, self.options, self.clock())
        assert after.calls_in_window == len(window)
        if len(window) >= self.options["minimum_calls"]:
            assert after.error_rate == sum(r.failed for r in window) / len(window)
        else:
            assert after.error_rate is after.p95_ms is None

    def check_probe(self, before: BreakerSnapshot, after: BreakerSnapshot, failed: bool, duration_ms: float) -> None:
        limit_ms = self.options["latency_p95_threshold_ms"]
        slow = limit_ms is not None and duration_ms > limit_ms
        if failed or slow:
            assert (after.state, after.reason) == ("open", "probe_failed" if failed else "probe_slow")
            self.check_wait(after, FIRST_WAIT_S)
        else:
            assert after.state in {"half_open", "closed"}
            assert after.successes == before.successes + 1
        if after.state == "closed":
            self.results = []
            assert (after.calls_in_window, after.consecutive_failures) == (0, 0)

    def check_wait(self, opened: BreakerSnapshot, least_s: float) -> None:
        assert opened.retry_after_s is not None
        assert least_s <= opened.retry_after_s <= LONGEST_WAIT_S
        self.open_until_s = self.clock() + opened.retry_after_s

    # --- what always holds ----------------------------------------------------------------------------------------

    @invariant()
    def laws(self) -> None:
        now = self.breaker.snapshot()
        assert self.breaker.state == now.state
        assert self.breaker.is_open() == (now.retry_after_s is not None)
        assert now == self.breaker.snapshot(), "reading changes nothing"
        if now.retry_after_s is not None:
            assert 0 < now.retry_after_s <= max(LONGEST_WAIT_S, self.lease_s)
        if now.mode == "auto" and now.state == "open":
            assert self.clock() < self.open_until_s
        if now.state == "half_open":
            assert len(self.probes_out(now)) <= self.probes
            assert self.clock() >= self.open_until_s
        if now.state != self.before.state:
            assert now.generation > self.before.generation
            if now.state == "closed":
                self.results = []
                assert now.calls_in_window == 0
        assert now.generation >= self.before.generation
        assert now.successes + now.failures + now.ignored + now.late == self.settled
        assert now.rejected == self.refused
        assert now.slow <= now.successes + now.failures
        moves = {change[:3]: change[3] for change in now.transitions}
        assert sum(n for (_, after, _), n in moves.items() if after != "would_open") == now.generation
        self.before = now

    def teardown(self) -> None:
        """Never looked at, the twin is the same; and healthy traffic closes both, whatever has happened.

        A window that is bad already may open the circuit on its first healthy calls; hence those before the wait.
        """
        if not hasattr(self, "breaker"):
            return
        assert self.twin.snapshot() == self.breaker.snapshot()
        for breaker in (self.breaker, self.twin):
            breaker.override("auto")
            with contextlib.suppress(CircuitOpen):
                for _ in range(self.options["minimum_calls"]):
                    breaker.succeed(breaker.acquire(), QUICK_MS)
        self.clock.advance(LONGEST_WAIT_S)
        self.clock.advance(self.lease_s)
        for breaker in (self.breaker, self.twin):
            for _ in range(self.probes):
                breaker.succeed(breaker.acquire(), QUICK_MS)
            assert breaker.state == "closed"
            for _ in range(2 * self.options["window"]):
                breaker.succeed(breaker.acquire(), QUICK_MS)
            assert breaker.state == "closed"


def run_laws(examples: int, steps: int) -> None:
    before = BreakerLaws.sequences
    run_state_machine_as_test(
        BreakerLaws,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, database=None
        ),
    )
    assert BreakerLaws.sequences - before >= examples


def test_laws_hold_for_any_sequence_of_events() -> None:
    run_laws(200, 30)


@pytest.mark.slow
def test_laws_hold_for_20_000_sequences() -> None:
    run_laws(20_000, 20)


# --- no false opening -----------------------------------------------------------------------------------------------


def openings(calls: int, error_rate: float, **options: Any) -> int:
    """How often the circuit opened in so many calls that fail at random; each wait is over at once."""
    rng, clock = random.Random(20260801), FakeClock()
    breaker = CircuitBreaker("toy", clock=clock, **options)
    found = 0
    for _ in range(calls):
        (breaker.fail if rng.random() < error_rate else breaker.succeed)(breaker.acquire(), QUICK_MS)
        if breaker.is_open():
            found += 1
            breaker.reset()
    return found


@pytest.mark.parametrize("calls", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_one_percent_of_errors_never_opens(calls: int) -> None:
    assert openings(calls, 0.01) == 0


@pytest.mark.parametrize("calls", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_nor_with_the_five_percent_rule_over_a_thousand_calls(calls: int) -> None:
    assert openings(calls, 0.01, error_rate_threshold=0.05, window=1_000, minimum_calls=200) == 0


def test_a_five_percent_rule_over_a_hundred_calls_would() -> None:
    """The trap that the defaults keep away from: about one opening in 8,500 calls."""
    assert openings(100_000, 0.01, error_rate_threshold=0.05) > 3


# --- another breaker beside it --------------------------------------------------------------------------------------

STATES = {State.CLOSED: "closed", State.OPEN: "open", State.HALF_OPEN: "half_open", State.FORCED_OPEN: "open"}
EVENTS = st.tuples(
    st.sampled_from(
        ["calls"] * 6
        + ["take"] * 4
        + ["settle"] * 4
        + ["release"]
        + ["advance"] * 2
        + ["wait"] * 3
        + ["reset", "force"]
    ),
    st.integers(1, 30),
    st.booleans(),
)


class InterlockClock:
    def __init__(self, clock: FakeClock) -> None:
        self.monotonic = clock


class BothBreakers:
    """Ours and the state machine of interlock-cb 2.8.2, on what both can do.

    Common: the error-rate rule over the last calls, judged from a minimum on, inclusive; the wait, growing with
    each failed round to a cap, and the seconds left of it; N probes, their places given back by a release; late
    results dropped by generation; forced open; reset.

    Different, and therefore kept out:

    - interlock judges a round when all N probes are in, by the failure rate; ours opens at the first failure. A probe
      fails here only if it is the last of its round, and every threshold drawn is at most 1 / N.
    - interlock has neither leases nor a longest round: ours are set to 1e9 s.
    - interlock makes the transition to half-open on the next call, ours for whoever looks: its timer hook is called
      before the states are compared.
    - interlock has no rule for failures in a row, and slow is "at or above" a limit with a rate of its own instead of
      a p95; its time window counts in whole seconds. These are off.
    - interlock goes back to closed from an override only by reset, ours also by ``override("auto")``.
    """

    def __init__(self, threshold: float, window: int, minimum: int, probes: int) -> None:
        self.clock, self.probes = FakeClock(), probes
        self.ours = CircuitBreaker(
            "toy",
            failure_threshold=None,
            error_rate_threshold=threshold,
            latency_p95_threshold_ms=None,
            window=window,
            minimum_calls=minimum,
            recovery_timeout_s=FIRST_WAIT_S,
            recovery_timeout_max_s=LONGEST_WAIT_S,
            jitter=0.0,
            half_open_probes=probes,
            probe_lease_s=1e9,
            half_open_max_s=1e9,
            clock=self.clock,
        )
        config = Config(
            failure_rate_threshold=threshold,
            minimum_number_of_calls=minimum,
            slow_call_duration_threshold=1e9,
            permitted_calls_in_half_open=probes,
            max_concurrent_probes=probes,
            wait_duration_in_open=FIRST_WAIT_S,
            wait_duration_backoff_multiplier=2.0,
            wait_duration_in_open_max=LONGEST_WAIT_S,
            window_size=window,
        )
        self.theirs = StateMachine(config=config, clock=InterlockClock(self.clock))
        self.held: list[tuple[Permit, int]] = []

    def acquire(self) -> tuple[Permit, int] | None:
        theirs = self.theirs.acquire()
        try:
            ours = self.ours.acquire()
        except CircuitOpen:
            assert not theirs, "only interlock admits it"
            return None
        assert theirs, "only ours admits it"
        return ours, self.theirs.generation

    def settle(self, held: tuple[Permit, int], failed: bool) -> None:
        permit, generation = held
        if permit.probe and self.theirs._probes_completed < self.probes - 1:
            failed = False
        (self.ours.fail if failed else self.ours.succeed)(permit, QUICK_MS)
        self.theirs.record(Outcome.FAILURE if failed else Outcome.SUCCESS, generation=generation)

    def step(self, event: str, number: int, failed: bool) -> None:
        if event == "calls":
            for _ in range(1 + number % 8):
                if (held := self.acquire()) is not None:
                    self.settle(held, failed)
        elif event == "take":
            if (held := self.acquire()) is not None:
                self.held.append(held)
        elif event == "advance":
            self.clock.advance(float(number))
        elif event == "wait":
            self.clock.advance(self.theirs.retry_after() or 0.0)
        elif event == "reset":
            self.ours.reset()
            self.theirs.reset()
        elif event == "force":
            self.ours.override("forced_open")
            self.theirs.force_open()
        elif self.held:
            held = self.held.pop(number % len(self.held))
            if event == "settle":
                self.settle(held, failed)
            else:
                self.ours.release(held[0])
                self.theirs.release_probe(generation=held[1])
        self.compare()

    def compare(self) -> None:
        self.theirs.attempt_auto_transition()
        ours, window = self.ours.snapshot(), self.theirs.snapshot()
        assert ours.state == STATES[self.theirs.state]
        if ours.state == "closed":
            assert ours.calls_in_window == window.total_calls
            assert ours.error_rate is None or ours.error_rate == window.failure_rate
        if self.theirs.state is State.OPEN:
            assert ours.retry_after_s == self.theirs.retry_after()


def compare_on(examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink]
    )
    @given(
        threshold=st.sampled_from([0.1, 0.25, 0.3, 1 / 3]),
        window=st.integers(3, 20),
        minimum=st.integers(1, 3),
        probes=st.integers(1, 3),
        events=st.lists(EVENTS, min_size=20, max_size=60),
    )
    def same(threshold: float, window: int, minimum: int, probes: int, events: list[tuple[str, int, bool]]) -> None:
        both = BothBreakers(threshold, window, minimum, probes)
        for event in events:
            both.step(*event)

    same()


def test_interlock_decides_the_same() -> None:
    compare_on(300)


@pytest.mark.slow
def test_interlock_decides_the_same_in_10_000_schedules() -> None:
    compare_on(10_000)
