"""Raw tables as frames of a feature version's columns, ready to be validated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ml_core.base.errors import ConfigError, DataError
from ml_core.features.columns import Column
from ml_core.lab.batch.table_places import Place
from ml_core.lab.config import DataConfig, GroupConfig
from ml_core.lab.data import diabetes130
from ml_core.lab.data.configured_rows import as_configured, kept_rows, with_row_number
from ml_core.lab.data.table_frames import column_names, is_csv, read_table
from ml_core.serve.features.column_rules import column_beside
from ml_core.serve.features.versions import get_feature_version

__all__ = ["Adapter", "RawTable", "columns_beside", "read_ids", "read_source"]

Adapter = Literal["columns", "diabetes130"]


@dataclass(frozen=True, slots=True)
class RawTable:
    """The content of a file, not validated yet.

    Attributes
    ----------
    frame : one column per column of the feature version (optional ones only where the file has them)
    rows_in : rows of the file
    left_out : rows that are left out by the data set's own rule (v2: stays that ended in death or a hospice), or by
        ``data.leave_out_labels``
    ignored : columns of the file that the version does not use
    """

    frame: pd.DataFrame
    rows_in: int
    left_out: int
    ignored: tuple[str, ...]


def columns_beside(groups: Sequence[GroupConfig], columns: Sequence[Column]) -> tuple[Column, ...]:
    """The raw columns that groupings look at and that are no column of the feature version.

    Raises
    ------
    ConfigError
        A grouping looks at an id, group, time or label column, or does not say what its own column holds.
    """
    known = {column.name: column for column in columns}
    found: dict[str, Column] = {}
    for group in groups:
        name, column = group.raw_column, known.get(group.raw_column)
        if column is not None:
            if column.role != "feature":
                raise ConfigError(
                    f"conformal.groups: {group.name}", f"{name} is the {column.role} column: group by another"
                )
            continue
        levels: Any = group.levels or tuple(level for levels in group.cells.values() for level in levels)
        if not levels and not group.cuts:
            problem = f"{name} is no feature of this model: give its levels, or the cuts of a number"
            raise ConfigError(f"conformal.groups: {group.name}", problem)
        beside = column_beside(name, levels, group.doc)
        if len(set(map(type, levels))) > 1 or (name in found and found[name].levels != levels):
            problem = f"{name} needs levels that are all texts or all whole numbers, the same in every grouping"
            raise ConfigError(f"conformal.groups: {group.name}", problem)
        found.setdefault(name, beside)
    return tuple(found.values())


def read_source(
    source: Place,
    adapter: Adapter,
    version: str,
    beside: Sequence[Column] = (),
    data: DataConfig | None = None,
    *,
    groups: Sequence[int] | None = None,
    first_row: int = 0,
) -> RawTable:
    """The rows of a file with the names and types of a feature version's columns, not validated yet.

    Parameters
    ----------
    beside : further columns that the file must have, see :func:`columns_beside`
    data : how the file is written and what its values mean; as usual where it is not given
    groups : only these row groups of a Parquet file
    first_row : number of the first row, where rows are numbered

    Raises
    ------
    DataError
        The file cannot be used, or the adapter does not make this version's columns.
    ConfigError
        ``data`` names a column that the version does not have.
    """
    read = data or DataConfig(source=Path(str(source)))
    if adapter == "diabetes130":
        return _read_diabetes130(source, version, beside)
    columns = (*get_feature_version(version).columns, *beside)
    present = column_names(source, read.csv)
    numbered = read.row_number if read.row_number not in present else ""
    wanted = [c for c in columns if c.name in present or not (_may_be_absent(c) or c.name == numbered)]
    names = [c.name for c in wanted]
    frame = as_configured(read_table(source, names, read.csv, groups), wanted, read, of_text=is_csv(source))
    if numbered:
        frame = with_row_number(frame, numbered, first_row)
    kept = kept_rows(frame, wanted, read)
    left = frame if kept.all() else frame[kept].reset_index(drop=True)
    return RawTable(left, len(frame), int((~kept).sum()), tuple(n for n in present if n and n not in names))


def read_ids(source: Place, version: str, data: DataConfig, groups: Sequence[int] | None = None) -> pd.DataFrame:
    """The id columns that a file has, as :func:`read_source` gives them, of the rows that it keeps.

    Parameters
    ----------
    groups : only these row groups of a Parquet file

    Raises
    ------
    DataError
        The file cannot be used.
    """
    present = column_names(source, data.csv)
    wanted = [c for c in get_feature_version(version).columns if c.role in ("id", "label") and c.name in present]
    if not any(c.role == "id" for c in wanted):
        return pd.DataFrame()
    names = {c.name for c in wanted}
    frame = read_table(source, [c.name for c in wanted], data.csv, groups)
    about = {
        "null_values": {name: value for name, value in data.null_values.items() if name in names},
        "dates": {name: value for name, value in data.dates.items() if name in names},
    }
    frame = as_configured(frame, wanted, data.model_copy(update=about), of_text=is_csv(source))
    return frame[kept_rows(frame, wanted, data)][[c.name for c in wanted if c.role == "id"]].reset_index(drop=True)


def _may_be_absent(column: Column) -> bool:
    """A table for training must have everything but ids and times; a forgotten nullable column would else go unseen."""
    return column.role in ("id", "time")


def _read_diabetes130(source: Place, version: str, beside: Sequence[Column]) -> RawTable:
    if version != "v2":
        raise DataError(str(source), f"the adapter diabetes130 makes the columns of v2, not of {version}")
    wanted = (*diabetes130.source_columns(), *(column.name for column in beside))
    raw = read_table(source, wanted)
    frame, left_out = diabetes130.to_v2(raw, [column.name for column in beside])
    ignored = tuple(name for name in column_names(source) if name not in wanted)
    return RawTable(frame, len(raw), left_out, ignored)
