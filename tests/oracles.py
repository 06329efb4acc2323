"""Other people's tools, in an environment of their own: what they write and accept is what our formats must be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from ml_core.base.files import locked

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "build" / "oracles"
"""`make oracles` makes it from requirements/oracles.lock; a test that finds none does the same."""


@cache
def _problem() -> str:
    """What keeps the tools from being here; "" where they are."""
    done = PLACE / "done"
    with locked(ROOT / "build" / "oracles.lock"):  # the halves of `make test` run side by side
        return "" if done.exists() else _made(done)


def _made(done: Path) -> str:
    made = subprocess.run([sys.executable, "-m", "venv", PLACE], capture_output=True, text=True)
    if made.returncode == 0:
        pip = [PLACE / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        lock = ["--require-hashes", "-r", ROOT / "requirements" / "oracles.lock"]
        made = subprocess.run([*pip, *lock], capture_output=True, text=True)
    if made.returncode == 0:
        done.touch()
        return ""
    shutil.rmtree(PLACE, ignore_errors=True)
    return (made.stderr.strip().splitlines() or ["python -m venv failed"])[-1]


def oracle(tool: str, *arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool; skips the test where the tools cannot be installed, and fails it in CI.

    Parameters
    ----------
    tool : ``model_signing``, ``python``
    text : given on standard input
    """
    if _problem():
        told = f"the tools of requirements/oracles.lock cannot be installed: {_problem()}"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    command = [PLACE / "bin" / tool, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PLACE, input=text)


if __name__ == "__main__":
    sys.exit(_problem() or 0)
