"""`surety coverage check`: do the sets still cover what they promise."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.options import Duration, settings_option, slot_option
from ml_core.cli.output import emit, note, output_option, picked

if TYPE_CHECKING:
    from ml_core.base.settings import Settings


@click.group(name="coverage")
def command() -> None:
    """Coverage of answers whose outcome is known.

    \b
    Example: surety coverage check
    """


@command.command()
@click.option("--since", type=Duration(), help="Only answers of the last e.g. 24h, 30d (default: all).")
@slot_option()
@settings_option()
@output_option
def check(since: float | None, slot: str, settings: Settings, output: str) -> None:
    """Compare coverage per class with the band of a valid model; exit status 3 if a coverage alarm is on.

    A band says what chance explains in one look. Only the detector, which may be looked at as often as one likes,
    raises an alarm.

    \b
    Example: surety coverage check --since 30d
    """
    from datetime import timedelta

    from ml_core.base.clock import utc_now
    from ml_core.lab.watching.live_performance import bands_of, matured_answers

    found = matured_answers(settings, None if since is None else utc_now() - timedelta(seconds=since), slot)
    if not found.rows:
        note(f"no label of {found.model.tag} has matured yet; {found.waiting} wait for their horizon")
    detectors: list[dict[str, Any]] = [
        {
            "alarm": name,
            **picked(state, "labels", "misses"),
            "evidence": state.total_evidence,
            "needed": state.threshold,
            "largest_miss_rate": state.mu0,
            "on": state.is_alarmed,
        }
        for name, state in found.detectors.items()
    ]
    emit(
        {
            "model": found.model.tag,
            "slot": slot,
            "matured": len(found.rows),
            "waiting": found.waiting,
            "unknown": found.unknown,
            "bands": [asdict(band) for band in bands_of(found)],
            "detectors": detectors,
        },
        output,
    )
    if any(alarm.reason.startswith("coverage:") for alarm in found.alarms):
        raise SystemExit(3)
