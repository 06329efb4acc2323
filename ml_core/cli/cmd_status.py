"""`surety status`: where a model stands, in one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ml_core.cli.options import settings_option
from ml_core.cli.output import emit, output_option

if TYPE_CHECKING:
    from ml_core.base.settings import Settings


@click.command(name="status")
@settings_option()
@click.option("--endpoint", default="http://localhost:3000", show_default=True, help="Address of the service.")
@output_option
def command(settings: Settings, endpoint: str, output: str) -> None:
    """Show whether the model is registered, gated, drifting, and what to do next.

    \b
    Example: surety status --model readmission_risk
    """
    from ml_core.lab.watching.model_status import model_status

    emit(asdict(model_status(settings, endpoint)), output)
