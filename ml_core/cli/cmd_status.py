"""`surety status`: where a model stands, in one JSON object."""

from __future__ import annotations

from dataclasses import asdict

import click

from ml_core.cli.output import emit, output_option


@click.command(name="status")
@click.option("--model", default=None, help="Name of the model (default: SURETY_MODEL_NAME).")
@click.option("--endpoint", default="http://localhost:3000", show_default=True, help="Address of the service.")
@output_option
def command(model: str | None, endpoint: str, output: str) -> None:
    """Show whether the model is registered, gated, drifting, and what to do next.

    \b
    Example: surety status --model readmission_risk
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.watching.model_status import model_status

    settings = load_settings(**({} if model is None else {"model_name": model}))
    emit(asdict(model_status(settings, endpoint)), output)
