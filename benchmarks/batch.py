"""Measures scoring and drift checks of many rows, by one process and by two: `python -m benchmarks.batch`.

The rows are those of the hospital example, repeated as row groups. A second run uses what the first has made.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.prepare import CONFIG, PLACE
from benchmarks.servers import ROOT, home_in, surety
from ml_core.base.settings import Settings
from ml_core.lab.config import load_config
from ml_core.lab.data.feature_store import FeatureStore

GROUP_ROWS = 65_536
FILES = 4


@dataclass(frozen=True)
class Measured:
    """One command: its wall clock and CPU time in seconds, and the largest memory of one process and of all, in MB."""

    rows: int
    wall: float
    cpu: float
    largest: float
    together: float

    def line(self, what: str) -> str:
        return (
            f"| {what} | {self.rows:,} | {self.wall:.1f} | {self.rows / self.wall:,.0f} "
            f"| {self.cpu / self.rows * 1e6:.2f} | {self.largest:.0f} | {self.together:.0f} |"
        )


def table_of(rows: int, files: int) -> Path:
    """A folder of so many rows in row groups that are all alike, in some files."""
    folder = PLACE / f"batch-{rows}-{files}"
    if (folder / "_done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = load_config(CONFIG)
    frame = FeatureStore(Settings(home=PLACE / "home").feature_store, config.model).read(config.feature_version)
    group = pa.Table.from_pandas(frame.head(GROUP_ROWS), preserve_index=False)
    each = rows // files
    for number in range(files):
        with pq.ParquetWriter(folder / f"{number}.parquet", group.schema) as writer:
            for start in range(0, each, GROUP_ROWS):
                writer.write_table(group.slice(0, min(GROUP_ROWS, each - start)))
    (folder / "_done").touch()
    return folder


def measured(rows: int, environment: dict[str, str], *arguments: str) -> Measured:
    """Run a command to its end, and look at its processes meanwhile."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    command = [sys.executable, "-m", "ml_core.cli.main", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    peaks = [0.0, 0.0]
    watch = threading.Thread(target=_watch, args=(process.pid, peaks))
    watch.start()
    status = process.wait()
    wall = time.perf_counter() - started
    watch.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status not in (0, 3):
        raise SystemExit(f"surety {' '.join(arguments)} ended with status {status}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(rows, wall, cpu, peaks[0] / 2**20, peaks[1] / 2**20)


def _watch(pid: int, peaks: list[float]) -> None:
    """Resident memory of a process and its children, five times a second."""
    while True:
        try:
            parent = psutil.Process(pid)
            sizes = [process.memory_info().rss for process in (parent, *parent.children(recursive=True))]
            if parent.status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        peaks[0], peaks[1] = max(peaks[0], *sizes), max(peaks[1], sum(sizes))
        time.sleep(0.2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    rows, rounds = (asked := parser.parse_args()).rows, asked.rounds
    config = load_config(CONFIG)
    environment = {**os.environ, **home_in(PLACE, config.model), "PYTHONPATH": str(ROOT)}
    surety(environment, "example", "--config", str(CONFIG))
    few, many = table_of(rows // 8, FILES), table_of(rows, FILES)
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"{rows:,} rows of {config.model}; {os.cpu_count()} cores; load {loads}\n")
    print("| | rows | s | rows/s | CPU us/row | MB, largest process | MB, together |\n|---|---|---|---|---|---|---|")
    out = PLACE / "batch-answers"
    walls: dict[int, list[float]] = {1: [], 2: []}
    cpus: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for folder, n, processes in ((few, rows // 8, 1), (many, rows, 1), (many, rows, 2)):
            shutil.rmtree(out, ignore_errors=True)
            found = measured(n, environment, "score", str(folder), str(out), "--processes", str(processes))
            print(found.line(f"score, {processes} process{'es' * (processes - 1)}"), flush=True)
            if folder == many:
                walls[processes].append(found.wall)
                cpus[processes].append(found.cpu)
    shutil.rmtree(out, ignore_errors=True)
    reference = str(next(few.glob("*.parquet")))
    for folder, n, processes in ((few, rows // 8, 1), (many, rows, 1), (many, rows, 2)):
        asked_for = ("--feature-version", config.feature_version, "--rule", "extended", "--processes", str(processes))
        found = measured(
            n, environment, "drift", "check", "--reference", reference, "--current", str(folder), *asked_for
        )
        print(found.line(f"drift, {processes} process{'es' * (processes - 1)}"), flush=True)
    one, two = min(walls[1]), min(walls[2])
    print(f"\ntwo processes are {one / two:.2f} x one; their CPU time a row is {min(cpus[2]) / min(cpus[1]):.2f} x")


if __name__ == "__main__":
    main()
