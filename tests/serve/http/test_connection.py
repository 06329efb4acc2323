"""One connection, byte by byte: a real uvicorn with our protocol, before the middleware and a small model."""

from __future__ import annotations

import asyncio
import json
import random
import re
import select
import socket
from collections.abc import Iterator, MutableMapping
from contextlib import closing, suppress
from typing import Any

import pytest

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http import connection
from ml_core.serve.http.connection import MAX_HEAD_BYTES, MAX_HEAD_LINES, with_short_way
from ml_core.serve.http.middleware import App, Receive, Scope, Send, SuretyMiddleware
from ml_core.serve.metrics import REFUSED
from tests.serve.http.apis import http_api, listening
from tests.toy_models import toy_live, toy_record

SETTINGS = Settings(max_body_bytes=4_096, max_batch_rows=20)
BODY = json.dumps({"features": toy_record()}).encode()
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"
SMUGGLED = b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT_S = 30.0


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server in a thread of this process."""
    with listening(http_api(SETTINGS, InferenceService(toy_live()))) as port:
        yield port


def exchanged(port: int, *pieces: bytes, expected: int = 1, apart: bool = False) -> bytes:
    """What comes back, until the server ends the connection; or as many replies, and what comes within 50 ms more.

    With ``apart`` the server has read each piece, and may have answered it, before the next is sent.
    """
    with closing(socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)) as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found = b""
        with suppress(OSError):
            for piece in pieces:
                caller.sendall(piece)
                if apart and select.select([caller], [], [], 0.05)[0]:
                    found += caller.recv(65_536)
        with suppress(OSError):
            while True:
                caller.settimeout(0.05 if len(replies(found)) >= expected else WAIT_S)
                if not (data := caller.recv(65_536)):
                    break
                found += data
        return found


def replies(raw: bytes) -> list[int]:
    """The status of every whole reply in the bytes, told apart by their lengths."""
    found = []
    while b"\r\n\r\n" in raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length else 0
        if len(rest) < size:
            break
        found.append(int(head[9:12]))
        raw = rest[size:]
    return found


def post(*headers: bytes, body: bytes = BODY, length: int | None = None, path: bytes = b"/predict") -> bytes:
    lines = [
        b"POST %s HTTP/1.1" % path,
        b"Host: x",
        b"Content-Type: application/json",
        b"Content-Length: %d" % (len(body) if length is None else length),
        *headers,
    ]
    return b"\r\n".join([*lines, b"", body])


def chunked(body: bytes, end: bytes = b"0\r\n\r\n", *headers: bytes) -> bytes:
    lines = [b"POST /predict HTTP/1.1", b"Host: x", b"Content-Type: application/json", b"Transfer-Encoding: chunked"]
    return b"\r\n".join([*lines, *headers, b"", b"%x" % len(body), body, end])


def count_of(code: str) -> float:
    return REFUSED.labels(code)._value.get()


# --- an offer to upgrade ------------------------------------------------------------------------------------------


def offering(request: bytes) -> bytes:
    return request.replace(b"Host: x\r\n", b"Host: x\r\n" + OFFER, 1)


@pytest.mark.parametrize("request_", [post(), chunked(BODY)], ids=["length", "chunked"])
def test_an_offer_to_upgrade_is_ignored_and_the_body_read(port: int, request_: bytes) -> None:
    assert replies(exchanged(port, offering(request_))) == [200]


@pytest.mark.parametrize("cut", [1, 60, 200, len(offering(post())) - len(BODY), len(offering(post())) - 3])
def test_so_it_is_wherever_the_bytes_are_cut(port: int, cut: int) -> None:
    whole = offering(post())
    assert replies(exchanged(port, whole[:cut], whole[cut:], apart=True)) == [200]


def test_so_it_is_byte_by_byte_and_for_all_requests_of_a_connection(port: int) -> None:
    three = offering(post()) + offering(SMUGGLED.replace(b"/status", b"/livez")) + offering(chunked(BODY))
    assert replies(exchanged(port, *(bytes([b]) for b in three), expected=3)) == [200, 200, 200]
    assert replies(exchanged(port, three, expected=3)) == [200, 200, 200]


@pytest.mark.parametrize("offer", [b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Connection: keep-alive, upgrade\r\nUpgrade: TLS/1.0, h2c\r\n"])  # fmt: skip
def test_every_protocol_is_ignored(port: int, offer: bytes) -> None:
    assert replies(exchanged(port, offering(post()).replace(OFFER, offer))) == [200]


def test_an_offer_that_also_says_close_is_obeyed_in_that(port: int) -> None:
    raw = exchanged(port, offering(post()).replace(b"Connection: Upgrade,", b"Connection: close, Upgrade,"))
    assert replies(raw) == [200]
    assert b"connection: close" in raw


@pytest.mark.parametrize(
    "hidden",
    [
        offering(post(body=SMUGGLED)),
        offering(chunked(SMUGGLED)),
        post(body=SMUGGLED),
        offering(post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED)),
        post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
        offering(post(b"Content-Length: 3", body=SMUGGLED)),
        offering(post(body=SMUGGLED).replace(b"Content-Length: ", b"Content-Length: +")),
        offering(chunked(SMUGGLED).replace(b"chunked", b"xchunked")),
        offering(chunked(SMUGGLED).replace(b"chunked", b"chunked, identity")),
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"CONNECT /predict HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n" + SMUGGLED,
    ],
)
def test_no_body_becomes_a_request(port: int, hidden: bytes) -> None:
    """Whole, or with the head and the body in pieces of their own: there is one reply, and it is a refusal."""
    head, _, body = hidden.partition(b"\r\n\r\n")
    for pieces in ([hidden], [head + b"\r\n\r\n", body]):
        got = replies(exchanged(port, *pieces, apart=True))
        assert len(got) == 1, got
        assert 400 <= got[0] < 500


# --- heads --------------------------------------------------------------------------------------------------------


def with_lines(n: int) -> bytes:
    return b"GET /livez HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(n)) + b"\r\n"


def with_bytes(n: int) -> bytes:
    start = b"GET /livez HTTP/1.1\r\nX: "
    return start + b"y" * (n - len(start) - 4) + b"\r\n\r\n"


def test_a_head_at_the_limit_is_read(port: int) -> None:
    assert replies(exchanged(port, with_lines(MAX_HEAD_LINES))) == [200]
    assert replies(exchanged(port, with_bytes(MAX_HEAD_BYTES))) == [200]


@pytest.mark.parametrize(
    "head",
    [
        with_lines(MAX_HEAD_LINES + 1),
        with_lines(20_000),
        with_bytes(MAX_HEAD_BYTES + 100),
        with_bytes(1_000_000),
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\n\r\n",
        with_bytes(MAX_HEAD_BYTES + 100)[:-2],  # it has not even ended
        b"\r\n" * 100_000,
        b"GET /livez HTTP/1.1\r\n" + b"X" * 200_000,
    ],
)
@pytest.mark.parametrize("step", [None, 3_001])
def test_a_larger_head_is_refused_and_counted_also_when_it_drips(port: int, head: bytes, step: int | None) -> None:
    before = count_of("head_too_large")
    pieces = [head] if step is None else [head[i : i + step] for i in range(0, len(head), step)]
    raw = exchanged(port, *pieces)
    assert raw == b"" or replies(raw) == [431]  # a caller that goes on sending may see only the end
    assert count_of("head_too_large") == before + 1


def test_the_refusal_is_one_of_our_error_objects(port: int) -> None:
    head, _, body = exchanged(port, with_lines(MAX_HEAD_LINES + 1)).partition(b"\r\n\r\n")
    assert json.loads(body)["error"]["code"] == "head_too_large"
    assert b"connection: close" in head


def test_large_bodies_and_many_requests_do_not_count_as_heads(port: int) -> None:
    padded = BODY + b" " * (4_096 - len(BODY))
    assert replies(exchanged(port, post(body=padded) * 40, expected=40)) == [200] * 40
    drips = [b"1\r\n" + bytes([byte]) + b"\r\n" for byte in BODY]
    start = chunked(BODY).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert replies(exchanged(port, start, *drips, b"0\r\n\r\n")) == [200]


def test_a_head_that_takes_too_long_is_408(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.05)
    before = count_of("head_timeout")
    assert replies(exchanged(port, b"GET /livez HTTP/1.1\r\nHost")) == [408]
    assert count_of("head_timeout") == before + 1


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1 x", b"G@T / HTTP/1.1", b"GET", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9", b"PRI * HTTP/2.0"])  # fmt: skip
def test_what_is_no_http_is_refused_and_counted(port: int, line: bytes) -> None:
    before = count_of("invalid_http")
    raw = exchanged(port, line + b"\r\n\r\nSM\r\n\r\n")
    assert replies(raw) == [400]
    assert json.loads(raw.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"
    assert count_of("invalid_http") == before + 1


def test_a_refusal_does_not_overtake_the_reply_before_it(port: int) -> None:
    raw = exchanged(port, post() + b"nonsense\r\n\r\n")
    assert replies(raw) == [200]
    assert b"connection: close" in raw.partition(b"\r\n\r\n")[0]


# --- trailers -----------------------------------------------------------------------------------------------------


def test_a_trailer_is_no_header(port: int) -> None:
    """A type, a coding, a length or a key after the body changes nothing, now or for the next request."""
    trailers = b"0\r\nContent-Type: text/plain\r\nContent-Encoding: br\r\nExpect: 100-continue\r\n\r\n"
    assert replies(exchanged(port, chunked(BODY, trailers) + post(), expected=2)) == [200, 200]
    first, rest = chunked(BODY, b"0\r\nContent-Type: application/json\r\n\r\n").split(b"0\r\nC")
    late = first.replace(b"Content-Type: application/json\r\n", b"")
    assert replies(exchanged(port, late, b"0\r\nC" + rest)) == [415]


@pytest.mark.parametrize("end", [
    b"0\r\n" + b"X: y\r\n" * 200, b"0\r\nX: " + b"y" * 300_000, b"0;" + b"x" * 300_000,
])  # fmt: skip
def test_trailers_are_bounded_as_heads_are(port: int, end: bytes) -> None:
    before = count_of("head_too_large")
    pieces = [end[i : i + 5_000] for i in range(0, len(end), 5_000)]
    assert replies(exchanged(port, chunked(BODY, b""), *pieces)) in ([431], [])
    assert count_of("head_too_large") == before + 1


# --- refused bodies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [b"/predict", b"/nothing"])
def test_a_caller_who_sends_before_it_reads_sees_the_refusal(port: int, path: bytes) -> None:
    """As Python's urllib does: 30 MB go out before the reply is looked at."""
    large = b" " * 30_000_000
    assert replies(exchanged(port, post(body=large, path=path))) in ([413], [404])


def test_a_caller_who_waits_for_leave_is_refused_without_waiting(port: int) -> None:
    """Its body is not on its way, and never comes."""
    raw = exchanged(port, post(b"Expect: 100-continue", body=b"", length=len(BODY) * 100))
    assert replies(raw) == [413]
    assert b"100 Continue" not in raw
    assert b"100 Continue" in exchanged(port, post(b"Expect: 100-continue"))


def test_a_body_without_end_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_core.serve.http.middleware.DRAIN_BYTES", 1_000_000)
    with closing(socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)) as caller:
        caller.sendall(post(body=b"", length=10**9))
        sent = 0
        with suppress(OSError):
            while sent < 10**8:
                sent += caller.send(b" " * 65_536)
    assert sent < 5 * 10**7


def test_a_refused_body_that_stops_coming_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_core.serve.http.middleware.DRAIN_S", 0.05)
    with closing(socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)) as caller:
        caller.sendall(post(body=b" " * 10, length=10**6))
        found = b""
        while data := caller.recv(65_536):
            found += data
    assert replies(found) == [413]


# --- all together -------------------------------------------------------------------------------------------------


def test_the_reply_does_not_depend_on_where_the_bytes_are_cut(port: int) -> None:
    chance = random.Random(20261201)
    shapes = [post(), offering(post()), chunked(BODY), offering(chunked(BODY)), SMUGGLED]
    for _ in range(60):
        requests = chance.choices(shapes, k=chance.randint(1, 6))
        whole = b"".join(requests)
        cuts = sorted(chance.sample(range(1, len(whole)), k=min(12, len(whole) - 1)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        got = replies(exchanged(port, *pieces, expected=len(requests)))
        assert got == [200] * len(requests)


def test_an_idle_connection_is_kept_as_long_as_the_setting_says() -> None:
    assert Settings().keep_alive_s == 75
    assert connection._keep_alive_s() == 75


# --- the way to the middleware ----------------------------------------------------------------------------------------


class Layer:
    """A layer around an application that notes which paths came through it."""

    def __init__(self, app: object) -> None:
        self.app = app
        self.passed: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.passed.append(scope["path"])
        await self.app(scope, receive, send)


class Begun:
    """As Starlette's application once it has begun: its layers are in ``middleware_stack``."""

    def __init__(self, stack: object) -> None:
        self.middleware_stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.middleware_stack(scope, receive, send)


def closed_with(app: App, path: str) -> list[int]:
    """What the middleware answers to a websocket, which is let in nowhere."""
    sent: list[int] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["code"])

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("nothing is read")

    asyncio.run(app({"type": "websocket", "path": path}, receive, send))
    return sent


def test_predict_alone_goes_past_the_layers_around_the_middleware() -> None:
    layer = Layer(SuretyMiddleware(Layer(None), lambda: http_api(SETTINGS, InferenceService(None))))
    app = with_short_way(Layer(Begun(layer)))
    assert closed_with(app, "/predict") == closed_with(app, "/labels") == closed_with(app, "/predict/x") == [1008]
    assert layer.passed == ["/labels", "/predict/x"]


def test_an_application_without_the_middleware_stays_as_it_is() -> None:
    app = Layer(Begun(Layer(None)))
    assert with_short_way(app) is app
