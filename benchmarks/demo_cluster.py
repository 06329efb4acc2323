"""Shows one service on three machines under a steady load in two minutes, with a live table (`make demo-cluster`).

The machines are network namespaces of this one, with two workers each, behind HAProxy; two of them have a monitor, too.
Database and object store stand apart. A new version is imported on one machine and gets a third of the traffic on all of
them. One machine is cut off from the stores, and is connected again. Another dies with its disk, and is replaced. The
canary becomes champion and is rolled back, from machines that take turns. At the end the program checks that no request
failed but those that were under way on the machine that died, that all machines obeyed every change, and that a canary is
held where nobody could take it back. Needs root, iproute2, PostgreSQL and HAProxy (`make system-packages`).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from _pytest.outcomes import OutcomeException
from rich.console import Console, Group
from rich.live import Live as LiveTable
from rich.table import Table
from rich.text import Text

from benchmarks.servers import ROOT, quantile
from tests.cluster.machines import Machine
from tests.cluster.running import BODIES, WORKERS, Running, running

PLACE = ROOT / "build" / "demo-cluster"
RATE = 60
CONNECTIONS = 32
DIED_S = 5.0
"""How long requests may go unanswered after a machine has died: until the balancer has noticed."""


@dataclass
class Phase:
    """One part of the run, and its results."""

    name: str
    seconds: float
    begin: Callable[[Demo], Awaitable[None]] | None = None
    sent: int = 0
    failed: int = 0
    machines: Counter[str] = field(default_factory=Counter)
    slots: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    note: str = ""

    def at(self, share: float) -> float:
        return quantile(self.latencies_ms, share)


class Demo:
    """The service, the load on it, and the operators."""

    def __init__(self, service: Running) -> None:
        self.service = service
        self.phases = _phases()
        self.now = self.phases[0]
        self.problems: list[str] = []
        self.told: dict[str, dict[str, Any]] = {}
        self.died_at = float("-inf")

    async def run(self) -> None:
        console = Console(width=max(150, Console().width))
        with LiveTable(self.table(), console=console, refresh_per_second=4) as live:
            tasks = [asyncio.create_task(self.load()), asyncio.create_task(self.look(live))]
            for phase in self.phases:
                self.now = phase
                ends = time.monotonic() + phase.seconds
                if phase.begin is not None:
                    await phase.begin(self)
                await asyncio.sleep(max(0.0, ends - time.monotonic()))
            for task in tasks:
                task.cancel()
            live.update(self.table())

    async def load(self) -> None:
        """Send requests at a steady rate, without waiting for earlier answers."""
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        address, headers = f"http://127.0.0.1:{self.service.port}", self.service.cluster.headers
        tasks: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=10, headers=headers) as client:
            began, number = time.perf_counter(), 0
            while True:
                task = asyncio.create_task(self.one(client, number))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))

    async def one(self, client: httpx.AsyncClient, number: int) -> None:
        phase, began = self.now, time.monotonic()
        phase.sent += 1
        try:
            reply = await client.post("/predict", json=BODIES[number % len(BODIES)])
        except httpx.HTTPError as error:
            self.fail(phase, began, type(error).__name__)
            return
        phase.latencies_ms.append((time.monotonic() - began) * 1000)
        if reply.status_code != 200:
            self.fail(phase, began, str(reply.status_code))
            return
        lineage = reply.json()["lineage"]
        phase.machines[lineage["served_by"]["machine"]] += 1
        phase.slots[lineage["slot"]] += 1

    def fail(self, phase: Phase, began: float, what: str) -> None:
        phase.failed += 1
        if not began - DIED_S <= self.died_at <= began + DIED_S:
            self.problems.append(f"{phase.name}: a request failed ({what})")

    async def look(self, live: LiveTable) -> None:
        """Ask every machine twice a second how it is, and show it."""
        async with httpx.AsyncClient(timeout=10, headers=self.service.cluster.headers) as client:
            while True:
                for machine in list(self.service.machines):
                    with suppress(httpx.HTTPError):
                        self.told[machine.name] = (await client.get(f"{machine.address}/status", timeout=1)).json()
                live.update(self.table())
                await asyncio.sleep(0.5)

    def table(self) -> Group:
        table = Table(title=f"{RATE} requests a second, three machines, {WORKERS} workers each")
        for heading in ("phase", "sent", "failed", "answers by machine", "slots", "p50 ms", "p99 ms", "note"):
            table.add_column(heading, overflow="fold")
        for phase in self.phases:
            if phase.sent:
                table.add_row(
                    Text(phase.name, style="bold" if phase is self.now else ""), str(phase.sent),
                    Text(str(phase.failed), style="red" if phase.failed else "green"), _counts(phase.machines),
                    _counts(phase.slots), f"{phase.at(0.5):.1f}", f"{phase.at(0.99):.0f}", phase.note,
                )  # fmt: skip
        told = [Text(f"{name}: {_in_words(status)}") for name, status in sorted(self.told.items())]
        return Group(table, *told, *(Text(problem, style="red") for problem in self.problems[:5]))

    async def surety(self, machine: Machine, *arguments: str) -> Any:
        """Run a command on a machine while the load goes on."""
        done = await asyncio.to_thread(machine.command, *arguments)
        self.need(done.returncode == 0, f"surety {' '.join(arguments)}: {done.stderr[-300:]}")
        return json.loads(done.stdout) if done.stdout.strip() else {}

    async def changed(self, machine: Machine, *arguments: str) -> None:
        """Change the rollout from a machine; every worker of all machines must obey."""
        done = await self.surety(machine, "rollout", *arguments, "--why", "demo")
        obeying, there = done.get("workers_obeying", 0), done.get("workers_alive", -1)
        self.need(obeying == there, f"{obeying} of {there} workers obey")
        self.now.note = f"from {machine.name}; {obeying} workers obey generation {done.get('generation')}"

    async def status(self, machine: Machine) -> dict[str, Any]:
        return await asyncio.to_thread(machine.served.status)

    def need(self, holds: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Count an expectation that does not hold."""
        if not holds:
            self.problems.append(f"{self.now.name}: {what}")


# --- the phases ---------------------------------------------------------------------------------------------------


async def _import(demo: Demo) -> None:
    first = demo.service.machines[0]
    found = await demo.surety(first, "import-model", "--model", first.place.model, "--version", "2")
    demo.now.note = f"{found.get('tag')} on {first.name}"


async def _canary(demo: Demo) -> None:
    await demo.changed(demo.service.machines[1], "canary", "0.33", "v2")


async def _cut(demo: Demo) -> None:
    cut_off = demo.service.machines[2]
    cut_off.host.cut()
    await asyncio.sleep(demo.now.seconds - 3)
    status = await demo.status(cut_off)
    demo.need(status["rollout"]["canary_held"], "the machine that is cut off does not hold the canary")
    demo.now.note = f"{cut_off.name}: {'; '.join(status['notes'])}"


async def _heal(demo: Demo) -> None:
    healed = demo.service.machines[2]
    healed.host.heal()
    began = time.monotonic()
    for _ in range(300):
        if not (await demo.status(healed))["rollout"]["canary_held"]:
            break
        await asyncio.sleep(0.1)
    demo.now.note = f"{healed.name} lets the canary answer again after {time.monotonic() - began:.1f} s"


async def _death(demo: Demo) -> None:
    dying = demo.service.machines[0]
    demo.died_at = time.monotonic()
    await asyncio.to_thread(dying.die)
    demo.told.pop(dying.name, None)
    await asyncio.sleep(6)
    machines = (await demo.status(demo.service.machines[1]))["home"]["machines"]
    seen = next(m for m in machines if m["machine"] == dying.name)
    demo.need(seen["alive"] == 0, "the others do not know that a machine has died")
    demo.now.note = f"{dying.name} is gone; at most {seen['at_risk']} answers were on its disk alone"


async def _replaced(demo: Demo) -> None:
    dead = next(machine for machine in demo.service.machines if not machine.host.is_there)
    made = demo.service.cluster.machine(instead_of=dead)
    began = time.monotonic()
    made.serve(WORKERS)
    await asyncio.to_thread(made.until_ready)
    made.monitor()
    demo.now.note = f"{made.name} answers {time.monotonic() - began:.1f} s after its start, with an empty disk"


async def _full(demo: Demo) -> None:
    await demo.changed(demo.service.machines[2], "full")


async def _rollback(demo: Demo) -> None:
    await demo.changed(demo.service.machines[0], "rollback")


def _phases() -> list[Phase]:
    return [
        Phase("champion", 8),
        Phase("import on one machine", 10, _import),
        Phase("canary 33 %", 12, _canary),
        Phase("one machine cut off", 24, _cut),
        Phase("connected again", 8, _heal),
        Phase("one machine dies", 12, _death),
        Phase("replaced", 18, _replaced),
        Phase("full", 10, _full),
        Phase("rollback", 10, _rollback),
    ]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counter.items()))


def _in_words(status: dict[str, Any]) -> str:
    rollout = status["rollout"] or {}
    held = ", canary held" if rollout.get("canary_held") else ""
    silence = status["home"]["silence_s"]
    away = f", home silent for {silence:.0f} s" if silence and silence > 2 else ""
    return f"{status['health']}, generation {rollout.get('generation')}, {rollout.get('mode')}{held}{away}"


def main() -> None:
    """Run it, write ``result.json``, and exit with 1 if a promise was broken."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    print("making two models and three machines…", flush=True)
    try:
        with running(PLACE / "machines", imported=(1,)) as service:
            demo = Demo(service)
            asyncio.run(demo.run())
    except OutcomeException as missing:
        raise SystemExit(str(missing)) from missing
    sent, failed = sum(p.sent for p in demo.phases), sum(p.failed for p in demo.phases)
    phases = [
        {
            "name": p.name, "sent": p.sent, "failed": p.failed, "machines": dict(p.machines), "slots": dict(p.slots),
            "p50_ms": p.at(0.5), "p99_ms": p.at(0.99), "note": p.note,
        }
        for p in demo.phases
    ]  # fmt: skip
    summary = {"sent": sent, "failed": failed, "problems": demo.problems, "phases": phases}
    (PLACE / "result.json").write_text(json.dumps(summary, indent=2))
    print(f"{sent} requests, {failed} failed while a machine died, {len(demo.problems)} broken promises")
    if demo.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
