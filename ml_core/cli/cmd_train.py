"""`surety train`: train, calibrate, evaluate and register a challenger."""

from __future__ import annotations

from pathlib import Path

import click

from ml_core.cli.options import config_option
from ml_core.cli.output import emit, note, output_option, picked


@click.command(name="train")
@config_option()
@click.option("--table-version", type=int, help="Delta version of the feature table (default: the latest).")
@click.option("--dry-run", is_flag=True, help="Train and evaluate; register nothing.")
@output_option
def command(config_path: Path, table_version: int | None, *, dry_run: bool, output: str) -> None:
    """Train on the feature store and register the model in MLflow with the alias challenger.

    The same data, seed and libraries give the same model hash, and the same model is registered once.

    \b
    Example: surety train --config configs/readmission_v1.yaml
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.config import load_config
    from ml_core.lab.journeys.challenger import train_challenger

    config = load_config(config_path)
    found = train_challenger(config, load_settings(), note, table_version=table_version, dry_run=dry_run)
    if dry_run:
        note("dry run: nothing was registered")
    elif not found.is_new:
        note("this very model was registered before; the alias points at it")
    emit(
        {
            "model": config.model,
            "version": found.version.version if found.version else None,
            "aliases": list(found.version.aliases) if found.version else [],
            "is_new": found.is_new,
            "model_hash": found.model_hash,
            "run_id": found.version.run_id if found.version else None,
            **picked(found, "learner", "trained_on", "rows", "metrics"),
        },
        output,
    )
