"""`surety features`: raw file to validated columns in the feature store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_core.cli.options import config_option, engine_options, file_option
from ml_core.cli.output import emit, note, output_option, picked, progress

if TYPE_CHECKING:
    from ml_core.lab.batch.engines import Engine
    from ml_core.lab.config import ModelConfig


@click.group(name="features")
def command() -> None:
    """Bring raw rows into the feature store."""


def _rule_of(config: ModelConfig) -> str:
    if config.data.adapter == "diabetes130":
        return "the data set's own rule: stays that ended in death or a hospice"
    return "their label (data.leave_out_labels)"


@command.command()
@config_option()
@file_option("--data", told="Raw rows instead of those that the configuration names: a file, a folder, or an address "
             "such as s3://bucket/rows.")  # fmt: skip
@file_option("--quarantine", told="Write rows that break the column table to this .parquet or .csv file and go on.")
@click.option("--dry-run", is_flag=True, help="Judge the rows; write nothing.")
@engine_options
@output_option
def run(
    config_path: Path, data: Path | None, quarantine: Path | None, engine: Engine, *, dry_run: bool, output: str
) -> None:
    """Ingest, validate, transform and store the rows a model is trained on.

    Rows that break the column table are reported by column, check and count, never by value. Running it again on the
    same rows makes no new version. The rows of a folder become one version, or none where a row is refused.

    \b
    Example: surety features run --config configs/readmission_v1.yaml
    Example: surety features run --config configs/readmission_v1.yaml --quarantine data/refused.csv
    Example: surety features run --config configs/readmission_v1.yaml --data visits/ --processes 4
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.config import load_config
    from ml_core.lab.data.feature_pipeline import FeaturePipeline

    config = load_config(config_path)
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": data})})
    with progress("judging rows", total=1.0) as advance:
        result = FeaturePipeline(config, load_settings(), engine, advance).run(quarantine, dry_run=dry_run)
    if result.ignored:
        note(f"columns not used by {config.feature_version}: {', '.join(result.ignored)}")
    if result.left_out:
        note(f"{result.left_out} rows were left out by {_rule_of(config)}")
    for change in result.type_changes:
        note(f"{change}; versions before keep what they hold")
    if dry_run:
        note("dry run: nothing was written")
    emit(
        {
            "feature_version": config.feature_version,
            "table": result.table,
            "version": None if dry_run else result.version,
            **picked(result, "rows_in", "left_out", "rows_kept", "quarantined"),
            "quarantine": str(quarantine) if quarantine and result.quarantined and not dry_run else None,
            "type_changes": list(result.type_changes),
            "problems": [{"column": c, "check": k, "rows": n} for c, k, n in result.problems],
        },
        output,
    )
