"""From the profile of a raw table to a column table: roles, bounds, levels; what is left out, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from ml_core.base.errors import ConfigError
from ml_core.base.near_names import meant
from ml_core.features.columns import Column
from ml_core.lab.data.table_profile import ColumnProfile, TableProfile

__all__ = ["ColumnPlan", "PlannedColumn", "plan_columns", "ROW"]

ROW = "row"
"""Column of the row's number, where no column names the subjects."""

MOST_CLASSES = 50
_MOST_NUMBERS = 20  # different whole numbers that can be classes
_MOST_ONE_HOT = 12
_LIKE_AN_ID = re.compile(
    r"(^|[_ .-])(id|uuid|guid|key|nr|no|num|number|index|idx|row|rownames?|code)$|^(unnamed.*|x)$", re.IGNORECASE
)
_NEGATIVE = ("no", "n", "false", "f", "0", "negative", "neg", "benign", "absent", "control", "healthy", "never", "0%",
             "good", "alive", "non-case", "normal")  # fmt: skip
_RARE_LEVEL = 10
_WATCHED = re.compile(
    r"(^|[_ .-])(age|age_?group|age_?band|sex|gender|race|ethnic\w*|nationality|religion|religious|marital\w*|language|"
    r"disab\w*|insurance|payer|income\w*|region|education|educ|country|citizen\w*)([_ .-]|$)", re.IGNORECASE,
)  # fmt: skip
"""Names of columns that tell groups of people in which coverage should be looked at."""


@dataclass(frozen=True, slots=True)
class PlannedColumn:
    """A column of the table to be.

    Attributes
    ----------
    column : as the column table has it
    remark : for the people who check it
    """

    column: Column
    remark: str = ""


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """A column table, planned.

    Attributes
    ----------
    columns : in the order of the file; the label last
    left_out : why a column of the file is none of these, by its name
    label, group, time : names of those columns; ``group`` is ``ROW`` where no column names the subjects
    counts : rows of each label, in the order of the label's levels
    """

    columns: tuple[PlannedColumn, ...]
    left_out: dict[str, str]
    label: str
    group: str
    time: str | None
    counts: tuple[tuple[Any, int], ...]

    @property
    def features(self) -> tuple[PlannedColumn, ...]:
        """The columns that the model looks at."""
        return tuple(planned for planned in self.columns if planned.column.role == "feature")

    @property
    def watched(self) -> tuple[PlannedColumn, ...]:
        """Features that tell groups worth watching, by their names."""
        fitting = ("int", "float", "category")
        return tuple(p for p in self.features if p.column.dtype in fitting and _WATCHED.search(p.column.name))


def plan_columns(
    table: TableProfile, label: str, group: str | None = None, time: str | None = None, weight: str | None = None
) -> ColumnPlan:
    """The column table for a file.

    Parameters
    ----------
    label, group, time, weight : names of columns: what is predicted, whose row it is, when it was, and for how many
        a row stands

    Raises
    ------
    ConfigError
        The file has no such column; the label is a number of many values, of one value, or a text of too many; the
        group has gaps; the weight is no number above 0; or no column is left to learn from.
    """
    target = _named(table, label, "--label")
    _check_label(target)
    subjects = None if group is None else _named(table, group, "--group")
    if subjects is not None:
        _check_group(subjects, target)
    moment = None if time is None else _named(table, time, "--time")
    if moment is not None and moment.kind not in ("datetime", "int"):
        raise ConfigError(f"--time {time}", f"holds {_kind_in_words(moment)}; dates or whole numbers are wanted")
    heavy = None if weight is None else _named(table, weight, "--weight")
    if heavy is not None:
        _check_weight(heavy)
    planned, left_out = [], dict[str, str]()
    for profile in table.columns:
        if profile.name == label:
            continue
        if subjects is not None and profile.name == subjects.name:
            planned.append(_group(profile))
        elif moment is not None and profile.name == moment.name:
            planned.append(_time(profile))
        elif heavy is not None and profile.name == heavy.name:
            planned.append(_weight(profile))
        elif (why := _useless(profile)) is not None:
            left_out[profile.name] = why
        else:
            planned.append(_feature(profile))
    if not any(one.column.role == "feature" for one in planned):
        raise ConfigError(str(table.path), f"no column is left to learn from: {_reasons(left_out)}")
    group_name = group or _free_name(ROW, {c.name for c in table.columns})
    if group is None:
        doc = "Number of the row: each row is taken as a subject of its own."
        planned.insert(0, PlannedColumn(Column(group_name, "int", doc, role="group", low=0)))
    counts = _ordered(target)
    planned.append(PlannedColumn(Column(label, "category", "What is predicted.", role="label", levels=_levels(counts))))
    return ColumnPlan(tuple(planned), left_out, label, group_name, time, counts)


def _named(table: TableProfile, name: str, option: str) -> ColumnProfile:
    found = table.column(name)
    if found is None:
        problem = f"{table.path.name} has no such column; {meant(name, (column.name for column in table.columns))}"
        raise ConfigError(f"{option} {name}", problem)
    return found


def _reasons(left_out: dict[str, str]) -> str:
    shown = [f"{name} {why}" for name, why in list(left_out.items())[:5]]
    return "; ".join(shown) + (f"; and {len(left_out) - 5} more" if len(left_out) > 5 else "")


# --- the label ----------------------------------------------------------------------------------------------------


def _check_label(target: ColumnProfile) -> None:
    name = f"--label {target.name}"
    fractions = target.kind == "float"
    if fractions or (target.kind == "int" and target.distinct > _MOST_NUMBERS):
        what = "fractions" if fractions else f"{target.distinct} different numbers"
        raise ConfigError(
            name,
            f"holds {what}. To predict a number (regression) is not offered: make classes of it, for example with "
            "pandas.cut, and name that column",
        )
    if target.kind in ("datetime", "empty"):
        raise ConfigError(name, f"holds {_kind_in_words(target)}, which are no classes")
    if target.distinct > MOST_CLASSES or not target.counts:
        raise ConfigError(name, f"holds {target.distinct} different texts; up to {MOST_CLASSES} classes are understood")
    if target.distinct < 2:
        raise ConfigError(name, "holds one value only: there is nothing to tell apart")


def _ordered(target: ColumnProfile) -> tuple[tuple[Any, int], ...]:
    """Labels with their rows: of two, the one that is looked for is second; of more, in their own order."""
    counts = [(value if target.kind == "int" else str(value), n) for value, n in target.counts]
    if len(counts) == 2 and target.kind != "int":
        return tuple(sorted(counts, key=lambda pair: (str(pair[0]).strip().lower() not in _NEGATIVE, -pair[1])))
    return tuple(sorted(counts, key=lambda pair: pair[0]))


def _levels(counts: Sequence[tuple[Any, int]]) -> Any:
    return tuple(value for value, _ in counts)


# --- the other columns --------------------------------------------------------------------------------------------


def _check_group(subjects: ColumnProfile, target: ColumnProfile) -> None:
    if subjects.codes is None or target.codes is None:
        return
    unnamed = int(((subjects.codes < 0) & (target.codes >= 0)).sum())  # rows without a label are left out anyway
    if unnamed:
        problem = f"is empty in {unnamed:,} rows: whose are they? Fill it in, or take these rows out of the file"
        raise ConfigError(f"--group {subjects.name}", problem)
    if subjects.kind in ("float", "datetime", "empty"):
        raise ConfigError(
            f"--group {subjects.name}", f"holds {_kind_in_words(subjects)}; texts or whole numbers are wanted"
        )


def _group(profile: ColumnProfile) -> PlannedColumn:
    dtype: Any = "int" if profile.kind == "int" else "text"
    return PlannedColumn(
        Column(profile.name, dtype, "Names the subject of a row; a subject is never in two parts.", role="group")
    )


def _time(profile: ColumnProfile) -> PlannedColumn:
    dtype: Any = "datetime" if profile.kind == "datetime" else "int"
    return PlannedColumn(Column(profile.name, dtype, "When it was.", role="time"))


def _check_weight(heavy: ColumnProfile) -> None:
    name = f"--weight {heavy.name}"
    if heavy.low is None:
        raise ConfigError(name, f"holds {_kind_in_words(heavy)}; numbers above 0 are wanted")
    if heavy.nulls or heavy.low <= 0:
        unusable = heavy.nulls + (0 if heavy.numbers is None else int((heavy.numbers <= 0).sum()))
        problem = f"is empty, 0 or below 0 in {unusable:,} rows: they stand for nobody; take them out of the file"
        raise ConfigError(name, problem)


def _weight(profile: ColumnProfile) -> PlannedColumn:
    low = float(f"{(profile.low or 1.0) / 2:.1g}")
    column = Column(profile.name, "float", "For how many a row stands.", role="weight", low=low)
    return PlannedColumn(column, f"seen {profile.low:.6g} to {profile.high:.6g}")


def _useless(profile: ColumnProfile) -> str | None:
    """Why a column is no feature, or None where it may be one."""
    if profile.kind == "empty":
        return "is empty"
    if profile.distinct == 1 and not profile.nulls:
        return "has one value only"
    unique = profile.distinct >= 0.95 * profile.filled and profile.filled > 20
    if unique and profile.kind in ("int", "text") and (_is_name(profile) or profile.kind == "text"):
        return "differs in nearly every row: a name, and no feature"
    if profile.kind == "text":
        return f"holds {profile.distinct:,} different texts, more than the levels of a category"
    return None


def _is_name(profile: ColumnProfile) -> bool:
    """Whether a column of whole numbers that never repeat numbers the rows, or is named as an id."""
    if profile.low is None or profile.high is None:
        return False
    dense = profile.high - profile.low + 1 == profile.rows and profile.rows > 50
    return dense or _LIKE_AN_ID.search(profile.name) is not None


def _feature(profile: ColumnProfile) -> PlannedColumn:
    nullable = profile.nulls > 0
    common: dict[str, Any] = {"nullable": nullable, "missing_flag": nullable}
    gaps = f"{profile.nulls} empty" if nullable else ""
    if profile.kind in ("int", "float"):
        low, high = _widened(profile)
        seen = f"seen {profile.low:.6g} to {profile.high:.6g}"
        column = Column(profile.name, profile.kind, "", low=low, high=high, transform="as_is", **common)
        return PlannedColumn(column, _joined("unit?", f"bounds to be checked ({seen})", gaps))
    if profile.kind == "bool":
        return PlannedColumn(Column(profile.name, "bool", "", transform="as_is", **common), gaps)
    if profile.kind == "datetime":
        return PlannedColumn(Column(profile.name, "datetime", "", transform="date_parts", **common), gaps)
    levels = tuple(str(value) for value, _ in profile.counts)
    transform: Any = "one_hot" if 1 < len(levels) <= _MOST_ONE_HOT else "ordinal"
    rare = [f"{value} ({n})" for value, n in profile.counts if n < _RARE_LEVEL]
    shown = ", ".join(rare[:8]) + (f" and {len(rare) - 8} more" if rare[8:] else "")
    remark = _joined(f"rare: {shown}" if rare else "", gaps)
    return PlannedColumn(Column(profile.name, "category", "", levels=levels, transform=transform, **common), remark)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _widened(profile: ColumnProfile) -> tuple[float, float]:
    """Bounds as far again beyond what was seen, at round numbers; not below 0 where nothing was."""
    low, high = profile.low or 0.0, profile.high or 0.0
    span = high - low or max(abs(high), 1.0)
    step = 10.0 ** floor(log10(span))
    below, above = floor((low - span) / step) * step, ceil((high + span) / step) * step
    if low >= 0.0 > below:
        below = 0.0
    if high <= 0.0 < above:
        above = 0.0
    digits = max(0, -floor(log10(step)))
    return _plain(below, digits, profile), _plain(above, digits, profile)


def _plain(value: float, digits: int, profile: ColumnProfile) -> float:
    return round(value) if profile.kind == "int" or value.is_integer() else round(value, digits)


def _kind_in_words(profile: ColumnProfile) -> str:
    words = {"int": "whole numbers", "float": "fractions", "bool": "truth values", "category": "texts", "text": "texts",
             "datetime": "dates", "empty": "no value"}  # fmt: skip
    return words[profile.kind]


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
