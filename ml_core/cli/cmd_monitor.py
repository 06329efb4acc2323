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
    from ml_core.lab.watching.canary_monitor import Monitor
    from ml_core.lab.watching.health_monitor import HealthMonitor, HealthReport
    from ml_core.serve.home.stores import Seat
    from ml_core.serve.rollout.monitor_state import MonitorState

logger = logging.getLogger(__name__)

STANDBY_S = 2.0
"""How often a monitor that stands by tries to take the place of the one that acts."""


@click.command(name="monitor")
@click.option("--every", type=Duration(), help="Look again and again, e.g. every 5s, 1m.")
@click.option("--once", is_flag=True, help="Look once, e.g. from cron; exit status 3 if an alarm is on.")
@settings_option(with_keys=True)
@output_option
def command(every: float | None, settings: Settings, output: str, *, once: bool) -> None:
    """Watch a running service: take a bad canary back, let labels mature, and raise alarms on coverage and drift.

    Guards judge a canary by what all workers have counted. Labels count once their horizon has passed. What is found is
    published: answers of a model with an alarm say suspect, those of a model whose coverage is left open by missing
    outcomes say unverified, and all say unmonitored once the monitor has been silent for SURETY_MONITOR_TIMEOUT_S.
    Several may run on one home: one of them acts, the others stand by and take its place when it ends.

    \b
    Example: surety monitor --every 5s
    Example: surety monitor --once
    """
    from ml_core.lab.watching.canary_monitor import Monitor
    from ml_core.lab.watching.health_monitor import HealthMonitor
    from ml_core.serve.home.homes import open_home

    if once == (every is not None):
        raise click.UsageError("Give either --every DURATION or --once.")
    watcher = _Watcher(
        open_home(settings).seat(f"monitor/{settings.model_name}"), Monitor(settings), HealthMonitor(settings), output
    )
    if every is None:
        watcher.look_once()
        return
    note(f"monitoring {settings.model_name} every {every:g} s")
    while True:
        is_acting = watcher.look()
        time.sleep(every if is_acting else min(every, STANDBY_S))


class _Watcher:
    """Looks again and again, and acts while it holds the monitor's seat."""

    def __init__(self, seat: Seat, monitor: Monitor, watch: HealthMonitor, output: str) -> None:
        self._seat = seat
        self._monitor = monitor
        self._watch = watch
        self._output = output
        self._stands_by = False

    def look_once(self) -> None:
        """One look; exit status 3 if an alarm is on. Beside a monitor that runs, it only tells."""
        state: MonitorState | None
        if self._seat.take():
            try:
                with self._seat.acting():
                    look, watched = self._monitor.look(), self._watch.look()
            finally:
                self._seat.leave()
            told, state = _watched(watched), watched.state
        else:
            note("another monitor is at work: this look changes nothing and tells what that one has published")
            look, state = self._monitor.look(act=False), self._watch.published()
            told = {} if state is None else _published(state)
        emit({**_seen(look), **told}, self._output)
        if look.rolled_back or any(health.alarms for health in (() if state is None else state.models.values())):
            raise SystemExit(3)

    def look(self) -> bool:
        """One of many looks, which nothing ends; whether this process is the one that acts."""
        from ml_core.base.errors import HomeUnreachable, SeatLost, SuretyError

        is_acting = False
        try:
            if not self._seat.take():
                self._say(stands_by=True)
                return False
            self._say(stands_by=False)
            is_acting = True
            with self._seat.acting():
                look = self._monitor.look()
                if look.rolled_back:
                    emit(_seen(look), self._output)
                watched = self._watch.look()
                if watched.raised:
                    emit(_watched(watched), self._output)
        except (SuretyError, OSError) as error:
            note(f"surety: {error}")
            return is_acting and not isinstance(error, HomeUnreachable | SeatLost)
        except Exception:  # a monitor that ends watches nothing
            logger.exception("monitor.look_failed")
        return is_acting

    def _say(self, *, stands_by: bool) -> None:
        if stands_by != self._stands_by:
            note("another monitor is at work: standing by" if stands_by else "no other monitor is at work: acting")
        self._stands_by = stands_by


def _seen(look: Any) -> dict[str, Any]:
    return {
        "generation": None if look.state is None else look.state.generation,
        "mode": None if look.state is None else look.state.mode,
        "workers_alive": look.alive,
        "verdicts": [verdict_row(v) for v in look.verdicts],
        "rolled_back": look.rolled_back or None,
    }


def _watched(look: HealthReport) -> dict[str, Any]:
    return {
        "models": [model.tag for model in look.models],
        "matured": look.matured,
        "drift_windows": look.windows,
        **_published(look.state),
    }


def _published(state: MonitorState) -> dict[str, Any]:
    alarms = [
        {"model_version": health.model_version, "alarm": alarm.reason, "since": alarm.since, "says": alarm.says}
        for health in state.models.values()
        for alarm in health.alarms
    ]
    unverified = [
        {"model_version": health.model_version, **picked(each, "reason", "says")}
        for health in state.models.values()
        for each in health.unverified
    ]
    return {"alarms": alarms, "unverified": unverified}


def verdict_row(verdict: GuardVerdict) -> dict[str, Any]:
    """One guard as a row: what it saw, what it allows, and how far the evidence is from enough."""
    return {
        **picked(verdict, "guard", "observed", "limit", "observations"),
        "evidence": round(verdict.log_evidence, 2),
        "needed": round(verdict.needed, 2),
        "tripped": verdict.tripped,
    }
