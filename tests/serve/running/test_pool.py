"""The bounded pool: never more threads or waiting calls than said, and a stuck call holds up nobody but its thread."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import threading
import weakref
from concurrent.futures import CancelledError, wait

import pytest

from ml_core.base.errors import Overloaded
from ml_core.serve.running.pool import BoundedPool
from tests.serve.answering.builders import WAIT_S, until


class Held:
    """Calls that hold their thread until they are let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = threading.Semaphore(0)
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self.running.release()
        self.go.wait(WAIT_S)
        with self._lock:
            self._now -= 1
        return "done"

    def await_running(self, n: int) -> None:
        for _ in range(n):
            assert self.running.acquire(timeout=WAIT_S)


@pytest.fixture
def held():
    call = Held()
    yield call
    call.go.set()


def threads_named(name: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == name]


def test_a_call_comes_back_with_its_result():
    assert BoundedPool(2, 0, "pool-result").submit(lambda: 6 * 7).result(WAIT_S) == 42


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_whatever_a_call_raises_reaches_the_one_who_waits_and_the_thread_goes_on(error):
    def raises() -> None:
        raise error

    pool = BoundedPool(1, 3, "pool-raises")
    assert pool.submit(raises).exception(WAIT_S) is error
    assert pool.submit(lambda: 1).result(WAIT_S) == 1


def test_no_thread_before_the_first_call_and_no_more_than_the_calls_need(held):
    name = "pool-lazy"
    pool = BoundedPool(4, 4, name)
    assert threads_named(name) == []
    pool.submit(held)
    held.await_running(1)
    assert len(threads_named(name)) == 1
    pool.submit(held)
    held.await_running(1)
    assert len(threads_named(name)) == 2


def test_calls_one_after_the_other_share_a_thread():
    name = "pool-shared"
    pool = BoundedPool(4, 4, name)
    for i in range(10):
        assert pool.submit(lambda i=i: i).result(WAIT_S) == i
        until(lambda: not pool._unfinished)
    assert len(threads_named(name)) == 1


@pytest.mark.parametrize(("threads", "waiting"), [(1, 0), (2, 3), (3, 1)])
def test_threads_and_waiting_calls_stay_within_their_bounds(held, threads, waiting):
    name = f"pool-bounds-{threads}-{waiting}"
    pool = BoundedPool(threads, waiting, name)
    futures = [pool.submit(held) for _ in range(threads + waiting)]
    held.await_running(threads)
    for _ in range(5):
        with pytest.raises(Overloaded):
            pool.submit(held)
    assert len(threads_named(name)) == threads
    held.go.set()
    assert [f.result(WAIT_S) for f in futures] == ["done"] * len(futures)
    assert held.most == threads


def test_a_finished_call_makes_room():
    pool = BoundedPool(1, 0, "pool-room")
    for i in range(50):
        assert pool.submit(lambda i=i: i).result(WAIT_S) == i
        until(lambda: not pool._unfinished)  # the bookkeeping follows the result


def test_refused_callers_from_many_threads_never_exceed_the_bound(held):
    pool = BoundedPool(2, 2, "pool-many")
    accepted, refused = [], []

    def submit() -> None:
        try:
            accepted.append(pool.submit(held))
        except Overloaded:
            refused.append(1)

    callers = [threading.Thread(target=submit) for _ in range(32)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(WAIT_S)
    assert (len(accepted), len(refused)) == (4, 28)
    held.go.set()
    wait(accepted, WAIT_S)
    assert held.most <= 2


def test_a_cancelled_waiting_call_never_runs(held):
    pool = BoundedPool(1, 2, "pool-cancelled")
    first = pool.submit(held)
    held.await_running(1)
    ran = []
    waiting, last = pool.submit(lambda: ran.append("cancelled")), pool.submit(lambda: ran.append("kept"))
    assert pool.abandon(waiting) is False
    assert (pool.stuck, pool.abandoned_total) == (0, 0)
    held.go.set()
    last.result(WAIT_S)
    assert ran == ["kept"]
    assert first.result(WAIT_S) == "done"
    with pytest.raises(CancelledError):
        waiting.result(0)


def test_an_abandoned_running_call_keeps_its_thread_until_it_comes_back(held):
    pool = BoundedPool(2, 2, "pool-abandoned")
    futures = [pool.submit(held) for _ in range(2)]
    held.await_running(2)
    assert pool.abandon(futures[0]) is True
    assert (pool.stuck, pool.abandoned_total, pool.is_exhausted) == (1, 1, False)
    assert pool.abandon(futures[1]) is True
    assert (pool.stuck, pool.abandoned_total, pool.is_exhausted) == (2, 2, True)
    held.go.set()
    until(lambda: not pool._unfinished)
    assert (pool.stuck, pool.abandoned_total, pool.is_exhausted) == (0, 2, False)
    assert pool.submit(lambda: "again").result(WAIT_S) == "again"


def test_giving_up_a_finished_call_counts_nothing():
    pool = BoundedPool(1, 1, "pool-finished")
    future = pool.submit(lambda: 1)
    future.result(WAIT_S)
    assert pool.abandon(future) is False
    assert (pool.stuck, pool.abandoned_total) == (0, 0)


def test_a_waiting_call_that_is_given_up_gives_its_place_to_another(held):
    pool = BoundedPool(1, 1, "pool-places")
    pool.submit(held)
    held.await_running(1)
    for _ in range(5):
        pool.abandon(pool.submit(lambda: 1))
    last = pool.submit(lambda: 2)
    held.go.set()
    assert last.result(WAIT_S) == 2


def closes(pool: BoundedPool) -> threading.Thread:
    """A thread that closes the pool with all the time in the world."""
    thread = threading.Thread(target=pool.close, args=(100 * WAIT_S,), daemon=True)
    thread.start()
    return thread


def test_close_lets_running_and_waiting_calls_finish(held):
    pool = BoundedPool(1, 1, "pool-close")
    futures = [pool.submit(held), pool.submit(held)]
    held.await_running(1)
    closing = closes(pool)
    held.go.set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert [f.result(0) for f in futures] == ["done", "done"]


def test_close_does_not_wait_for_stuck_calls(held):
    pool = BoundedPool(1, 1, "pool-stuck")
    future = pool.submit(held)
    held.await_running(1)
    pool.abandon(future)
    closing = closes(pool)
    closing.join(WAIT_S / 10)
    assert not closing.is_alive()
    assert not future.done()


@pytest.mark.parametrize("order", ["close after giving up", "close before giving up"])
def test_close_does_not_wait_for_calls_that_were_given_up_before_they_ran(held, order):
    pool = BoundedPool(1, 1, "pool-given-up")
    futures = [pool.submit(held), pool.submit(held)]
    held.await_running(1)
    closing = closes(pool) if "before" in order else None
    for future in futures:
        pool.abandon(future)
    closing = closing or closes(pool)
    closing.join(WAIT_S / 10)
    assert not closing.is_alive()


def test_a_closed_pool_refuses_calls_that_it_would_never_run():
    pool = BoundedPool(1, 5, "pool-closed")
    assert pool.submit(lambda: 1).result(WAIT_S) == 1
    pool.close(WAIT_S)
    with pytest.raises(Overloaded):
        pool.submit(lambda: 2)


def test_threads_end_once_the_pool_is_closed():
    name = "pool-ends"
    pool = BoundedPool(2, 2, name)
    wait([pool.submit(lambda: 1) for _ in range(4)], WAIT_S)
    threads = threads_named(name)
    pool.close(WAIT_S)
    for thread in threads:
        thread.join(WAIT_S)
    assert threads_named(name) == []


def test_a_stuck_call_does_not_keep_a_process_from_ending():
    code = (
        "import threading\n"
        "from ml_core.serve.running.pool import BoundedPool\n"
        "pool = BoundedPool(1, 1, 'stuck'); running = threading.Event()\n"
        "pool.submit(lambda: (running.set(), threading.Event().wait()))\n"
        "running.wait(); pool.close(0.0); print('left')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert done.stdout == "left\n"


def test_threads_end_when_idle_and_begin_again_when_needed(monkeypatch):
    monkeypatch.setattr("ml_core.serve.running.pool._IDLE_S", 0.005)
    name = "pool-idle"
    pool = BoundedPool(2, 2, name)
    for _ in range(3):
        assert [future.result(WAIT_S) for future in [pool.submit(lambda: 1) for _ in range(4)]] == [1] * 4
        until(lambda: threads_named(name) == [] and not pool._unfinished)


class Rows:
    """Something a call holds on to."""


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_that_is_over_keeps_nothing_alive_even_without_the_collector(fails):
    def call(rows: Rows) -> int:
        kept = rows
        if fails:
            raise ValueError(str(type(kept)))
        return 1

    gc.disable()
    try:
        pool, rows = BoundedPool(1, 1, "pool-alive"), Rows()
        gone = weakref.ref(rows)
        future = pool.submit(lambda rows=rows: call(rows))
        assert (future.exception(WAIT_S) is not None) is fails
        del future, rows
        until(lambda: gone() is None)
        assert [t.is_alive() for t in threads_named("pool-alive")][-1:] == [True]
    finally:
        gc.enable()


def waiting_places(pool: BoundedPool, held: Held, threads: int) -> int:
    """How many calls may wait while every thread is busy."""
    for _ in range(threads):
        pool.submit(held)
    held.await_running(threads)
    places = 0
    with pytest.raises(Overloaded):  # noqa: PT012 - which call it is is the question
        while places < 10_000:
            pool.submit(held)
            places += 1
    return places


@pytest.mark.parametrize(
    ("durations", "places"),
    [
        ([], 2),  # nothing is known
        ([0.02], 2),  # two threads do two such calls in the 20 ms
        ([0.001], 40),
        ([0.001] * 9 + [5.0], 40),  # one slow moment of the machine says little
        ([0.001, *[0.02] * 8], 2),  # it has become slow
        ([0.02, *[0.0001] * 20], 256),  # never without bound
        ([math.inf], 2),
        ([math.inf, *[0.001] * 30], 40),
    ],
)
def test_as_many_may_wait_as_quick_calls_are_done_in_a_moment(held, durations, places):
    pool = BoundedPool(2, 2, "pool-patience", patience_s=0.02)
    for duration in durations:
        pool.saw(duration)
    assert waiting_places(pool, held, 2) == pytest.approx(places, abs=places / 2 + 1)


def test_calls_that_nobody_could_wait_for_take_places_away(held):
    pool = BoundedPool(2, 2, "pool-hanging", patience_s=0.02)
    pool.saw(0.001)
    for future in [pool.submit(held) for _ in range(12)]:
        pool.abandon(future)
    with pytest.raises(Overloaded):  # noqa: PT012 - which call it is does not matter
        for _ in range(6):
            pool.submit(held)


def test_without_patience_the_bound_is_a_number(held):
    pool = BoundedPool(2, 3, "pool-number")
    pool.saw(1e-6)
    assert waiting_places(pool, held, 2) == 3
