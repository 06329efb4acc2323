"""`surety performance check`: how good the scores were, now that outcomes are known."""

from __future__ import annotations

from dataclasses import asdict

import click

from ml_core.cli.cmd_monitor import Duration
from ml_core.cli.output import emit, note, output_option


@click.group(name="performance")
def command() -> None:
    """Realised performance of answers whose outcome is known.

    \b
    Example: surety performance check
    """


@command.command()
@click.option("--since", type=Duration(), default=None, help="Only answers of the last e.g. 24h, 30d (default: all).")
@click.option(
    "--slot", type=click.Choice(["champion", "challenger", "previous"]), default="champion", show_default=True
)
@click.option(
    "--min-auc", type=click.FloatRange(0, 1), default=None, help="Exit status 3 where the AUC's interval lies below."
)
@click.option("--model", default=None, help="Name of the model (default: SURETY_MODEL_NAME).")
@output_option
def check(since: float | None, slot: str, min_auc: float | None, model: str | None, output: str) -> None:
    """Show AUC, Brier score, log loss and set sizes on matured labels beside what training found on its test rows.

    \b
    Example: surety performance check --since 90d --min-auc 0.6
    """
    from datetime import timedelta

    from ml_core.base.clock import utc_now
    from ml_core.base.settings import load_settings
    from ml_core.lab.watching.live_performance import matured_answers, performance_of

    settings = load_settings(**({} if model is None else {"model_name": model}))
    found = matured_answers(settings, None if since is None else utc_now() - timedelta(seconds=since), slot)
    judged = performance_of(found)
    if judged is None:
        note(f"no label of {found.model.tag} has matured yet; {found.waiting} wait for their horizon")
    trained = found.model.manifest.metrics
    emit(
        {
            "model": found.model.tag,
            "slot": slot,
            "matured": len(found.rows),
            "waiting": found.waiting,
            "realised": None if judged is None else asdict(judged),
            "at_training": {
                name: trained.get(name) for name in ("roc_auc", "brier", "brier_skill", "log_loss", "mean_set_size")
            },
        },
        output,
    )
    if min_auc is not None and judged is not None and judged.auc is not None and judged.auc.upper < min_auc:
        note(f"the AUC is below {min_auc:g}: its interval ends at {judged.auc.upper:.3f}")
        raise SystemExit(3)
