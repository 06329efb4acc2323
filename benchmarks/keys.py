"""Measures the cost of checking a key, and whether the time reveals the key: `python -m benchmarks.keys`."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from ml_core.serve.http.api_keys import KeyRing, add_key

CALLS, BLOCK = 100_000, 500
KEYS = 20


def us_each(ring: KeyRing, key: bytes) -> float:
    """Microseconds of CPU per check, measured over a block of checks."""
    before = time.thread_time_ns()
    for _ in range(BLOCK):
        ring.holder(key)
    return (time.thread_time_ns() - before) / BLOCK / 1000


def compared(ring: KeyRing, first: bytes, second: bytes) -> tuple[float, float]:
    """Median microseconds of both, measured in turns because the speed of the machine varies."""
    pairs = [(us_each(ring, first), us_each(ring, second)) for _ in range(CALLS // BLOCK)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def figures() -> list[tuple[str, str, str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys.json"
        made = [add_key(file, f"caller-{i}", ["predict"]).encode() for i in range(KEYS)]
        ring = KeyRing(file, 0.5)
        right = made[0]
        nearly, far = right[:-1] + (b"A" if right[-1:] != b"A" else b"B"), bytes(reversed(right))
        near_us, far_us = compared(ring, nearly, far)
        first_us, last_us = compared(ring, made[0], made[-1])
    return [
        ("a key checked, us", f"{first_us:.2f}", "", f"against {KEYS}: its sha256, then each in constant time"),
        (
            "  its last character wrong, against all of them",
            f"{abs(near_us / far_us - 1):.2%} apart",
            "< 1 %",
            f"{near_us:.2f} and {far_us:.2f} us, {CALLS:,} checks each, in turns",
        ),
        (
            "  the first key of the file, against the last",
            f"{abs(first_us / last_us - 1):.2%} apart",
            "< 1 %",
            f"{first_us:.2f} and {last_us:.2f} us",
        ),
    ]


def main() -> None:
    for row in figures():
        print(" | ".join(row))


if __name__ == "__main__":
    main()
