"""Writes docs/reliability.md from what the fault suite measured last: `python -m tests.faults.document`."""

from __future__ import annotations

from tests.e2e.workplace import ROOT
from tests.faults.figures import FIGURES

PAGE = ROOT / "docs" / "reliability.md"

HEAD = """# Reliability

What this service promises when something breaks, the test that shows it with real processes (`make test-slow`), and the figure it
gave last. Behaviours of the circuit breaker have a test each, named B01 to B49, in `tests/serve/running/test_circuit_breaker*.py`;
coverage under faults (B50) is in `tests/statistical/test_coverage_under_faults.py`. A goal that a figure misses is said in
[figures](figures.md). The page is written by `make reliability` from the last run; times are of a two-core virtual machine.

"""

TAIL = """
## What one machine cannot show

- **Power loss.** Files that decide something are flushed before they are renamed into place, and the journal before a change counts; that the disk
  keeps what it has confirmed is taken on trust.
- **A real out-of-memory kill.** Batches that are too large are refused before they are attempted, and a killed worker is F1.
- **The wall clock.** Circuits, deadlines, reports and guards use the system's monotonic clock, and ids stay unique when the wall clock jumps; the jump
  is simulated inside a process.
- **Headers that drip.** A body that comes too slowly is cut; a request whose head never ends holds one descriptor until a proxy before the service
  cuts it. Put one there.
- **Several machines.** One home is one machine. Several replicas behind a load balancer each have their own rollout, unless a deployment tool gives
  them the same commands.
- **A stuck runner.** A call of the isolated runner that never comes back blocks its process: answers come from the fallback until somebody ends that
  process, since only a process that has gone is replaced.
"""


def main() -> None:
    PAGE.write_text(HEAD + FIGURES.table("fault", _order) + TAIL, encoding="utf-8")


def _order(name: str) -> tuple[int, str]:
    """F1, F2, … F19 by number, then the others by name."""
    first = name.split(" ", 1)[0]
    return (int(first[1:]), name) if first[0] == "F" and first[1:].isdigit() else (1_000, name)


if __name__ == "__main__":
    main()
