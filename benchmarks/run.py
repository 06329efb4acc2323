"""Measures every figure in one run and prints one table and the machine (`make bench`).

CPU is the CPU time of the server's whole process tree, divided by the number of answers. On a shared machine it varies less
than elapsed time. Servers that are compared run at the same time and take turns. A ratio is the median of the ratios of all pairs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks import breaker, keys
from benchmarks.prepare import PLACE, Prepared, bulk_index, prepare
from benchmarks.servers import ROOT, Server, free_port, load, start

ROUNDS = 5
CONNECTIONS = 4
REQUESTS = 10_000

Row = tuple[str, str, str, str]


def serve_ours(service: str = "service:Surety", **settings: str) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port)]
    return start(command, port, ready="/readyz", env=settings)


def serve_echo(python: str) -> Server:
    port = free_port()
    target = "benchmarks.baselines.echo_service:Echo"
    return start([python, "-m", "bentoml", "serve", target, "--port", str(port)], port, ready="/readyz")


def serve_naive(model: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.baselines.naive_app:app", "--port", str(port)]
    return start([*command, "--log-level", "warning"], port, ready="/ready", env={"NAIVE_MODEL": str(model)})


def serve_bare(model: Path, rows: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.baselines.bare_app:app", "--port", str(port)]
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    environment = {"BARE_MODEL": str(model), "BARE_ROWS": str(rows)}
    return start([*command, *options], port, ready="/", env=environment)


def watch(prepared: Prepared) -> subprocess.Popen[bytes]:
    """Run the monitor beside the service; its CPU does not count as the service's."""
    command = [sys.executable, "-m", "ml_core.cli.main", "monitor", "--every", "10s", "--model", prepared.model]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def median(values: list[float]) -> float:
    return statistics.median(values)


def per_request(prepared: Prepared) -> list[Row]:
    """CPU per answer of our service, a bare server, stock echo and the naive server, in turns; the tail; memory."""
    echo, ours, naive = serve_echo(prepared.stock_python), serve_ours(), serve_naive(prepared.naive)
    bare = serve_bare(*prepared.bare)
    monitor = watch(prepared)
    try:
        for server, n in ((echo, 500), (ours, 2_000), (bare, 2_000), (naive, 50)):
            load(server, "/predict", prepared.bodies, CONNECTIONS, n)
        found: dict[str, list[dict[str, Any]]] = {"echo": [], "ours": [], "bare": [], "naive": []}
        for _ in range(ROUNDS):
            found["echo"].append(load(echo, "/predict", prepared.bodies, CONNECTIONS, REQUESTS // 2))
            found["ours"].append(load(ours, "/predict", prepared.bodies, CONNECTIONS, REQUESTS))
            found["bare"].append(load(bare, "/predict", prepared.bodies, CONNECTIONS, REQUESTS))
            found["naive"].append(load(naive, "/predict", prepared.bodies, CONNECTIONS, 300))
        rss = ours.worker_rss_mb()
    finally:
        monitor.terminate()
        for server in (echo, ours, bare, naive):
            server.stop()
    cpu = {name: [r["cpu_ms"] for r in rounds] for name, rounds in found.items()}
    to_echo = [o / e for o, e in zip(cpu["ours"], cpu["echo"], strict=True)]
    to_bare = [o / b for o, b in zip(cpu["ours"], cpu["bare"], strict=True)]
    to_naive = [n / o for o, n in zip(cpu["ours"], cpu["naive"], strict=True)]
    tail = [r["p99_ms"] / r["p50_ms"] for r in found["ours"]]
    p50, p99 = (median([r[k] for r in found["ours"]]) for k in ("p50_ms", "p99_ms"))
    spread = f"{min(cpu['ours']):.2f}-{max(cpu['ours']):.2f}"
    return [
        (
            "CPU per /predict, ms",
            f"{median(cpu['ours']):.3f} ({spread})",
            "<= 0.9",
            "on the event loop; 10,000 different records; log committed before the reply, metrics and monitor on",
        ),
        (
            "  of stock BentoML's echo",
            f"{median(to_echo):.3f} (echo {median(cpu['echo']):.2f} ms)",
            "<= 0.35",
            "same run",
        ),
        (
            "  of a bare ASGI server with the same model",
            f"{median(to_bare):.2f} (bare {median(cpu['bare']):.3f} ms)",
            "<= 4",
            "same run; it checks, keeps and promises nothing",
        ),
        (
            "context switches an answer",
            f"{median([r['switches'] for r in found['ours']]):.1f}",
            "<= 4",
            f"4 connections; the bare server {median([r['switches'] for r in found['bare']]):.1f}",
        ),
        (
            "  naive FastAPI + MAPIE over ours",
            f"{median(to_naive):.0f} (naive {median(cpu['naive']):.1f} ms)",
            ">= 30",
            "",
        ),
        ("p99 over p50 at 4 connections", f"{median(tail):.1f} ({p99:.2f} / {p50:.2f} ms)", "<= 4", ""),
        (
            "answers per second, 4 connections",
            f"{median([r['per_second'] for r in found['ours']]):.0f}",
            "",
            "one worker",
        ),
        ("worker's resident memory, MB", f"{rss:.0f}", "<= 250", f"after {ROUNDS * REQUESTS:,} answers"),
    ]


def extras(prepared: Prepared) -> list[Row]:
    """CPU per request that shadow mode, a canary and a separate model process add, in turns with the plain service."""
    plain = serve_ours()
    try:
        rows = [
            _with_rollout(plain, prepared, *change) for change in (("shadow", []), ("canary", ["0.5", "--unguarded"]))
        ]
    finally:
        plain.stop()
    others = {
        "on the pool, CPU per /predict, ms": (
            "as a slow model runs: a thread and a deadline",
            {"SURETY_INLINE_ROWS": "0"},
        ),
        "in a process of its own, CPU per /predict, ms": ("SuretyIsolated, 4 connections", None),
    }
    for what, (note, settings) in others.items():
        other = serve_ours("service:SuretyIsolated") if settings is None else serve_ours(**settings)
        inline = serve_ours()
        try:
            rows.append((what, _side_by_side(inline, other, prepared), "", note))
        finally:
            inline.stop()
            other.stop()
    return rows


def _side_by_side(inline: Server, other: Server, prepared: Prepared) -> str:
    """CPU per answer of another way to run the model, and its ratio to that on the event loop."""
    for server in (inline, other):
        load(server, "/predict", prepared.bodies, CONNECTIONS, 1_000)
    found: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        ours = load(inline, "/predict", prepared.bodies, CONNECTIONS, REQUESTS // 2)["cpu_ms"]
        theirs = load(other, "/predict", prepared.bodies, CONNECTIONS, REQUESTS // 5)["cpu_ms"]
        found.append((float(str(ours)), float(str(theirs))))
    return f"{median([t for _, t in found]):.2f} ({median([t / o for o, t in found]):.1f} times the loop)"


def _with_rollout(server: Server, prepared: Prepared, change: str, arguments: list[str]) -> Row:
    """CPU that a mode adds; rounds with the mode and without it take turns."""
    added = []
    for _ in range(ROUNDS):
        before = float(str(load(server, "/predict", prepared.bodies, CONNECTIONS, REQUESTS // 2)["cpu_ms"]))
        _surety(prepared, "rollout", change, *arguments, prepared.other_version)
        try:
            during = float(str(load(server, "/predict", prepared.bodies, CONNECTIONS, REQUESTS // 2)["cpu_ms"]))
        finally:
            _surety(prepared, "rollout", "rollback")
        added.append(during - before)
    where = "after the reply, every request" if change == "shadow" else "half of the traffic"
    return (f"{change} adds, CPU per /predict, ms", f"{median(added):+.3f}", "", where)


def _surety(prepared: Prepared, *arguments: str) -> None:
    command = [sys.executable, "-m", "ml_core.cli.main", *arguments, "--model", prepared.model]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def ready(prepared: Prepared) -> list[Row]:
    """Seconds from the command to ``/readyz``, in turns."""
    ratios, seconds = [], []
    for server in (serve_echo(prepared.stock_python), serve_ours()):  # not counted: Python compiles modules
        server.stop()
    for _ in range(ROUNDS):
        pair = []
        for server in (serve_echo(prepared.stock_python), serve_ours()):
            pair.append(server.ready_s)
            server.stop()
        ratios.append(pair[1] / pair[0])
        seconds.append(pair[1])
    return [
        ("ready, of stock echo", f"{median(ratios):.2f} ({median(seconds):.2f} s)", "<= 1.25", "model verified, golden")
    ]


def timed(call: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of one call in this process."""
    call()
    found = []
    for _ in range(repeats):
        before = time.process_time()
        call()
        found.append(time.process_time() - before)
    return median(found)


def in_process(prepared: Prepared) -> list[Row]:
    """Cost from the parsed body to the envelope, and of the conformal step alone, over 2,000 different records."""
    from ml_core.base.settings import load_settings
    from ml_core.serve.answering.inference import InferenceService
    from ml_core.serve.answering.requests import parse_predict
    from ml_core.serve.model.loader import ModelLoader
    from ml_core.serve.worker.assembly import Assembler

    settings = load_settings()
    live, problem = Assembler(settings, ModelLoader(settings)).assemble(None, None)
    if live is None:
        raise SystemExit(problem)
    service = InferenceService(live)
    bodies = [json.loads(line) for line in prepared.bodies.read_bytes().splitlines()[:2_000]]
    calibration, level = live.champion.calibration, live.champion.level

    async def answers() -> list[Any]:
        return [await service.predict(parse_predict(body)) for body in bodies]

    async def encoded() -> None:
        for body in bodies:
            orjson.dumps(await service.predict(parse_predict(body)))

    probas = [answer.probability or 0.0 for answer in asyncio.run(answers())]
    pairs = [[1.0 - p, p] for p in probas]
    gc.collect()
    gc.freeze()  # as a worker does once it is warm

    def conformal() -> None:
        for pair in pairs:
            calibration.row(pair, level)

    us = 1e6 / len(bodies)
    return [
        (
            "in process, parsed body to envelope, us",
            f"{timed(lambda: asyncio.run(answers()), 7) * us:.0f}",
            "<= 200",
            "distinct records, circuit, fallback and rollout wiring on",
        ),
        ("  with the reply's bytes, us", f"{timed(lambda: asyncio.run(encoded()), 7) * us:.0f}", "", ""),
        ("conformal step, us a row", f"{timed(conformal, 7) * us:.1f}", "<= 15", "p-values, set, prediction"),
        *bulk(prepared, live.champion.model.predictor.scorer),
    ]


def bulk(prepared: Prepared, scorer: Any) -> list[Row]:
    """Cost of 100,000 rows over HTTP as an Arrow stream, and of the scorer alone on the finished matrix."""
    matrix = prepared.rows.matrix[bulk_index(prepared.rows)]
    server = serve_ours()
    rows: list[Row] = []
    try:
        headers = {"content-type": "application/vnd.apache.arrow.stream"}
        ratios: dict[str, list[float]] = {"plain": [], "coded": []}
        seconds: list[float] = []
        for _ in range(ROUNDS):
            alone = timed(lambda: scorer.proba(matrix), 1)
            for form, body in (("plain", prepared.plain), ("coded", prepared.coded)):
                before, began = server.cpu_seconds(), time.perf_counter()
                reply = httpx.post(
                    f"http://127.0.0.1:{server.port}/predict_batch", content=body, headers=headers, timeout=120
                )
                reply.raise_for_status()
                seconds.append(time.perf_counter() - began)
                ratios[form].append((server.cpu_seconds() - before) / alone)
        for form, words in (("coded", "categories dictionary-encoded"), ("plain", "categories as plain text")):
            rows.append(("bulk 100,000 rows, CPU over scorer alone", f"{median(ratios[form]):.2f}", "<= 2", words))
        records = [json.loads(line)["features"] for line in prepared.bodies.read_bytes().splitlines()[:1_000]]
        batch: list[float] = []
        for _ in range(ROUNDS):
            before = server.cpu_seconds()
            for _ in range(10):
                httpx.post(
                    f"http://127.0.0.1:{server.port}/predict_batch", json={"records": records}
                ).raise_for_status()
            batch.append((server.cpu_seconds() - before) * 100)
        rows.append(("JSON batch of 1,000 records, ms CPU", f"{median(batch):.0f}", "", "the default row cap"))
        rows.append(
            ("seconds for a bulk call of 100,000", f"{median(seconds):.2f}", "", f"scorer alone {alone:.2f} s CPU")
        )
    finally:
        server.stop()
    return rows


def machine() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").open() if line.startswith("model name")), ""
    )
    load_now = os.getloadavg()[0]
    return f"{os.cpu_count()} x {cpu}, Python {platform.python_version()}, numpy {np.__version__}, load {load_now:.1f}"


def main() -> None:
    prepared = prepare()
    rows = [
        *per_request(prepared),
        *ready(prepared),
        *extras(prepared),
        *breaker.figures(),
        *keys.figures(),
        *in_process(prepared),
    ]
    table = Table(title="Surety, one run", caption=machine())
    for heading in ("what", "found", "goal", "note"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=130).print(table)
    (PLACE / "figures.json").write_text(json.dumps({"machine": machine(), "figures": rows}, indent=2))


if __name__ == "__main__":
    main()
