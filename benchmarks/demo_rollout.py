"""Runs every change and fault under a steady load in three minutes, with a live table (`make demo-rollout`).

A new version is imported, runs in shadow, gets a tenth of the traffic, becomes champion, and is rolled back. A corrupt model
is offered. The process of the runner is killed, slowed down, made to raise, and healed. At the end the program checks that no
request failed, that only verified and gated models answered, and that each answer names the model that gave it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from rich.console import Console, Group
from rich.live import Live as LiveTable
from rich.table import Table
from rich.text import Text

from benchmarks.servers import ROOT, Server, home_in, monitor, quantile, serve, surety, surety_beside
from ml_core.base.settings import Settings
from ml_core.serve.rollout.rollout_store import RolloutStore

PLACE = ROOT / "build" / "demo-rollout"
PROBE = ROOT / "tests" / "faults" / "probe"
MODEL = "readmission_risk"
RATE = 60
CONNECTIONS = 24
RECORD = {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148}


@dataclass
class Phase:
    """One part of the run, and its results."""

    name: str
    seconds: float
    begin: Callable[[Demo], Awaitable[None]] | None = None
    sent: int = 0
    failed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    slots: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    note: str = ""

    def at(self, share: float) -> float:
        return quantile(self.latencies_ms, share)


class Demo:
    """The service, the load on it, and the operator."""

    def __init__(self, environment: dict[str, str], versions: dict[str, str]) -> None:
        self.environment = environment
        self.versions = versions  # model hash -> version, of gated models only
        self.settings = Settings(home=Path(environment["SURETY_HOME"]), model_name=MODEL)
        self.fault = Path(environment["SURETY_TEST_FAULT"])
        self.phases = _phases()
        self.now = self.phases[0]
        self.problems: list[str] = []
        self.server: Server | None = None

    async def run(self) -> None:
        self.break_model()
        self.server = await asyncio.to_thread(serve, self.environment, "service:SuretyIsolated")
        console = Console(width=max(150, Console().width))
        try:
            async with monitor(self.environment, "2s", MODEL):
                with LiveTable(self.table(), console=console, refresh_per_second=4) as live:
                    load = asyncio.create_task(self.load(live))
                    for phase in self.phases:
                        self.now = phase
                        if phase.begin is not None:
                            await phase.begin(self)
                        await asyncio.sleep(phase.seconds)
                    load.cancel()
                    live.update(self.table())
        finally:
            self.server.stop()

    async def load(self, live: LiveTable) -> None:
        """Send requests at a steady rate, without waiting for earlier answers."""
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        assert self.server is not None
        address = f"http://127.0.0.1:{self.server.port}"
        tasks: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=10) as client:
            began, number = time.perf_counter(), 0
            while True:
                task = asyncio.create_task(self.one(client, number))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
                if number % (RATE // 2) == 0:
                    live.update(self.table())
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))

    async def one(self, client: httpx.AsyncClient, number: int) -> None:
        phase = self.now
        phase.sent += 1
        record = {**RECORD, "age": 18 + number % 80}
        began = time.perf_counter()
        try:
            reply = await client.post("/predict", json={"features": record, "subject": f"patient-{number % 997}"})
        except httpx.HTTPError as error:
            phase.failed += 1
            phase.statuses[type(error).__name__] += 1
            return
        phase.latencies_ms.append((time.perf_counter() - began) * 1000)
        phase.statuses[str(reply.status_code)] += 1
        if reply.status_code != 200:
            phase.failed += 1
            return
        self.check(phase, reply)

    def check(self, phase: Phase, reply: httpx.Response) -> None:
        body = reply.json()
        lineage = body["lineage"]
        version = self.versions.get(lineage["model_hash"])
        if version is None:
            self.problems.append(f"{phase.name}: an answer from {lineage['model_hash'][:12]}, which is not gated")
            return
        if lineage["model_version"] != version or reply.headers["x-model-hash"] != lineage["model_hash"]:
            self.problems.append(f"{phase.name}: lineage does not fit together")
        if (
            body["fallback_used"] != (lineage["slot"] not in {"champion", "challenger"})
            and lineage["slot"] != "champion"
        ):
            self.problems.append(f"{phase.name}: a degraded answer is not flagged")
        phase.slots[lineage["slot"]] += 1
        phase.versions[f"v{version}"] += 1
        if body["fallback_reason"] is not None:
            phase.reasons[body["fallback_reason"]] += 1

    def table(self) -> Group:
        table = Table(title=f"{RATE} requests a second, service:SuretyIsolated, 2 workers and a runner")
        for heading in ("phase", "sent", "failed", "slots", "versions", "fallback reasons", "p50 ms", "p99 ms", "note"):
            table.add_column(heading, overflow="fold")
        for phase in self.phases:
            if not phase.sent:
                continue
            table.add_row(
                Text(phase.name, style="bold" if phase is self.now else ""), str(phase.sent),
                Text(str(phase.failed), style="red" if phase.failed else "green"), _counts(phase.slots),
                _counts(phase.versions), _counts(phase.reasons), f"{phase.at(0.5):.1f}", f"{phase.at(0.99):.0f}",
                phase.note,
            )  # fmt: skip
        return Group(table, *(Text(problem, style="red") for problem in self.problems[:5]))

    async def surety(self, *arguments: str, status: int = 0) -> Any:
        """Run a command while the load goes on."""
        return await surety_beside(self.problems, self.environment, *arguments, statuses=(status,))

    def break_model(self, *rules: dict[str, Any]) -> None:
        draft = self.fault.with_suffix(".new")
        draft.write_text(json.dumps({"rules": list(rules)}))
        draft.replace(self.fault)


# --- the phases ---------------------------------------------------------------------------------------------------


async def _import(demo: Demo) -> None:
    found = await demo.surety("import-model", "--model", MODEL, "--version", "2")
    demo.now.note = found.get("tag", "")


async def _shadow(demo: Demo) -> None:
    await demo.surety("rollout", "shadow", "v2", "--model", MODEL, "--why", "demo")


async def _canary(demo: Demo) -> None:
    shown = await demo.surety("rollout", "show", "--model", MODEL)
    demo.now.note = f"generation {shown.get('generation')}"
    await demo.surety("rollout", "canary", "0.1", "--model", MODEL, "--why", "demo")


async def _full(demo: Demo) -> None:
    await demo.surety("rollout", "full", "--model", MODEL, "--why", "demo")


async def _rollback(demo: Demo) -> None:
    await demo.surety("rollout", "rollback", "--model", MODEL, "--why", "demo")


async def _corrupt(demo: Demo) -> None:
    """Offer a damaged model: by the command, which must refuse it, and by the state file, which the workers must refuse."""
    tag = next(t for t in _tags(demo) if t.endswith("deadbeef"))
    await demo.surety("rollout", "full", tag, "--model", MODEL, status=1)
    store = RolloutStore(demo.settings)
    await asyncio.to_thread(
        store.change, lambda state: state.model_copy(update={"champion": tag}), why="demo: around every check"
    )
    await asyncio.sleep(3)
    assert demo.server is not None
    async with httpx.AsyncClient() as client:
        status = (await client.get(f"http://127.0.0.1:{demo.server.port}/status")).json()
    demo.now.note = f"refused: {status['problem']}"
    if not status["problem"]:
        demo.problems.append("a corrupt model was not refused")
    good = next(t for t in _tags(demo) if t.rpartition(":")[2].startswith("v1-"))
    await asyncio.to_thread(
        store.change, lambda state: state.model_copy(update={"champion": good}), why="demo: and back"
    )


def _tags(demo: Demo) -> list[str]:
    stored = Path(demo.environment["BENTOML_HOME"]) / "models" / MODEL
    return [f"{MODEL}:{p.name}" for folder in (stored, demo.settings.models / MODEL) for p in folder.glob("v*")]


async def _kill(demo: Demo) -> None:
    assert demo.server is not None
    for process in psutil.Process(demo.server.process.pid).children(recursive=True):
        if "SuretyRunner" in " ".join(process.cmdline()):
            demo.now.note = f"kill -9 of the runner, pid {process.pid}"
            process.send_signal(signal.SIGKILL)


async def _slow(demo: Demo) -> None:
    demo.break_model({"do": "sleep", "ms": 800})


async def _raise(demo: Demo) -> None:
    demo.break_model({"do": "raise"})


async def _heal(demo: Demo) -> None:
    demo.break_model()


def _phases() -> list[Phase]:
    return [
        Phase("champion", 12),
        Phase("import of v2", 8, _import),
        Phase("shadow", 18, _shadow),
        Phase("canary 10 %", 18, _canary),
        Phase("full", 12, _full),
        Phase("rollback", 12, _rollback),
        Phase("corrupt model offered", 10, _corrupt),
        Phase("runner killed", 20, _kill),
        Phase("runner slow", 15, _slow),
        Phase("runner raises", 15, _raise),
        Phase("recovered", 25, _heal),
    ]


# --- preparation ---------------------------------------------------------------------------------------------------


def prepare() -> tuple[dict[str, str], dict[str, str]]:
    """Make separate stores: v1 promoted and imported, v2 gated and still in MLflow, and a damaged copy of v2."""
    shutil.rmtree(PLACE, ignore_errors=True)
    own = home_in(PLACE, MODEL, SURETY_WORKERS="2", SURETY_CIRCUIT_WAIT_S="4", SURETY_CIRCUIT_WAIT_MAX_S="8")
    environment = {
        **os.environ,
        **own,
        "SURETY_TEST_FAULT": str(PLACE / "fault.json"),
        "PYTHONPATH": f"{PROBE}:{ROOT}",
    }
    config = yaml.safe_load((ROOT / "configs" / "readmission_v1.yaml").read_text())
    config["data"]["source"] = str(PLACE / "cohort.parquet")
    hashes = {}
    for version, seed in (("1", config["seed"]), ("2", 99)):
        path = PLACE / f"v{version}.yaml"
        path.write_text(yaml.safe_dump({**config, "seed": seed}))
        if version == "1":
            found = surety(environment, "example", "--config", str(path))
        else:
            found = surety(environment, "train", "--config", str(path))
            surety(environment, "validate", "--model", MODEL, "--config", str(path))
        hashes[found["model_hash"]] = version
    stored = next((PLACE / "bentoml" / "models" / MODEL).glob("v1-*"))
    damaged = PLACE / "home" / "models" / MODEL / "v9-deadbeef"
    shutil.copytree(stored, damaged)
    onnx = damaged / "mlflow_model" / "artifacts" / "bundle" / "model.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-1] + b"\x00")
    return environment, hashes


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counter.most_common())


def main() -> None:
    print("making two models…", flush=True)
    demo = Demo(*prepare())
    asyncio.run(demo.run())
    sent, failed = sum(p.sent for p in demo.phases), sum(p.failed for p in demo.phases)
    summary = {
        "sent": sent,
        "failed": failed,
        "problems": demo.problems,
        "phases": [
            {
                "name": p.name, "sent": p.sent, "failed": p.failed, "slots": dict(p.slots), "versions": dict(p.versions),
                "reasons": dict(p.reasons), "p50_ms": p.at(0.5), "p99_ms": p.at(0.99), "note": p.note,
            }
            for p in demo.phases
        ],
    }  # fmt: skip
    (PLACE / "result.json").write_text(json.dumps(summary, indent=2))
    print(f"{sent} requests, {failed} failed, {len(demo.problems)} broken promises")
    if failed or demo.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
