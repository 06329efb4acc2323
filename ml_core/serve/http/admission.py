"""Who is let in: how many requests are in work, how many batches wait, and how much memory bodies may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from ml_core.base.errors import Overloaded
from ml_core.base.settings import Settings
from ml_core.serve.metrics import REFUSED
from ml_core.serve.running.pool import BoundedPool

__all__ = ["Admission", "Buffered"]


class Admission:
    """Counts what one worker has taken on and refuses the rest at once.

    Parameters
    ----------
    settings : the limits
    """

    def __init__(self, settings: Settings) -> None:
        self.body_timeout_s = settings.body_timeout_s
        self.rejected = 0
        self._requests = 0
        self._max_requests = settings.max_requests
        self._buffered = 0
        self._max_buffered = settings.max_buffered_bytes
        self._batches = 0
        self._max_batches = settings.bulk_threads + settings.bulk_queue
        self._turn = asyncio.Semaphore(settings.bulk_threads)
        self._pool = BoundedPool(settings.bulk_threads, settings.bulk_queue, "surety-bulk")

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request in work.

        Raises
        ------
        Overloaded
            As many are in work as may be.
        """
        if self._requests >= self._max_requests:
            raise Overloaded(self._requests, self._max_requests)
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[Callable[[Callable[[], Any]], Awaitable[Any]]]:
        """One batch, in its turn; yields what runs its pieces off the event loop.

        Raises
        ------
        Overloaded
            As many wait for their turn as may.
        """
        if self._batches >= self._max_batches:
            raise Overloaded(self._batches, self._max_batches)
        self._batches += 1
        try:
            async with self._turn:
                yield self._elsewhere
        finally:
            self._batches -= 1

    def refused(self, code: str) -> None:
        """Count a request that got an error for an answer."""
        self.rejected += code == "overloaded"
        REFUSED.labels(code).inc()

    def close(self, timeout_s: float) -> None:
        """Let running batches finish."""
        self._pool.close(timeout_s)

    async def _elsewhere(self, work: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self._pool.submit(work))

    def take(self, size: int) -> None:
        """Take memory for a body, or give it back (a negative size).

        Raises
        ------
        Overloaded
            Bodies take all that they may.
        """
        if size > 0 and self._buffered + size > self._max_buffered:
            raise Overloaded(self._buffered, self._max_buffered)
        self._buffered += size


class Buffered:
    """How much memory one body takes, until its request has been answered."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.size = 0

    def add(self, size: int) -> None:
        """So many bytes more.

        Raises
        ------
        Overloaded
            Bodies take all the memory that they may.
        """
        self._admission.take(size)
        self.size += size

    def free(self) -> None:
        """Give back all of it."""
        self._admission.take(-self.size)
        self.size = 0
