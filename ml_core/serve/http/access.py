"""Who may ask for what: every route but the health probes is denied to callers without a key of the right role."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from ml_core.base.settings import Settings
from ml_core.serve.http.api_keys import ApiKey, KeyRing, Role
from ml_core.serve.http.replies import Header, Refused

__all__ = ["OPEN_TO_ALL", "ROLE_OF_ROUTE", "Access"]

OPEN_TO_ALL = frozenset({"/livez", "/readyz", "/healthz", "/health"})
"""The health probes: one word each, and no key."""

ROLE_OF_ROUTE: dict[str, Role] = {
    "/predict": "predict",
    "/predict_batch": "predict",
    "/labels": "label",
    "/metrics": "metrics",
    "/status": "admin",
}
"""What a route asks of a key. A route that is not here answers any valid key: pages, schemas, and 404."""

_BEARER = b"bearer "
_CHALLENGE: tuple[Header, ...] = ((b"www-authenticate", b"Bearer"),)


class Access:
    """Decides about one request after the other; without a file of keys everybody may do everything.

    Parameters
    ----------
    settings : where the keys are
    clock : seconds, monotonic
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        path = settings.api_keys_file
        self._ring = None if path is None else KeyRing(path, settings.poll_s, clock)
        self._workers = settings.workers
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    @property
    def is_guarded(self) -> bool:
        """Whether callers need keys."""
        return self._ring is not None

    def report(self) -> dict[str, Any]:
        """For `/status`: whether callers need keys, how many there are, and why a changed file is not obeyed."""
        ring = self._ring
        return {
            "guarded": ring is not None,
            "keys": 0 if ring is None else len(ring),
            "problem": None if ring is None else ring.problem,
        }

    def admit(self, path: str, headers: Iterable[Header]) -> str | None:
        """Name of the key a caller has shown, None where no key is needed.

        Raises
        ------
        Refused
            No key, or none that is known here (401); one of another role (403); more requests than it may send (429).
        """
        if self._ring is None or path in OPEN_TO_ALL:
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
