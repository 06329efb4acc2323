"""Measures the cost of a call through the circuit breaker: `python -m benchmarks.breaker`."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Callable

from ml_core.base.errors import CircuitOpen
from ml_core.serve.running.circuit_breaker import CircuitBreaker

CALLS = 200_000
ROUNDS = 7
THREADS = 16


def us_each(work: Callable[[], object]) -> float:
    """Microseconds of one call in one thread; the median of several rounds."""
    found = []
    for _ in range(ROUNDS):
        before = time.perf_counter()
        for _ in range(CALLS):
            work()
        found.append((time.perf_counter() - before) / CALLS * 1e6)
    return statistics.median(found)


def us_among_threads(breaker: CircuitBreaker) -> list[float]:
    """Microseconds of each acquire and succeed, in threads that do nothing else; sorted."""
    found: list[list[int]] = [[] for _ in range(THREADS)]
    start = threading.Barrier(THREADS)

    def run(mine: list[int]) -> None:
        start.wait()
        for _ in range(CALLS // THREADS):
            before = time.perf_counter_ns()
            breaker.succeed(breaker.acquire(), 1.0)
            mine.append(time.perf_counter_ns() - before)

    threads = [threading.Thread(target=run, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(ns / 1000 for mine in found for ns in mine)


def figures() -> list[tuple[str, str, str, str]]:
    breaker, timed, refusing = CircuitBreaker("counted"), CircuitBreaker("timed", window_s=60.0), CircuitBreaker("open")
    refusing.override("forced_open")

    def refused() -> None:
        with contextlib.suppress(CircuitOpen):
            refusing.acquire()

    among = us_among_threads(CircuitBreaker("shared"))
    p50, p99 = among[len(among) // 2], among[len(among) * 99 // 100]
    return [
        ("breaker, us a call", f"{us_each(lambda: breaker.succeed(breaker.acquire(), 1.0)):.2f}", "<= 3", "one thread"),
        ("  with a time window", f"{us_each(lambda: timed.succeed(timed.acquire(), 1.0)):.2f}", "<= 3", "one thread"),
        ("  a refusal", f"{us_each(refused):.2f}", "<= 1000", "exception included"),
        (f"  p50 at {THREADS} threads", f"{p50:.2f} (p99 {p99:.2f})", "<= 10", f"{CALLS:,} calls that do nothing else"),
    ]


def main() -> None:
    for row in figures():
        print(" | ".join(row))


if __name__ == "__main__":
    main()
