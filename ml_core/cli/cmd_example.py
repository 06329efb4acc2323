"""`surety example`: whatever is missing between nothing and a model that can be served."""

from __future__ import annotations

from pathlib import Path

import click

from ml_core.cli.options import config_option
from ml_core.cli.output import emit, note, output_option


@click.command(name="example")
@config_option(default=Path("configs/readmission_v1.yaml"), show_default=True)
@output_option
def command(config_path: Path, *, output: str) -> None:
    """Make data, features, model, gate, promotion and import, as far as they are missing; then it can be served.

    Exit status 3 if the gate says no.

    \b
    Example: surety example --config configs/readmission_v1.yaml
    """
    from ml_core.base.errors import PromotionRefused
    from ml_core.lab.journeys.example import make_example
    from ml_core.lab.journeys.run_project import open_project

    project = open_project(config_path)
    config = project.config
    try:
        found = make_example(project, note)
    except PromotionRefused as refused:
        note(str(refused))
        raise SystemExit(3) from refused
    note(f"ready: SURETY_MODEL_NAME={config.model} bentoml serve service:Surety")
    facts = {"tag": found.tag, "model_hash": found.model_hash, "was_ready": found.was_ready}
    emit({"model": config.model, **facts}, output)
