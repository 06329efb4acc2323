"""`surety run`: a project from its rows to a model that can be served."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.output import emit, note, output_option, refusals, refuse

if TYPE_CHECKING:
    from ml_core.lab.journeys.run_project import Project, ProjectRun

_NAMES_SHOWN = 5


@click.command(name="run")
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Do every step again.")
@click.option(
    "--start-over", is_flag=True, help="Put the project's .surety aside first: no earlier champion is compared."
)
@output_option
def command(project: Path, *, force: bool, start_over: bool, output: str) -> None:
    """Features, training, gate, promotion and import of PROJECT, as far as they are missing; one summary at the end.

    What was done is done again only where the configuration, the column table or the file of rows has changed. Exit
    status 3 if a rule says no, or if a column gives every class away and nobody has said that it is known before.
    PROJECT is a folder that surety init has written, or a configuration by itself.

    \b
    Example: surety run my-risk
    Example: surety run configs/readmission_v1.yaml
    """
    from ml_core.lab.journeys.run_project import STEPS, open_project, run_project

    opened = open_project(project)
    note(f"everything made lies in {opened.settings.home}{' (SURETY_HOME)' if os.environ.get('SURETY_HOME') else ''}")
    with _steps(len(STEPS)) as (said, done):
        found = run_project(opened, said, done, force=force, start_over=start_over)
    emit(_summary(opened, found), output)
    if found.status == "asked":
        refuse(_asked(opened, found))
    if found.status == "refused":
        refuse(refusals(found.failed))


@contextmanager
def _steps(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """A bar over the steps on a terminal; elsewhere only the notes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(file=sys.stderr, soft_wrap=True, markup=False, emoji=False, highlight=False)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("starting", total=total)

        def said(text: str) -> None:
            bar.update(task, description=text[:60])
            if bar.disable:
                note(text)

        yield said, lambda _name: bar.advance(task)


def _summary(opened: Project, found: ProjectRun) -> dict[str, Any]:
    config, metrics = opened.config, found.metrics or {}
    shown = ("roc_auc", "brier_skill", "coverage", "mean_set_size", "singleton_share", "empty_share")
    following = {
        "ready": f"surety serve {opened.path}",
        "refused": f"see what was refused, change {opened.file}, then surety run {opened.path}",
        "asked": f"answer in {opened.file.parent}, then surety run {opened.path}",
    }
    return {
        "model": config.model,
        "status": found.status,
        "version": found.version or None,
        "model_hash": found.model_hash or None,
        "tag": found.tag or None,
        "level": str(config.conformal.confidence_level),
        **{name: round(metrics[name], 4) for name in shown if name in metrics},
        "gate": {"ready": "passed", "refused": "refused", "asked": None}[found.status],
        "failed_rules": [rule.rule for rule in found.failed],
        "done_now": list(found.steps),
        "home": str(opened.settings.home),
        "next_action": following[found.status],
        "classes": [
            {
                "class": one.label,
                "test_rows": one.rows,
                "covered": round(one.covered, 4),
                "accepted_from": _rounded(one.accepted_from),
                "accepted_to": _rounded(one.accepted_to),
                "mean_set_size": _rounded(one.mean_set_size),
            }
            for one in found.classes
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _asked(opened: Project, found: ProjectRun) -> str:
    names = [one.column for one in found.telling]
    lines = [
        f"{one.column} alone tells every class apart (ROC AUC {min(one.auc.values()):.3f} at least)"
        for one in found.telling[:_NAMES_SHOWN]
    ]
    lines += [
        "What is written down after the outcome gives the label away: the model would look perfect and be useless.",
        f"Known only afterwards: delete its line in {opened.config.columns}.",
        f"Known before: data.known_before: [{', '.join(names)}] in {opened.file}.",
        "Nothing was trained.",
    ]
    return "\n".join(lines)
