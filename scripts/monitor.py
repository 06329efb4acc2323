"""`surety monitor`: the process that looks after a running service."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import click

from scripts.output import emit, note, output_option

if TYPE_CHECKING:
    from ml_core.monitoring.guards import GuardVerdict

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic only in newer editions of click
    """Seconds, written as 5s, 1m or 1h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds in a text such as ``1m``."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", str(value))
        if found is None or float(found[1]) <= 0:
            self.fail(f"{value!r} is no duration such as 5s, 1m or 1h", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@click.command(name="monitor")
@click.option("--every", type=Duration(), default=None, help="Look again and again, e.g. every 5s, 1m.")
@click.option("--once", is_flag=True, help="Look once, e.g. from cron; exit status 3 if a canary was taken back.")
@click.option("--model", default=None, help="Name of the model (default: SURETY_MODEL_NAME).")
@output_option
def command(every: float | None, model: str | None, output: str, *, once: bool) -> None:
    """Sum what all workers have counted, let the guards judge a canary, and take it back when it does worse.

    \b
    Example: surety monitor --every 5s
    Example: surety monitor --once
    """
    from ml_core.errors import SuretyError
    from ml_core.monitoring.monitor import Monitor
    from ml_core.settings import load_settings

    if once == (every is not None):
        raise click.UsageError("Give either --every DURATION or --once.")
    settings = load_settings(**({} if model is None else {"model_name": model}))
    monitor = Monitor(settings)
    if every is None:
        look = monitor.look()
        emit(_seen(look), output)
        if look.rolled_back:
            raise SystemExit(3)
        return
    note(f"monitoring {settings.model_name} every {every:g} s")
    while True:
        try:
            look = monitor.look()
        except (SuretyError, OSError) as error:  # a monitor that ends watches nothing
            note(f"surety: {error}")
        else:
            if look.rolled_back:
                emit(_seen(look), output)
        time.sleep(every)


def _seen(look: Any) -> dict[str, Any]:
    return {
        "generation": None if look.state is None else look.state.generation,
        "mode": None if look.state is None else look.state.mode,
        "workers_alive": look.alive,
        "verdicts": [verdict_row(v) for v in look.verdicts],
        "rolled_back": look.rolled_back or None,
    }


def verdict_row(verdict: GuardVerdict) -> dict[str, Any]:
    """One guard as a row: what it saw, what it allows, and how far the evidence is from enough."""
    return {
        "guard": verdict.guard,
        "observed": verdict.observed,
        "limit": verdict.limit,
        "observations": verdict.observations,
        "evidence": round(verdict.log_evidence, 2),
        "needed": round(verdict.needed, 2),
        "tripped": verdict.tripped,
    }
