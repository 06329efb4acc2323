"""Starts a server, waits until it is ready, and reads the CPU and memory of its whole process tree."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


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
