"""`make serve` ends everything that it has started: the service, its workers and the monitor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.workplace import ROOT, Workplace, free_port
from tests.faults.place import until

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "stop",
    [
        lambda make: make.terminate(),
        lambda make: os.killpg(make.pid, signal.SIGTERM),
        lambda make: os.killpg(make.pid, signal.SIGINT),
    ],
    ids=["SIGTERM", "SIGTERM to the group", "Ctrl-C"],
)
def test_nothing_outlives_make_serve(
    example: Workplace, tmp_path: Path, stop: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    port, config = free_port(), example.run / "configs" / "readmission_v1.yaml"
    home = example.copied_home(tmp_path / "home")
    make = subprocess.Popen(
        ["make", "--old-file", ".venv/.installed", "serve", f"BIN={Path(sys.executable).parent}",
         f"CONFIG={config}", f"MODEL={example.model}", f"PORT={port}"],
        cwd=ROOT, env=example.environment(SURETY_HOME=str(home), SURETY_WORKERS="2"), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    started: list[psutil.Process] = []
    try:
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200, 90, "the service is ready")
        until(lambda: any((home / "monitor").iterdir()), 30, "the monitor has looked")
        started = psutil.Process(make.pid).children(recursive=True)
        commands = [" ".join(process.cmdline()) for process in started]
        assert sum("surety monitor" in command for command in commands) >= 1
        assert sum("_bentoml_impl.worker.service" in command for command in commands) == 2
        stop(make)
        make.wait(45)
        until(
            lambda: not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE],
            10,
            "all have ended",
        )
    finally:
        for process in [*started, make]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
