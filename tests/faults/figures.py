"""What the fault suite measured: one entry a promise in ``build/faults/figures.json``, its last figure with the test."""

from __future__ import annotations

import fcntl
import json
import os
from datetime import UTC, datetime
from typing import Any

from tests.e2e.workplace import ROOT

__all__ = ["FIGURES", "record"]

FIGURES = ROOT / "build" / "faults" / "figures.json"
_recorded: set[str] = set()


def record(name: str, promise: str, figure: Any) -> None:
    """Keep a figure: ``name`` such as "F1 kill -9", ``promise`` in words, ``figure`` a number or a dict of numbers."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
    entry = {
        "promise": promise,
        "figure": figure,
        "test": test,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    with FIGURES.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            known = json.loads(FIGURES.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            known = {}
        _recorded.add(name)
        known = {n: e for n, e in known.items() if n in _recorded or not _is_old(e["test"], test)}
        known[name] = entry
        beside = FIGURES.with_suffix(".new")
        beside.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n", encoding="utf-8")
        beside.replace(FIGURES)


def _is_old(known: str, test: str) -> bool:
    """Whether a figure was left by this very test under another name, by one without cases, or by one that has gone."""
    same_function = known.partition("[")[0] == test.partition("[")[0]
    return known == test or (same_function and ("[" in known) != ("[" in test)) or not _exists(known)


def _exists(test: str) -> bool:
    """Whether there still is a test of that name; figures of others are of no use."""
    file, _, name = test.partition("::")
    try:
        return f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8")
    except OSError:
        return False
