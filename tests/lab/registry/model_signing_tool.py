"""OpenSSF's own tool, in an environment of its own: what it writes and reads is what our format must be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PLACE = ROOT / "build" / "model-signing"
"""`make model-signing` makes it."""


@cache
def _tool() -> tuple[Path | None, str]:
    """The tool, made where it is missing; or what is missing."""
    tool = PLACE / "bin" / "model_signing"
    if tool.exists():
        return tool, ""
    if os.environ.get("SURETY_OFFLINE"):
        return None, "SURETY_OFFLINE is set"
    lock = ROOT / "requirements" / "model-signing.lock"
    made = subprocess.run([sys.executable, "-m", "venv", PLACE], capture_output=True, text=True)
    if made.returncode == 0:
        pip = [PLACE / "bin" / "python", "-m", "pip", "install", "--quiet", "--require-hashes", "-r", lock]
        made = subprocess.run(pip, capture_output=True, text=True)
    if made.returncode == 0:
        return tool, ""
    shutil.rmtree(PLACE, ignore_errors=True)
    return None, made.stderr.strip().splitlines()[-1]


def model_signing(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the tool; skips the test where it cannot be installed."""
    tool, problem = _tool()
    if tool is None:
        if os.environ.get("CI"):
            pytest.fail(f"OpenSSF's model-signing cannot be installed: {problem}")
        pytest.skip(f"OpenSSF's model-signing cannot be installed here: {problem}")
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, cwd=PLACE)
