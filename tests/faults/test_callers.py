"""Callers that send too much, too slowly or hostile bodies, or go away: F6, F16, F17, and the limits of bodies."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

from ml_core.base.settings import Settings
from tests.faults.figures import record
from tests.faults.load import Load, answered, failed, percentile
from tests.faults.place import (
    RECORD,
    RECORDS,
    FaultPlace,
    Served,
    connected,
    open_files,
    request_bytes,
    threads_by_name,
    until,
)

BODIES = [{"features": r} for r in RECORDS]
BODY_TIMEOUT_S = 5
MAX_BULK_BYTES = 8 << 20
MAX_BULK_ROWS = 20_000
MAX_BUFFERED = 16 << 20
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def served(place_for: Callable[[str], FaultPlace]) -> Iterator[Served]:
    """One worker that all tests here share; no test may damage it."""
    place = place_for("callers")
    limits = {
        "SURETY_BODY_TIMEOUT_S": str(BODY_TIMEOUT_S),
        "SURETY_MAX_BULK_BYTES": str(MAX_BULK_BYTES),
        "SURETY_MAX_BULK_ROWS": str(MAX_BULK_ROWS),
        "SURETY_MAX_BUFFERED_BYTES": str(MAX_BUFFERED),
    }
    with place.served(**limits) as found:
        yield found


@pytest.fixture(autouse=True)
def unharmed(served: Served) -> Iterator[None]:
    """After every test the same worker still answers, and its circuit is closed."""
    pid = served.worker().pid
    yield
    assert served.worker().pid == pid
    assert served.predict()["fallback_used"] is False
    until(lambda: served.get("/health").json() == {"status": "ok"}, 2, "healthy")


def reply_on(connection: socket.socket) -> tuple[int, bytes, bytes]:
    """Status, head and body of one reply; 0 where the connection ends without one."""
    raw = b""
    try:
        while b"\r\n\r\n" not in raw and (chunk := connection.recv(65_536)):
            raw += chunk
        head, _, body = raw.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
        while len(body) < size and (chunk := connection.recv(65_536)):
            body += chunk
    except ConnectionResetError:
        return 0, raw, b""
    return (int(head[9:12]) if head else 0), head, body


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed the connection or closes it within the socket's timeout."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def arrow_stream(rows: int) -> bytes:
    import pyarrow as pa

    table = pa.Table.from_pylist([RECORDS[i % len(RECORDS)] for i in range(rows)])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=8_192)
    return sink.getvalue()


# --- too much -----------------------------------------------------------------------------------------------------


def test_f6_batch_too_large_is_refused_and_the_worker_lives(served: Served) -> None:
    worker = served.worker()
    before = worker.memory_info().rss
    replies = {
        "1,001 records": served.post("/predict_batch", {"records": [RECORD] * 1_001}).status_code,
        "100,000 records": served.post("/predict_batch", {"records": [RECORD] * 100_000}).status_code,
    }
    assert replies == {"1,001 records": 422, "100,000 records": 413}
    too_long = arrow_stream(MAX_BULK_ROWS + 1)
    assert len(too_long) < MAX_BULK_BYTES
    with connected(served.port) as connection:
        connection.sendall(request_bytes(too_long, "/predict_batch", kind=ARROW))
        status, _, body = reply_on(connection)
    assert status in {413, 422}, body
    # As many of the largest that are allowed as come at once: some wait, the others are told to come again.
    largest = json.dumps({"records": [RECORD] * 1_000})
    crowd = Load(served.address, "/predict_batch", [largest], rate=1e6, total=60, connections=60).run()
    assert {s.status for s in crowd} <= {200, 429}
    assert all(s.retry_after >= 1 for s in crowd if s.status == 429)
    assert answered(crowd)
    grown = (worker.memory_info().rss - before) / 1e6
    assert grown < 150
    record(
        "F6 batches too large, and 60 of the largest at once",
        "refused with 413 or 422, the rest 200 or 429; the worker lives",
        {
            **replies,
            "arrow_rows": status,
            "answered": len(answered(crowd)),
            "429": len(failed(crowd)),
            "rss_mb": round(grown, 1),
        },
    )


@pytest.mark.parametrize(
    ("path", "kind", "limit"),
    [
        ("/predict", "application/json", 65_536),
        ("/predict_batch", "application/json", 1 << 20),
        ("/predict_batch", ARROW, MAX_BULK_BYTES),
    ],
)
def test_large_body_is_refused_by_its_declared_length_before_a_byte_of_it(
    served: Served, path: str, kind: str, limit: int
) -> None:
    took = []
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(served.port)) for _ in range(20)]
        for connection in connections:
            connection.sendall(request_bytes(b"", path, length=limit + 1, kind=kind))
            began = time.perf_counter()
            status, _, body = reply_on(connection)
            took.append((time.perf_counter() - began) * 1000)
            assert status == 413
            assert json.loads(body)["error"]["code"] == "too_large"
        assert all(map(is_closed, connections))  # once the server has waited for the body that does not come
    assert max(took) < 1_000
    record(
        f"413 by Content-Length on {path} as {kind.rsplit('.', 1)[-1]}",
        "413 before the body is read, and closed when none comes; goal 50 ms at any size",
        {"p50_ms": percentile(took, 0.5), "max_ms": percentile(took, 1)},
    )


@pytest.mark.parametrize(
    ("path", "kind", "limit"),
    [
        ("/predict", "application/json", 65_536),
        ("/predict_batch", "application/json", 1 << 20),
        ("/predict_batch", ARROW, MAX_BULK_BYTES),
    ],
)
def test_large_body_in_chunks_is_refused_as_soon_as_it_has_grown_too_large(
    served: Served, path: str, kind: str, limit: int
) -> None:
    took = []
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    for _ in range(5):
        with connected(served.port) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode())
            for _ in range(limit // 65_536):
                connection.sendall(chunk)
            time.sleep(0.3)
            assert select.select([connection], [], [], 0)[0] == [], "answered before it was too large"
            began = time.perf_counter()
            connection.sendall(chunk)
            status, _, body = reply_on(connection)
            took.append((time.perf_counter() - began) * 1000)
            assert is_closed(connection)
        assert status == 413
        assert json.loads(body)["error"]["code"] == "too_large"
    assert max(took) < 1_000
    record(
        f"413 in chunks on {path} as {kind.rsplit('.', 1)[-1]}",
        "413 and closed with the first chunk too many; goal 50 ms at any size",
        {"p50_ms": percentile(took, 0.5), "max_ms": percentile(took, 1)},
    )


def test_bodies_that_wait_for_their_end_take_no_more_memory_than_they_may(served: Served) -> None:
    """Six bodies of 4 MB that never end; the server may hold only 16 MB."""
    part = b" " * (4 << 20)
    held = [connected(served.port) for _ in range(6)]
    for connection in held:
        connection.sendall(request_bytes(part, "/predict_batch", length=len(part) + 10, kind=ARROW))
    time.sleep(1)
    replied = [c for c in held if select.select([c], [], [], 0)[0]]
    assert len(replied) in {2, 3}
    for connection in replied:
        status, head, _ = reply_on(connection)
        assert (status, b"retry-after" in head) == (429, True)
    assert served.predict()["fallback_used"] is False
    for connection in held:
        connection.close()
    again = [connected(served.port) for _ in range(3)]  # what the others held is free again
    for connection in again:
        connection.sendall(request_bytes(part, "/predict_batch", length=len(part) + 10, kind=ARROW))
    time.sleep(1)
    assert [c for c in again if select.select([c], [], [], 0)[0]] == []
    for connection in again:
        connection.close()


# --- too clever ---------------------------------------------------------------------------------------------------


def filled(start: str, piece: str, end: str, limit: int, numbered: bool = False) -> str:
    """A body just below the limit, made of as many pieces as fit."""
    pieces, size, number = [start], len(start) + len(end), 0
    while True:
        made = piece.replace("#", f"{number:x}") if numbered else piece
        if size + len(made) > limit:
            return "".join([*pieces, end])
        pieces.append(made)
        size += len(made)
        number += 1


PREDICT, BATCH = 65_536, 1 << 20
WRONG = {"age": "x", "glucose": [1], "bmi": {}, "bp_systolic": True, **{f"u{i}": 1 for i in range(80)}}
HOSTILE: dict[str, tuple[str, str]] = {
    "nested lists": ("/predict", "[" * (PREDICT - 1)),
    "nested lists, closed": ("/predict", "[" * 32_000 + "]" * 32_000),
    "nested objects in a list": ("/predict", '{"features":' * 900 + "1" + "}" * 900),
    "empty lists": ("/predict", filled('{"features":[', "[],", "[]]}", PREDICT)),
    "empty objects": ("/predict", filled('{"features":[', "{},", "{}]}", PREDICT)),
    "unknown features": ("/predict", filled('{"features":{', '"#":1,', '"age":3}}', PREDICT, numbered=True)),
    "unknown fields": ("/predict", filled("{", '"#":1,', '"features":{}}', PREDICT, numbered=True)),
    "keys with a colon": ("/predict", filled('{"features":{', '":#":1,', '"age":3}}', PREDICT, numbered=True)),
    "the same key": ("/predict", filled('{"features":{', '"a":1,', '"age":3}}', PREDICT)),
    "colons in a text": ("/predict", filled('{"features":{"age":"', ":", '"}}', PREDICT)),
    "long integer": ("/predict", filled('{"features":{"age":1', "0", "}}", PREDICT)),
    "long fraction": ("/predict", filled('{"features":{"glucose":0.', "1", "}}", PREDICT)),
    "long integer and a colon": ("/predict", filled('{"features":{":":":","age":1', "0", "}}", PREDICT)),
    "long text for a number": ("/predict", filled('{"features":{"age":"', "9", '"}}', PREDICT)),
    "small batch of bad rows": ("/predict_batch", filled('{"records":[', "{},", "{}]}", 190)),
    "batch of empty rows": ("/predict_batch", '{"records":[' + "{}," * 999 + "{}]}"),
    "batch row of unknown features": ("/predict_batch", filled('{"records":[{', '"#":1,', '"a":1}]}', PREDICT, numbered=True)),
    "batch of unknown features": ("/predict_batch", filled('{"records":[{', '"#":1,', '"a":1}]}', BATCH, numbered=True)),
    "batch of nested lists": ("/predict_batch", "[" * (BATCH - 1)),
    "batch of empty lists": ("/predict_batch", filled('{"records":[', "[],", "[]]}", BATCH)),
    "batch of keys with a colon": ("/predict_batch", filled('{"records":[{', '":#":1,', '"a":1}]}', BATCH, numbered=True)),
    "batch of colons": ("/predict_batch", filled('{"records":["', ":", '"]}', BATCH)),
    "batch of the same key": ("/predict_batch", filled('{"records":[{', '"a":1,', '"a":1}]}', BATCH)),
    "batch of 1,000 rows": ("/predict_batch", json.dumps({"records": [RECORD] * 1_000})),
    "900 rows, each all wrong": ("/predict_batch", json.dumps({"records": [WRONG] * 900})),
}  # fmt: skip


def test_hostile_bodies_up_to_the_cap_do_not_hold_up_the_others(served: Served) -> None:
    """Longest time of a GET /health, sent all the time while each hostile body is sent ten times in a row."""
    with Load(served.address, "/health", method="GET", rate=100, connections=4) as calm:
        time.sleep(2)
    longest = {"nothing hostile": max(s.latency_ms - s.waited_ms for s in calm.seen)}
    statuses: dict[str, set[int]] = {}
    for name, (path, body) in HOSTILE.items():
        assert len(body) <= (BATCH if path == "/predict_batch" else PREDICT), name
        with Load(served.address, "/health", method="GET", rate=100, connections=4) as ticker:
            time.sleep(0.1)
            sent = Load(served.address, path, [body], rate=100, total=10, connections=1).run()
        statuses[name] = {s.status for s in sent}
        assert failed(ticker.seen) == [], name
        longest[name] = max(s.latency_ms - s.waited_ms for s in ticker.seen)
    for name, found in statuses.items():
        assert found <= {200, 400, 422, 429}, (name, found)
    worst = sorted(longest, key=lambda name: -longest[name])
    assert longest[worst[0]] < 1_000, worst[0]
    record(
        "hostile bodies up to the cap: longest GET /health meanwhile",
        "goal 50 ms",
        {name: round(longest[name], 1) for name in worst},
    )


# --- going away ---------------------------------------------------------------------------------------------------

POOLED = {
    "model-readmissi": Settings().pool_threads,
    "surety-bulk": Settings().bulk_threads,
    "uvloop": min(32, (os.cpu_count() or 1) + 4),  # asyncio's own executor; /status and /metrics use it
    "surety-log": 2,  # with the one that syncs now and then
}
"""Most threads of those that start as they are needed, by name (15 characters). A worker has no others that come and go."""


def test_f16_callers_that_go_away_leave_nothing_behind(served: Served) -> None:
    times = 10_000
    worker = served.worker()
    whole = request_bytes(json.dumps({"features": RECORD}).encode())
    batch = request_bytes(json.dumps({"records": [RECORD] * 200}).encode(), "/predict_batch")
    kinds = (whole[:40], whole[:-10], whole, batch[:-10], whole, batch)
    for raw in kinds:  # what these need once is there before it is counted
        with connected(served.port) as connection:
            connection.sendall(raw)
    served.status()
    time.sleep(1)
    before = (open_files(worker), worker.num_threads(), worker.memory_info().rss)
    base = threads_by_name(worker)
    failures = served.metric("surety_circuit_calls_total", outcome="failure")
    began = time.monotonic()
    for i in range(times):
        connection = connected(served.port)
        connection.sendall(kinds[i % (6 if i % 40 < 6 else 5)])
        if i % 2:  # a reset instead of an orderly end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    took_s = time.monotonic() - began
    until(lambda: open_files(worker) <= before[0] + 2, 15, "descriptors are given back")
    left = (open_files(worker), worker.num_threads(), worker.memory_info().rss)
    threads = threads_by_name(worker)
    assert all(threads[name] <= POOLED.get(name, base[name]) for name in threads), (threads, base)
    assert left[2] - before[2] < 30e6
    assert served.metric("surety_circuit_calls_total", outcome="failure") == failures
    assert served.champion()["circuit"]["state"] == "closed"
    assert served.metric("surety_refused_total", code="internal") == 0
    record(
        "F16 callers disconnect mid-request",
        "descriptors back to base, no more threads than their pools may have, nothing counted against the model",
        {
            "times": times,
            "took_s": round(took_s, 1),
            "more_descriptors": left[0] - before[0],
            "more_threads": left[1] - before[1],
            "more_rss_mb": round((left[2] - before[2]) / 1e6, 1),
        },
    )


# --- too slowly ---------------------------------------------------------------------------------------------------


def drip(served: Served, heads: list[bytes], within_s: float, piece: bytes = b" ") -> tuple[list[float], set[int]]:
    """Open a connection for each head and send one piece per second on each; when (s) each was cut, and the status."""
    began = time.monotonic()
    alive: dict[socket.socket, float] = {}
    for head in heads:
        connection = connected(served.port)
        connection.sendall(head)
        alive[connection] = time.monotonic()
    cut: list[float] = []
    statuses: set[int] = set()
    try:
        next_piece = began + 1
        while alive and time.monotonic() - began < within_s:
            readable, _, _ = select.select(list(alive), [], [], max(0.0, next_piece - time.monotonic()))
            for connection in readable:
                try:
                    data = connection.recv(65_536)
                except ConnectionResetError:
                    data = b""
                if data.startswith(b"HTTP/1.1 "):
                    statuses.add(int(data[9:12]))
                elif not data:
                    cut.append(time.monotonic() - alive.pop(connection))
                    connection.close()
            if time.monotonic() >= next_piece:
                next_piece += 1
                for connection in alive:
                    with suppress(OSError):
                        connection.send(piece)
        assert len(cut) == len(heads), f"{len(heads) - len(cut)} of {len(heads)} are still open after {within_s} s"
    finally:
        for connection in alive:
            connection.close()
    return cut, statuses


def test_f17_bodies_that_drip_do_not_touch_the_others_and_are_cut(served: Served) -> None:
    calm = Load(served.address, bodies=BODIES, rate=100, total=500, connections=16).run()
    head = request_bytes(b" ", length=60_000)
    batch = request_bytes(b" ", "/predict_batch", length=1_000_000)
    with Load(served.address, bodies=BODIES, rate=100, connections=16) as others:
        cut, statuses = drip(served, [head, batch] * 100, BODY_TIMEOUT_S + 5)
    assert statuses == {408}
    assert failed(others.seen) == []
    assert all(not s.flagged for s in others.seen)
    calm_p99, busy_p99 = (percentile([s.latency_ms for s in seen], 0.99) for seen in (calm, others.seen))
    assert busy_p99 < 200
    assert max(cut) <= BODY_TIMEOUT_S + 2
    record(
        "F17 two hundred bodies of a byte a second",
        "the others are unaffected (goal p99 at most 1.2 times), each is cut at the limit (5 s)",
        {
            "others_p99_ms": busy_p99,
            "calm_p99_ms": calm_p99,
            "first_cut_s": round(min(cut), 2),
            "last_cut_s": round(max(cut), 2),
        },
    )


def test_f17_announced_bodies_that_never_begin_are_cut_as_well(served: Served) -> None:
    cut, statuses = drip(served, [request_bytes(b"", length=1_000)] * 50, BODY_TIMEOUT_S + 5, piece=b"")
    assert statuses == {408}
    assert max(cut) <= BODY_TIMEOUT_S + 2
    record("F17 fifty bodies that never begin", "cut at the limit (5 s)", {"last_cut_s": round(max(cut), 2)})


def test_f17_bodies_that_drip_on_after_their_refusal_are_cut_as_well(served: Served) -> None:
    heads = {
        200: request_bytes(b"", "/metrics", length=60_000).replace(b"POST", b"GET"),
        404: request_bytes(b"", "/nothing", length=60_000),
        405: request_bytes(b"", "/health", length=60_000),
        415: request_bytes(b"", length=60_000, kind="text/plain"),
        422: request_bytes(b"", "/predict_batch?on_error=maybe", length=60_000, kind=ARROW),
    }
    cut, statuses = drip(served, list(heads.values()) * 5, BODY_TIMEOUT_S + 5)
    assert statuses == heads.keys()
    record("F17 bodies that drip on after a refusal", "cut at the limit (5 s)", {"last_cut_s": round(max(cut), 2)})


def test_f19_callers_who_went_away_do_not_hold_up_an_end(place: FaultPlace) -> None:
    whole = request_bytes(json.dumps({"features": RECORD}).encode())
    with place.served() as served:
        for raw in (whole[:40], whole[:-10], whole):
            for _ in range(20):
                with connected(served.port) as connection:
                    connection.sendall(raw)
        time.sleep(0.5)
        arbiter = psutil.Process(served.pid)
        began = time.monotonic()
        arbiter.send_signal(signal.SIGTERM)
        try:
            status = arbiter.wait(20)
        except psutil.TimeoutExpired:
            pytest.fail("still there after 20 s")
    assert status == 0
    record(
        "F19 SIGTERM after callers went away",
        "ends at once with exit status 0",
        {"ended_s": round(time.monotonic() - began, 2)},
    )
