"""The breaker among many threads, and across a fork. Threads meet at barriers; nothing waits for time to pass.

Where a missing lock is to be noticed, threads also give way within the module, between any two bytecodes.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest

from ml_core.base.errors import CircuitOpen
from ml_core.serve.running import circuit_breaker
from ml_core.serve.running.circuit_breaker import BreakerSnapshot, CircuitBreaker
from tests.serve.running.fake_clock import FakeClock

WAIT_S = 60.0  # what is waited at most for threads that must come


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    """Threads are switched 500 times as often as usual, so that races are met."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def in_threads(n: int, work: Callable[[int], Any]) -> list[Any]:
    """What the work gives in each of n threads that start together; their first error, if any."""
    start, found, errors = threading.Barrier(n, timeout=WAIT_S), [None] * n, []

    def run(i: int) -> None:
        try:
            start.wait()
            found[i] = work(i)
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    return found


def giving_way(work: Callable[[int], Any]) -> Callable[[int], Any]:
    """The work, letting other threads run at one in ten bytecodes of the breaker's module."""

    def traced(i: int) -> Any:
        rng = random.Random(i)

        def trace(frame: FrameType, event: str, _: object) -> Any:
            if frame.f_code.co_filename != circuit_breaker.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and rng.random() < 0.1:
                time.sleep(0)  # no wait: it only hands on the interpreter
            return trace

        sys.settrace(trace)
        try:
            return work(i)
        finally:
            sys.settrace(None)

    return traced


def half_open_breaker(places: int) -> CircuitBreaker:
    clock = FakeClock()
    breaker = CircuitBreaker("toy", half_open_probes=places, jitter=0.0, clock=clock)
    for _ in range(5):
        breaker.fail(breaker.acquire(), 1.0)
    clock.advance(60.0)
    return breaker


@pytest.mark.parametrize(
    "repetitions",
    [
        pytest.param(50, id="B25 exactly N of 64 run, 50 times"),
        pytest.param(1_000, id="B25 exactly N of 64 run, 1,000 times", marks=pytest.mark.slow),
    ],
)
def test_half_open_lets_exactly_its_probes_through(repetitions: int) -> None:
    places = [1 + i % 5 for i in range(repetitions)]
    breakers = [half_open_breaker(n) for n in places]
    arrive, leave = threading.Barrier(64, timeout=WAIT_S), threading.Barrier(64, timeout=WAIT_S)

    def callers(_: int) -> list[str]:
        outcomes = []
        for breaker in breakers:
            arrive.wait()
            try:
                with breaker.record():  # held until all 64 have been let in or refused
                    leave.wait()
                outcomes.append("ran")
            except CircuitOpen:
                outcomes.append("refused")
                leave.wait()
        return outcomes

    by_round = list(zip(*in_threads(64, callers), strict=True))
    assert [Counter(outcomes) for outcomes in by_round] == [{"ran": n, "refused": 64 - n} for n in places]
    for n, breaker in zip(places, breakers, strict=True):
        snapshot = breaker.snapshot()
        assert (snapshot.state, snapshot.successes, snapshot.rejected) == ("closed", n, 64 - n)


@pytest.mark.parametrize("repetitions", [pytest.param(40, id="B25 also when threads give way at any bytecode")])
def test_half_open_counts_its_places_under_the_lock(repetitions: int) -> None:
    for i in range(repetitions):
        breaker = half_open_breaker(1 + i % 3)

        def ask(_: int, breaker: CircuitBreaker = breaker) -> str:
            try:
                breaker.acquire()
            except CircuitOpen:
                return "refused"
            return "admitted"

        assert in_threads(8, giving_way(ask)).count("admitted") == 1 + i % 3
        assert breaker.snapshot().rejected == 8 - (1 + i % 3)


@pytest.mark.parametrize("n", [pytest.param(8, id="B35 eight calls are inside at once")])
def test_no_lock_is_held_during_a_call(n: int) -> None:
    breaker = CircuitBreaker("toy")
    inside = threading.Barrier(n, timeout=WAIT_S)  # opens only when all n are inside

    def block(_: int) -> None:
        with breaker.record():
            inside.wait()

    in_threads(n, block)
    assert breaker.snapshot().successes == n


@pytest.mark.parametrize(
    ("each", "way"),
    [
        pytest.param(10_000, lambda work: work, id="B36 counts of 10 threads with 10,000 calls each add up"),
        pytest.param(50, giving_way, id="B36 also when threads give way at any bytecode"),
    ],
)
def test_counts_add_up_and_no_snapshot_is_torn(each: int, way: Callable[[Any], Any]) -> None:
    breaker = CircuitBreaker("toy", window=1_000, failure_threshold=None, error_rate_threshold=1.0)
    permit = breaker.acquire()
    breaker.override("metrics_only")  # the permit is late from here on
    seen: list[BreakerSnapshot] = []

    def calls(i: int) -> None:
        if i == 10:
            seen.extend(breaker.snapshot() for _ in range(each))
            return
        for k in range(each):
            what = (i + k) % 5
            if what == 0:
                breaker.fail(breaker.acquire(), 900.0)  # failures are the slow ones, and nothing else is
            elif what == 1:
                breaker.release(breaker.acquire())
            elif what == 2:
                breaker.succeed(permit, 1.0)
            else:
                breaker.succeed(breaker.acquire(), 1.0)

    in_threads(11, way(calls))
    last = breaker.snapshot()
    assert (last.successes, last.failures, last.slow) == (4 * each, 2 * each, 2 * each)
    assert (last.ignored, last.late, last.rejected) == (2 * each, 2 * each, 0)
    for before, after in pairwise([*seen, last]):
        assert_whole(after)
        assert all(
            getattr(before, f) <= getattr(after, f) for f in ("successes", "failures", "slow", "ignored", "late")
        )


def assert_whole(snapshot: BreakerSnapshot) -> None:
    """Every failure was slow, and nothing else: the two are always seen equal."""
    assert snapshot.failures == snapshot.slow
    assert snapshot.error_rate == snapshot.slow_rate
    assert snapshot.calls_in_window == min(1_000, snapshot.successes + snapshot.failures)


@pytest.mark.parametrize("repetitions", [pytest.param(20, id="B37 of 100 failures at once one opens")])
def test_one_opening_for_failures_at_once(repetitions: int) -> None:
    for _ in range(repetitions):
        breaker = CircuitBreaker("toy", failure_threshold=50, error_rate_threshold=None)
        inside = threading.Barrier(100, timeout=WAIT_S)

        def caller(_: int, breaker: CircuitBreaker = breaker, inside: threading.Barrier = inside) -> None:
            permit = breaker.acquire()
            inside.wait()
            breaker.fail(permit, 1.0)

        in_threads(100, caller)
        snapshot = breaker.snapshot()
        assert snapshot.transitions == (("closed", "open", "consecutive_failures", 1),)
        assert (snapshot.failures, snapshot.late, snapshot.generation) == (50, 50, 1)


def in_child(work: Callable[[], None]) -> None:
    """Runs the work in a forked child; fails where it fails, or takes more than 30 s (a lock that is never freed)."""
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            work()
        except BaseException:  # noqa: BLE001 - nothing of pytest may run on in the child
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.parametrize("case", [pytest.param(0, id="B46 a child begins closed with locks of its own")])
def test_a_child_begins_anew(case: int) -> None:
    clock = FakeClock()
    breaker, forced, plain = (CircuitBreaker(name, clock=clock, jitter=0.0) for name in ("toy", "forced", "plain"))
    earlier = plain.acquire()
    for _ in range(5):
        breaker.fail(breaker.acquire(), 1.0)
    clock.advance(60.0)
    breaker.fail(breaker.acquire(), 1.0)
    forced.override("forced_open")
    before = breaker.snapshot()
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with breaker._lock:
            held.set()
            assert leave.wait(WAIT_S)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    assert held.wait(WAIT_S)

    def child() -> None:
        snapshot = breaker.snapshot()
        assert (snapshot.state, snapshot.mode, snapshot.reason) == ("closed", "auto", None)
        assert (snapshot.failures, snapshot.transitions, snapshot.calls_in_window) == (0, (), 0)
        assert forced.state == "closed"
        plain.fail(earlier, 1.0)
        assert (plain.snapshot().late, plain.snapshot().failures) == (1, 0)
        for _ in range(5):
            breaker.fail(breaker.acquire(), 1.0)
        assert breaker.state == "open"
        assert breaker.snapshot().retry_after_s == 60.0

    in_child(child)
    leave.set()
    holder.join(WAIT_S)
    assert breaker.snapshot() == before
    assert forced.state == "open"
