"""`surety promote`: challenger against champion."""

from __future__ import annotations

from pathlib import Path

import click

from ml_core.cli.options import config_of, judged_version, wanted_version
from ml_core.cli.output import emit, note, output_option, refusals, refuse, rules_table


@click.command(name="promote")
@judged_version
@click.option("--run-id", help="The version that came out of this MLflow run.")
@click.option("--dry-run", is_flag=True, help="Show the decision; change nothing.")
@output_option
def command(
    model: str | None,
    alias: str | None,
    version: str | None,
    run_id: str | None,
    config_path: Path | None,
    data: Path | None,
    *,
    dry_run: bool,
    output: str,
) -> None:
    """Gate a version, compare it with the champion on the same test rows, and make it the champion.

    Exit status 3 if a rule says no. Done twice it changes nothing the second time.

    \b
    Example: surety promote --model readmission_risk --dry-run
    Example: surety promote --model readmission_risk --version 3
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.judging.promoter import promote_version
    from ml_core.lab.registry.model_registry import ModelRegistry

    config, settings = config_of(model, config_path), load_settings()
    registry = ModelRegistry(settings)
    chosen = wanted_version(registry, config.model, alias, version, run_id)
    found = promote_version(registry, chosen, config, settings, data=data, dry_run=dry_run)
    if dry_run:
        note("dry run: nothing was changed")
    emit(
        {
            "model": config.model,
            "decision": found.decision,
            "version": found.version,
            "champion_before": found.champion_version,
            "model_hash": found.model_hash,
            "bento_tag": found.bento_tag,
            "compared_on": found.compared_on,
            "rules": rules_table(found.rules),
        },
        output,
    )
    if found.decision == "refused":
        refuse(refusals(found.failed))
    if not dry_run:
        note(f"next: surety import-model --model {config.model}")
