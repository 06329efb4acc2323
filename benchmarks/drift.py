"""Measures the cost of a drift check: `python -m benchmarks.drift`."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp

from ml_core.features.columns import Column
from ml_core.lab.drift.detect import detect_drift
from ml_core.lab.drift.drift_report import Rule
from ml_core.lab.drift.ks import distance_of_sorted, p_values
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.lab.training.training_reference import reference_bytes

FEATURES = 20
REFERENCE_ROWS = 100_000
CURRENT_ROWS = 1_000
LARGE = 10_000_000
ROUNDS = 30
LARGE_ROUNDS = 3

Row = tuple[str, str, str, str]


def ms_each(work: Callable[[], object], rounds: int) -> list[float]:
    """Milliseconds of each of several calls, after one call that is not counted."""
    work()
    found = []
    for _ in range(rounds):
        before = time.perf_counter()
        work()
        found.append((time.perf_counter() - before) * 1e3)
    return found


def rows(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Rows of twenty features; in every second feature one value in twenty is missing."""
    found = {f"x{i}": rng.normal(size=n) for i in range(FEATURES)}
    for i in range(0, FEATURES, 2):
        found[f"x{i}"][rng.random(n) < 0.05] = np.nan
    return found


def published(reference: dict[str, np.ndarray]) -> ReferenceWindow:
    """The reference as a model carries it: at most 10,000 order statistics per column."""
    columns = tuple(Column(name, "float", "X.", nullable=True) for name in reference)
    patients = np.arange(REFERENCE_ROWS)
    raw = reference_bytes(columns, reference, patients, np.full((100, 1), 0.5), np.arange(100), (0,))
    return ReferenceWindow.read(raw, columns)


def loop_of_scipy(reference: dict[str, np.ndarray], current: dict[str, np.ndarray]) -> list[bool]:
    """The same rule as a loop over ``scipy.stats.ks_2samp``."""
    found = []
    for name, before in reference.items():
        a, b = before[~np.isnan(before)], current[name][~np.isnan(current[name])]
        found.append(bool(ks_2samp(a, b).pvalue < 0.05 and abs(b.mean() - a.mean()) > 0.1 * a.std()))
    return found


def one_window() -> list[Row]:
    """Time 1,000 current rows of 20 features against the reference of a model."""
    rng = np.random.default_rng(0)
    reference, current = rows(rng, REFERENCE_ROWS), rows(rng, CURRENT_ROWS)
    window, frame = published(reference), pd.DataFrame(current)
    scipy = statistics.median(ms_each(lambda: loop_of_scipy(reference, current), 3))

    def row(rule: Rule, goal: str) -> Row:
        took = ms_each(lambda: detect_drift(window, frame, rule=rule), ROUNDS)
        told = f"{statistics.median(took):.1f} ({min(took):.1f} at best)"
        return (f"20 features x 1,000 rows, {rule}, ms", told, goal, "against a model's reference of 100,000 rows")

    basic = row("ks_mean_shift", "<= 15")
    ratio = scipy / float(basic[1].split()[0])
    return [
        basic,
        row("extended", "<= 15"),
        ("  a loop of ks_2samp over ours", f"{ratio:.0f} (loop {scipy:.0f} ms)", "", "all 100,000 rows each time"),
    ]


def large_windows() -> list[Row]:
    """Time 10^7 against 10^7 values of one feature, from unsorted values to the p-value."""
    rng = np.random.default_rng(1)
    before, now = rng.normal(size=LARGE), rng.normal(size=LARGE)
    whole = ms_each(lambda: p_values([distance_of_sorted(np.sort(before), np.sort(now))]), LARGE_ROUNDS)
    ordered = np.sort(before)
    sorted_once = ms_each(lambda: p_values([distance_of_sorted(ordered, np.sort(now))]), LARGE_ROUNDS)
    scipy = ms_each(lambda: ks_2samp(before, now), LARGE_ROUNDS)
    ours, once, theirs = (statistics.median(found) for found in (whole, sorted_once, scipy))
    return [
        (
            "10^7 x 10^7, ks_2samp over ours",
            f"{theirs / ours:.1f} ({theirs:.0f} / {ours:.0f} ms)",
            ">= 5",
            "both sorted",
        ),
        ("  with the reference sorted once", f"{theirs / once:.1f} ({once:.0f} ms)", "", "as a monitor has it"),
    ]


def figures() -> list[Row]:
    return [*one_window(), *large_windows()]


def main() -> None:
    for row in figures():
        print(" | ".join(row))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, numpy {np.__version__}"
    )


if __name__ == "__main__":
    main()
