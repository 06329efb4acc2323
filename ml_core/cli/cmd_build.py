"""`surety build`: a bento around a project's model."""

from __future__ import annotations

from pathlib import Path

import click

from ml_core.cli.options import sound_no
from ml_core.cli.output import emit, note, output_option


@click.command(name="build")
@click.argument("project", type=click.Path(path_type=Path))
@click.option("--isolated", is_flag=True, help="The service whose model runs in a process of its own (SuretyIsolated).")
@output_option
def command(project: Path, output: str, *, isolated: bool) -> None:
    """Build a bento around the promoted model of PROJECT, with the Python file of its features where it has one.

    It holds all that a service needs, and nothing that trains or judges. `bentoml serve TAG` serves it, `bentoml
    containerize TAG` makes an image of it, `bentoml export TAG` a file. PROJECT is a folder that surety init has
    written, or a configuration by itself. Exit status 3 if its model may not answer.

    \b
    Example: surety build my-risk
    Example: surety build configs/readmission_v1.yaml --isolated
    """
    from ml_core.lab.journeys.build_bento import build_bento
    from ml_core.lab.journeys.run_project import open_project

    opened = open_project(project)
    note("building takes some seconds")
    with sound_no():
        bento, model, module = build_bento(opened, "SuretyIsolated" if isolated else "Surety")
    if module is not None:
        note(f"{module} is in it: who serves the bento runs this code")
    emit({"bento": bento, "model": model, "module": None if module is None else module.name}, output)
