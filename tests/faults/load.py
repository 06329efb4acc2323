"""Sends open-loop HTTP load from a separate process: requests leave at a fixed rate, whether or not earlier ones have ended.

    python -m tests.faults.load

The first line of stdin is a JSON object: host, port, method, path, bodies (texts, sent in turn), headers, rate (per second),
connections (most open at a time), total (requests; null: until stdin closes), timeout_s. The process prints "begun" with the
first request. At the end it prints one JSON array per request. Times are of the system's monotonic clock, so other processes
can compare them with their own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

__all__ = ["JSON_TYPE", "Load", "Seen", "answered", "degraded", "failed", "percentile"]

JSON_TYPE = {"Content-Type": "application/json"}


@dataclass(slots=True)
class Seen:
    """One request as its caller saw it.

    Attributes
    ----------
    due_s : when it should have been sent, monotonic
    waited_ms : how long it waited for a free connection
    latency_ms : from ``due_s`` to the whole answer
    status : 0 if no answer came
    error : ``refused``, ``reset`` or ``timeout``; "" if an answer came
    reason, slot, model_hash, request_id, machine : of the envelope; "" if there was none
    flagged : ``fallback_used`` of the envelope
    strict : whether the body was JSON of RFC 8259 with finite numbers only
    retry_after : seconds of that header; -1 without the header
    """

    due_s: float
    waited_ms: float = 0.0
    latency_ms: float = 0.0
    status: int = 0
    error: str = ""
    reason: str = ""
    slot: str = ""
    model_hash: str = ""
    flagged: bool = False
    strict: bool = True
    retry_after: int = -1
    probability: float = -1.0
    request_id: str = ""
    machine: str = ""

    @property
    def ended_s(self) -> float:
        """When the whole answer was there, monotonic."""
        return self.due_s + self.latency_ms / 1000


def answered(seen: Sequence[Seen]) -> list[Seen]:
    return [s for s in seen if s.status == 200]


def degraded(seen: Sequence[Seen]) -> list[Seen]:
    return [s for s in seen if s.status == 200 and s.slot not in {"champion", "challenger"}]


def failed(seen: Sequence[Seen]) -> list[Seen]:
    return [s for s in seen if s.status != 200]


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank; -1 if there are no values."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else -1.0


class Load:
    """Load on a server while the block runs (or for ``total`` requests); ``seen`` holds the results."""

    def __init__(
        self,
        address: str,
        path: str = "/predict",
        bodies: Sequence[object] = (),
        *,
        rate: float,
        total: int | None = None,
        connections: int = 64,
        method: str = "POST",
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        host, _, port = address.removeprefix("http://").rpartition(":")
        self._spec = {
            "host": host,
            "port": int(port),
            "method": method,
            "path": path,
            "bodies": [body if isinstance(body, str) else json.dumps(body) for body in bodies] or [""],
            "headers": {**(JSON_TYPE if method == "POST" else {}), **(headers or {})},
            "rate": rate,
            "connections": connections,
            "total": total,
            "timeout_s": timeout_s,
        }
        self.seen: list[Seen] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._spec) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "begun\n"
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        if kind is not None:
            process.kill()
            process.wait()
            return
        if self._spec["total"] is None:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        self.seen = [Seen(*json.loads(line)) for line in out.splitlines()]

    def run(self) -> list[Seen]:
        """Send all ``total`` requests."""
        assert self._spec["total"] is not None
        with self:
            pass
        return self.seen


# --- in the process of the load -----------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """One keep-alive connection, with at most one request under way."""

    def __init__(self, sender: _Sender) -> None:
        self._sender = sender
        self._buffer = bytearray()
        self.request: Seen | None = None
        self.transport: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, raw: bytes, request: Seen, timeout_s: float) -> None:
        self.request = request
        self._buffer.clear()
        request.waited_ms = (time.monotonic() - request.due_s) * 1000
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._expire)
        self.transport.write(raw)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = bytes(self._buffer).partition(b"\r\n\r\n")
        if not separator:
            return
        status, headers = _head(head)
        if len(body) < int(headers.get("content-length", 0)):
            return
        request = self._settle()
        if request is not None:
            request.status = status
            _read(request, headers, body)
            self._sender.done(request)
        if headers.get("connection", "").lower() == "close":
            self.transport.close()
        else:
            self._sender.idle(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sender.lost(self)
        request = self._settle()
        if request is not None:
            request.error = request.error or "reset"
            self._sender.done(request)

    def _expire(self) -> None:
        if self.request is not None:
            self.request.error = "timeout"
        self.transport.abort()

    def _settle(self) -> Seen | None:
        request, self.request = self.request, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if request is not None:
            request.latency_ms = (time.monotonic() - request.due_s) * 1000
        return request


class _Sender:
    """Sends due requests on a free connection, and opens more connections up to a limit."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        head = f"{spec['method']} {spec['path']} HTTP/1.1\r\nHost: {spec['host']}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in spec["headers"].items())
        self._raw = [
            (f"{head}Content-Length: {len(body.encode())}\r\n\r\n" if body else f"{head}\r\n").encode() + body.encode()
            for body in spec["bodies"]
        ]
        self._number = 0
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[tuple[bytes, Seen]] = deque()
        self._open = 0
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.all_in = asyncio.Event()
        self.seen: list[Seen] = []

    def due(self, due_s: float) -> None:
        raw = self._raw[self._number % len(self._raw)]
        self._number += 1
        self._under_way += 1
        self.all_in.clear()
        self._waiting.append((raw, Seen(due_s)))
        if self._idle:
            self._go(self._idle.popleft())
        else:
            self._open_another()

    def idle(self, connection: _Connection) -> None:
        if self._waiting:
            self._go(connection)
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        self._open_another()

    def done(self, request: Seen) -> None:
        self.seen.append(request)
        self._under_way -= 1
        if not self._under_way:
            self.all_in.set()

    def _open_another(self) -> None:
        if self._waiting and self._open < self._spec["connections"]:
            self._open += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self), self._spec["host"], self._spec["port"]
            )
        except OSError:
            self._open -= 1
            if self._waiting:
                _, request = self._waiting.popleft()
                request.error = "refused"
                request.latency_ms = (time.monotonic() - request.due_s) * 1000
                self.done(request)
            self._open_another()  # each that waits is refused by a try of its own; none is left waiting for ever
            return
        self.idle(connection)

    def _go(self, connection: _Connection) -> None:
        raw, request = self._waiting.popleft()
        connection.send(raw, request, self._spec["timeout_s"])


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first[9:12]), {name.lower(): value.strip() for name, _, value in pairs}


def _read(request: Seen, headers: dict[str, str], body: bytes) -> None:
    request.retry_after = int(headers.get("retry-after", -1))
    request.model_hash = headers.get("x-model-hash", "")
    if headers.get("content-type") != "application/json":
        return
    try:
        answer = json.loads(body, parse_constant=_refuse_constant)
    except ValueError:
        request.strict = False
        return
    lineage = answer.get("lineage")
    if lineage is not None:
        request.reason = answer["fallback_reason"] or ""
        request.flagged = answer["fallback_used"]
        request.slot = lineage["slot"]
        request.probability = answer["probability"]
        request.request_id = answer["request_id"]
        request.machine = lineage["served_by"]["machine"]
        request.strict = request.strict and lineage["model_hash"] == request.model_hash


def _refuse_constant(text: str) -> float:
    raise ValueError(text)


async def _run(spec: dict[str, Any]) -> list[Seen]:
    sender = _Sender(spec)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    if spec["total"] is None:
        loop.add_reader(sys.stdin, lambda: (stopped.set(), loop.remove_reader(sys.stdin)))
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    began = time.monotonic()
    number = 0
    while not stopped.is_set() and number != spec["total"]:
        due_s = began + number / spec["rate"]
        wait = due_s - time.monotonic()
        if wait > 0.0005:
            await asyncio.sleep(wait)
            continue
        sender.due(due_s)
        number += 1
        if number % 50 == 0:
            await asyncio.sleep(0)
    if number:
        await sender.all_in.wait()
    return sender.seen


if __name__ == "__main__":
    for found in asyncio.run(_run(json.loads(sys.stdin.readline()))):
        sys.stdout.write(json.dumps(astuple(found)) + "\n")
