"""`surety recalibrate`: the champion's scorer, calibrated anew on the newest outcomes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from ml_core.cli.options import config_option
from ml_core.cli.output import emit, note, output_option


@click.command(name="recalibrate")
@config_option()
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    help="Newest answers of known outcome used, at most; else as configured.",
)
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Use answers given at that time (UTC) or later, such as the day on which what comes changed.",
)
@click.option(
    "--weighted",
    is_flag=True,
    help="Ask for no outcomes: weigh the champion's calibration rows by how often such rows come now.",
)
@click.option("--shadow", is_flag=True, help="Let the new model score every request beside the champion.")
@click.option("--dry-run", is_flag=True, help="Say what would be used; make nothing.")
@output_option
def command(
    config_path: Path,
    rows: int | None,
    since: datetime | None,
    output: str,
    *,
    weighted: bool,
    shadow: bool,
    dry_run: bool,
) -> None:
    """Calibrate the champion's scorer on the newest answers whose outcome is known, and register it as challenger.

    Nothing is trained: the sets get their coverage back, the scores stay as they are. People who trained the scorer are
    left out, and test people of the split judge. Exit status 3 where the gate refuses what was made.

    With --weighted no outcome is needed. It holds where only the mix of rows has changed, and not what the features
    mean for the outcome; it is refused where too few calibration rows would count.

    \b
    Example: surety recalibrate --config configs/readmission_v1.yaml --since 2026-11-01
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.config import load_config
    from ml_core.lab.journeys.recalibrate import recalibrate

    config = load_config(config_path)
    found = recalibrate(
        config,
        load_settings(model_name=config.model),
        note,
        rows=rows,
        since=None if since is None else since.replace(tzinfo=UTC),
        weighted=weighted,
        shadow=shadow,
        dry_run=dry_run,
    )
    emit({"model": config.model, **found.as_dict()}, output)
    note(found.in_words())
    if found.outcome == "refused":
        raise SystemExit(3)
