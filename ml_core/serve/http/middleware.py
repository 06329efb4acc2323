"""The ASGI middleware in front of BentoML's router: checks keys, types and sizes, reads bodies, answers our routes.

It runs inside BentoML's own timeout layer and before its router, so that a request answered here pays for neither
dynamic models nor a response schema. Of BentoML's own paths only the client schema passes through to BentoML.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ml_core.serve.http.access import Access, Admission, Buffered, CrossOrigin
from ml_core.serve.http.content_coding import Gunzip, unpacker
from ml_core.serve.http.oip_paths import is_of_protocol, route_of
from ml_core.serve.http.replies import CLOSE, ON_EVERY_REPLY, Header, Refused, Reply, headers_of, reply_to

if TYPE_CHECKING:  # it registers metrics, which only a worker may have; this file is imported by BentoML's arbiter too
    from ml_core.serve.http.traffic import Traffic

__all__ = [
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

BENTOML_PATHS = frozenset({"/schema.json"})
DRAIN_S = 10.0
DRAIN_BYTES = 67_108_864
"""Longest time and most bytes for which a body is read and dropped after its request was refused."""

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

    __slots__ = (
        "_admission",
        "_buffered",
        "_receive",
        "begun",
        "caller",
        "content_coding",
        "content_length",
        "content_type",
        "headers",
        "path",
        "query",
        "unread",
    )

    def __init__(self, scope: Scope, receive: Receive, admission: Admission) -> None:
        self._receive = receive
        self._admission = admission
        self._buffered: Buffered | None = None
        self.caller: str | None = None  # name of the key that was shown
        self.path: str = scope["path"]
        self.headers: Sequence[Header] = scope["headers"]
        self.query: bytes = scope.get("query_string", b"")
        self.content_type = b""
        self.content_coding = b""
        self.content_length: int | None = None
        self.begun = False  # a piece of the body was asked for, so that its sender has leave to send it
        self.unread = False
        for name, value in scope["headers"]:
            if name == b"content-type":
                self.content_type = value.split(b";", 1)[0].strip().lower()
            elif name == b"content-length" and value.isdigit():
                self.content_length = int(value)
                self.unread = self.content_length > 0
            elif name == b"transfer-encoding":
                self.unread = True
            elif name == b"content-encoding":
                self.content_coding = b",".join((self.content_coding, value)) if self.content_coding else value

    async def body(self, limit: int) -> bytes:
        """The whole body, unpacked; refused by its declared length before a byte is read, or once it grows too large.

        Raises
        ------
        Refused
            More than ``limit`` bytes, packed in another way than gzip, or it came too slowly.
        Overloaded
            Bodies take all the memory that they may.
        ConnectionResetError
            The caller went away.
        """
        gunzip = unpacker(self.content_coding) if self.content_coding else None
        if self.content_length is not None and self.content_length > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._admission.body_timeout_s):
                chunk = self._read(await self._receive())
                if gunzip is not None:
                    whole = await self._unpacked(chunk, limit, gunzip)
                elif self.unread:
                    whole = await self._rest(chunk, limit)
                else:
                    whole = chunk
        except TimeoutError as error:
            raise Refused("body_timeout", "the body came too slowly") from error
        if len(whole) > limit:
            raise _too_large(limit)
        return whole

    async def drain(self, within_s: float, most: int) -> None:
        """Read and drop what is left of the body, for a bounded time and size.

        A connection that ends with unread bytes is reset, and a caller that is still sending never sees the reply.
        """
        try:
            async with asyncio.timeout(min(within_s, self._admission.body_timeout_s)):
                while self.unread and most > 0:
                    most -= len(self._read(await self._receive()))
        except (TimeoutError, ConnectionResetError):
            return

    def done(self) -> None:
        """Give back the memory that the body took."""
        if self._buffered is not None:
            self._buffered.free()
            self._buffered = None

    def _read(self, message: MutableMapping[str, Any]) -> bytes:
        """The next piece of the body as it came; ``unread`` is false after the last."""
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the caller went away")
        self.begun = True
        self.unread = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    async def _rest(self, chunk: bytes, limit: int) -> bytes:
        chunks: list[bytes] = []
        self._keep(chunk, chunks, limit)
        while self.unread:
            self._keep(self._read(await self._receive()), chunks, limit)
        return b"".join(chunks)

    async def _unpacked(self, chunk: bytes, limit: int, gunzip: Gunzip) -> bytes:
        pieces: list[bytes] = []
        packed = 0
        while True:
            packed += len(chunk)
            if packed > limit:
                raise _too_large(limit)
            for piece in gunzip.feed(chunk):
                self._keep(piece, pieces, limit)
                if len(piece) > _QUICK:
                    await asyncio.sleep(0)  # others have their turn
            if not self.unread:
                gunzip.end()
                return b"".join(pieces)
            chunk = self._read(await self._receive())

    def _keep(self, chunk: bytes, chunks: list[bytes], limit: int) -> None:
        if self._buffered is None:
            self._buffered = Buffered(self._admission)
        if self._buffered.size + len(chunk) > limit:
            raise _too_large(limit)
        self._buffered.add(len(chunk))
        chunks.append(chunk)


_QUICK = 65_536


def _too_large(limit: int) -> Refused:
    return Refused("too_large", f"the body is larger than {limit} bytes")


class SuretyMiddleware:
    """The middleware.

    Parameters
    ----------
    app : BentoML's application
    api : gives the worker's API; asked at each request, since the service is made after the middleware
    root_path : the prefix under which a proxy shows the service, such as ``/surety``; paths may come with or without it
    origins : the origins whose pages may call the service from a browser; ``*``: every origin
    """

    def __init__(self, app: App, api: Callable[[], Api], root_path: str = "", origins: Collection[str] = ()) -> None:
        self._app = app
        self._api = api
        self._root_path = root_path
        self._cross_origin = CrossOrigin(origins) if origins else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on to BentoML."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            if self._root_path:
                scope = _without_prefix(scope, self._root_path)
            if self._cross_origin is not None:
                send = self._cross_origin.sending(scope, send)
            await self._http(scope, receive, send)
        else:  # nothing here speaks websocket, and what is not let in by name stays out
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        api = self._api()
        end = api.traffic.begin(route_of(scope["path"]))
        status = 500
        request = HttpRequest(scope, receive, api.admission)
        reply: Reply | None = None
        try:
            if self._cross_origin is not None:
                reply = self._cross_origin.preflight(scope)
            reply = reply or await _answer(api, scope, request)
            if reply is None:
                status = await self._by_bentoml(scope, receive, send, request)
            else:
                status = reply.status
                await _send(scope, send, reply, more=request.unread)
        finally:
            request.done()
            end(status)
        if reply is not None and request.unread:
            await _drain(scope, request, reply.status)
            await send(_END)

    async def _by_bentoml(self, scope: Scope, receive: Receive, send: Send, request: HttpRequest) -> int:
        """Have BentoML answer, without the headers that tell what runs here; its status."""
        status = 500
        close = request.unread  # BentoML reads no body on the paths that are left to it

        async def bare(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = [(n, v) for n, v in message.get("headers", []) if not n.lower().startswith(_TELLING)]
                # A request whose body nobody will read leaves a connection that cannot be used again.
                message = {**message, "headers": [*kept, *ON_EVERY_REPLY, *(CLOSE if close else ())]}
                await send(message)
            elif close and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _drain(scope, request, status)
                await send(_END)
            else:
                await send(message)

        await self._app(scope, receive, bare)
        return status


_TELLING = (b"server", b"x-bentoml-")
_END: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": False}


def _without_prefix(scope: Scope, prefix: str) -> Scope:
    """The scope with a path as the routes have it; a proxy may have taken the prefix off already."""
    path = scope["path"]
    if path != prefix and not path.startswith(prefix + "/"):
        return scope
    return {**scope, "path": path.removeprefix(prefix) or "/"}


async def _answer(api: Api, scope: Scope, request: HttpRequest) -> Reply | None:
    """The reply to a request, None where it is BentoML's to answer."""
    path = scope["path"]
    try:
        route = route_of(path)
        request.caller = api.access.admit(route, scope["headers"])
        methods = api.routes.get(route)
        if methods is None and path in BENTOML_PATHS:
            return None
        method = scope["method"]
        handler = None if methods is None else methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            _refuse_route(methods)
        return await handler(request)
    except ConnectionResetError:
        # Nobody reads it, but BentoML's timeout layer keeps the request alive until something has been sent.
        request.unread = False
        return Reply(_CALLER_GONE, b"")
    except Exception as error:
        reply = reply_to(error, protocol=is_of_protocol(path))
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
    names = {*methods, "HEAD"} if "GET" in methods else methods
    allowed: Header = (b"allow", ", ".join(sorted(names)).encode())
    raise Refused("method_not_allowed", "this route has other methods", (allowed,))


async def _send(scope: Scope, send: Send, reply: Reply, *, more: bool) -> None:
    """Send a reply; ``more`` where a body was not read to its end, whose connection cannot be used again."""
    await send({"type": "http.response.start", "status": reply.status, "headers": headers_of(reply, close=more)})
    body = b"" if scope["method"] == "HEAD" else reply.body
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _drain(scope: Scope, request: HttpRequest, status: int) -> None:
    """Read on after a refusal, unless the body was too slow already, or its sender waits for leave to send it."""
    is_coming = request.begun or not any(name == b"expect" for name, _ in scope["headers"])
    if is_coming and status != _TOO_SLOW:
        await request.drain(DRAIN_S, DRAIN_BYTES)


_TOO_SLOW = 408
