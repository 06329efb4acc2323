"""The files of a new project, as texts: columns.yaml, model.yaml, README.md, a test, and a Makefile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ml_core.features.columns import Column
from ml_core.lab.config import CsvConfig
from ml_core.lab.data.column_plan import ColumnPlan, PlannedColumn
from ml_core.lab.data.csv_format import format_in_words
from ml_core.lab.data.table_profile import TableProfile
from ml_core.lab.data.table_questions import Question
from ml_core.lab.journeys.project_sizes import ClassSizes, ProjectSizes

__all__ = ["ProjectFacts", "project_texts"]

_UNIT_ASKED = 200  # columns of numbers; of more, nobody fills in units one by one
_SMALL_TABLE = 2_000  # training rows


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """All that the files are made of.

    Attributes
    ----------
    model : its name
    subjects : what the group column names, in the plural
    source : of the rows, relative to the project
    table, plan, sizes, questions : what was found and chosen
    seed : of splits' ties and training
    """

    model: str
    subjects: str
    source: Path
    table: TableProfile
    plan: ColumnPlan
    sizes: ProjectSizes
    questions: tuple[Question, ...]


def project_texts(facts: ProjectFacts) -> dict[str, str]:
    """The text of each file, by its name."""
    return {
        "columns.yaml": _columns(facts),
        "model.yaml": _model(facts),
        "README.md": _readme(facts),
        "test_project.py": _test(facts),
        "Makefile": _makefile(facts),
        ".gitignore": ".surety/\n",
    }


# --- columns.yaml ---------------------------------------------------------------------------------------------------


def _columns(facts: ProjectFacts) -> str:
    head = (
        "# What every column may hold: training rows, requests and the service's documentation are judged by it.\n"
        "# Levels, types and bounds are guesses from what was seen: check them. Keys: docs/columns.md of "
        "surety-bundle.\n"
        "columns:\n"
    )
    units = sum(p.column.dtype in ("int", "float") for p in facts.plan.features) <= _UNIT_ASKED
    lines = [_column_line(planned, facts, with_unit=units) for planned in facts.plan.columns]
    left = "".join(f"# left out: {_one_line(name)} {why}\n" for name, why in facts.plan.left_out.items())
    return head + "".join(lines) + left


def _column_line(planned: PlannedColumn, facts: ProjectFacts, *, with_unit: bool) -> str:
    column = planned.column
    keys: dict[str, Any] = {"dtype": column.dtype}
    if column.role != "feature":
        keys["role"] = column.role
    if column.role == "feature" and column.dtype in ("int", "float") and with_unit:
        keys["unit"] = ""
    keys |= {name: getattr(column, name) for name in ("low", "high") if getattr(column, name) is not None}
    if column.levels:
        keys["levels"] = list(_kept_levels(column, facts))
    if column.nullable:
        keys |= {"nullable": True, "missing_flag": True}
    if column.transform in ("one_hot", "ordinal"):
        keys["transform"] = column.transform
    if column.doc:
        keys["doc"] = column.doc
    remark = planned.remark if with_unit else planned.remark.replace("unit?; ", "")
    return f"  {_flow(column.name)}: {_flow(keys)}{f'  # {_one_line(remark)}' if remark else ''}\n"


def _kept_levels(column: Column, facts: ProjectFacts) -> Sequence[Any]:
    if column.role != "label":
        return column.levels
    return [one.label for one in facts.sizes.classes]


# --- model.yaml -----------------------------------------------------------------------------------------------------


def _model(facts: ProjectFacts) -> str:
    sizes, plan = facts.sizes, facts.plan
    split = sizes.split
    rarest = min(sizes.classes, key=lambda one: one.test)
    return (
        f"""\
# One file says how this model is made and judged. Every key: docs/reference/configuration.md of surety-bundle.
model: {facts.model}
columns: columns.yaml
subjects: {facts.subjects}  # what `{facts.plan.group}` names, for messages
seed: 20140

data:
  source: {_flow(str(facts.source))}
{_data_lines(facts)}
split: {{train: {split.train}, validation: {split.validation}, calibration: {split.calibration}, test: {split.test}}}

conformal:
  confidence_level: "{sizes.level}"
  guarantee: class_conditional  # of the rows of each class, that share has it in the set
{_groups(facts)}
training:
{_training(facts)}
gate:
  min_roc_auc: 0.5       # better than chance; set what a model must reach to be worth using
  max_brier: {1.0 if len(sizes.classes) > 2 else 0.25}
  min_brier_skill: 0.0   # better than always telling the base rate, for any number of classes
  min_coverage: {sizes.floor}
  min_positives: {sizes.min_positives}      # test rows of each class; {_one_line(rarest.label)!r} has {rarest.test}

promotion: {{min_coverage: {sizes.level}}}

card:
  owners: []             # who answers for the model
  intended_use: ""       # who may use it, for which decision, about whom
  out_of_scope: ""       # what it must not be used for
  data: ""               # where the rows come from, whom they describe, what was left out
  # more, such as what health IT must tell of a model: docs/model-card.md
""".replace("\n\n\n", "\n\n")
        if plan
        else ""
    )


def _data_lines(facts: ProjectFacts) -> str:
    lines = []
    form = facts.table.form
    if form is not None:
        lines.append(f"  csv: {_flow(_csv_keys(form))}")
    dates = {
        profile.name: profile.date_form
        for planned in facts.plan.columns
        if (profile := facts.table.column(planned.column.name)) is not None and profile.date_form
    }
    if dates:
        lines.append(f"  dates: {_flow(dates)}")
    words = {
        profile.name: [text for text, _ in profile.words]
        for planned in facts.plan.columns
        if (profile := facts.table.column(planned.column.name)) is not None and profile.words
    }
    if words:
        lines.append(f"  null_values: {_flow(words)}")
    target = facts.table.column(facts.plan.label)
    unlabelled = target is not None and target.nulls > 0
    left = [*([None] if unlabelled else []), *(label for label, _ in facts.sizes.left_out)]
    if left:
        lines.append(f"  leave_out_labels: {_flow(left)}")
    if facts.table.column(facts.plan.group) is None:
        lines.append(f"  row_number: {_flow(facts.plan.group)}  # each row is taken as a subject of its own")
    return "".join(f"{line}\n" for line in lines)


def _csv_keys(form: CsvConfig) -> dict[str, Any]:
    keys: dict[str, Any] = {"separator": form.separator, "decimal": form.decimal, "encoding": form.encoding}
    if form.thousands:
        keys["thousands"] = form.thousands
    return keys | {"null_words": list(form.null_words)}


def _groups(facts: ProjectFacts) -> str:
    watched = facts.plan.watched
    if not watched:
        return ""
    lines = ["  # groups:               # measure coverage in these groups too (docs/groups.md)\n"]
    for planned in watched:
        column = planned.column
        name = "".join(c if c.isalnum() else "_" for c in column.name.lower()).strip("_")[:30] or "cells"
        keys: dict[str, Any] = {"name": f"by_{name}", "column": column.name}
        if column.dtype in ("int", "float"):
            profile = facts.table.column(column.name)
            if profile is None or profile.low is None or profile.high is None:
                continue
            keys["cuts"] = [
                float(f"{profile.low + share * (profile.high - profile.low):.3g}") for share in (0.33, 0.67)
            ]
        lines.append(f"  #   - {_flow(keys)}\n")
    return "".join(lines)


def _training(facts: ProjectFacts) -> str:
    rows = facts.sizes.parts["train"]
    if rows < _SMALL_TABLE:
        params = {
            "max_depth": 3,
            "learning_rate": 0.1,
            "min_child_weight": 1,
            "subsample": 0.8,
            "colsample_bytree": 0.5,
        }
        return f"  rounds: 300\n  early_stopping_rounds: 20\n  params: {_flow(params)}\n"
    params = {"max_depth": 5, "learning_rate": 0.1, "min_child_weight": 5, "subsample": 0.8, "colsample_bytree": 0.8}
    return f"  rounds: 500\n  early_stopping_rounds: 20\n  params: {_flow(params)}\n"


# --- README.md ------------------------------------------------------------------------------------------------------


def _readme(facts: ProjectFacts) -> str:
    table, plan, sizes = facts.table, facts.plan, facts.sizes
    how = f" ({format_in_words(table.form)})" if table.form is not None else ""
    asked = "\n".join(
        f"{i}. {'**Training waits for this.** ' if q.stops else ''}{q.text}\n   *{q.answer}*"
        for i, q in enumerate(facts.questions, 1)
    )
    return f"""\
# {facts.model}

Predicts `{plan.label}` from {len(plan.features)} columns of `{facts.source}`{how}: {table.rows:,} rows.

```sh
surety run .             # features, training, gate, promotion, import; goes on where it stopped
surety serve .           # the service on port 3000, with the monitor beside it
```

Everything that is made lies in `.surety/` here, or in `SURETY_HOME` where that is set. The other commands work in this
folder too: `export SURETY_MODEL_NAME={facts.model}`, then `surety status`, `surety report`, `surety models card`.

## What so many rows can promise

Level {sizes.level}: of the rows of each class, that share has its class in the set, in the mean over calibrations.

| class | rows | calibrate | test | true coverage, 9 times in 10 | the gate notices |
|---|---|---|---|---|---|
{_promises(sizes.classes)}
{_left_out_labels(sizes)}
More rows make the range narrower: `surety plan` says how many.

## Questions

The table cannot say these things of itself. You know them.

{asked}
"""


def _promises(classes: Sequence[ClassSizes]) -> str:
    return "".join(
        f"| {_cell(one.label)} | {one.rows:,} | {one.calibration:,} | {one.test:,} | {one.likely_from:.2f} to "
        f"{one.likely_to:.2f} | {one.noticed:.2f} or less |\n"
        for one in classes
    )


def _left_out_labels(sizes: ProjectSizes) -> str:
    if not sizes.left_out:
        return ""
    shown = ", ".join(f"`{_cell(label)}` ({n} rows)" for label, n in sizes.left_out)
    return (
        f"\n**Left out, too few rows: {shown}.** The model does not know that there are such cases, and its sets "
        f"can never name "
        "them. Find more rows, or put them together with another class in the file.\n"
    )


# --- the rest ---------------------------------------------------------------------------------------------------------


def _test(facts: ProjectFacts) -> str:
    return f'''\
"""The project's own test: its rows hold, and the model has what it needs. Run it by `make test`."""

import unittest
from pathlib import Path

from ml_core.lab.config import load_config
from ml_core.lab.data.feature_pipeline import FeaturePipeline
from ml_core.base.settings import load_settings
from ml_core.serve.features.versions import get_feature_version

HERE = Path(__file__).resolve().parent


class ProjectTest(unittest.TestCase):
    def test_the_label_is_no_feature(self):
        version = get_feature_version(load_config(HERE / "model.yaml").feature_version)
        self.assertNotIn({facts.plan.label!r}, [column.name for column in version.features])

    def test_every_row_of_the_file_holds(self):
        pipeline = FeaturePipeline(load_config(HERE / "model.yaml"), load_settings(home=HERE / ".surety"))
        result = pipeline.run(dry_run=True)
        self.assertEqual(result.problems, ())


if __name__ == "__main__":
    unittest.main()
'''


def _makefile(facts: ProjectFacts) -> str:
    lines = (
        ("run", "surety run ."),
        ("serve", "surety serve ."),
        ("test", "python -m unittest test_project"),
        ("report", f"SURETY_MODEL_NAME={facts.model} surety report"),
    )
    return "".join(f"{name}: ; {command}\n" for name, command in lines)


def _flow(value: Mapping[str, Any] | Sequence[Any] | str) -> str:
    """The value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _cell(text: object) -> str:
    return _one_line(text).replace("|", "\\|")
