"""`surety report`: everything a model has to say for itself, on one page and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_core.cli.options import Duration, settings_option
from ml_core.cli.output import emit, output_option

if TYPE_CHECKING:
    from ml_core.base.settings import Settings


@click.command(name="report")
@settings_option()
@click.option("--since", type=Duration(), default="30d", show_default=True, help="How far back, e.g. 24h, 30d, 400d.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"), show_default=True,
              help="File for the page.")  # fmt: skip
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False),
              help="File for the same as JSON (default: beside the page, with the ending .json).")  # fmt: skip
@click.option("--verify", is_flag=True, help="Also walk the hash chains of the whole prediction log.")
@click.option("--open", "opening", type=click.Choice(["yes", "no"]), default="no", show_default=True,
              help="Whether to open the page in a browser.")  # fmt: skip
@output_option
def command(
    settings: Settings, since: float, out: Path, json_path: Path | None, opening: str, output: str, *, verify: bool
) -> None:
    """Write a page about a model: models, drift, scores and sets, coverage, performance, shadow, circuits, decisions.

    One HTML file that fetches nothing and runs no script. It is made from files in SURETY_HOME alone, beside a running
    service or without one; what cannot be read is told and left out. Exit status 0 once it is written, whatever it
    says: the report is the result. `surety status` and `surety monitor --once` tell pipelines of alarms.

    \b
    Example: surety report --model readmission_risk
    Example: surety report --since 90d --out reports/ward.html --verify
    """
    from datetime import timedelta

    from ml_core.base.clock import utc_now
    from ml_core.lab.report.collect import collect_facts
    from ml_core.lab.report.page import write_page

    facts = collect_facts(settings, timedelta(seconds=since), utc_now(), verify=verify)
    written = write_page(facts, out, out.with_suffix(".json") if json_path is None else json_path)
    emit(
        {
            "model": facts.model_name,
            "status": written.status.overall,
            "headline": written.status.headline,
            "report": str(written.page),
            "json": str(written.json),
            "bytes": written.bytes,
            "gaps": list(dict.fromkeys(gap.reason for gap in facts.gaps)),
        },
        output,
    )
    if opening == "yes":
        click.launch(str(written.page.absolute()))
