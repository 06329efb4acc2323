"""`surety serve`: the service of a project's model, with the monitor beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_core.cli.output import note, refuse

if TYPE_CHECKING:
    from types import FrameType

_GRACE_S = 30.0


@click.command(name="serve")
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65_535), default=3000, show_default=True, help="Port of the service.")
@click.option("--host", help="Address to listen on (default: this machine alone, unless SURETY_API_KEYS_FILE is set).")
@click.option("--every", default="5s", show_default=True, help="How often the monitor looks, e.g. 5s, 1m.")
def command(project: Path, port: int, host: str | None, every: str) -> None:
    """Serve the promoted model of PROJECT, and watch it; both end with Ctrl-C. Exit status 3 where there is none yet.

    \b
    Example: surety serve my-risk
    Example: surety serve my-risk --port 8080
    Example: surety serve configs/readmission_v1.yaml
    """
    from ml_core.lab.journeys.build_bento import module_setting
    from ml_core.lab.journeys.run_project import open_project
    from ml_core.serve.model.promotion_record import plain_promotion

    opened = open_project(project)
    settings = opened.settings
    if plain_promotion(settings, settings.model_name) is None:
        refuse(
            f"surety: {settings.home} holds no promoted model of {settings.model_name}: surety run {project} makes one"
        )
    environment = {
        **os.environ,
        "SURETY_HOME": str(settings.home.absolute()),
        "SURETY_MODEL_NAME": settings.model_name,
        **module_setting(opened.config.module),
        "BENTOML_DO_NOT_TRACK": "true",
    }
    note(
        f"serving {settings.model_name} on port {port}; documentation of its requests: "
        f"http://localhost:{port}/docs.json"
    )
    monitor = [sys.executable, "-m", "ml_core.cli.main", "monitor", "--every", every]
    service, folder = _service()
    server = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        service,
        "--port",
        str(port),
        *(["--host", host] if host else []),
    ]
    raise SystemExit(_both(server, monitor, environment, folder))


def _service() -> tuple[str, Path]:
    """The service's name for BentoML, and the folder to start it in: of the wheel, or of a checkout."""
    import ml_core

    if find_spec("ml_core.service") is not None:
        return "ml_core.service:Surety", Path.cwd()
    return "service:Surety", Path(ml_core.__file__).resolve().parents[1]


def _both(server: list[str], monitor: list[str], environment: dict[str, str], folder: Path) -> int:
    """Run service and monitor until the service ends, or a signal ends both; the service's exit status."""
    with (
        subprocess.Popen(server, env=environment, cwd=folder) as serving,
        subprocess.Popen(monitor, env=environment, stdout=subprocess.DEVNULL) as watching,
    ):

        def stop(number: int, _frame: FrameType | None) -> None:
            serving.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        try:
            return serving.wait()
        finally:
            watching.terminate()
            try:
                watching.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                watching.kill()
