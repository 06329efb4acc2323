"""A live service keeps answering while Arrow streams that hang, kill or swell other readers come in."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import httpx
import numpy as np
import pyarrow as pa
import pytest

from tests.security.arrow_streams import mutated, stream_of, valid_streams
from tests.security.figures import record
from tests.security.served import RECORD, Watched, arrow_body

pytestmark = pytest.mark.e2e

_ARROW = {"content-type": "application/vnd.apache.arrow.stream"}
_FOLDER = Path(__file__).parent / "arrow"


def nested(depth: int) -> bytes:
    kind: pa.DataType = pa.int64()
    for _ in range(depth):
        kind = pa.list_(kind)
    out = io.BytesIO()
    pa.ipc.new_stream(out, pa.schema([("age", kind)])).close()
    return out.getvalue()


def hostile() -> Iterator[tuple[str, bytes]]:
    """Streams that are all to be refused."""
    for depth in (48, 60):
        yield f"{depth} nested lists", nested(depth)
    for name in ("crash-a", "crash-b", "memory-a"):
        yield name, (_FOLDER / f"{name}.arrows").read_bytes()
    for codec in ("zstd", "lz4"):
        yield f"{codec} bomb", stream_of([pa.record_batch({"age": np.zeros(25_000_000)})], compression=codec)
        texts = pa.record_batch({"age": ["x" * 60_000] * 4_000})
        yield f"{codec} bomb of texts", stream_of([texts], compression=codec)
    row = pa.RecordBatch.from_pylist([RECORD])
    yield "20,000 batches", stream_of([row] * 20_000)


@contextmanager
def polled(address: str) -> Iterator[list[float]]:
    """Times of ``GET /health`` meanwhile, in milliseconds; each must be answered with 200."""
    times: list[float] = []
    done = Event()

    def poll() -> None:
        with httpx.Client(base_url=address, timeout=30) as client:
            while not done.is_set():
                times.append(asked_health(client))
                done.wait(0.002)

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        try:
            yield times
        finally:
            done.set()
            polling.result()


def asked_health(client: httpx.Client) -> float:
    """Milliseconds until ``GET /health`` is answered with 200."""
    began = time.perf_counter()
    assert client.get("/health").status_code == 200
    return 1_000 * (time.perf_counter() - began)


def test_the_service_answers_while_hostile_streams_come(server: Watched) -> None:
    processes = {process.pid for process in server.tree()}
    bodies = list(hostile())
    streams, dice = list(valid_streams().values()), random.Random(3)
    damaged = [mutated(streams, dice) for _ in range(500)]
    with httpx.Client(base_url=server.address, timeout=30) as client:
        idle = [asked_health(client) for _ in range(300)]
    before = memory(server)
    with httpx.Client(base_url=server.address, timeout=60) as client, polled(server.address) as times:
        for _ in range(3):
            for name, body in bodies:
                reply = client.post("/predict_batch", content=body, headers=_ARROW)
                assert reply.status_code in {400, 413}, (name, reply.status_code)
        statuses = [client.post("/predict_batch", content=body, headers=_ARROW).status_code for body in damaged]
        assert set(statuses) <= {200, 400, 413, 422}
        assert client.post("/predict_batch", content=arrow_body(), headers=_ARROW).status_code == 200
    assert processes <= {process.pid for process in server.tree()}
    record(
        f"arrow: a live service ({server.service})",
        "hostile Arrow streams are refused, no process ends, /health is answered meanwhile (goal: within 50 ms)",
        {
            "hostile": 3 * len(bodies),
            "damaged": len(statuses),
            "5xx": 0,
            "health asked": len(times),
            "p99 ms when idle": round(float(np.quantile(idle, 0.99)), 1),
            "slowest ms when idle": round(max(idle), 1),
            "p50 ms": round(float(np.median(times)), 1),
            "p99 ms": round(float(np.quantile(times, 0.99)), 1),
            "slowest ms": round(max(times), 1),
            "memory grown MB": (memory(server) - before) >> 20,
        },
    )


def memory(server: Watched) -> int:
    return max(process.memory_info().rss for process in server.tree())
