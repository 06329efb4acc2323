"""`surety retrain`: decide, train on what became known, gate, register."""

from __future__ import annotations

from pathlib import Path

import click

from ml_core.cli.options import config_option
from ml_core.cli.output import emit, note, output_option, refuse


@click.command(name="retrain")
@config_option()
@click.option("--if-drift", is_flag=True, help="Train only if answers have drifted or an alarm is on.")
@click.option(
    "--force", is_flag=True, help="Train even without drift, within the cool-down, or with too few new labels."
)
@click.option("--shadow", is_flag=True, help="Let the new model score every request beside the champion.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; train nothing.")
@output_option
def command(config_path: Path, output: str, *, if_drift: bool, force: bool, shadow: bool, dry_run: bool) -> None:
    """Train again on the feature store and every answer whose outcome is known by now, and register a challenger.

    Exit status 3 where the decision is not to train, or where the gate refuses what was trained. Killed at any point,
    the same command goes on and ends with the same model; two at a time are refused.

    \b
    Example: surety retrain --config configs/readmission_v1.yaml --if-drift --shadow
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.config import load_config
    from ml_core.lab.journeys.retrain import as_row, retrain

    config = load_config(config_path)
    settings = load_settings(model_name=config.model)
    found = retrain(config, settings, note, if_drift=if_drift, force=force, shadow=shadow, dry_run=dry_run)
    emit(as_row(found), output)
    if not found.decision.go:
        refuse(f"not retrained: {'; '.join(found.decision.against)}")
    if found.gate is not None and not found.gate.passed:
        refuse(f"refused by the gate: {', '.join(found.gate.failed_rules)}")
