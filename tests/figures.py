"""Keeps what test suites measured in a JSON file in build/, one entry per promise, and makes a table of it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.e2e.workplace import ROOT

__all__ = ["FigureBook"]


class FigureBook:
    """The figures of one suite, kept between runs. Tests in several processes may write at the same time.

    Parameters
    ----------
    path : of the JSON file
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._recorded: set[str] = set()

    def record(self, name: str, promise: str, figure: Any, *, test: str = "") -> None:
        """Keep a figure.

        Parameters
        ----------
        name : such as "F1 kill -9"
        promise : in words
        figure : a number, a text, or a dict or list of them
        test : the test that measured it, as ``path::function``; the running test by default
        """
        test = test or os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
        entry = {
            "promise": promise,
            "figure": figure,
            "test": test,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._recorded.add(name)
            known = {n: e for n, e in self.known().items() if n in self._recorded or not _is_old(e["test"], test)}
            known[name] = entry
            beside = self.path.with_suffix(".new")
            beside.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n", encoding="utf-8")
            beside.replace(self.path)

    def known(self) -> dict[str, Any]:
        """Every entry by name; empty if nothing was measured yet."""
        try:
            found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def table(self, heading: str, order: Callable[[str], Any] = str) -> str:
        """A Markdown table of all entries; ``order`` is the sort key of their names."""
        rows = [f"| {heading} | promise | last figure | test |", "|---|---|---|---|"]
        for name, entry in sorted(self.known().items(), key=lambda item: order(item[0])):
            test = entry["test"].split("[")[0].split("::")[-1]
            rows.append(f"| {name} | {entry['promise']} | {_words(entry['figure'])} | `{test}` |")
        return "\n".join(rows) + "\n"


def _words(figure: Any) -> str:
    if isinstance(figure, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_words(value)}" for key, value in figure.items())
    if isinstance(figure, list):
        return "; ".join(map(str, figure))
    return f"{figure:,}" if isinstance(figure, int) else str(figure)


def _is_old(known: str, test: str) -> bool:
    """Whether a figure is from this test under another name, from a test without cases, or from a removed test."""
    same_function = known.partition("[")[0] == test.partition("[")[0]
    return known == test or (same_function and ("[" in known) != ("[" in test)) or not _exists(known)


def _exists(test: str) -> bool:
    """Whether a test of that name still exists."""
    file, _, name = test.partition("::")
    try:
        return f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8")
    except OSError:
        return False
