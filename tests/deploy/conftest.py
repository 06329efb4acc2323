"""Prometheus' own checker for the tests of rules and dashboard."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

Promtool = Callable[..., str]


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Runs promtool, expects that it is content, and gives back what it said."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool, which comes with Debian's package prometheus (apt-get install prometheus)")

    def run(*arguments: object) -> str:
        done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"promtool {' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
