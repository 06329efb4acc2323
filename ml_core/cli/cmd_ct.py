"""One turn of continuous training, as a scheduler runs it (`make ct`)."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_core.base.errors import SuretyError
from ml_core.cli.output import emit, note, output_option

if TYPE_CHECKING:
    from ml_core.lab.journeys.training_cycle import Cycle

__all__ = ["command", "in_words", "main"]


@click.command(name="ct")
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True, help="The model's YAML.")
@click.option("--force-retrain", type=click.BOOL, default=False, show_default=True, envvar="FORCE_RETRAIN",
              help="Train whatever the answers look like.")  # fmt: skip
@click.option("--summary", type=click.Path(path_type=Path), default=None, envvar="GITHUB_STEP_SUMMARY",
              help="Add what was decided to this Markdown file.")  # fmt: skip
@output_option
def command(config_path: Path, summary: Path | None, output: str, *, force_retrain: bool) -> None:
    """Look for drift in the live log, train again where drift or an alarm advises it, and judge what was trained.

    Exit status 0 where nothing was advised or the new challenger passed its gate, 3 where the gate refuses it, so that
    somebody looks, and 1 where it cannot be told whether anything has drifted.

    \b
    Example: python -m ml_core.cli.cmd_ct --config configs/readmission_v1.yaml
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.config import load_config
    from ml_core.lab.journeys.training_cycle import run_cycle

    config = load_config(config_path)
    found = run_cycle(config, load_settings(model_name=config.model), note, force=force_retrain)
    emit({"model": config.model, **found.as_row()}, output)
    text = in_words(found)
    note(text)
    if summary is not None:
        with summary.open("a", encoding="utf-8") as file:
            file.write(f"### {config.model}: {found.outcome}\n\n{text}\n")
    if found.outcome == "refused":
        raise SystemExit(3)


def in_words(found: Cycle) -> str:
    """What the turn came to, for the person who reads the job."""
    done, decision = found.retrained, found.retrained.decision
    because = "; ".join(decision.reasons) or ("forced" if found.drift is None else "neither drift nor an alarm")
    if found.outcome == "not advised":
        return f"Retraining is not advised: {because}. Nothing was trained."
    if found.outcome == "held back":
        return f"Retraining is advised ({because}) and held back: {'; '.join(decision.against)}. Nothing was trained."
    model = f"Version {done.version} ({because}) has learnt from {done.rows_added} more answers"
    if found.outcome == "refused":
        rules = ", ".join(done.gate.failed_rules if done.gate is not None else ())
        return f"{model} and is refused by the gate: {rules}. The champion stays; somebody has to look."
    return f"{model}, has passed the gate and is the challenger. Promoting it is a decision: surety promote."


def main() -> None:
    """Run it; errors raised on purpose become one line and exit status 1, as with any verb of ``surety``."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        command(prog_name="python -m ml_core.cli.cmd_ct")
    except SuretyError as error:
        note(f"surety: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
