"""Homes, commands and servers for benchmarks, and the CPU and memory of a whole process tree."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent


def home_in(place: Path, model: str, **more: str) -> dict[str, str]:
    """Environment of a home and a Bento store of their own under that folder."""
    (place / "bentoml").mkdir(parents=True, exist_ok=True)
    return {
        "SURETY_HOME": str(place / "home"),
        "BENTOML_HOME": str(place / "bentoml"),
        "SURETY_MODEL_NAME": model,
        "BENTOML_DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **more,
    }


def surety(environment: Mapping[str, str] | None, *arguments: str, statuses: tuple[int, ...] = (0,)) -> Any:
    """Run a command of surety in that environment and no other, or in this process's; its result."""
    command = [sys.executable, "-m", "ml_core.cli.main", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    if done.returncode not in statuses:
        raise SystemExit(f"surety {' '.join(arguments)} ended with status {done.returncode}")
    return json.loads(done.stdout) if done.stdout.strip() else {}


async def surety_beside(
    problems: list[str], environment: Mapping[str, str], *arguments: str, statuses: tuple[int, ...] = (0,)
) -> Any:
    """The same, asynchronously; another status is added to the problems."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ml_core.cli.main", *arguments, cwd=ROOT, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    if process.returncode not in statuses:
        problems.append(f"surety {' '.join(arguments)}: {process.returncode} {err.decode()[-300:]}")
    return json.loads(out) if out.strip() else {}


@asynccontextmanager
async def monitor(environment: Mapping[str, str], every: str, model: str) -> AsyncIterator[None]:
    """``surety monitor``, running."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ml_core.cli.main", "monitor", "--every", every, "--model", model, cwd=ROOT,
        env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


def quantile(values: list[float], share: float) -> float:
    """The value below which that share of them lies; 0 without any."""
    found = sorted(values)
    return found[min(len(found) - 1, int(share * len(found)))] if found else 0.0


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Server:
    """A running server and the port it listens on."""

    port: int
    process: subprocess.Popen[bytes]
    ready_s: float

    def tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system seconds of the whole tree so far."""
        total = 0.0
        for process in self.tree():
            times = process.cpu_times()
            total += times.user + times.system
        return total

    def context_switches(self) -> int:
        """Times that the kernel has switched away from a thread of the tree so far, asked for or not."""
        return sum(
            int(line.split()[1])
            for process in self.tree()
            for task in Path(f"/proc/{process.pid}/task").iterdir()
            for line in (task / "status").read_text().splitlines()
            if "ctxt_switches" in line
        )

    def worker_rss_mb(self) -> float:
        """Resident memory of the largest process of the tree, MB."""
        return max(p.memory_info().rss for p in self.tree()) / 1e6

    def stop(self) -> None:
        for process in reversed(self.tree()):
            process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            for process in self.tree():
                process.kill()


def start(
    command: list[str], port: int, *, ready: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> Server:
    """Start a command and wait until ``GET ready`` answers 200."""
    log = open(os.environ.get("BENCH_LOG", os.devnull), "ab")
    # Every server may keep its compiled modules, as an installed one does.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env={**environment, **(env or {})}, stdout=log, stderr=log)
    while time.perf_counter() - began < 120:
        if process.poll() is not None:
            raise SystemExit(f"{command} ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=2) as reply:
                if reply.status == 200:
                    return Server(port, process, time.perf_counter() - began)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.02)
    raise SystemExit(f"{command} was not ready within 120 s")


def serve(environment: Mapping[str, str], service: str = "service:Surety") -> Server:
    """``bentoml serve`` of a service of ours, ready."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port)]
    return start(command, port, ready="/readyz", env=environment)


def load(server: Server, path: str, bodies: Path, connections: int, total: int) -> dict[str, object]:
    """Run the load generator in a separate process; its result with the CPU (ms) and context switches per answer."""
    arguments = [str(server.port), path, str(bodies), str(connections), str(total)]
    before, switches = server.cpu_seconds(), server.context_switches()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *arguments], cwd=ROOT, check=True, capture_output=True, timeout=900
    )
    cpu = server.cpu_seconds() - before
    result: dict[str, object] = json.loads(done.stdout)
    if result["statuses"] != {"200": total}:
        raise SystemExit(f"not every request was answered: {result['statuses']}")
    result["cpu_ms"] = 1000 * cpu / total
    result["switches"] = (server.context_switches() - switches) / total
    return result
