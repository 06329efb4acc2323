"""A pool of daemon threads with a bound on threads and on waiting calls; no thread delays the exit of the process."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ml_core.base.errors import Overloaded

__all__ = ["BoundedPool"]

_T = TypeVar("_T")
_IDLE_S = 30.0
"""How long a thread waits for a call before it ends, so that the pool of a model that is gone leaves no thread."""
_STEP = 2.0  # so six calls of 20 ms bring an estimate of 0.3 s down
_SHORTEST_S, _LONGEST_S = 1e-5, 60.0
_MOST_WAITING = 256
_Call = tuple["Future[Any]", Callable[[], Any]]


class BoundedPool:
    """Runs calls on at most ``threads`` threads, while at most ``waiting`` more may wait.

    The standard library's executor queues without bound, and at exit waits for calls that never return. Neither may
    happen with a stuck model. Threads start when they are first needed.

    A bound that suits slow calls would refuse a burst of quick ones. So where calls are known to be quick, as many may
    wait as the threads can do within ``patience_s``.

    Parameters
    ----------
    threads, waiting : the bounds
    name : of the threads
    patience_s : how long a call may have to wait for quick ones before it, s
    """

    def __init__(self, threads: int, waiting: int, name: str, patience_s: float = 0.0) -> None:
        self._threads = threads
        self._waiting = waiting
        self._patience_s = patience_s
        self._typical_s: float | None = None
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._unfinished: set[Future[Any]] = set()
        self._started = 0
        self._abandoned = 0
        self._closed = False
        self.abandoned_total = 0

    @property
    def stuck(self) -> int:
        """Threads that are busy with abandoned calls."""
        return self._abandoned

    @property
    def is_exhausted(self) -> bool:
        """Whether every thread is stuck, so that no call can run."""
        return self._abandoned >= self._threads

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """The future result of the call.

        Raises
        ------
        Overloaded
            As many calls as may run and wait do so already, or the pool is closed.
        """
        future: Future[_T] = Future()
        with self._changed:
            limit = self._threads + self._may_wait()
            if self._closed or len(self._unfinished) >= limit:
                raise Overloaded(len(self._unfinished), limit)
            self._unfinished.add(future)
            needs_thread = self._started < min(self._threads, len(self._unfinished))
            self._started += needs_thread
            self._calls.put((future, call))
        if needs_thread:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def abandon(self, future: Future[Any]) -> bool:
        """Stop waiting for a call; True where it is running, and so keeps its thread until it returns."""
        if future.cancel():  # it had not begun
            self.saw(math.inf)
            self._finished(future)
            return False
        with self._changed:
            if future not in self._unfinished or future.done():
                return False
            self._abandoned += 1
            self.abandoned_total += 1
            self.saw(math.inf)
            self._changed.notify_all()
        future.add_done_callback(self._came_back)
        return True

    def saw(self, duration_s: float) -> None:
        """Note how long a call took (s), ``inf`` for an abandoned one; the pool keeps an estimate of the median."""
        typical = self._typical_s
        if typical is not None:
            duration_s = typical * _STEP if duration_s > typical else typical / _STEP
        self._typical_s = min(max(duration_s, _SHORTEST_S), _LONGEST_S)

    def close(self, timeout_s: float) -> None:
        """Refuse new calls and wait at most ``timeout_s`` for the others; abandoned calls are not waited for."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: len(self._unfinished) <= self._abandoned, timeout_s)
            for _ in range(self._started):
                self._calls.put(None)

    def _may_wait(self) -> int:
        if self._typical_s is None:
            return self._waiting
        return max(self._waiting, min(_MOST_WAITING, int(self._patience_s * self._threads / self._typical_s)))

    def _next(self) -> _Call | None:
        """The next call for a thread; None where the thread shall end: the pool is closed, or no call came."""
        while True:
            try:
                return self._calls.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._changed:
                    if self._calls.empty():
                        self._started -= 1
                        return None

    def _came_back(self, _: Future[Any]) -> None:
        with self._changed:
            self._abandoned -= 1

    def _finished(self, future: Future[Any]) -> None:
        with self._changed:
            self._unfinished.discard(future)
            self._changed.notify_all()

    def _work(self) -> None:
        while (item := self._next()) is not None:
            future, call = item
            try:
                if future.set_running_or_notify_cancel():
                    began = time.monotonic()
                    _settle(future, call)
                    self.saw(time.monotonic() - began)
            finally:
                self._finished(future)
            del item, future, call  # a waiting thread must not keep the last rows it saw alive


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - raised again for the one who waits
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:  # the error's traceback refers to this frame, which refers to the error: break that circle
        del future, call
