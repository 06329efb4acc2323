"""`surety init`: a project of one's own from a file of rows."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.output import emit, note, output_option

if TYPE_CHECKING:
    from ml_core.lab.journeys.new_project import NewProject

_LEVELS = (Decimal("0.5"), Decimal("0.999"))


def _level(_context: click.Context, option: click.Parameter, value: str | None) -> Decimal | None:
    if value is None:
        return None
    try:
        level = Decimal(value)
    except InvalidOperation as error:
        raise click.BadParameter("is no decimal number", param=option) from error
    if not _LEVELS[0] <= level <= _LEVELS[1]:
        raise click.BadParameter("must lie between 0.5 and 0.999", param=option)
    return level


@click.command(name="init")
@click.argument("rows", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--label", required=True, help="Column to predict: a category, or a few whole numbers.")
@click.option("--group", help="Column that says whose row it is; without it each row is a subject of its own.")
@click.option("--time", help="Column that says when it was.")
@click.option("--weight", help="Column that says for how many a row stands, as survey weights do.")
@click.option(
    "--level", callback=_level, help="Confidence level of the sets (default: 0.9, or less where rows are few)."
)
@click.option(
    "--subjects", default="subjects", show_default=True, help="What the group column names, for messages, e.g. storms."
)
@output_option
def command(
    rows: Path,
    folder: Path,
    label: str,
    group: str | None,
    time: str | None,
    weight: str | None,
    level: Decimal | None,
    subjects: str,
    output: str,
) -> None:
    """Look at ROWS (CSV of any separator and encoding, or Parquet) and write a project into FOLDER.

    The folder gets columns.yaml, model.yaml, a README with questions, a test and a Makefile. Nothing is trained. Then:
    surety run FOLDER.

    \b
    Example: surety init visits.csv my-risk --label readmitted --group patient_id --time admitted
    Example: surety init tracks.csv storms --label category --group storm --subjects storms
    Example: surety init survey.csv smokers --label smokes --weight final_weight
    Example: surety init wine.parquet wine --label kind --level 0.8
    """
    from ml_core.lab.journeys.new_project import make_project

    made = make_project(rows, folder, label, group, time, level, subjects, weight)
    _say(made)
    emit(_facts(made), output)


def _say(made: NewProject) -> None:
    from ml_core.lab.data.csv_format import format_in_words

    if made.table.form is not None:
        note(f"{made.table.path.name}: {format_in_words(made.table.form)}")
    note(
        f"{made.table.rows:,} rows, {len(made.plan.features)} columns to learn from, {len(made.plan.left_out)} left out"
    )
    for one in made.sizes.classes:
        note(
            f"class {one.label!r}: {one.rows:,} rows; at {made.sizes.level} its true coverage will lie in "
            f"{one.likely_from:.2f} to "
            f"{one.likely_to:.2f} nine times in ten"
        )
    for label, n in made.sizes.left_out:
        note(f"class {label!r} is left out: {n} rows are too few, and the model will not know of such cases")
    note("questions (they are in the README too):")
    for number, question in enumerate(made.questions, 1):
        note(
            f"{number:>3}. {'[training waits for this] ' if question.stops else ''}{question.text}\n     -> "
            f"{question.answer}"
        )
    note(f"next: surety run {made.folder}")


def _facts(made: NewProject) -> dict[str, Any]:
    sizes = made.sizes
    return {
        "project": str(made.folder),
        "model": made.model,
        "rows": made.table.rows,
        "features": len(made.plan.features),
        "left_out": list(made.plan.left_out),
        "classes": {str(one.label): one.rows for one in sizes.classes},
        "classes_left_out": {str(label): n for label, n in sizes.left_out},
        "level": str(sizes.level),
        "parts": sizes.parts,
        "questions": len(made.questions),
        "stopping_questions": sum(question.stops for question in made.questions),
        "next_action": f"surety run {made.folder}",
    }
