"""Sends closed-loop HTTP load from a separate process: a connection sends its next body after the answer to the last.

    python -m benchmarks.load PORT PATH BODIES CONNECTIONS REQUESTS

BODIES is a file with one JSON body per line. The bodies are sent in turn. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import cycle
from pathlib import Path


class Caller(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._buffer = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        start = head.lower().index(b"content-length:") + 15
        length = int(head[start : head.find(b"\r", start) if b"\r" in head[start:] else None])
        if len(body) < length:
            return
        self._buffer = b""
        self._work.done(time.perf_counter() - self._sent_at, head[9:12])
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._work.lost()

    def _next(self) -> None:
        request = self._work.take()
        if request is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


class Work:
    """Requests that are still to be sent, and results of those that were sent."""

    def __init__(self, requests: list[bytes], total: int, finished: asyncio.Event, connections: int) -> None:
        self._requests = cycle(requests)
        self._left = total
        self._open = connections
        self._finished = finished
        self.seconds: list[float] = []
        self.statuses: dict[str, int] = {}

    def take(self) -> bytes | None:
        if self._left == 0:
            return None
        self._left -= 1
        return next(self._requests)

    def done(self, seconds: float, status: bytes) -> None:
        self.seconds.append(seconds)
        name = status.decode()
        self.statuses[name] = self.statuses.get(name, 0) + 1

    def lost(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._finished.set()


def encode(path: str, body: bytes) -> bytes:
    """A whole HTTP/1.1 request as bytes."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def run(port: int, path: str, bodies: list[bytes], connections: int, total: int) -> dict[str, object]:
    finished = asyncio.Event()
    work = Work([encode(path, body) for body in bodies], total, finished, connections)
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(lambda: Caller(work), "127.0.0.1", port)
    await finished.wait()
    wall = time.perf_counter() - began
    found = sorted(work.seconds)
    at = lambda share: found[min(len(found) - 1, int(share * len(found)))] * 1000  # noqa: E731
    return {
        "answered": len(found),
        "statuses": work.statuses,
        "per_second": len(found) / wall,
        "p50_ms": at(0.50),
        "p99_ms": at(0.99),
        "max_ms": found[-1] * 1000,
    }


def main() -> None:
    port, path, file, connections, total = sys.argv[1:]
    bodies = Path(file).read_bytes().splitlines()
    print(json.dumps(asyncio.run(run(int(port), path, bodies, int(connections), int(total)))))


if __name__ == "__main__":
    main()
