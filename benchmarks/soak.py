"""A long run at half of the capacity, while the circuit opens and closes (`make soak MINUTES=20`).

A real service with two workers, the log and a monitor gets requests at a steady rate. Every few minutes an operator forces
the circuit open, or the model fails until the circuit opens. Memory, descriptors, threads, the WAL files of the log and the
99th percentile of every minute must not grow. The exit status is 1 if one of them certainly grows. If the run was too short
to decide, the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.servers import ROOT
from benchmarks.trends import CONFIDENCE, Trend, Verdict, trend, verdict
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.rollout.changes import circuit
from tests.e2e.conftest import walk, written_config
from tests.faults.figures import FIGURES
from tests.faults.load import Load, answered, degraded, failed, percentile
from tests.faults.place import MODEL, RECORDS, FaultPlace, Served, until

PLACE = ROOT / "build" / "soak"
WORKERS, CONNECTIONS = 2, 16
SAMPLE_S = 5.0
FORCED_S = 5.0
"""Seconds for which the circuit stays open or the model fails."""
WAIT_S = 5
"""First wait of the circuit before it probes; short, so that one flap ends before the next."""
RSS_MB_PER_HOUR, P99_DRIFT = 1.0, 0.10
MORE_DESCRIPTORS, MORE_THREADS = 4.0, 2.0
"""Growth that does not count: samples differ by some connections."""
WAL_DRIFT = 0.10
LEAST_MINUTES = 10.0
"""Minutes of judged samples that are needed to call a series broken: a service that has just started still grows."""
BODIES = [{"features": record} for record in RECORDS]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of the processes.

    Attributes
    ----------
    at_s : monotonic
    rss_mb, descriptors, threads : sums over the server's process tree
    monitor_rss_mb : of the monitor
    wal_kb : of the log's WAL files together
    """

    at_s: float
    rss_mb: float
    descriptors: int
    threads: int
    monitor_rss_mb: float
    wal_kb: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """One minute of the run (less in a short run): its load, and the medians of its samples.

    ``failed`` counts requests by status, or by the error of the connection.
    """

    at_min: float
    sent: int
    failed: dict[str, int]
    flagged: int
    p99_ms: float
    rss_mb: float
    descriptors: float
    threads: float
    monitor_rss_mb: float
    wal_kb: float


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how often and how fast.

    Attributes
    ----------
    stretch_s : length of one stretch, which is one point of every series
    warm_up : stretches that are not judged
    flap_s : from one opening of the circuit to the next
    """

    minutes: float
    stretch_s: float
    warm_up: int
    flap_s: float

    @classmethod
    def of(cls, minutes: float, flap_minutes: float | None) -> Plan:
        """A run of that length; a point is a minute, the warm-up half an hour or a quarter of the run."""
        stretch_s = 60.0 if minutes >= 10 else max(5.0, minutes * 5)
        warm_up = round(min(30.0, minutes / 4) * 60 / stretch_s)
        flap = flap_minutes if flap_minutes is not None else (10.0 if minutes >= 120 else min(2.0, minutes / 4))
        return cls(minutes, stretch_s, warm_up, flap * 60)

    @property
    def stretches(self) -> int:
        return round(self.minutes * 60 / self.stretch_s)


@dataclass(frozen=True, slots=True)
class Row:
    """One promise: what was found, and whether it holds."""

    what: str
    found: str
    promise: str
    verdict: Verdict


@dataclass
class Run:
    """The parts of a soak run, and its samples so far."""

    served: Served
    place: FaultPlace
    monitor: psutil.Process
    samples: list[Sample] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    flaps: int = 0
    sent: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    answered: int = 0

    def look(self) -> None:
        """Sample every process; one that has just ended is left out."""
        rss, descriptors, threads = 0, 0, 0
        root = psutil.Process(self.served.pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess), process.oneshot():
                rss += process.memory_info().rss
                descriptors += process.num_fds()
                threads += process.num_threads()
        wal = sum(path.stat().st_size for path in self.place.settings.log.glob("*-wal"))
        own = self.monitor.memory_info().rss
        self.samples.append(Sample(time.monotonic(), rss / 1e6, descriptors, threads, own / 1e6, wal / 1e3))

    def stretch(self, rate: float, seconds: float, began_s: float) -> Stretch:
        """Send load for some seconds; the samples and results of that stretch."""
        first = len(self.samples)
        at_min = (time.monotonic() - began_s) / 60
        load = Load(
            self.served.address, bodies=BODIES, rate=rate, total=round(rate * seconds), connections=CONNECTIONS, timeout_s=30
        )  # fmt: skip
        seen = load.run()
        lost = Counter(request.error or str(request.status) for request in failed(seen))
        self.sent += len(seen)
        self.failed += lost
        self.answered += len(answered(seen))
        looks = self.samples[first:] or self.samples[-1:]

        def middle(of: Callable[[Sample], float]) -> float:
            return statistics.median(map(of, looks))

        found = Stretch(
            at_min=round(at_min, 2),
            sent=len(seen),
            failed=dict(lost),
            flagged=len(degraded(seen)),
            p99_ms=percentile([s.latency_ms for s in seen], 0.99),
            rss_mb=middle(lambda s: s.rss_mb),
            descriptors=middle(lambda s: s.descriptors),
            threads=middle(lambda s: s.threads),
            monitor_rss_mb=middle(lambda s: s.monitor_rss_mb),
            wal_kb=middle(lambda s: s.wal_kb),
        )
        self.stretches.append(found)
        return found

    def flap(self) -> None:
        """Open the circuit for a moment, in turn by an operator and by a failing model."""
        if self.flaps % 2 == 0:
            self.place.change(circuit("champion", "forced_open"))
            time.sleep(FORCED_S)
            self.place.change(circuit("champion", "auto", reset=True))
        else:
            self.place.break_model({"do": "raise"})
            time.sleep(FORCED_S)
            self.place.break_model()
        self.flaps += 1


# --- what was promised --------------------------------------------------------------------------------------------


def judge(
    stretches: Sequence[Stretch], stretch_s: float, *, failed_requests: Mapping[str, int], lost_rows: int
) -> list[Row]:
    """The verdict on every promise, from the stretches after the warm-up."""
    minutes = max(len(stretches) - 1, 1) * stretch_s / 60

    def row(what: str, found: Trend, limit: float, sign: str = "<=") -> Row:
        said = verdict(found, limit)
        told = f"{found.growth:+.3g} ({found.low:+.3g} to {found.high:+.3g})"
        return Row(what, told, f"{sign} {limit:g}", "open" if said == "broken" and minutes < LEAST_MINUTES else said)

    def drift(values: Sequence[float]) -> Trend:
        middle = statistics.median(values) or 1.0
        return trend([value / middle for value in values])

    return [
        Row("failed requests", _counts(failed_requests), "0", "broken" if failed_requests else "holds"),
        Row("answers not in the log", f"{lost_rows:,}", "0", "broken" if lost_rows else "holds"),
        row("service, MB/h", trend([s.rss_mb for s in stretches]).per(minutes / 60), RSS_MB_PER_HOUR, "<"),
        row("monitor, MB/h", trend([s.monitor_rss_mb for s in stretches]).per(minutes / 60), RSS_MB_PER_HOUR, "<"),
        row("descriptors more at the end", trend([s.descriptors for s in stretches]), MORE_DESCRIPTORS),
        row("threads more at the end", trend([s.threads for s in stretches]), MORE_THREADS),
        row("WAL files, drift over the run", drift([s.wal_kb for s in stretches]), WAL_DRIFT, "<"),
        row("p99, drift over the run", drift([s.p99_ms for s in stretches]), P99_DRIFT, "<"),
    ]


def _counts(kinds: Mapping[str, int]) -> str:
    told = ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items()))
    return f"{sum(kinds.values()):,}" + (f" ({told})" if told else "")


# --- the run ------------------------------------------------------------------------------------------------------


def prepared() -> FaultPlace:
    """A home with the example's model and no answers; the first run makes the model."""
    place = FaultPlace(PLACE, MODEL)
    if not (PLACE / "made").exists():
        place.surety("data", "make", "--out", "data/cohort.parquet", "--rows", "12000")
        walk(place, written_config(place, "readmission_v1.yaml"))
        (PLACE / "made").touch()
    for name in ("log", "labels", "monitor", "workers", "rollout", "shadow"):
        shutil.rmtree(place.home / name, ignore_errors=True)
    for log in PLACE.glob("serve-*.log"):
        log.unlink()
    place.break_model()
    return place


@contextmanager
def running(place: FaultPlace) -> Iterator[Run]:
    """The service with its workers and the monitor beside it."""
    with place.served(SURETY_WORKERS=str(WORKERS), SURETY_CIRCUIT_WAIT_S=str(WAIT_S)) as served:
        command = [sys.executable, "-m", "ml_core.cli.main", "monitor", "--every", "10s", "--model", MODEL]
        quiet = subprocess.DEVNULL
        monitor = subprocess.Popen(command, cwd=ROOT, env=place.environment(), stdout=quiet, stderr=quiet)
        try:
            until(lambda: len(place.reports()) == WORKERS, 30, "all workers report")
            yield Run(served, place, psutil.Process(monitor.pid))
            if monitor.poll() is not None:
                raise SystemExit(f"the monitor ended with status {monitor.returncode}")
        finally:
            monitor.terminate()
            monitor.wait(30)


def capacity(run: Run) -> float:
    """Answers per second with every connection busy and the load generator on the same machine, without the first round."""
    path = PLACE / "bodies.jsonl"
    path.write_text("\n".join(map(json.dumps, BODIES)))
    command = [sys.executable, "-m", "benchmarks.load", str(run.served.port), "/predict", str(path), str(CONNECTIONS)]
    found = 0.0
    for total in (2_000, 10_000):
        done = subprocess.run([*command, str(total)], cwd=ROOT, check=True, capture_output=True, timeout=300)
        result = json.loads(done.stdout)
        if result["statuses"] != {"200": total}:
            raise SystemExit(f"not every request was answered: {result['statuses']}")
        run.sent += total
        run.answered += total
        found = float(result["per_second"])
    return found


def enough_room(run: Run, rate: float, plan: Plan) -> None:
    """Exit if the log of the run would not fit on the disk."""
    used = sum(path.stat().st_size for path in run.place.settings.log.rglob("*") if path.is_file())
    needed = used / run.answered * rate * plan.minutes * 60
    free = shutil.disk_usage(PLACE).free
    if needed > 0.8 * free:
        most = int(rate * 0.8 * free / needed)
        raise SystemExit(f"the log would take {needed / 1e9:.0f} GB of {free / 1e9:.0f} GB free: --rate {most} fits")


@contextmanager
def in_background(run: Run, flap_s: float) -> Iterator[None]:
    """Take samples and open circuits while the block runs; an error there is raised at its end."""
    ended = threading.Event()
    problems: list[Exception] = []

    def again(every_s: float, do: Callable[[], None]) -> None:
        while not ended.wait(every_s):
            try:
                do()
            except Exception as error:  # noqa: BLE001 - the main thread reports every error
                problems.append(error)
                return

    threads = [
        threading.Thread(target=again, args=(SAMPLE_S, run.look)),
        threading.Thread(target=again, args=(flap_s, run.flap)),
    ]
    run.look()
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    if problems:
        raise problems[0]


def stored(place: FaultPlace) -> int:
    """Number of answers in the log, after all writers have ended."""
    reader, ever = PredictionLog(place.settings.log), timedelta(days=3)
    now = datetime.now(UTC)
    return sum(reader.given(file, now - ever, now + ever)[0] for file in reader.files())


def soak(plan: Plan, rate: float | None) -> tuple[Run, float, list[Row]]:
    """Carry out the plan; returns the run, the rate and the verdicts."""
    console = Console(width=130)
    place = prepared()
    with running(place) as run:
        most = capacity(run)
        rate = rate if rate is not None else most / 2
        enough_room(run, rate, plan)
        console.print(
            f"{most:.0f} answers a second at most; soaking at {rate:.0f} a second for {plan.minutes:g} minutes"
        )
        began_s = time.monotonic()
        with in_background(run, plan.flap_s):
            for number in range(plan.stretches):
                seen = run.stretch(rate, plan.stretch_s, began_s)
                note = "  (warm-up)" if number < plan.warm_up else ""
                console.print(
                    f"{seen.at_min:7.1f} min  {seen.sent:,} sent  {_counts(seen.failed)} failed  {seen.flagged:,} flagged  p99 {seen.p99_ms} ms  "
                    f"{seen.rss_mb:.1f} MB  {seen.descriptors:.0f} fds  {seen.threads:.0f} threads  WAL {seen.wal_kb:.0f} kB{note}"
                )
        until(lambda: run.served.champion()["circuit"]["state"] == "closed", 60, "the circuit closes")
    lost = run.answered - stored(place)
    judged = run.stretches[plan.warm_up :]
    return run, rate, judge(judged, plan.stretch_s, failed_requests=run.failed, lost_rows=lost)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (20; the nightly job 480)")
    parser.add_argument("--rate", type=float, default=None, help="requests a second (half of the measured capacity)")
    parser.add_argument("--flap-minutes", type=float, default=None, help="from one opening of the circuit to the next")
    options = parser.parse_args()
    plan = Plan.of(options.minutes, options.flap_minutes)
    run, rate, rows = soak(plan, options.rate)
    show(plan, run, rows)
    told = {
        "plan": asdict(plan),
        "rate": rate,
        "rows": [asdict(r) for r in rows],
        "stretches": [asdict(s) for s in run.stretches],
    }
    (PLACE / "result.json").write_text(json.dumps(told, indent=2))
    if options.minutes >= 20:
        keep(plan, run, rate, rows)
    return 1 if any(row.verdict == "broken" for row in rows) else 0


def show(plan: Plan, run: Run, rows: Sequence[Row]) -> None:
    """Print the verdicts and their data as a table."""
    judged = len(run.stretches) - plan.warm_up
    table = Table(
        title=f"Soak of {plan.minutes:g} minutes: {run.sent:,} requests, {run.flaps} openings of the circuit",
        caption=f"intervals at {CONFIDENCE:.1%} over {judged} points of {plan.stretch_s:g} s; load {os.getloadavg()[0]:.1f}",
    )
    for heading in ("what", "found", "promise", "verdict"):
        table.add_column(heading)
    for row in rows:
        table.add_row(row.what, row.found, row.promise, {"open": "too short to tell"}.get(row.verdict, row.verdict))
    Console(width=130).print(table)


def keep(plan: Plan, run: Run, rate: float, rows: Sequence[Row]) -> None:
    """Keep the figures for docs/reliability.md."""
    figure: dict[str, Any] = {"requests": run.sent, "a second": round(rate), "openings of the circuit": run.flaps}
    figure |= {row.what: f"{row.found} {_SAID[row.verdict]}" for row in rows}
    FIGURES.record(
        f"F20 soak of {plan.minutes:g} minutes at half of the capacity, circuit flapping every {plan.flap_s / 60:g} minutes",
        "no failed request and no lost row; memory below 1 MB/h, descriptors, threads and WAL files flat, p99 drift below 10 %",
        figure,
        test=f"{Path(__file__).relative_to(ROOT)}::soak[{plan.minutes:g}]",
    )


_SAID: dict[Verdict, str] = {"holds": "holds", "broken": "BROKEN", "open": "(too short to tell)"}


if __name__ == "__main__":
    raise SystemExit(main())
