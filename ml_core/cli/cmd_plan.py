"""`surety plan`: what gate and monitor can see at given sizes."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from ml_core.cli.output import emit, output_option

_SHARE = click.FloatRange(0.0, 1.0, min_open=True, max_open=True)


def _decimal(_context: click.Context, option: click.Parameter, value: str | None) -> Decimal | None:
    if value is None:
        return None
    try:
        number = Decimal(value)
    except InvalidOperation as error:
        raise click.BadParameter("is no decimal number", param=option) from error
    if not Decimal("0.5") <= number <= Decimal("0.9999"):
        raise click.BadParameter("must lie between 0.5 and 0.9999", param=option)
    return number


@click.command(name="plan")
@click.option("--rows", type=click.IntRange(1, 10**9), required=True, help="Labelled rows in all.")
@click.option("--class-share", type=_SHARE, required=True, help="Share of the rows in the class you care for.")
@click.option("--groups", type=click.IntRange(1, 1_000), default=1, show_default=True, help="Groups of one size.")
@click.option("--level", default="0.9", show_default=True, callback=_decimal, help="Confidence level of the sets.")
@click.option("--floor", type=_SHARE, help="The gate's min_coverage (default: 0.02 below the level).")
@click.option("--confidence", callback=_decimal, help="conformal.training_conditional, where it is to be set.")
@click.option("--calibration-share", type=_SHARE, default=0.2, show_default=True, help="Share that calibrates.")
@click.option("--test-share", type=_SHARE, default=0.2, show_default=True, help="Share that tests.")
@output_option
def command(
    rows: int,
    class_share: float,
    groups: int,
    level: Decimal,
    floor: float | None,
    confidence: Decimal | None,
    calibration_share: float,
    test_share: float,
    output: str,
) -> None:
    """Say what the gate and the monitor can see of coverage at these sizes, and how many rows a promise needs.

    Two classes: the one you care for, and the others. Each row counts as another subject; where subjects return, take
    fewer rows. Chances are exact; delays are medians of 200 simulated streams of labels of that class.

    \b
    Example: surety plan --rows 20000 --class-share 0.11
    Example: surety plan --rows 20000 --class-share 0.11 --groups 4 --level 0.95 --output json
    """
    from ml_core.lab.measuring.coverage_plan import PlannedSizes, plan_cells, rows_needed

    if calibration_share + test_share >= 1.0:
        raise click.UsageError("--calibration-share and --test-share leave no rows to train on")
    if level > Decimal("0.999"):
        raise click.UsageError("--level is at most 0.999")
    accepted = float(level - Decimal("0.02")) if floor is None else floor
    sizes = PlannedSizes(rows, class_share, groups, calibration_share, test_share, level, accepted, confidence)
    cells = [_shown(asdict(cell)) for cell in plan_cells(sizes)]
    if output == "table":  # one line per fact, one column per class
        cells = [{"fact": name, **{cell["of"]: cell[name] for cell in cells}} for name in cells[0] if name != "of"]
    emit(
        {
            "rows": rows,
            "class_share": class_share,
            "groups": groups,
            "level": str(level),
            "floor": accepted,
            "confidence": None if confidence is None else str(confidence),
            "cells": cells,
            "needs": [asdict(need) for need in rows_needed(sizes)],
        },
        output,
    )


def _shown(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell with its chances of refusal as fields of their own."""
    return {
        name: value
        for key, found in cell.items()
        for name, value in (
            {f"refused_at_{true}": chance for true, chance in found.items()} if key == "refused" else {key: found}
        ).items()
    }
