"""What a table cannot say of itself: questions for the people who know it, each with what to write as the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml_core.lab.data.column_plan import ColumnPlan, PlannedColumn
from ml_core.lab.data.giveaways import GIVES_AWAY, Giveaway, Readings, giveaways
from ml_core.lab.data.table_profile import ColumnProfile, TableProfile

__all__ = ["Question", "find_giveaways", "questions_about", "sentinels"]

_SHOWN = 8
_NINES = re.compile(r"-?9+(\.0*)?|-1|-[89]8*")
_GAP = 0.5  # between a sentinel and the next value, as a share of the range of the others
_FEWEST_SENTINELS = 2
_NULL_LEVELS = frozenset({"?", "na", "n/a", "nan", "null", "none", "-", "--", ".", "missing", "unknown", "not known",
                          "unk", "", "-999", "-9", "9999", "999"})  # fmt: skip
_LIKE_A_SUBJECT = re.compile(
    r"(patient|subject|person|customer|client|member|user|household|family|case|site|ward|hospital|school|student|"
    r"storm|account|device|machine|vehicle|tailnum|ticker|store)|(^|[_ .-])id$", re.IGNORECASE,
)  # fmt: skip
_FEW_CODES = 12


@dataclass(frozen=True, slots=True)
class Question:
    """Something that a person must say.

    Attributes
    ----------
    text : the question, with what was seen
    answer : what to write, and where
    stops : whether training waits for the answer, because a wrong guess would be dangerous
    """

    text: str
    answer: str
    stops: bool = False


def find_giveaways(table: TableProfile, plan: ColumnPlan) -> tuple[Giveaway, ...]:
    """Planned features that give classes away alone, see ``giveaways``; rows without a label are not looked at."""
    target = table.column(plan.label)
    if target is None or target.codes is None:
        return ()
    kept = target.codes >= 0
    readings = []
    for planned in plan.features:
        profile = table.column(planned.column.name)
        if profile is not None and profile.codes is not None:
            numbers = None if profile.numbers is None else profile.numbers[kept]
            readings.append(Readings(profile.name, profile.codes[kept], numbers))
    return giveaways(readings, target.codes[kept], target.distinct)


def questions_about(table: TableProfile, plan: ColumnPlan, telling: Sequence[Giveaway]) -> list[Question]:
    """All questions about a table, the most dangerous ones first.

    Parameters
    ----------
    telling : as ``find_giveaways`` found them
    """
    profiles = [p for planned in plan.features if (p := table.column(planned.column.name)) is not None]
    asked: list[Question] = []
    asked += _copies_of_the_label(telling)
    asked += _telling_columns(table, plan, telling)
    asked += _subjects(table, plan)
    asked += _empty_labels(table, plan)
    asked += [q for profile in profiles for q in _sentinels(profile)]
    asked += _words_between_numbers(profiles)
    asked += _null_levels(profiles)
    asked += _dates(plan, table)
    asked += _duplicates(table)
    asked += _codes(profiles)
    asked += _rare_levels(plan.features, profiles)
    asked += _left_out(plan)
    asked += _watched(plan)
    asked += _encoding(table)
    return [*asked, *_bounds(plan)]


def sentinels(profile: ColumnProfile) -> tuple[float, ...]:
    """Numbers such as -999 or 9999 that stand apart from all others of a column, and so may mean "not known"."""
    if profile.numbers is None or profile.distinct < 4:
        return ()
    values, counts = np.unique(profile.numbers[np.isfinite(profile.numbers)], return_counts=True)
    found = []
    for at, neighbour in ((0, 1), (-1, -2)):
        others = values[1:] if at == 0 else values[:-1]
        spread = float(others[-1] - others[0]) or 1.0
        apart = abs(float(values[at] - values[neighbour])) > _GAP * spread
        if apart and counts[at] >= _FEWEST_SENTINELS and _NINES.fullmatch(f"{values[at]:g}"):
            found.append(float(values[at]))
    return tuple(found)


# --- the questions, one kind each -----------------------------------------------------------------------------------


def _copies_of_the_label(telling: Sequence[Giveaway]) -> list[Question]:
    return [
        Question(
            f"`{one.column}` alone tells every class (ROC AUC {min(one.auc.values()):.3f} at least, above "
            f"{GIVES_AWAY}). "
            "Is it known before the outcome is? If it is written down afterwards, the model would look perfect and be "
            "useless. Training waits for your answer.",
            f"not known before: delete its line in columns.yaml; known before: data.known_before: [{one.column}] in "
            "model.yaml",
            stops=True,
        )
        for one in telling
        if one.every_class
    ]


def _telling_columns(table: TableProfile, plan: ColumnPlan, telling: Sequence[Giveaway]) -> list[Question]:
    some = [one for one in telling if not one.every_class]
    if not some:
        return []
    target = table.column(plan.label)
    names = [] if target is None else target.distinct_values
    shown = [
        f"`{one.column}` ({', '.join(f'class {names[k]}: {auc:.3f}' for k, auc in list(one.auc.items())[:3])})"
        for one in some[:_SHOWN]
    ]
    text = (
        f"These columns tell one class nearly alone (ROC AUC above {GIVES_AWAY}): {_listed(shown, len(some))}. "
        f"Are they known before the outcome is?"
    )
    return [Question(text, "delete the line of one that is not in columns.yaml")]


def _subjects(table: TableProfile, plan: ColumnPlan) -> list[Question]:
    if table.column(plan.group) is not None:
        return []
    some = [c for c in table.columns if c.kind in ("int", "text", "category") and _LIKE_A_SUBJECT.search(c.name)]
    repeated = [c for c in some if 1 < c.distinct < c.filled and not c.nulls]
    text = (
        "No column was named that says whose a row is (--group), so each row is taken as a subject of its own. If one "
        "subject has several rows, the rows that judge would be no strangers, and coverage would look better than "
        "it is."
    )
    if repeated:
        shown = [f"`{c.name}` ({c.distinct:,} values in {c.rows:,} rows)" for c in repeated[:_SHOWN]]
        text += f" Does one of these name them? {_listed(shown, len(repeated))}."
    return [Question(text, "if so: surety init again, with --group")]


def _empty_labels(table: TableProfile, plan: ColumnPlan) -> list[Question]:
    target = table.column(plan.label)
    if target is None or not target.nulls:
        return []
    text = (
        f"{target.nulls:,} rows have no `{plan.label}` and are left out. Are they like the others, or missing for "
        f"a reason?"
    )
    return [Question(text, "nothing to write; if they differ, the model must not be asked about such cases")]


def _sentinels(profile: ColumnProfile) -> list[Question]:
    found = sentinels(profile)
    if not found:
        return []
    values = ", ".join(f"{value:g}" for value in found)
    return [
        Question(
            f"`{profile.name}` holds {values}, far from its other values. Does that mean that nothing is known?",
            f"if so: data.null_values: {{{profile.name}: [{values}]}} in model.yaml, and nullable: true in "
            f"columns.yaml",
        )
    ]


def _words_between_numbers(profiles: Sequence[ColumnProfile]) -> list[Question]:
    found = [f"`{p.name}`: {text!r} in {n:,} rows" for p in profiles for text, n in p.words]
    if not found:
        return []
    text = (
        f"Words in columns of numbers: {_listed(found[:_SHOWN], len(found))}. They are read as not known. Is that so?"
    )
    return [Question(text, "if one means a number: write it into the file; data.null_values in model.yaml lists them")]


def _null_levels(profiles: Sequence[ColumnProfile]) -> list[Question]:
    found = [
        f"`{p.name}`: {value!r} in {n:,} rows"
        for p in profiles
        if p.kind in ("category", "text")
        for value, n in p.counts
        if str(value).strip().lower() in _NULL_LEVELS
    ]
    if not found:
        return []
    text = (
        f"Levels that may mean that nothing is known: {_listed(found[:_SHOWN], len(found))}. They are kept as levels."
    )
    return [
        Question(
            text,
            "if one means so: data.null_values: {column: [value]} in model.yaml, and nullable: true in columns.yaml",
        )
    ]


def _dates(plan: ColumnPlan, table: TableProfile) -> list[Question]:
    asked = []
    features = [p.column.name for p in plan.features if p.column.dtype == "datetime"]
    if features:
        text = (
            f"{_listed([f'`{n}`' for n in features[:_SHOWN]], len(features))}: dates, taken apart into year, month, "
            f"day and "
            "so on. Are they known when the question is asked?"
        )
        asked.append(
            Question(text, "delete the line of one that is not; --time names the column that says when a row was")
        )
    for profile in table.columns:
        if len(profile.date_forms) > 1 and profile.name not in plan.left_out:
            text = (
                f"The dates of `{profile.name}` are read as {profile.date_form}; "
                f"{' and '.join(profile.date_forms[1:3])} would read them as well. Which is it?"
            )
            asked.append(Question(text, f"data.dates: {{{profile.name}: ...}} in model.yaml"))
    return asked


def _duplicates(table: TableProfile) -> list[Question]:
    if not table.duplicates:
        return []
    text = (
        f"{table.duplicates:,} rows repeat another row in every column. Are these the same subjects, entered twice? "
        f"Then they "
        "can stand in training and test at once."
    )
    return [Question(text, "if so: take them out of the file, or name the subjects by --group")]


def _codes(profiles: Sequence[ColumnProfile]) -> list[Question]:
    few = [p for p in profiles if p.kind == "int" and 2 < p.distinct <= _FEW_CODES]
    if not few:
        return []
    shown = [f"`{p.name}` ({p.distinct})" for p in few[:_SHOWN]]
    text = (
        f"Whole numbers with few values: {_listed(shown, len(few))}. They are taken as amounts. Is one of them a "
        f"code, whose order means nothing?"
    )
    return [
        Question(
            text,
            "for a code: dtype: category, levels: [1, 2, ...], transform: one_hot in columns.yaml, without low and "
            "high",
        )
    ]


def _rare_levels(planned: Sequence[PlannedColumn], profiles: Sequence[ColumnProfile]) -> list[Question]:
    by_name = {p.name: p for p in profiles}
    rare = [p.column.name for p in planned if p.remark.startswith("rare") and p.column.name in by_name]
    if not rare:
        return []
    text = (
        f"Levels in fewer than ten rows: {_listed([f'`{n}`' for n in rare[:_SHOWN]], len(rare))} (columns.yaml "
        f"lists them). Slips of the pen, or real?"
    )
    return [Question(text, "correct them in the file; a level that columns.yaml does not list is refused in a request")]


def _left_out(plan: ColumnPlan) -> list[Question]:
    if not plan.left_out:
        return []
    shown = [f"`{name}` {why}" for name, why in list(plan.left_out.items())[:_SHOWN]]
    text = f"Left out: {_listed(shown, len(plan.left_out), '; ')}. Is one of them needed?"
    return [Question(text, "give it a line in columns.yaml")]


def _watched(plan: ColumnPlan) -> list[Question]:
    found = plan.watched
    if not found:
        return []
    shown = [f"`{planned.column.name}`" for planned in found[:_SHOWN]]
    text = (
        f"Groups worth watching: {_listed(shown, len(found))}. Coverage is promised for each class, not for each "
        f"group. "
        "Shall it be measured, or promised, in these?"
    )
    return [Question(text, "take the comment signs from conformal.groups in model.yaml (docs/groups.md)")]


def _encoding(table: TableProfile) -> list[Question]:
    asked = []
    if table.form is not None and table.form.encoding in ("cp1252", "latin-1"):
        text = f"The file is no UTF-8; it is read as {table.form.encoding}. Are letters such as ä and é right?"
        asked.append(Question(text, "data.csv.encoding in model.yaml"))
    if table.form is not None and table.form.thousands:
        text = f"Numbers are read with {table.form.thousands!r} between thousands. Is that so?"
        asked.append(Question(text, "data.csv.thousands and data.csv.decimal in model.yaml"))
    return asked


def _bounds(plan: ColumnPlan) -> list[Question]:
    numbers = [p.column.name for p in plan.features if p.column.dtype in ("int", "float")]
    if not numbers:
        return []
    text = (
        f"{len(numbers)} columns of numbers have bounds guessed from what was seen, and no unit. A value outside "
        f"its bounds "
        "is refused; a wrong unit is the most common mistake. What is possible?"
    )
    return [Question(text, "low, high and unit in columns.yaml")]


def _listed(shown: Sequence[Any], n: int, by: str = ", ") -> str:
    more = f" and {n - len(shown)} more" if n > len(shown) else ""
    return by.join(str(one) for one in shown) + more
