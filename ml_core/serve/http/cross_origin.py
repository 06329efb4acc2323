"""Calls from pages of other origins (CORS): which origins may make them, and what a browser is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any

from ml_core.serve.http.replies import Header, Reply

__all__ = ["CrossOrigin"]

_PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    (b"access-control-allow-headers", b"authorization, content-encoding, content-type"),
    (b"access-control-max-age", b"600"),
)
_SHOWN: tuple[Header, ...] = (
    (
        b"access-control-expose-headers",
        b"retry-after, x-fallback-reason, x-model-hash, x-model-version, x-request-id",
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
