"""The guarded call: every failure gets its code, nobody waits longer than the deadline, and slow models leave the loop."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ml_core.base.errors import ModelUnavailable, NotLoaded, Overloaded
from ml_core.base.settings import Settings
from ml_core.serve.running.runner import GuardedCall, GuardedRunner, Scored, is_row_caused, model_breaker
from tests.serve.answering.builders import (
    BROKEN,
    WAIT_S,
    CountingRunner,
    EchoRunner,
    LateRunner,
    OutputRunner,
    PoisonRunner,
    RaisesRunner,
    SlowRunner,
    breaker_of,
    until,
)
from tests.serve.running.fake_clock import FakeClock

ONE = np.array([[0.25]], dtype=np.float32)


def guard_of(runner, breaker_clock=None, name="toy", **settings) -> GuardedRunner:
    found = Settings(**settings)
    return GuardedRunner(runner, breaker_of(found, breaker_clock, name), 2, found)


def call(guard: GuardedRunner, features: np.ndarray = ONE) -> GuardedCall:
    return asyncio.run(guard.call(features))


def rows(n: int) -> np.ndarray:
    return np.full((n, 1), 0.25, dtype=np.float32)


class AwayRunner:
    """A runner in another process that gives or raises whatever the function does."""

    def __init__(self, give) -> None:
        self._give = give

    async def ascore(self, features):
        return self._give(features)


def raising(error):
    def give(_):
        raise error

    return give


# --- reasons --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runner", "reason"),
    [
        (BROKEN["raises"], "model_error"),
        (BROKEN["nan"], "bad_output"),
        (BROKEN["shape"], "bad_output"),
        (BROKEN["negative"], "bad_output"),
        (LateRunner, "deadline"),
        (lambda: AwayRunner(raising(ModelUnavailable("lost"))), "model_error"),
        (lambda: AwayRunner(lambda x: Scored(np.full((len(x), 2), np.nan), "model_error")), "model_error"),
        (lambda: AwayRunner(lambda x: Scored(np.full((len(x), 3), 0.1), None)), "bad_output"),
    ],
)
@pytest.mark.parametrize("n", [1, 3])
def test_a_model_that_fails_gives_the_reason_and_is_counted_once(runner, reason, n):
    guard = guard_of(runner())
    found = call(guard, rows(n))
    assert (found.reason, found.called) == (reason, True)
    assert found.proba is None or np.isnan(found.proba).all()
    assert (guard.breaker.snapshot().failures, guard.breaker.snapshot().successes) == (1, 0)
    assert is_row_caused(found.reason)


def test_a_good_answer_has_no_reason_and_is_a_success():
    guard = guard_of(EchoRunner())
    found = call(guard)
    assert (found.proba.tolist(), found.reason) == ([[0.75, 0.25]], None)
    assert (guard.breaker.snapshot().failures, guard.breaker.snapshot().successes) == (0, 1)


@pytest.mark.parametrize("reason", ["model_not_loaded", "runner_lost"])
def test_a_model_that_is_known_to_be_away_is_not_called(reason):
    runner = CountingRunner()
    guard = guard_of(runner)
    guard.unavailable = reason
    assert call(guard) == GuardedCall(None, reason, 0.0, called=False)
    assert runner.calls == []
    assert not is_row_caused(reason)
    guard.unavailable = None
    assert call(guard).reason is None


@pytest.mark.parametrize("broken", BROKEN)
def test_the_fifth_failure_in_a_row_opens_and_then_nothing_is_called(broken):
    clock = FakeClock()
    runner = CountingRunner(BROKEN[broken]())
    guard = guard_of(runner, breaker_clock=clock)
    assert {call(guard).called for _ in range(5)} == {True}
    for _ in range(20):
        assert call(guard) == GuardedCall(None, "circuit_open", 0.0, called=False)
    assert len(runner.calls) == 5
    assert not is_row_caused("circuit_open")
    clock.advance(66.1)  # the longest first wait, 60 s and a tenth of it
    assert call(guard).called


def test_a_success_between_failures_keeps_the_circuit_closed():
    switch = CountingRunner(RaisesRunner())
    guard = guard_of(switch)
    for _ in range(3):
        assert {call(guard).reason for _ in range(4)} == {"model_error"}
        switch.inner = EchoRunner()
        assert call(guard).reason is None
        switch.inner = RaisesRunner()
    assert guard.breaker.state == "closed"


def test_one_poisoned_row_of_a_batch_is_one_failure_and_the_others_are_answered():
    features = np.array([[0.1], [0.2], [0.3]], dtype=np.float32)
    guard = guard_of(PoisonRunner(lambda x: x[:, 0] == np.float32(0.2)))
    found = call(guard, features)
    assert found.reason == "model_error"
    assert np.isnan(found.proba[:, 0]).tolist() == [False, True, False]
    assert guard.breaker.snapshot().failures == 1


arrays = hnp.arrays(
    dtype=st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@given(
    output=arrays
    | st.none()
    | st.text(max_size=3)
    | st.lists(st.floats(), max_size=3)
    | st.dictionaries(st.text(), st.none()),
    n=st.integers(1, 3),
)
@examples(deadline=None, max_examples=300)
def test_whatever_a_model_gives_comes_back_as_probabilities_or_as_a_reason(output, n):
    found = call(guard_of(OutputRunner(lambda _: output)), rows(n))
    if found.reason is None:
        assert np.isclose(np.asarray(found.proba, dtype=float).sum(axis=1), 1.0, atol=1e-4).all()
        assert (found.proba >= 0).all()
    assert found.proba is None or found.proba.shape == (n, 2)


@pytest.mark.parametrize("error", [ModelUnavailable("gone"), NotLoaded("gone")])
@pytest.mark.parametrize("is_quick", [True, False])
def test_a_runner_that_says_it_is_unavailable_is_a_failure_wherever_it_runs(error, is_quick):
    guard = guard_of(RaisesRunner(error, is_quick))
    assert call(guard).reason == "model_error"
    assert guard.breaker.snapshot().failures == 1


@pytest.mark.parametrize("give", [raising(RuntimeError("x")), lambda _: Scored(None, None), lambda _: None])
def test_whatever_a_runner_elsewhere_does_is_a_reason(give):
    guard = guard_of(AwayRunner(give))
    assert call(guard).reason in {"model_error", "bad_output"}
    assert guard.breaker.snapshot().failures == 1


# --- deadline and pool ------------------------------------------------------------------------------------------------


@pytest.fixture
def slow():
    runner = SlowRunner()
    yield runner
    runner.go.set()


def model_threads() -> int:
    return sum(t.name == "model-fifty" for t in threading.enumerate())


def test_fifty_callers_of_a_model_that_never_returns_hold_two_threads_and_all_get_an_answer(slow):
    guard = guard_of(slow, name="fifty", deadline_ms=20, pool_threads=2, pool_queue=2)

    async def fifty():
        return await asyncio.gather(*(guard.call(ONE) for _ in range(50)), return_exceptions=True)

    for _ in range(3):
        found = asyncio.run(fifty())
        assert model_threads() == 2
        assert all(isinstance(f, Overloaded | GuardedCall) for f in found)
    assert {f.reason for f in found} == {"stuck"}
    assert (guard.pool.stuck, guard.pool.abandoned_total) == (2, 2)
    assert not is_row_caused("stuck")


def test_the_deadline_answers_those_it_let_in_and_counts_each(slow):
    guard = guard_of(slow, deadline_ms=20, pool_threads=2, pool_queue=2)

    async def eight():
        return await asyncio.gather(*(guard.call(ONE) for _ in range(8)), return_exceptions=True)

    found = asyncio.run(eight())
    assert [f.reason for f in found if isinstance(f, GuardedCall)] == ["deadline"] * 4
    assert sum(isinstance(f, Overloaded) for f in found) == 4
    snapshot = guard.breaker.snapshot()
    assert (snapshot.failures, snapshot.successes, snapshot.ignored) == (4, 0, 4)


def test_a_stuck_model_that_comes_back_answers_again_and_its_late_results_count_nothing(slow):
    guard = guard_of(slow, deadline_ms=20, pool_threads=1, pool_queue=1)
    assert call(guard).reason == "deadline"
    assert call(guard) == GuardedCall(None, "stuck", 0.0, called=False)
    slow.go.set()
    until(lambda: not guard.pool.is_exhausted)
    assert guard.breaker.snapshot().successes == 0
    guard.deadline_s = WAIT_S
    assert call(guard).reason is None
    assert (guard.breaker.snapshot().failures, guard.breaker.snapshot().successes) == (1, 1)


def test_batches_that_hang_are_stuck_while_single_rows_go_on():
    hanging, go = EchoRunner(), threading.Event()
    runner = CountingRunner(hanging)
    hanging.proba = lambda x: (go.wait() if len(x) > 2 else None, EchoRunner().proba(x))[1]
    guard = guard_of(runner, deadline_ms=20, pool_threads=1, pool_queue=1, inline_rows=2)
    try:
        assert call(guard, rows(3)).reason == "deadline"
        assert [call(guard, rows(3)).reason for _ in range(4)] == ["stuck"] * 4
        assert call(guard, rows(2)).reason is None
    finally:
        go.set()


def test_the_deadline_grows_by_a_millisecond_a_row(monkeypatch):
    asked = []
    wait_for = asyncio.wait_for
    monkeypatch.setattr(asyncio, "wait_for", lambda future, timeout: (asked.append(timeout), wait_for(future, 30))[1])
    guard = guard_of(EchoRunner(), deadline_ms=500, inline_rows=0)
    for n in (1, 100, 8_192):
        assert call(guard, rows(n)).reason is None
    assert asked == pytest.approx([0.501, 0.6, 8.692])


# --- who is no failure --------------------------------------------------------------------------------------------------


async def cancelled(guard: GuardedRunner, slow: SlowRunner) -> None:
    task = asyncio.create_task(guard.call(ONE))
    assert await asyncio.to_thread(slow.entered.acquire, timeout=WAIT_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_callers_who_hang_up_are_neither_failures_nor_successes(slow):
    guard = guard_of(slow, pool_threads=20, deadline_ms=30_000)
    for _ in range(10):
        asyncio.run(cancelled(guard, slow))
    snapshot = guard.breaker.snapshot()
    assert (snapshot.state, snapshot.failures, snapshot.successes, snapshot.ignored) == ("closed", 0, 0, 10)
    assert snapshot.calls_in_window == 0


def test_a_probe_whose_caller_hangs_up_gives_its_place_back(slow):
    clock = FakeClock()
    guard = guard_of(slow, breaker_clock=clock, circuit_probes=1, pool_threads=20, deadline_ms=30_000)
    for _ in range(5):
        guard.breaker.fail(guard.breaker.acquire(), 1.0)
    clock.advance(66.1)
    for _ in range(3):
        asyncio.run(cancelled(guard, slow))
        assert guard.breaker.state == "half_open"
    slow.go.set()
    assert call(guard).reason is None
    assert guard.breaker.state == "closed"


def test_a_caller_who_hangs_up_while_a_runner_elsewhere_works_is_not_counted():
    started = asyncio.Event()

    class Waits:
        async def ascore(self, features):
            started.set()
            await asyncio.Event().wait()

    guard = guard_of(Waits())

    async def go():
        task = asyncio.create_task(guard.call(ONE))
        await started.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(go())
    assert (guard.breaker.snapshot().failures, guard.breaker.snapshot().ignored) == (0, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_an_order_to_stop_goes_through_and_is_not_counted(error):
    guard = guard_of(RaisesRunner(error))
    with pytest.raises(type(error)):
        asyncio.run(guard.call(ONE))
    assert (guard.breaker.snapshot().failures, guard.breaker.snapshot().ignored) == (0, 1)


def test_a_runner_elsewhere_that_is_overloaded_is_refused_and_not_counted():
    guard = guard_of(AwayRunner(raising(Overloaded(256, 256))))
    for _ in range(10):
        with pytest.raises(Overloaded):
            call(guard)
    assert (guard.breaker.snapshot().failures, guard.breaker.snapshot().ignored) == (0, 10)


def test_settings_decide_the_circuit():
    breaker = model_breaker("m", Settings(circuit_failures=2, circuit_window=10, circuit_wait_s=400, circuit_p95_ms=5))
    breaker.fail(breaker.acquire(), 1.0)
    assert breaker.state == "closed"
    breaker.fail(breaker.acquire(), 1.0)
    assert breaker.state == "open"
    assert breaker.snapshot().retry_after_s == pytest.approx(400, rel=0.11)
    breaker.reset()
    for _ in range(10):  # fewer than the usual minimum of calls, which cannot exceed the window
        breaker.succeed(breaker.acquire(), 6.0)
    assert breaker.snapshot().reason == "latency_p95"


def test_a_probe_may_take_twice_the_deadline_before_its_place_is_free_again():
    clock = FakeClock()
    breaker = breaker_of(Settings(deadline_ms=60_000, circuit_probes=1), clock)
    for _ in range(5):
        breaker.fail(breaker.acquire(), 1.0)
    clock.advance(66.1)
    breaker.acquire()
    assert breaker.snapshot().retry_after_s == pytest.approx(120)
