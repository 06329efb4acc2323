"""`surety retrain`: decide, train on what became known, gate, register."""

from __future__ import annotations

from pathlib import Path

import click

from ml_core.cli.options import config_option
from ml_core.cli.output import emit, note, output_option


@click.command(name="retrain")
@config_option()
@click.option("--if-drift", is_flag=True, help="Train only if answers have drifted or an alarm is on.")
@click.option(
    "--force",
    is_flag=True,
    envvar="FORCE_RETRAIN",
    help="Train even without drift, within the cool-down, or with too few new labels.",
)
@click.option(
    "--unattended",
    is_flag=True,
    help="As --if-drift; status 0 where nothing is advised, 1 where drift cannot be judged.",
)
@click.option("--shadow", is_flag=True, help="Let the new model score every request beside the champion.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; train nothing.")
@click.option(
    "--summary",
    type=click.Path(path_type=Path),
    envvar="GITHUB_STEP_SUMMARY",
    help="Append the result to this Markdown file.",
)
@output_option
def command(
    config_path: Path,
    summary: Path | None,
    output: str,
    *,
    if_drift: bool,
    force: bool,
    unattended: bool,
    shadow: bool,
    dry_run: bool,
) -> None:
    """Train again on the feature store and every answer whose outcome is known by now, and register a challenger.

    Exit status 3 where the decision is not to train (0 with --unattended), or where the gate refuses what was trained.
    Killed at any point, the same command goes on and ends with the same model; two at a time are refused.

    \b
    Example: surety retrain --config configs/readmission_v1.yaml --if-drift --shadow
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.config import load_config
    from ml_core.lab.journeys.retrain import retrain

    config = load_config(config_path)
    found = retrain(
        config,
        load_settings(model_name=config.model),
        note,
        if_drift=if_drift or unattended,
        force=force,
        unattended=unattended,
        shadow=shadow,
        dry_run=dry_run,
    )
    emit({"model": config.model, **found.as_dict()}, output)
    text = found.in_words()
    note(text)
    if summary is not None:
        with summary.open("a", encoding="utf-8") as file:
            file.write(f"### {config.model}: {found.outcome}\n\n{text}\n")
    if found.outcome == "refused" or not (found.decision.go or unattended):
        raise SystemExit(3)
