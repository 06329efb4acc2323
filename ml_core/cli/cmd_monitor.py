"""`surety monitor`: the process that looks after a running service."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.options import Duration, settings_option
from ml_core.cli.output import emit, note, output_option, picked

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.lab.watching.canary_guards import GuardVerdict

logger = logging.getLogger(__name__)


@click.command(name="monitor")
@click.option("--every", type=Duration(), help="Look again and again, e.g. every 5s, 1m.")
@click.option("--once", is_flag=True, help="Look once, e.g. from cron; exit status 3 if an alarm is on.")
@settings_option()
@output_option
def command(every: float | None, settings: Settings, output: str, *, once: bool) -> None:
    """Watch a running service: take a bad canary back, let labels mature, and raise alarms on coverage and drift.

    Guards judge a canary by what all workers have counted. Labels count once their horizon has passed. What is found is
    published: answers of a model with an alarm say suspect, those of a model whose coverage is left open by missing
    outcomes say unverified, and all say unmonitored once the monitor has been silent for SURETY_MONITOR_TIMEOUT_S.

    \b
    Example: surety monitor --every 5s
    Example: surety monitor --once
    """
    from ml_core.base.errors import SuretyError
    from ml_core.lab.watching.canary_monitor import Monitor
    from ml_core.lab.watching.health_monitor import HealthMonitor

    if once == (every is not None):
        raise click.UsageError("Give either --every DURATION or --once.")
    monitor, watch = Monitor(settings), HealthMonitor(settings)
    if every is None:
        look, watched = monitor.look(), watch.look()
        emit({**_seen(look), **_watched(watched)}, output)
        if look.rolled_back or any(health.alarms for health in watched.state.models.values()):
            raise SystemExit(3)
        return
    note(f"monitoring {settings.model_name} every {every:g} s")
    while True:
        try:
            look = monitor.look()
            if look.rolled_back:
                emit(_seen(look), output)
            watched = watch.look()
            if watched.raised:
                emit(_watched(watched), output)
        except (SuretyError, OSError) as error:
            note(f"surety: {error}")
        except Exception:  # a monitor that ends watches nothing
            logger.exception("monitor.look_failed")
        time.sleep(every)


def _seen(look: Any) -> dict[str, Any]:
    return {
        "generation": None if look.state is None else look.state.generation,
        "mode": None if look.state is None else look.state.mode,
        "workers_alive": look.alive,
        "verdicts": [verdict_row(v) for v in look.verdicts],
        "rolled_back": look.rolled_back or None,
    }


def _watched(look: Any) -> dict[str, Any]:
    alarms = [
        {"model_version": health.model_version, "alarm": alarm.reason, "since": alarm.since, "says": alarm.says}
        for health in look.state.models.values()
        for alarm in health.alarms
    ]
    unverified = [
        {"model_version": health.model_version, **picked(each, "reason", "says")}
        for health in look.state.models.values()
        for each in health.unverified
    ]
    return {
        "models": [model.tag for model in look.models],
        "matured": look.matured,
        "drift_windows": look.windows,
        "alarms": alarms,
        "unverified": unverified,
    }


def verdict_row(verdict: GuardVerdict) -> dict[str, Any]:
    """One guard as a row: what it saw, what it allows, and how far the evidence is from enough."""
    return {
        **picked(verdict, "guard", "observed", "limit", "observations"),
        "evidence": round(verdict.log_evidence, 2),
        "needed": round(verdict.needed, 2),
        "tripped": verdict.tripped,
    }
