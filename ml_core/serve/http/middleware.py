"""The ASGI middleware in front of BentoML's router: checks keys, types and sizes, reads bodies, answers our routes.

It runs inside BentoML's own timeout layer and before its router, so that a request answered here pays for neither
dynamic models nor a response schema. BentoML's pages and client schema pass through to BentoML.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ml_core.serve.http.access import Access, Admission, Buffered
from ml_core.serve.http.replies import Header, Refused, Reply, reply_to

if TYPE_CHECKING:  # it registers metrics, which only a worker may have; this file is imported by BentoML's arbiter too
    from ml_core.serve.http.traffic import Traffic

__all__ = [
    "BENTOML_FOLDERS",
    "BENTOML_PATHS",
    "Api",
    "App",
    "Handler",
    "HttpRequest",
    "Receive",
    "Routes",
    "Scope",
    "Send",
    "SuretyMiddleware",
]

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BENTOML_PATHS = frozenset({"/", "/schema.json"})
BENTOML_FOLDERS = ("/static_content/", "/assets/")

Handler = Callable[["HttpRequest"], Awaitable[Reply]]
Routes = dict[str, dict[str, Handler]]


class Api(Protocol):
    """What the middleware asks of a worker: its routes, who is let in, and who counts requests."""

    routes: Routes
    access: Access
    admission: Admission
    traffic: Traffic


class HttpRequest:
    """One request: its headers' facts, and its body when a handler asks for it."""

    __slots__ = ("_admission", "_buffered", "_receive", "caller", "content_length", "content_type", "query", "unread")

    def __init__(self, scope: Scope, receive: Receive, admission: Admission) -> None:
        self._receive = receive
        self._admission = admission
        self._buffered: Buffered | None = None
        self.caller: str | None = None  # name of the key that was shown
        self.query: bytes = scope.get("query_string", b"")
        self.content_type = b""
        self.content_length: int | None = None
        self.unread = False
        for name, value in scope["headers"]:
            if name == b"content-type":
                self.content_type = value.split(b";", 1)[0].strip().lower()
            elif name == b"content-length" and value.isdigit():
                self.content_length = int(value)
                self.unread = self.content_length > 0
            elif name == b"transfer-encoding":
                self.unread = True

    async def body(self, limit: int) -> bytes:
        """The whole body; refused by its declared length before a byte is read, or as soon as it grows too large.

        Raises
        ------
        Refused
            More than ``limit`` bytes, or it came too slowly.
        Overloaded
            Bodies take all the memory that they may.
        ConnectionResetError
            The caller went away.
        """
        if self.content_length is not None and self.content_length > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._admission.body_timeout_s):
                message = await self._receive()
                if message.get("more_body", False) or message["type"] != "http.request":
                    whole = await self._rest(message, limit)
                else:
                    whole = message.get("body", b"")
        except TimeoutError as error:
            raise Refused("body_timeout", "the body came too slowly") from error
        self.unread = False
        if len(whole) > limit:
            raise _too_large(limit)
        return whole

    def done(self) -> None:
        """Give back the memory that the body took."""
        if self._buffered is not None:
            self._buffered.free()

    async def _rest(self, message: MutableMapping[str, Any], limit: int) -> bytes:
        self._buffered = Buffered(self._admission)
        chunks: list[bytes] = []
        while True:
            if message["type"] == "http.disconnect":
                raise ConnectionResetError("the caller went away")
            chunk = message.get("body", b"")
            if self._buffered.size + len(chunk) > limit:
                raise _too_large(limit)
            self._buffered.add(len(chunk))
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)
            message = await self._receive()


def _too_large(limit: int) -> Refused:
    return Refused("too_large", f"the body is larger than {limit} bytes")


class SuretyMiddleware:
    """The middleware.

    Parameters
    ----------
    app : BentoML's application
    api : gives the worker's API; asked at each request, since the service is made after the middleware
    """

    def __init__(self, app: App, api: Callable[[], Api]) -> None:
        self._app = app
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on to BentoML."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # nothing here speaks websocket, and what is not let in by name stays out
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        api = self._api()
        end = api.traffic.begin(scope["path"])
        status = 500
        request = HttpRequest(scope, receive, api.admission)
        try:
            reply = await _answer(api, scope, request)
            if reply is None:
                status = await self._by_bentoml(scope, receive, send, close=request.unread)
            else:
                status = reply.status
                await _send(send, reply, close=request.unread)
        finally:
            request.done()
            end(status)

    async def _by_bentoml(self, scope: Scope, receive: Receive, send: Send, *, close: bool) -> int:
        """Have BentoML answer, without the headers that tell what runs here; its status."""
        status = 500

        async def bare(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = [(n, v) for n, v in message.get("headers", []) if not n.lower().startswith(_TELLING)]
                # A request whose body nobody will read leaves a connection that cannot be used again.
                message = {**message, "headers": [*kept, *_ON_EVERY_REPLY, *(_CLOSE if close else ())]}
            await send(message)

        await self._app(scope, receive, bare)
        return status


_TELLING = (b"server", b"x-bentoml-")
_ON_EVERY_REPLY: tuple[Header, ...] = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_CLOSE: tuple[Header, ...] = ((b"connection", b"close"),)


async def _answer(api: Api, scope: Scope, request: HttpRequest) -> Reply | None:
    """The reply to a request, None where it is BentoML's to answer."""
    path = scope["path"]
    try:
        request.caller = api.access.admit(path, scope["headers"])
        methods = api.routes.get(path)
        if methods is None and (path in BENTOML_PATHS or path.startswith(BENTOML_FOLDERS)):
            return None
        handler = None if methods is None else methods.get(scope["method"])
        if handler is None:
            _refuse_route(methods)
        return await handler(request)
    except ConnectionResetError:
        # Nobody reads it, but BentoML's timeout layer keeps the request alive until something has been sent.
        return Reply(_CALLER_GONE, b"")
    except Exception as error:
        reply = reply_to(error)
        api.admission.refused(getattr(error, "code", "internal") if reply.status != 500 else "internal")
        if reply.status == 500:
            logger.exception("request.failed", extra={"path": path})
        elif reply.status in (503, 504):
            logger.warning("request.unanswered", extra={"path": path, "reason": str(error)})
        return reply


_CALLER_GONE = 499


def _refuse_route(methods: dict[str, Handler] | None) -> NoReturn:
    if methods is None:
        raise Refused("not_found", "there is no such route")
    allowed: Header = (b"allow", ", ".join(sorted(methods)).encode())
    raise Refused("method_not_allowed", "this route has other methods", (allowed,))


async def _send(send: Send, reply: Reply, *, close: bool) -> None:
    """Send a reply; ``close`` where a body was not read to its end, whose connection cannot be used again."""
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        *_ON_EVERY_REPLY,
        *reply.headers,
    ]
    if close:
        headers.extend(_CLOSE)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
