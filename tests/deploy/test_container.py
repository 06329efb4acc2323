"""The trial of the image says why where it cannot be made; CI takes that for a failure."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.deploy.queries import DEPLOY, ROOT

TRIAL = DEPLOY / "container" / "test.sh"


def test_trial_says_what_is_missing(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "mkdir", "id"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([tmp_path / "bash", TRIAL], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 77
    assert done.stderr.startswith("container-test SKIPPED: no Docker daemon answers, and ")


def test_ci_runs_the_trial_and_ends_where_it_cannot() -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert "set -euo pipefail" in lines
    assert "make container-test" in lines
