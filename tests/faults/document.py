"""Writes docs/reliability.md from what the fault suite measured last: `python -m tests.faults.document`."""

from __future__ import annotations

from tests.e2e.workplace import ROOT
from tests.faults.figures import FIGURES

PAGE = ROOT / "docs" / "reliability.md"

HEAD = """# Reliability

This page lists what the service promises when something breaks, on [one machine](#on-one-machine) and on
[many](#on-many-machines). Each row names the test that shows it with real processes (`make test-slow`) and the figure of the last
run. `make reliability` writes the page. Times are of a virtual machine with two cores. [Figures](figures.md) names the goals that are missed. Each behaviour of the circuit breaker (B01 to B49) has its own test in
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
- **A stuck runner.** A call of the isolated runner that never returns blocks its process. Fallbacks answer until somebody ends that
  process, because only a process that has ended is replaced.
"""


MANY = """
## On many machines

[One service on many machines](many-machines.md) is three machines with two workers each behind HAProxy, as in `deploy/`, two of them with a monitor; PostgreSQL
and the object store stand apart. The machines are network namespaces of one virtual machine with two cores. A machine that is cut off has no link to database
and objects; one that dies loses its links first, then its processes and its disk. `make test-cluster` shows the same with fewer requests and shorter faults,
with every change of the code.

"""

SOAK = "| F20 "
"""How the row of `make soak` begins. It runs for itself, so a checkout may have all figures but this one."""


def main() -> None:
    head, line, *measured = FIGURES.table("fault", _order).splitlines(keepends=True)
    page = [
        row
        for row in PAGE.read_text(encoding="utf-8").splitlines(keepends=True)
        if row.startswith("| ") and row != head
    ]
    one, many = (_newest(measured, page, on_many=on_many) for on_many in (False, True))
    if not any(row.startswith(SOAK) for row in one):
        one = sorted([row for row in page if row.startswith(SOAK)] + one, key=_order_of_row)
    text = [HEAD, "## On one machine\n\n", head, line, *one, MANY, head, line, *many, TAIL]
    PAGE.write_text("".join(text), encoding="utf-8")


def _newest(measured: list[str], page: list[str], *, on_many: bool) -> list[str]:
    """The rows of one machine or of many; those of the page where none were measured here."""
    found = [row for row in measured if _is_of_many(row) == on_many]
    return found or [row for row in page if _is_of_many(row) == on_many]


def _is_of_many(row: str) -> bool:
    return row[2] == "M" and row[3].isdigit()


def _order_of_row(row: str) -> tuple[str, int, str]:
    return _order(row.split("|")[1].strip())


def _order(name: str) -> tuple[str, int, str]:
    """F1, F2, … F19 by number, then the others of one machine by name; M1, M2, … of many by number."""
    first = name.split(" ", 1)[0]
    number = int(first[1:]) if first[0] in "FM" and first[1:].isdigit() else 1_000
    return ("many" if _is_of_many(f"| {name}") else "alone", number, name)


if __name__ == "__main__":
    main()
