"""Random raw rows of a feature version: valid rows, and rows with arbitrary values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from ml_core.features.columns import Column, features_of
from ml_core.serve.features.column_rules import OPTIONAL_ROLES, integer_levels

Row = dict[str, Any]


def valid_rows(columns: tuple[Column, ...], n: int, seed: int) -> list[Row]:
    """n records with random feature values from the whole range that the table allows; some are null."""
    rng = np.random.default_rng(seed)
    return [{c.name: _draw(c, rng) for c in features_of(columns)} for _ in range(n)]


def _draw(column: Column, rng: np.random.Generator) -> Any:
    if column.nullable and rng.random() < 0.2:
        return None
    if column.dtype == "category":
        return column.levels[int(rng.integers(len(column.levels)))]
    if column.dtype == "bool":
        return bool(rng.integers(2))
    if column.dtype == "datetime":
        return str(np.datetime64("1950-01-01T00:00:00") + int(rng.integers(3_000_000_000)))
    if column.dtype == "int":
        return int(rng.integers(int(column.low), int(column.high) + 1))
    if column.dtype == "float":
        return float(round(rng.uniform(column.low, column.high), 2))
    if "428" not in column.examples:  # only v2's codes have many spellings
        return column.examples[int(rng.integers(len(column.examples)))]
    return ["428", "250.83", "8", "V45", "E878", "786", "250", "414.01"][int(rng.integers(8))]


def valid_values(column: Column) -> st.SearchStrategy[Any]:
    """Values that the column accepts, with bounds and other spellings."""
    if integer_levels(column):
        values = st.sampled_from(column.levels).flatmap(lambda level: st.sampled_from([level, float(level)]))
    elif column.dtype == "category":
        values = st.sampled_from(column.levels)
    elif column.dtype == "int" and column.low is not None:
        values = st.integers(int(column.low), int(column.high)) | st.sampled_from([column.low, column.high]).map(float)
    elif column.dtype == "float":
        values = st.floats(column.low, column.high) | st.integers(int(column.low), int(column.high))
    elif column.dtype == "bool":
        values = st.booleans()
    elif column.dtype == "int" and column.low is None:
        values = st.integers(-(2**63), 2**63 - 1)
    elif column.dtype == "datetime":
        values = st.sampled_from(["2026-01-31", "1900-01-01", "2199-12-31T23:59:59.999999Z", "2026-01-31 10:15+02:00"])
    else:
        values = st.from_regex(column.pattern, fullmatch=True)
    return values | st.none() if column.nullable or column.role in OPTIONAL_ROLES else values


WRONG_ANYWHERE = st.sampled_from([
    None, True, False, float("nan"), float("inf"), float("-inf"), -0.0, 0, 1, 1.0, 1.5, -1, 10**400, -(10**400), 2**53,
    2.0**53, 2**63, 1e308, "", " ", "1", "45", "45.0", "1e2", "nan", "None", "NO", "no", "Yes ", "[70-80)\n", "v45", "250.",
    "٢٥", "\x00", "250.83\n", "2026-02-30", "2026-13-01", "20260131", "2026-01-31T25:00", "0001-01-01", [], [1],
    {}, {"a": 1},
])  # fmt: skip


def any_values(column: Column) -> st.SearchStrategy[Any]:
    """Values that the column accepts, values just outside, and values of every other type."""
    choices = [valid_values(column), WRONG_ANYWHERE]
    for bound in (column.low, column.high):
        if bound is not None:
            near = (
                bound - 1,
                bound + 1,
                bound - 0.5,
                bound + 0.5,
                np.nextafter(bound, -np.inf),
                np.nextafter(bound, np.inf),
            )
            choices.append(st.sampled_from([bound, *(float(x) for x in near), str(bound)]))
    if column.levels:
        choices.append(st.sampled_from([str(level) for level in column.levels]).map(str.upper))
    return st.one_of(choices)


@st.composite
def any_rows(draw: st.DrawFn, columns: tuple[Column, ...], *, with_unknown: bool = False) -> Row:
    """A valid record in which up to four fields hold an arbitrary value or are missing."""
    accepted = [c for c in columns if c.role != "label"]
    row = {c.name: draw(valid_values(c)) for c in accepted}
    for column in draw(st.lists(st.sampled_from(accepted), max_size=4, unique=True)):
        if draw(st.booleans()):
            row[column.name] = draw(any_values(column))
        else:
            del row[column.name]
    if with_unknown:
        row |= draw(
            st.dictionaries(
                st.sampled_from(["label", "race", "Age", "", "readmission_30d"]), st.integers(0, 1), max_size=2
            )
        )
    return row


def object_frame(rows: list[Row]) -> pd.DataFrame:
    """The rows as a frame of Python objects; a field that only other rows have is null."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pd.DataFrame(
        {name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names}, index=range(len(rows))
    )
