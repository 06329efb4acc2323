"""One HTTP connection: uvicorn's parser with bounds on request heads, and without upgrades to other protocols.

It stands below the application: what is refused here, no handler ever sees. ``service.py`` names this class to uvicorn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from functools import cache
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ml_core.base.settings import load_settings
from ml_core.serve.http.middleware import App, Receive, Scope, Send, SuretyMiddleware
from ml_core.serve.http.replies import Header, Reply, error_reply, headers_of
from ml_core.serve.metrics import REFUSED

__all__ = ["HEAD_TIMEOUT_S", "MAX_HEAD_BYTES", "MAX_HEAD_LINES", "Connection", "with_short_way"]

MAX_HEAD_BYTES = 65_536
"""Largest head of a request (request line and headers), and most bytes that come without being part of a body."""
MAX_HEAD_LINES = 100
"""Most header lines of a request, and most trailer lines after its body."""
HEAD_TIMEOUT_S = 30.0
"""Longest time between the first and the last byte of a head."""

_REASONS = {
    "invalid_http": "the request is not valid HTTP/1.1",
    "head_too_large": f"a request has at most {MAX_HEAD_LINES} header lines and {MAX_HEAD_BYTES} bytes before its body",
    "head_timeout": "the head of the request came too slowly",
}
_LINE_BYTES = 4  # of a header line beside name and value: colon, space, carriage return, line feed
_OF_THE_OFFER = frozenset({b"upgrade", b"http2-settings"})


@cache
def _keep_alive_s() -> int:
    return load_settings().keep_alive_s


class Connection(HttpToolsProtocol):
    """uvicorn's protocol on httptools, with four differences.

    - A head is refused as soon as it has too many lines or bytes, or takes too long. A trailer is counted and dropped.
    - An offer to upgrade is ignored, as RFC 9110 allows: the request is read as if it had not been made. httptools ends
      a message at its head where there is an offer, and would take the body for the next request.
    - ``/predict`` goes straight to our middleware, see :func:`with_short_way`.
    - A refusal is one of our error objects, is counted, and never overtakes the reply to an earlier request.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.app = with_short_way(self.app)
        self.timeout_keep_alive = _keep_alive_s()
        self._pending = 0  # bytes that came since the last head was complete, or the last piece of a body
        self._is_offer = False
        self._code = "invalid_http"
        self._is_refused = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request no longer than for the next one."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers as well."""
        self._unset_keepalive_if_required()
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        self._pending += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._parse_on(memoryview(data)[offer.args[0] :])
        except httptools.HttpParserError:
            self._refuse()
        if not self._pending or self._is_refused:
            return
        if self._pending > MAX_HEAD_BYTES:
            self._code = "head_too_large"
            self._refuse()
        elif self._head_timer is None and (self.cycle is None or not self.cycle.more_body):
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._on_head_timeout)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; after a body it is a trailer, and goes into a list that nobody reads."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEAD_LINES:
            self._stop("head_too_large")

    def on_headers_complete(self) -> None:
        """Begin the request, unless its head is too large or has to be read again without its offer."""
        if self._pending > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
            self._stop("head_too_large")
        self._pending = 0
        if self._head_timer is not None:
            self._end_head()
        self._is_offer = self.parser.should_upgrade()
        if not self._is_offer:
            super().on_headers_complete()
            self.headers = []
        elif self.parser.get_method() == b"CONNECT":
            self._stop("invalid_http")

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._pending = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The request is whole; what had an offer in it has yet to begin."""
        self._pending = 0
        if not self._is_offer:
            super().on_message_complete()

    def _parse_on(self, rest: memoryview) -> None:
        """Parse what follows a head with an offer, having parsed that head again without it."""
        while True:
            head = self._head_without_offer()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            try:
                self.parser.feed_data(head)
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:  # of a later request: that head has none any more
                rest = rest[offer.args[0] :]
            except httptools.HttpParserError:
                self._refuse()
                return
            else:
                return

    def _head_without_offer(self) -> bytes:
        """The head that was just parsed, as it would be without its offer to upgrade."""
        request_line = b"%s %s HTTP/%s" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        lines = [b"%s: %s" % header for header in _without_offer(self.headers)]
        return b"\r\n".join([request_line, *lines, b"", b""])

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + _LINE_BYTES for name, value in self.headers)

    def _stop(self, code: str) -> None:
        """Have the parser give up, from within one of its callbacks."""
        self._code = code
        raise ValueError(code)

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        self._code = "head_timeout"
        self._refuse()

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self) -> None:
        """Take nothing more from this connection, and say why where a reply to this request may still be sent."""
        self._is_refused = True
        self._end_head()
        REFUSED.labels(self._code).inc()
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._send_refusal()
        elif not cycle.more_body:  # it is the request after the one that is being answered
            cycle.keep_alive = False
        elif cycle.response_started:
            self.transport.close()
        elif self.pipeline:  # its turn has not come; when it comes, its body is missed and its connection closed
            cycle.keep_alive = False
        else:
            self._send_refusal()

    def _send_refusal(self) -> None:
        self.transport.write(_on_the_wire(error_reply(self._code, _REASONS[self._code])))
        self.transport.close()


def with_short_way(app: App) -> App:
    """The application, with ``/predict`` going straight to our middleware, past BentoML's layers around it.

    Those layers make a task, a future and a timer of a minute for each request, and work out its URL for traces that
    nobody collects. What takes long in ``/predict`` has limits of its own: the body, the model, the log.
    """
    front = _middleware_in(app)
    if front is None:
        return app

    def chosen(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (front if scope["path"] == _SHORT_WAY else app)(scope, receive, send)

    return chosen


_SHORT_WAY = "/predict"


def _middleware_in(app: Any) -> SuretyMiddleware | None:
    """Our middleware in the layers of an application that has begun; None where it is not among them."""
    while app is not None and not isinstance(app, SuretyMiddleware):
        app = getattr(app, "middleware_stack", None) or getattr(app, "app", None)
    return app


def _without_offer(headers: Iterable[Header]) -> Iterator[Header]:
    for name, value in headers:
        if name == b"connection":
            kept = [token for token in value.split(b",") if token.strip().lower() not in _OF_THE_OFFER]
            if kept:
                yield name, b",".join(kept).strip()
        elif name not in _OF_THE_OFFER:
            yield name, value


def _on_the_wire(reply: Reply) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (reply.status, HTTPStatus(reply.status).phrase.encode())]
    lines += [b"%s: %s" % header for header in headers_of(reply, close=True)]
    return b"\r\n".join([*lines, b"", reply.body])
