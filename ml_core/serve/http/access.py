"""Who is let in: whose key opens which route, pages of which origins (CORS), and how much a worker takes on at a time.

Without keys everybody may ask for everything; with a file of them, or any in the home that several machines have, every
route but the health probes and the page at ``/`` asks for one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from ml_core.base.errors import HomeUnreachable, Overloaded
from ml_core.base.settings import Settings
from ml_core.serve.http.api_keys import ApiKey, KeyPlace, KeyRing, KeyRole
from ml_core.serve.http.oip_paths import HEALTH_PATHS, MODEL_PATHS, SERVER
from ml_core.serve.http.replies import Header, Refused, Reply
from ml_core.serve.metrics import REFUSED
from ml_core.serve.running.pool import BoundedPool

__all__ = ["Access", "Admission", "Buffered", "CrossOrigin", "OPEN_TO_ALL", "PROBES", "ROLE_OF_ROUTE"]

PROBES = frozenset({"/livez", "/readyz", "/healthz", "/health"}) | HEALTH_PATHS
"""The health probes: one word each."""

OPEN_TO_ALL = PROBES | {"/"}
"""What needs no key: the probes, and the page, which is the same everywhere."""

ROLE_OF_ROUTE: dict[str, KeyRole] = {
    "/predict": "predict",
    "/predict_batch": "predict",
    "/labels": "label",
    "/metrics": "metrics",
    "/status": "admin",
    SERVER: "predict",
    **dict.fromkeys(MODEL_PATHS, "predict"),
}
"""What a route asks of a key. A route that is not here answers any valid key: schemas, and 404."""

_BEARER = b"bearer "
_CHALLENGE: tuple[Header, ...] = ((b"www-authenticate", b"Bearer"),)


class Access:
    """Decides about one request after the other; without keys everybody may do everything.

    Parameters
    ----------
    settings : where the keys are
    clock : seconds, monotonic
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        place = KeyPlace.of(settings)
        self._ring = None if place is None else KeyRing(place, settings.poll_s, clock)
        self._workers = settings.workers
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    @property
    def is_guarded(self) -> bool:
        """Whether callers need keys; also where that is not known yet."""
        with suppress(HomeUnreachable):
            return self._ring is not None and self._ring.guards()
        return True

    def report(self) -> dict[str, Any]:
        """For `/status`: whether callers need keys, how many there are, and why a changed file is not obeyed."""
        ring = self._ring
        return {
            "guarded": self.is_guarded,
            "keys": 0 if ring is None else len(ring),
            "problem": None if ring is None else ring.problem,
        }

    def admit(self, path: str, headers: Iterable[Header]) -> str | None:
        """Name of the key a caller has shown, None where no key is needed.

        Raises
        ------
        Refused
            No key, or none that is known here (401); one of another role (403); more requests than it may send (429);
            which keys there are could not be read since the start (503).
        """
        if self._ring is None or path in OPEN_TO_ALL or not self._guards(self._ring):
            return None
        presented = _bearer(headers)
        holder = None if presented is None else self._ring.holder(presented)
        if holder is None:
            raise Refused("unauthorized", "send a valid key: Authorization: Bearer <key>", _CHALLENGE)
        role = ROLE_OF_ROUTE.get(path)
        if role is not None and not holder.may(role):
            raise Refused("forbidden", f"this route asks for a key with the role {role}")
        self._spend(holder)
        return holder.name

    @staticmethod
    def _guards(ring: KeyRing) -> bool:
        try:
            return ring.guards()
        except HomeUnreachable as error:
            raise Refused(error.code, "it is not known yet who may ask; send this again later") from error

    def _spend(self, holder: ApiKey) -> None:
        if holder.per_second is None:
            return
        bucket = self._buckets.get(holder.sha256)
        rate = holder.per_second / self._workers
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[holder.sha256] = _Bucket(rate, self._clock)
        bucket.take()


def _bearer(headers: Iterable[Header]) -> bytes | None:
    """The one key in the headers; two contradict each other and count as none."""
    shown = [value for name, value in headers if name == b"authorization"]
    if len(shown) != 1 or shown[0][: len(_BEARER)].lower() != _BEARER:
        return None
    return shown[0][len(_BEARER) :].strip()


class _Bucket:
    """A token bucket: ``rate`` requests a second on average, a second's worth (at least one) at once."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self.rate = rate
        self._burst = max(1.0, rate)
        self._clock = clock
        self._tokens = self._burst
        self._at = clock()

    def take(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1.0:
            wait_s = (1.0 - self._tokens) / self.rate
            raise Refused("rate_limited", "this key sends more requests than it may", retry_after_s=wait_s)
        self._tokens -= 1.0


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


_PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    (
        b"access-control-allow-headers",
        b"authorization, content-encoding, content-type, inference-header-content-length",
    ),
    (b"access-control-max-age", b"600"),
)
_SHOWN: tuple[Header, ...] = (
    (
        b"access-control-expose-headers",
        b"inference-header-content-length, retry-after, x-fallback-reason, x-model-hash, x-model-version, x-request-id",
    ),
)
_VARY: Header = (b"vary", b"origin")
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class CrossOrigin:
    """What is said to browsers.

    Parameters
    ----------
    origins : the origins that may call, such as ``https://ward.example.org``; ``*``: every origin
    """

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._any = b"*" in self._origins

    def preflight(self, scope: Mapping[str, Any]) -> Reply | None:
        """The reply to a browser that asks before it calls, which it does without a key; None to everything else."""
        if scope["method"] != "OPTIONS" or self._allowed(scope) is None:
            return None
        if not any(name == b"access-control-request-method" for name, _ in scope["headers"]):
            return None
        return Reply(200, b"", b"text/plain; charset=utf-8", _PREFLIGHT)

    def sending(self, scope: Mapping[str, Any], send: _Send) -> _Send:
        """The same ``send``, which tells the browser that the page may read the reply, where it may."""
        origin = self._allowed(scope)
        more = (_VARY,) if origin is None else ((b"access-control-allow-origin", origin), *_SHOWN, _VARY)

        async def named(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        return named

    def _allowed(self, scope: Mapping[str, Any]) -> bytes | None:
        for name, value in scope["headers"]:
            if name == b"origin":
                return value if self._any or value in self._origins else None
        return None
