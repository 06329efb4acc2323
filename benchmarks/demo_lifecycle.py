"""Shows the whole life of a model on real encounters in some minutes, with late labels (`make demo-lifecycle`).

A model is trained on the first half of Diabetes 130-US by encounter id: the oldest encounters train, the newest judge
(`split.by: time`). Encounters of the second half, without patients of
the first half, are sent at a steady rate. One day takes half a second: a readmission is known after five days, its absence
after thirty.

1. The second half differs from the first. The monitor must notice this, and a model of the newest encounters takes over.
2. One column arrives in another unit, and is corrected.
3. Only patients of 70 and older arrive. The monitor must notice and give the reason, and outcomes must show that coverage
   has held where no coverage alarm is on. A new model of the new mix must make answers valid again.

A retrained model that the gate or the promotion refuses is not served: then the operator recalibrates the champion on the
newest outcomes. No request may fail.

`--day 2` (`DAY=2`) makes a day last two seconds, with as many encounters a day: for a machine that has other work to do.

`--order wards` (`make demo-lifecycle ORDER=wards`) sends each part's encounters in batches of 50 of one kind of discharge
(home, another hospital, nursing care, ...), as wards would, and not shuffled.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pandas as pd
import yaml
from rich.console import Console

from benchmarks.servers import ROOT, Server, home_in, monitor, quantile, serve, surety, surety_beside
from ml_core.base.settings import Settings
from ml_core.features.columns import Column
from ml_core.lab.config import load_config
from ml_core.lab.data.raw_tables import columns_beside, read_source
from ml_core.lab.data.table_frames import write_table
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.rollout.monitor_state import MonitorState, MonitorView
from ml_core.serve.rollout.rollout_store import RolloutStore

PLACE = ROOT / "build" / "demo-lifecycle"
MODEL = "readmission_diabetes130"
CONNECTIONS = 16
USUAL_DAY_S = 0.5
HORIZON_DAYS = 30.0
READMITTED_AFTER_DAYS = 5.0
OLD = "[70-80)"
UNIT = "num_medications"
UNIT_FACTOR = 4
NEWEST_ROWS = 7_000
IN_TIME = {"by": "time", "order_by": "encounter_id"}
"""The split of the first model. Later ones are split by patient again: nobody returns among what was answered."""
MIN_AUC = 0.55
WARD_ROWS = 50
WARD = "discharge_disposition_id"
SEED = 20_140


Order = Literal["shuffled", "wards"]
"""How the encounters of a part come: shuffled, or ward by ward."""


@dataclass
class Phase:
    """One part of the run.

    Attributes
    ----------
    rows : sent during it, in order, each once, ``rate`` a second
    beside : runs at the same time
    ends_with_it : nothing more is sent once that has ended
    """

    name: str
    rows: pd.DataFrame
    rate: float
    beside: Callable[[Demo], Coroutine[Any, Any, None]] | None = None
    ends_with_it: bool = False
    sent: int = 0
    failed: int = 0
    validity: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    began_s: float = 0.0

    def at(self, share: float) -> float:
        return quantile(self.latencies_ms, share)


class Demo:
    """The service, its monitor, the callers who send records and later labels, and the operator."""

    def __init__(
        self, environment: dict[str, str], config: Path, phases: list[Phase], order: Order, day_s: float
    ) -> None:
        self.environment = environment
        self.config = config
        self.phases = phases
        self.order = order
        self.day_s = day_s
        self.now = phases[0]
        self.settings = Settings(home=Path(environment["SURETY_HOME"]), model_name=MODEL)
        self.view = MonitorView(self.settings)
        self.problems: list[str] = []
        self.due: deque[tuple[float, str, int]] = deque()
        self.told = Counter[str]()
        self.server: Server | None = None
        self.console = Console(width=max(140, Console().width))
        self.began = time.perf_counter()

    async def run(self) -> None:
        self.server = await asyncio.to_thread(serve, self.environment)
        try:
            async with monitor(self.environment, "1s", MODEL):
                await self.live()
        finally:
            self.server.stop()

    async def live(self) -> None:
        assert self.server is not None
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        address = f"http://127.0.0.1:{self.server.port}"
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=15) as client:
            telling = asyncio.create_task(self.tell(client))
            for phase in self.phases:
                self.now = phase
                phase.began_s = time.perf_counter() - self.began
                self.console.print(f"[bold]{phase.began_s:6.0f} s  {phase.name}[/bold] ({len(phase.rows)} encounters)")
                working = asyncio.create_task(phase.beside(self)) if phase.beside is not None else None
                await self.ask(client, phase, working if phase.ends_with_it else None)
                if working is not None:
                    await working
                self.console.print(
                    f"          {phase.sent} asked, {phase.failed} failed; p50 {phase.at(0.5):.1f} ms, p99 "
                    f"{phase.at(0.99):.0f} ms; {dict(phase.validity)}; versions {dict(phase.versions)}"
                )
            telling.cancel()

    async def ask(self, client: httpx.AsyncClient, phase: Phase, until: asyncio.Task[None] | None) -> None:
        """Send the encounters of the phase at a steady rate, without waiting for earlier answers, at most until that ends."""
        version = get_feature_version("v2")
        records = list(_records(phase.rows, version))
        outcomes = phase.rows["readmission_30d"].astype(int).tolist()
        tasks: set[asyncio.Task[None]] = set()
        began = time.perf_counter()
        for number, (record, outcome) in enumerate(zip(records, outcomes, strict=True)):
            if until is not None and until.done():
                break
            task = asyncio.create_task(self.one(client, phase, record, outcome))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(max(0.0, began + number / phase.rate - time.perf_counter()))
        if tasks:
            await asyncio.wait(tasks)

    async def one(self, client: httpx.AsyncClient, phase: Phase, record: dict[str, Any], outcome: int) -> None:
        phase.sent += 1
        began = time.perf_counter()
        try:
            reply = await client.post("/predict", json={"features": record})
        except httpx.HTTPError as error:
            phase.failed += 1
            self.problems.append(f"{phase.name}: {type(error).__name__}")
            return
        phase.latencies_ms.append((time.perf_counter() - began) * 1000)
        if reply.status_code != 200:
            phase.failed += 1
            self.problems.append(f"{phase.name}: {reply.status_code} {reply.text[:200]}")
            return
        body = reply.json()
        phase.validity[body["validity"]] += 1
        phase.versions[f"v{body['lineage']['model_version']}"] += 1
        days = READMITTED_AFTER_DAYS if outcome else HORIZON_DAYS
        self.due.append((time.perf_counter() + days * self.day_s, body["request_id"], outcome))

    async def tell(self, client: httpx.AsyncClient) -> None:
        """Send labels once they are known, twice a day."""
        while True:
            await asyncio.sleep(self.day_s)
            now = time.perf_counter()
            known = [(i, outcome) for at, i, outcome in self.due if at <= now]
            self.due = deque(entry for entry in self.due if entry[0] > now)
            for start_ in range(0, len(known), 500):
                part = known[start_ : start_ + 500]
                labels = [{"request_id": i, "label": outcome} for i, outcome in part]
                reply = await client.post("/labels", json={"labels": labels})
                if reply.status_code != 200:
                    self.problems.append(f"labels: {reply.status_code} {reply.text[:200]}")
                    continue
                self.told.update(reply.json())

    async def alarm(self, reason: str, timeout_s: float) -> str | None:
        """Wait for an alarm of the champion; its sentence."""
        ends = time.perf_counter() + timeout_s
        while time.perf_counter() < ends:
            for found in self.alarms():
                if found[0] == reason:
                    return found[1]
            await asyncio.sleep(0.25)
        return None

    def alarms(self) -> list[tuple[str, str]]:
        """Reason and sentence of the alarms that are on for the champion."""
        self.view.look()
        state: MonitorState | None = self.view.state
        models = {} if state is None else state.models
        rollout = RolloutStore(self.settings).read()
        champion = "" if rollout is None else rollout.champion[-8:]
        return [
            (alarm.reason, alarm.says)
            for model_hash, health in models.items()
            for alarm in health.alarms
            if model_hash.startswith(champion)
        ]

    async def surety(self, *arguments: str, statuses: tuple[int, ...] = (0,)) -> Any:
        """Run a command while the load goes on; its JSON."""
        return await surety_beside(self.problems, self.environment, *arguments, statuses=statuses)

    def note(self, text: str) -> None:
        """Record an event with its time."""
        self.now.notes.append(text)
        self.console.print(f"{time.perf_counter() - self.began:8.1f} s  {text}")

    def need(self, holds: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Count an expectation that does not hold."""
        if not holds:
            self.problems.append(what)
            self.console.print(f"[red]          not so: {what}[/red]")


# --- what happens during the load ----------------------------------------------------------------------------------


async def _second_half(demo: Demo) -> None:
    """The second half as it is: every alarm is due to a real difference between the halves."""
    await asyncio.sleep(_lasts_s(demo))
    for reason, says in demo.alarms():
        demo.note(f"alarm {reason}: {says}")


async def _quiet(demo: Demo) -> None:
    """Encounters like those the new model was trained on: no alarm may fire.

    Ward by ward, one kind of patient may come twice in a row, and such a run of 100 raises a coverage alarm now and then
    (docs/monitoring.md). The operator then looks whether coverage lies inside its band, and acknowledges.
    """
    await asyncio.sleep(_lasts_s(demo))
    found = demo.alarms()
    demo.note(f"alarms of the new model: {', '.join(reason for reason, _ in found) or 'none'}")
    if demo.order == "wards" and await _coverage_holds(demo):
        for reason in [reason for reason, _ in found if reason.startswith("coverage:")]:
            why = "coverage lies inside its band; patients of one kind came together"
            await demo.surety("alarms", "acknowledge", reason, "--model", MODEL, "--why", why)
            demo.note(f"{reason} acknowledged: {why}")
        found = [alarm for alarm in found if not alarm[0].startswith("coverage:")]
    demo.need(not found, "an alarm sounded while nothing had changed")


async def _coverage_holds(demo: Demo, *since: str) -> bool:
    """Whether the coverage of each class lies inside the band of a valid model."""
    checked = await demo.surety("coverage", "check", "--model", MODEL, *since, statuses=(0, 3))
    bands = checked.get("bands", [])
    demo.note(f"coverage: {_shown(bands)}")
    return bool(bands) and all(band["inside"] for band in bands)


async def _unit_error(demo: Demo) -> None:
    began = time.perf_counter()
    says = await demo.alarm("drift", _lasts_s(demo))
    demo.need(says is not None, "the unit error raised no drift alarm")
    demo.note(f"drift alarm {time.perf_counter() - began:.1f} s after the unit error began: {says}")
    checked = await demo.surety("drift", "check", "--model", MODEL, "--rows", "1000", statuses=(0, 3))
    drifted = [found["feature"] for found in checked.get("features", []) if found["drifted"]]
    advised = checked.get("retrain_advised")
    demo.note(f"surety drift check: {', '.join(drifted) or 'nothing'} drifted; retraining advised: {advised}")
    demo.need(UNIT in drifted, f"{UNIT} was not named")


async def _mend(demo: Demo) -> None:
    done = await demo.surety(
        "alarms", "acknowledge", "drift", "--model", MODEL, "--why", "unit corrected at the source"
    )
    demo.note(f"mended at the source; {len(done)} alarm(s) acknowledged")


async def _old_only(demo: Demo) -> None:
    began = time.perf_counter()
    says = await demo.alarm("drift", _lasts_s(demo))
    demo.note(f"drift alarm {time.perf_counter() - began:.1f} s after the age shift began: {says}")
    demo.need(says is not None, "the age shift raised no drift alarm")
    await asyncio.sleep(max(0.0, began + _lasts_s(demo) - time.perf_counter()))
    lost = [says for reason, says in demo.alarms() if reason.startswith("coverage:")]
    demo.note(f"coverage alarm since the age shift: {lost[0] if lost else 'none'}")
    holds = await _coverage_holds(demo, "--since", f"{time.perf_counter() - began:.0f}s")
    demo.need(bool(lost) or holds, "coverage was lost, and no alarm says so")
    demo.need("suspect" in demo.now.validity, "no answer said suspect")
    report = PLACE / "report-alarms.html"
    await demo.surety("report", "--model", MODEL, "--out", str(report))
    demo.note(f"report written: {report.relative_to(ROOT)}")


async def _retrain(demo: Demo) -> None:
    await asyncio.sleep(HORIZON_DAYS * demo.day_s)
    began = time.perf_counter()
    done = await demo.surety("retrain", "--config", str(demo.config), "--if-drift", "--shadow")
    demo.note(
        f"surety retrain took {time.perf_counter() - began:.1f} s: {done.get('rows_added')} answers joined the table, "
        f"version {done.get('version')}, gate {done.get('gate')}; because of {', '.join(done.get('reasons', []))}"
    )
    demo.need(bool(done.get("shadow")), f"the new model is not in shadow: {done}")
    await asyncio.sleep(20 * demo.day_s)
    demo.note(f"in shadow: {await _shadowed(demo)}")


async def _shadowed(demo: Demo) -> str:
    """Shadow results of all workers so far."""
    assert demo.server is not None
    async with httpx.AsyncClient() as client:
        status = (await client.get(f"http://127.0.0.1:{demo.server.port}/status")).json()
    found = [process["shadow"] for process in status["workers"]["processes"]]
    scored, agreed, same = (sum(part[name] for part in found) for name in ("scored", "agreed", "same_set"))
    demo.need(scored > 0, "nothing was scored in shadow")
    return f"{scored} scored, {agreed} with the same prediction, {same} with the same set"


async def _promoted(demo: Demo) -> bool:
    done = await demo.surety("promote", "--model", MODEL, "--config", str(demo.config), statuses=(0, 3))
    demo.note(f"surety promote: {done.get('decision')}")
    for rule in done.get("rules", []):
        if rule["verdict"] != "pass":
            demo.note(f"  refused by {rule['rule']}: {rule['value']} against {rule['limit']} {rule['note']}")
    return done.get("decision") == "promoted"


async def _promote(demo: Demo) -> None:
    promoted = await _promoted(demo)
    if not promoted:
        done = await demo.surety("recalibrate", "--config", str(demo.config), "--shadow", statuses=(0, 3))
        demo.note(f"surety recalibrate: version {done.get('version')}, {done.get('rows')}, {done.get('outcome')}")
        promoted = await _promoted(demo)
    demo.need(promoted, "no new model was promoted")
    began = time.perf_counter()
    await demo.surety("rollout", "full", "--model", MODEL, "--why", "promoted")
    for _ in range(1_200):
        await asyncio.sleep(0.1)
        if demo.now.validity["valid"]:
            break
    demo.note(f"first valid answer {time.perf_counter() - began:.1f} s after the change began")
    demo.need(demo.now.validity["valid"] > 0, "no answer became valid after the promotion")


async def _recovered(demo: Demo) -> None:
    await asyncio.sleep(_lasts_s(demo))
    checked = await demo.surety("coverage", "check", "--model", MODEL, statuses=(0, 3))
    demo.note(f"coverage of the new model: {_shown(checked.get('bands', []))}")
    alarms = [d["alarm"] for d in checked.get("detectors", []) if d["on"]]
    holds = all(band["inside"] for band in checked.get("bands", []))
    demo.need(not alarms or (demo.order == "wards" and holds), f"an alarm is on for the new model: {alarms}")
    judged = await demo.surety("performance", "check", "--model", MODEL)
    auc = (judged.get("realised") or {}).get("auc")
    demo.note(f"realised AUC: {None if auc is None else round(auc['value'], 3)}")
    await demo.surety("report", "--model", MODEL, "--out", str(PLACE / "report.html"))
    replayed = await demo.surety("replay", "--model", MODEL, "--since", "1h", "--sample", "500")
    demo.note(f"surety replay of 500: {json.dumps({k: v for k, v in replayed.items() if isinstance(v, int)})}")
    verified = await demo.surety("log", "verify", "--model", MODEL)
    demo.note(f"surety log verify: {json.dumps(verified)[:300]}")


def _lasts_s(demo: Demo) -> float:
    """From the first request of the phase until its last outcome is known and the monitor has looked, seconds."""
    return len(demo.now.rows) / demo.now.rate + HORIZON_DAYS * demo.day_s + 4


def _shown(bands: list[dict[str, Any]]) -> dict[str, str]:
    return {str(band["label"]): f"{band['observed']:.3f} of {band['n']}" for band in bands}


# --- preparation ---------------------------------------------------------------------------------------------------


def prepare(order: Order = "shuffled", day_s: float = USUAL_DAY_S) -> tuple[dict[str, str], Path, list[Phase]]:
    """Train, promote and import a model of the first half; its environment variables, its YAML and the phases."""
    shutil.rmtree(PLACE, ignore_errors=True)
    own = home_in(PLACE, MODEL, SURETY_WORKERS="2", SURETY_DRIFT_WINDOW_ROWS="500")
    environment = {**os.environ, **own, "SURETY_LABEL_HORIZON_DAYS": str(HORIZON_DAYS * day_s / 86_400)}
    past, future, seen = halves(ROOT / "data" / "diabetes130.parquet")
    write_table(past, PLACE / "past.parquet")
    config = yaml.safe_load((ROOT / "configs" / "diabetes130.yaml").read_text())
    config["data"] = {"source": str(PLACE / "past.parquet"), "adapter": "columns"}
    config["gate"]["min_roc_auc"] = (
        MIN_AUC  # the lower end of what is published: readmissions of old patients are harder to predict
    )
    config["retrain"] = {"cool_down_days": 0, "min_new_labels": 1_000, "live_rows": 1_000}
    first, path = PLACE / "past.yaml", PLACE / "demo.yaml"
    first.write_text(yaml.safe_dump({**config, "split": config["split"] | IN_TIME}))
    config["split"]["newest_rows"] = NEWEST_ROWS
    path.write_text(yaml.safe_dump(config))
    print(
        f"{len(past)} encounters are the past; of the second half {seen} are of patients seen in it and left out, "
        f"{len(future)} remain; training…",
        flush=True,
    )
    surety(environment, "example", "--config", str(first))
    phases = _phases(future)
    for phase in phases:
        phase.rate *= USUAL_DAY_S / day_s
        if order == "wards":
            phase.rows = in_wards(phase.rows)
    return environment, path, phases


@cache
def groups_beside() -> tuple[Column, ...]:
    """The columns that only tell groups of patients."""
    groups = load_config(ROOT / "configs" / "diabetes130.yaml").conformal.groups
    return columns_beside(groups, get_feature_version("v2").columns)


def halves(source: Path) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """The first half by encounter id, the second half without patients of the first, and the number left out.

    The second half is shuffled, because the file has no dates and neighbouring ids come from one hospital.
    """
    frame = (
        read_source(source, "diabetes130", "v2", groups_beside())
        .frame.sort_values("encounter_id")
        .reset_index(drop=True)
    )
    half = len(frame) // 2
    past, later = frame.iloc[:half], frame.iloc[half:]
    known = later["patient_nbr"].isin(set(past["patient_nbr"]))
    return past, later[~known].sample(frac=1.0, random_state=SEED).reset_index(drop=True), int(known.sum())


def in_wards(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows in batches of ``WARD_ROWS`` of one kind of discharge, the batches in a seeded random order."""
    ordered = rows.sort_values(WARD, kind="stable")
    batches = np.arange(len(ordered)) // WARD_ROWS
    place = np.random.default_rng(SEED).permutation(int(batches.max(initial=0)) + 1)
    return ordered.iloc[np.argsort(place[batches], kind="stable")].reset_index(drop=True)


def _phases(future: pd.DataFrame) -> list[Phase]:
    cuts = (0, 8_000, 9_300, 10_300, 14_300, 16_300, 17_100)
    second, waiting, change, quiet, unit, mended = (future.iloc[a:b] for a, b in itertools.pairwise(cuts))
    highest = next(c.high for c in get_feature_version("v2").columns if c.name == UNIT)
    wrong = unit.assign(**{UNIT: np.minimum(unit[UNIT] * UNIT_FACTOR, int(highest or 0))})
    old = future.iloc[cuts[-1] :]
    old = old[old["age"] >= OLD]
    aged = [old.iloc[a:b] for a, b in itertools.pairwise((0, 6_500, 7_800, 8_800, 11_800))]
    return [
        Phase("the second half begins", second, 120, _second_half),
        Phase("retraining, then shadow", waiting, 10, _retrain, ends_with_it=True),
        Phase("promotion", change, 20, _promote, ends_with_it=True),
        Phase("as it was", quiet, 100, _quiet),
        Phase(f"{UNIT} in another unit (times {UNIT_FACTOR})", wrong, 100, _unit_error),
        Phase("mended", mended, 100, _mend),
        Phase("only patients of 70 and older", aged[0], 100, _old_only),
        Phase("retraining, then shadow", aged[1], 10, _retrain, ends_with_it=True),
        Phase("promotion", aged[2], 20, _promote, ends_with_it=True),
        Phase("with the new model", aged[3], 60, _recovered),
    ]


def _records(rows: pd.DataFrame, version: Any) -> list[dict[str, Any]]:
    """Encounters as a hospital's system would send them, with the patient's number."""
    features = {column.name: column for column in (*version.features, *groups_beside())}
    found = []
    for row in rows.to_dict("records"):
        record: dict[str, Any] = {"patient_nbr": int(row["patient_nbr"])}
        for name, column in features.items():
            value = row[name]
            if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
                continue
            whole = column.dtype == "int" or (column.levels and isinstance(column.levels[0], int))
            record[name] = int(value) if whole else float(value) if column.dtype == "float" else str(value)
        found.append(record)
    return found


def main() -> None:
    """Run it, write ``result.json``, and exit with 1 if a request failed or an expected event did not happen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_lifecycle", description="A model's whole life.")
    parser.add_argument("--order", choices=("shuffled", "wards"), default="shuffled", help="how encounters come")
    parser.add_argument("--day", type=float, default=USUAL_DAY_S, help="seconds that a day lasts")
    chosen = parser.parse_args()
    demo = Demo(*prepare(chosen.order, chosen.day), chosen.order, chosen.day)
    asyncio.run(demo.run())
    sent, failed = sum(p.sent for p in demo.phases), sum(p.failed for p in demo.phases)
    summary = {
        "sent": sent,
        "failed": failed,
        "labels": dict(demo.told),
        "problems": demo.problems,
        "phases": [
            {
                "name": p.name, "began_s": round(p.began_s, 1), "sent": p.sent, "failed": p.failed,
                "validity": dict(p.validity), "versions": dict(p.versions), "p50_ms": p.at(0.5), "p99_ms": p.at(0.99),
                "notes": p.notes,
            }
            for p in demo.phases
        ],
    }  # fmt: skip
    (PLACE / "result.json").write_text(json.dumps(summary, indent=2))
    print(f"{sent} requests, {failed} failed; {len(demo.problems)} things that were not as promised")
    if failed or demo.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
