"""Writes docs/reliability.md from what the fault suite measured last: `python -m tests.faults.document`."""

from __future__ import annotations

from tests.e2e.workplace import ROOT
from tests.faults.figures import FIGURES

PAGE = ROOT / "docs" / "reliability.md"

HEAD = """# Reliability

This page lists what the service promises when something breaks. Each row names the test that shows it with real processes
(`make test-slow`) and the figure of the last run. `make reliability` writes the page. Times are of a virtual machine with two
cores. [Figures](figures.md) names the goals that are missed. Each behaviour of the circuit breaker (B01 to B49) has its own test in
`tests/serve/running/test_circuit_breaker*.py`. Coverage under faults (B50) is tested in
`tests/statistical/test_coverage_under_faults.py`.

"""

TAIL = """
## What one machine cannot show

- **Power loss.** Files that decide something are flushed before they are renamed into place. The journal is flushed before a change
  counts. We trust the disk to keep what it has confirmed.
- **A real out-of-memory kill.** Batches that are too large are refused before any work on them. F1 shows a killed worker.
- **The wall clock.** Circuits, deadlines, reports and guards use the monotonic clock of the system. Request ids stay unique when the
  wall clock jumps. The tests simulate the jump inside a process.
- **Many slow callers.** A head or a body that arrives too slowly is cut off after 30 s, and an idle connection after
  `SURETY_KEEP_ALIVE_S`. Until then each holds one descriptor. How many connections one address may open is the work of a proxy.
- **Several machines.** One home is on one machine. Replicas behind a load balancer each have their own rollout, unless a deployment
  tool gives them the same commands.
- **A stuck runner.** A call of the isolated runner that never returns blocks its process. Fallbacks answer until somebody ends that
  process, because only a process that has ended is replaced.
"""


SOAK = "| F20 "
"""How the row of `make soak` begins. It runs for itself, so a checkout may have all figures but this one."""


def main() -> None:
    table = FIGURES.table("fault", _order).splitlines(keepends=True)
    if not any(row.startswith(SOAK) for row in table):
        kept = [row for row in PAGE.read_text(encoding="utf-8").splitlines(keepends=True) if row.startswith(SOAK)]
        table[2:] = sorted(kept + table[2:], key=lambda row: _order(row.split("|")[1].strip()))
    PAGE.write_text(HEAD + "".join(table) + TAIL, encoding="utf-8")


def _order(name: str) -> tuple[int, str]:
    """F1, F2, … F19 by number, then the others by name."""
    first = name.split(" ", 1)[0]
    return (int(first[1:]), name) if first[0] == "F" and first[1:].isdigit() else (1_000, name)


if __name__ == "__main__":
    main()
