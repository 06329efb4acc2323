"""`surety alarms`: what the monitor has found, and switching it off on somebody's word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.options import settings_option
from ml_core.cli.output import emit, note, output_option, picked

if TYPE_CHECKING:
    from ml_core.base.settings import Settings


@click.group(name="alarms")
def command() -> None:
    """Alarms of the monitor: which are on, and acknowledging them.

    \b
    Example: surety alarms show
    """


@command.command(name="show")
@settings_option()
@output_option
def show_alarms(settings: Settings, output: str) -> None:
    """Show the alarms that are on; exit status 3 if any is.

    \b
    Example: surety alarms show --output table
    """
    from ml_core.serve.rollout.monitor_state import MonitorView

    view = MonitorView(settings)
    view.look()
    if view.state is None:
        note("the monitor has never published: start `surety monitor --every 5s`")
        emit([], output)
        return
    if not view.is_fresh:
        note(f"the monitor has been silent since {view.state.published_at}: answers say unmonitored")
    rows: list[dict[str, Any]] = [
        {
            "alarm": alarm.reason,
            "model_version": health.model_version,
            "model_hash": model_hash,
            **picked(alarm, "since", "says", "false_alarm"),
        }
        for model_hash, health in view.state.models.items()
        for alarm in health.alarms
    ]
    emit(rows, output)
    if rows:
        raise SystemExit(3)


@command.command()
@click.argument("alarm")
@click.option("--why", required=True, help="The reason, kept in the journal.")
@click.option("--version", "model_version", help="Only of this model version (default: every live one).")
@settings_option()
@output_option
def acknowledge(alarm: str, why: str, model_version: str | None, settings: Settings, output: str) -> None:
    """Switch ALARM off, and let its detector begin anew. Answers say so after the monitor's next look.

    \b
    Example: surety alarms acknowledge coverage:1 --why "the new laboratory's unit is known; corrected at the source"
    """
    from ml_core.base.errors import DataError
    from ml_core.base.journal import who
    from ml_core.lab.watching.health_monitor import acknowledge_alarm
    from ml_core.serve.rollout.monitor_state import MonitorView

    view = MonitorView(settings)
    view.look()
    models = {} if view.state is None else view.state.models
    done = [
        {"alarm": alarm, "model_version": health.model_version, "model_hash": model_hash}
        for model_hash, health in models.items()
        if model_version in (None, health.model_version)
        and acknowledge_alarm(settings, model_hash, alarm, why=why, by=who())
    ]
    if not done:
        raise DataError(f"alarm {alarm}", "is not on: `surety alarms show` lists those that are")
    emit(done, output)
