"""Where a model runs: quick ones on the event loop, slow ones and many rows on the pool, and the way back."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from ml_core.base.settings import Settings
from ml_core.serve.running.runner import GuardedRunner
from tests.serve.answering.builders import CountingRunner, EchoRunner, LateRunner, RaisesRunner, breaker_of
from tests.serve.running.fake_clock import FakeClock


class TimedRunner(EchoRunner):
    """Takes as many milliseconds of a fake clock as it is told, and remembers its threads."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.ms = 0.1
        self.threads: list[threading.Thread] = []

    def proba(self, features):
        self.threads.append(threading.current_thread())
        self.clock.advance(self.ms / 1000)
        return super().proba(features)


class Place:
    """A guarded model on a fake clock."""

    def __init__(self, *, is_quick: bool = True, **settings) -> None:
        self.clock = FakeClock(0.0)  # so that differences of seconds are exact to far less than a microsecond
        self.runner = TimedRunner(self.clock)
        self.runner.is_quick = is_quick
        found = Settings(**{"deadline_ms": 30_000, "circuit_p95_ms": 500, **settings})
        self.guard = GuardedRunner(self.runner, breaker_of(found, self.clock), 2, found, self.clock)

    def take(self, *ms: float, rows: int = 1) -> str:
        """Calls that take so long each; where the next one will run."""
        for each in ms:
            self.runner.ms = each
            found = asyncio.run(self.guard.call(np.full((rows, 1), 0.25, dtype=np.float32)))
            assert found.reason is None
            assert found.elapsed_ms == pytest.approx(each)
        return self.guard.where


@pytest.mark.parametrize(
    ("calls", "where"),
    [
        ((0.1,) * 50, "loop"),
        ((49.9,), "loop"),
        ((50.1,), "pool"),
        ((5.1, 5.1), "loop"),
        ((5.1, 5.1, 5.1), "pool"),
        ((5.1, 5.1, 4.9, 5.1, 5.1), "loop"),
        ((4.9,) * 50, "loop"),
        ((5.1, 5.1, 4.9, 5.1, 5.1, 5.1), "pool"),
    ],
)
def test_a_model_leaves_the_loop_after_one_long_call_or_three_hiccups_in_a_row(calls, where):
    assert Place().take(*calls) == where


def test_a_slow_model_runs_off_the_loop_from_its_next_call_on():
    place = Place()
    place.take(60.0, 60.0)
    assert [t is threading.main_thread() for t in place.runner.threads] == [True, False]


def test_a_model_comes_back_to_the_loop_after_200_quick_calls_in_a_row():
    place = Place()
    assert place.take(60.0) == "pool"
    assert place.take(*[1.9] * 199) == "pool"
    assert place.take(2.1) == "pool"  # one that is not quick begins the count anew
    assert place.take(*[1.9] * 199) == "pool"
    assert place.take(1.9) == "loop"
    place.take(0.1)
    assert place.runner.threads[-1] is threading.main_thread()


def test_a_model_that_came_back_can_leave_again_and_must_earn_200_more():
    place = Place()
    place.take(60.0, *[1.0] * 200)
    assert place.take(60.0) == "pool"
    assert place.take(*[1.0] * 199) == "pool"
    assert place.take(1.0) == "loop"


def test_a_model_that_is_not_quick_by_nature_never_runs_on_the_loop():
    place = Place(is_quick=False)
    assert place.take(*[0.1] * 300) == "pool"
    assert threading.main_thread() not in place.runner.threads


@pytest.mark.parametrize(("rows", "on_loop"), [(1, True), (64, True), (65, False), (5_000, False)])
def test_many_rows_take_the_pool_and_say_nothing_of_the_model(rows, on_loop):
    place = Place()
    assert place.take(0.1, 300.0 if rows > 64 else 0.1, rows=rows) == "loop"
    assert [t is threading.main_thread() for t in place.runner.threads] == [on_loop, on_loop]


@pytest.mark.parametrize(
    ("rows", "ms", "slow"),
    [(1, 500.0, 0), (1, 500.1, 1), (100, 598.9, 0), (100, 599.1, 1), (8_192, 8_690.9, 0), (8_192, 8_691.1, 1)],
)
def test_a_batch_is_slow_by_what_it_takes_beyond_a_millisecond_a_further_row(rows, ms, slow):
    place = Place()
    place.take(ms, rows=rows)
    assert (place.guard.breaker.snapshot().slow, place.guard.breaker.snapshot().successes) == (slow, 1)


def test_twenty_slow_calls_open_the_circuit_by_latency():
    place = Place()
    place.take(*[600.0] * 19)
    assert place.guard.breaker.state == "closed"
    place.take(600.0)
    assert place.guard.breaker.snapshot().reason == "latency_p95"
    found = asyncio.run(place.guard.call(np.full((1, 1), 0.25, dtype=np.float32)))
    assert (found.reason, found.called) == ("circuit_open", False)


def test_a_failing_call_says_how_long_it_took():
    clock = FakeClock(0.0)

    class SlowlyRaises(RaisesRunner):
        def proba(self, features):
            clock.advance(0.7)
            return super().proba(features)

    found = Settings()
    guard = GuardedRunner(SlowlyRaises(), breaker_of(found, clock), 2, found, clock)
    call = asyncio.run(guard.call(np.zeros((1, 1), dtype=np.float32)))
    assert (call.reason, call.elapsed_ms) == ("model_error", pytest.approx(700))
    assert (guard.breaker.snapshot().failures, guard.breaker.snapshot().slow) == (1, 1)
    assert guard.where == "pool"


def test_rows_shown_beforehand_put_a_slow_model_on_the_pool_and_count_nothing():
    place = Place()
    place.runner.ms = 60.0
    place.guard.learn_speed(np.zeros((8, 1), dtype=np.float32))
    assert place.guard.where == "pool"
    assert len(place.runner.threads) == 8
    snapshot = place.guard.breaker.snapshot()
    assert (snapshot.successes, snapshot.failures, snapshot.slow) == (0, 0, 0)


def test_rows_shown_beforehand_leave_a_quick_model_on_the_loop():
    place = Place()
    place.guard.learn_speed(np.zeros((8, 1), dtype=np.float32))
    assert place.guard.where == "loop"


def test_rows_shown_beforehand_to_a_broken_model_open_nothing():
    found = Settings()
    guard = GuardedRunner(CountingRunner(RaisesRunner()), breaker_of(found, None), 2, found)
    guard.learn_speed(np.zeros((8, 1), dtype=np.float32))
    assert (guard.breaker.state, guard.breaker.snapshot().failures) == ("closed", 0)


def test_a_runner_elsewhere_is_neither_shown_rows_nor_moved():
    runner, found = LateRunner(), Settings()
    guard = GuardedRunner(runner, breaker_of(found, None), 2, found)
    guard.learn_speed(np.zeros((8, 1), dtype=np.float32))
    assert (guard.where, runner.calls) == ("runner", 0)
