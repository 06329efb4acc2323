"""`surety status`: where a model stands, in one JSON object."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ml_core.cli.options import CONFIGS, settings_option
from ml_core.cli.output import emit, nothing_there, output_option

if TYPE_CHECKING:
    from pathlib import Path

    from ml_core.base.settings import Settings


@click.command(name="status")
@settings_option()
@click.option("--endpoint", default="http://localhost:3000", show_default=True, help="Address of the service.")
@output_option
def command(settings: Settings, endpoint: str, output: str) -> None:
    """Show whether the model is registered, gated, drifting, and the command that comes next.

    Exit status 4 if SURETY_HOME is empty: it holds nothing of this model.

    \b
    Example: surety status --model readmission_risk
    """
    from ml_core.lab.watching.model_status import model_status

    found = model_status(settings, endpoint, **_config(settings))
    facts = asdict(found)
    del facts["is_empty"]
    emit(facts, output)
    if found.is_empty:
        nothing_there(f"empty: {settings.home} holds nothing of the model {settings.model_name}")


def _config(settings: Settings) -> dict[str, Path]:
    """The file in ``configs/`` that is of this model, where one alone is."""
    from ml_core.base.errors import ConfigError
    from ml_core.lab.config import load_config

    found = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        with suppress(ConfigError):
            found += [path] if load_config(path).model == settings.model_name else []
    return {"config": found[0]} if len(found) == 1 else {}
