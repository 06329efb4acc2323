"""The ASGI middleware in front of BentoML's router: reads bodies, checks types and sizes, answers our routes.

It runs inside BentoML's own metrics and timeout layers and before its router, so that a request answered here pays for
neither dynamic models nor a response schema. BentoML's metrics, pages and client schema pass through to BentoML.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from web.admission import Admission
from web.replies import Header, Refused, Reply, reply_to

__all__ = [
    "BENTOML_FOLDERS",
    "BENTOML_PATHS",
    "App",
    "Desk",
    "Handler",
    "HttpRequest",
    "Receive",
    "Routes",
    "Scope",
    "Send",
    "SuretyFace",
]

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BENTOML_PATHS = frozenset({"/", "/metrics", "/schema.json"})
BENTOML_FOLDERS = ("/static_content/", "/assets/")


Handler = Callable[["HttpRequest"], Awaitable[Reply]]
Routes = dict[str, dict[str, Handler]]


class Desk(Protocol):
    """What answers: its routes, and who is let in."""

    routes: Routes
    admission: Admission


class HttpRequest:
    """One request: its headers' facts, and its body when a handler asks for it."""

    __slots__ = ("_admission", "_receive", "content_length", "content_type", "query")

    def __init__(self, scope: Scope, receive: Receive, admission: Admission) -> None:
        self._receive = receive
        self._admission = admission
        self.query: bytes = scope.get("query_string", b"")
        self.content_type = b""
        self.content_length: int | None = None
        for name, value in scope["headers"]:
            if name == b"content-type":
                self.content_type = value.split(b";", 1)[0].strip().lower()
            elif name == b"content-length" and value.isdigit():
                self.content_length = int(value)

    async def body(self, limit: int) -> bytes:
        """The whole body; refused by its declared length before a byte is read, or as soon as it grows too large.

        Raises
        ------
        Refused
            More than ``limit`` bytes, or it came too slowly.
        Overloaded
            Other bodies take all the memory that bodies may.
        ConnectionResetError
            The caller went away.
        """
        if self.content_length is not None and self.content_length > limit:
            raise _too_large(limit)
        message = await self._receive()
        if not message.get("more_body", False) and message["type"] == "http.request":
            first: bytes = message.get("body", b"")
            if len(first) > limit:
                raise _too_large(limit)
            return first
        try:
            async with asyncio.timeout(self._admission.body_timeout_s):
                return await self._rest(message, limit)
        except TimeoutError as error:
            raise Refused("body_timeout", "the body came too slowly", _CLOSE) from error

    async def _rest(self, message: MutableMapping[str, Any], limit: int) -> bytes:
        chunks: list[bytes] = []
        size = 0
        with self._admission.buffering() as buffered:
            while True:
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError("the caller went away")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                buffered.add(len(chunk))
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
                message = await self._receive()


_CLOSE: tuple[Header, ...] = ((b"connection", b"close"),)
"""The rest of a refused body is not read, so that its connection cannot be used again."""


def _too_large(limit: int) -> Refused:
    return Refused("too_large", f"the body is larger than {limit} bytes", _CLOSE)


class SuretyFace:
    """The middleware.

    Parameters
    ----------
    app : BentoML's application
    desk : gives the routes and the admission; asked at each request, since the service is made after the middleware
    """

    def __init__(self, app: App, desk: Callable[[], Desk]) -> None:
        self._app = app
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on to BentoML."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        desk = self._desk()
        methods = desk.routes.get(path)
        if methods is None:
            if path in BENTOML_PATHS or path.startswith(BENTOML_FOLDERS):
                await self._app(scope, receive, send)
            else:
                await _send(send, reply_to(Refused("not_found", "there is no such route")))
            return
        reply = await _answer(desk, methods, scope, receive)
        if reply is not None:
            await _send(send, reply)


async def _answer(desk: Desk, methods: dict[str, Handler], scope: Scope, receive: Receive) -> Reply | None:
    handler = methods.get(scope["method"])
    try:
        if handler is None:
            allowed: Header = (b"allow", ", ".join(sorted(methods)).encode())
            return reply_to(Refused("method_not_allowed", "this route has other methods", (allowed,)))
        return await handler(HttpRequest(scope, receive, desk.admission))
    except ConnectionResetError:
        return None
    except Exception as error:
        reply = reply_to(error)
        desk.admission.refused(getattr(error, "code", "internal") if reply.status != 500 else "internal")
        if reply.status == 500:
            logger.exception("request.failed", extra={"path": scope["path"]})
        elif reply.status in (503, 504):
            logger.warning("request.unanswered", extra={"path": scope["path"], "reason": str(error)})
        return reply


async def _send(send: Send, reply: Reply) -> None:
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
