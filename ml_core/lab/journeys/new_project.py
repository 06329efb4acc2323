"""A folder of one's own from a file of rows: column table, configuration, questions. Nothing is trained here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ConfigError
from ml_core.base.files import written_for_user
from ml_core.lab.data.column_plan import ColumnPlan, plan_columns
from ml_core.lab.data.table_profile import TableProfile, profile_file
from ml_core.lab.data.table_questions import Question, find_giveaways, questions_about
from ml_core.lab.journeys.project_sizes import ProjectSizes, choose_sizes
from ml_core.lab.journeys.project_texts import ProjectFacts, project_texts

__all__ = ["NewProject", "make_project", "safe_name"]


@dataclass(frozen=True, slots=True)
class NewProject:
    """What was written.

    Attributes
    ----------
    folder : of the project
    model : name of the model
    table, plan, sizes : what was found in the rows, and chosen
    questions : for the people who know the table
    """

    folder: Path
    model: str
    table: TableProfile
    plan: ColumnPlan
    sizes: ProjectSizes
    questions: tuple[Question, ...]


def make_project(
    rows: Path, folder: Path, label: str, group: str | None = None, time: str | None = None,
    level: Decimal | None = None, subjects: str = "subjects", weight: str | None = None,
) -> NewProject:  # fmt: skip
    """Look at the rows and write the folder.

    Parameters
    ----------
    rows : ``.csv`` (any separator and encoding) or ``.parquet``
    folder : new or empty; its name becomes the model's
    label, group, time : names of columns: what is predicted, whose row it is, when it was
    level : confidence level; found out from the number of rows if None
    subjects : what the group column names, in the plural, for messages
    weight : name of the column that says for how many a row stands

    Raises
    ------
    DataError
        The file cannot be read, or has too few rows of two classes.
    ConfigError
        The folder holds something, or the columns cannot be what they were named.
    """
    model = safe_name(folder.resolve().name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(str(folder), "is there already: name a new folder, or remove it")
    table = profile_file(rows)
    plan = plan_columns(table, label, group, time, weight)
    sizes = choose_sizes(_y_index(table, plan), _groups(table, plan), [value for value, _ in plan.counts], level)
    questions = tuple(questions_about(table, plan, find_giveaways(table, plan)))
    source = Path(os.path.relpath(rows.resolve(), folder.resolve()))
    facts = ProjectFacts(model, subjects, source, table, plan, sizes, questions)
    for name, text in project_texts(facts).items():
        with written_for_user(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")
    return NewProject(folder, model, table, plan, sizes, questions)


def safe_name(name: str) -> str:
    """A name that models, folders and tags can have: small letters, digits, ``_``, ``-`` and ``.``.

    Examples
    --------
    >>> safe_name("My risk (2026)"), safe_name("Ångström"), safe_name("__")
    ('my_risk_2026', 'ngstr_m', 'model')
    """
    plain = re.sub(r"[^a-z0-9._-]+", "_", name.lower()).strip("._-")
    return plain[:60].strip("._-") or "model"


def _y_index(table: TableProfile, plan: ColumnPlan) -> npt.NDArray[np.int64]:
    """Position of each row's label among the plan's labels, shape (n,); -1 where it has none."""
    target = table.column(plan.label)
    if target is None or target.codes is None:
        raise ConfigError(plan.label, "is no column of the table")
    place = {str(value): k for k, (value, _) in enumerate(plan.counts)}
    of_code = np.array([*(place[str(value)] for value in target.distinct_values), -1], dtype=np.int64)
    return of_code[target.codes]


def _groups(table: TableProfile, plan: ColumnPlan) -> npt.NDArray[np.generic]:
    """Whose row each is, as training reads it, shape (n,)."""
    subjects = table.column(plan.group)
    if subjects is None or subjects.codes is None:
        return np.arange(table.rows, dtype=np.int64)
    values = subjects.distinct_values
    if subjects.kind == "int":
        return np.array([*values, 0], dtype=np.int64)[subjects.codes]
    return np.array([*(str(value) for value in values), ""], dtype=np.str_)[subjects.codes]  # "": a row without a label
