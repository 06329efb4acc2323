"""The groupings that a configuration declares, as a manifest has them, and the calibration of each group by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from ml_core.base.arrays import IntArray, Probabilities
from ml_core.base.errors import ConfigError, DataError
from ml_core.features.columns import Column, coded_levels
from ml_core.lab.config import ConformalConfig, GroupConfig, ModelConfig
from ml_core.lab.data.raw_tables import columns_beside
from ml_core.lab.measuring.calibration import calibrate, needed_rows
from ml_core.lab.measuring.group_coverage import CellRows
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.serve.features.versions import FeatureVersion
from ml_core.serve.model.groupings import UNKNOWN, GroupedCalibration, GroupedRows, Groupings
from ml_core.serve.model.manifest import CellFacts, GroupFacts, GroupingFacts
from ml_core.serve.model.prediction_sets import ConformalCalibration

__all__ = ["calibrate_cells", "cell_rows", "group_facts", "grouped_rows", "groups_of", "pooled_cells"]

Pooling = Literal["other", "neighbour"]
MOST_CELLS = 40
"""Most cells of one grouping: each is a line of tables and a label of metrics."""


def group_facts(conformal: ConformalConfig, features: FeatureVersion) -> GroupFacts | None:
    """The declared groupings of a model, without calibrated cells; None where the configuration declares none.

    Raises
    ------
    ConfigError
        A grouping does not fit its column; the message names both.
    """
    if not conformal.groups:
        return None
    columns_beside(conformal.groups, features.columns)
    columns = {column.name: column for column in features.columns}
    return GroupFacts(declared=tuple(_facts(group, columns.get(group.raw_column)) for group in conformal.groups))


def groups_of(config: ModelConfig, rows: LabelledRows) -> GroupFacts | None:
    """The groups of patients that a model of these calibration rows knows; None where the configuration declares none.

    Where coverage is promised by group, small cells are pooled as the configuration says.

    Raises
    ------
    ConfigError
        A grouping does not fit its column.
    DataError
        The rows have no such column; or no cell has enough rows, or only all of them together.
    """
    conformal = config.conformal
    facts, by = group_facts(conformal, rows.features), conformal.promised_by
    if facts is None or by is None:
        return facts
    of_rows = grouped_rows(Groupings(facts), rows)
    at = of_rows.groupings.names.index(by.name)
    cells = of_rows.groupings.declared[at].cells
    counts = np.zeros((len(cells), len(rows.classes)), dtype=np.int64)
    np.add.at(counts, (of_rows.positions[:, at], rows.y_index), 1)
    min_rows = max(conformal.min_group_rows, needed_rows(conformal.confidence_level, conformal.training_conditional))
    found = pooled_cells(cells, counts, rows.classes, min_rows, by.pooling)
    if not any(cell.is_own and len(cell.of) < len(cells) - 1 for cell in found):
        raise DataError(
            f"conformal.groups: {by.name}",
            f"too few groups have {min_rows} calibration rows of a class: add rows, or promise class_conditional",
        )
    return facts.model_copy(update={"calibrated_by": by.name, "min_rows": min_rows, "cells": found})


def grouped_rows(groupings: Groupings, rows: LabelledRows) -> GroupedRows:
    """The declared cells of labelled rows.

    Raises
    ------
    DataError
        The rows have no such column.
    """
    return GroupedRows(groupings, groupings.of_columns(rows.columns_with(groupings.beside)))


def cell_rows(
    facts: GroupFacts | None, whole: ConformalCalibration, grouped: GroupedCalibration | None, rows: LabelledRows
) -> tuple[CellRows, GroupedRows | None]:
    """The calibrations behind labelled rows of a model, and the groups of the rows; None for a model without groups."""
    by = None if facts is None else grouped_rows(Groupings(facts), rows)
    return CellRows.of(whole, grouped, by, len(rows)), by


def calibrate_cells(
    facts: GroupFacts | None, rows: LabelledRows, proba: Probabilities, confidence: Decimal | None = None
) -> tuple[ConformalCalibration, ...]:
    """The calibration of every cell that has one of its own, from the calibration rows in it.

    Parameters
    ----------
    proba : shape (n, K), of the calibration rows
    confidence : with which the level is promised over calibrations; None where it is their mean
    """
    if facts is None or facts.calibrated_by is None:
        return ()
    by = grouped_rows(Groupings(facts), rows)
    at = by.groupings.names.index(facts.calibrated_by)
    names = np.array(by.groupings.declared[at].cells)[by.positions[:, at]]
    of_cells = (np.isin(names, cell.of) for cell in facts.cells if cell.is_own)
    n = len(rows.classes)
    return tuple(
        calibrate(proba[inside], rows.y_index[inside], n, "class_conditional", confidence) for inside in of_cells
    )


def pooled_cells(
    cells: Sequence[str], counts: IntArray, classes: Sequence[object], min_rows: int, pool: Pooling
) -> tuple[CellFacts, ...]:
    """Which declared cells are calibrated together, so that each has ``min_rows`` calibration rows of every class.

    ``other``: the cells with too few rows make one cell, ``other``, together with a declared cell of that name. If that
    still has too few, it is calibrated with all rows. ``neighbour``: the cell whose rarest class has the fewest rows
    joins the neighbour that has fewer rows of that class, again and again, until every cell has enough or one is left.
    ``unknown`` is always calibrated with all rows.

    Parameters
    ----------
    cells : declared cells in their order, the last one ``unknown``
    counts : shape (cells, K), calibration rows of each class in each of them
    """
    *parts, unknown = (_Part((name,), counts[c]) for c, name in enumerate(cells))
    if pool == "other":
        too_small = [part for part in parts if not part.has(min_rows)]
        joined = [part for part in parts if part in too_small or (too_small and part.names == ("other",))]
        parts = [part for part in parts if part not in joined]
        if joined:
            parts.append(
                _Part(tuple(n for part in joined for n in part.names), np.sum([p.rows for p in joined], axis=0))
            )
    else:
        while len(parts) > 1 and not all(part.has(min_rows) for part in parts):
            least = min(range(len(parts)), key=lambda p: int(parts[p].rows.min()))
            rarest = int(parts[least].rows.argmin())
            beside = [p for p in (least - 1, least + 1) if 0 <= p < len(parts)]
            first, second = sorted((least, min(beside, key=lambda p: int(parts[p].rows[rarest]))))
            both = _Part(parts[first].names + parts[second].names, parts[first].rows + parts[second].rows)
            parts[first : second + 1] = [both]
    return tuple(
        CellFacts(
            name=part.names[0] if len(part.names) == 1 else "other" if pool == "other" else " | ".join(part.names),
            of=part.names,
            rows={str(label): int(n) for label, n in zip(classes, part.rows, strict=True)},
            is_own=part is not unknown and part.has(min_rows),
        )
        for part in (*parts, unknown)
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """Cells that are calibrated together, and their calibration rows of each class, (K,)."""

    names: tuple[str, ...]
    rows: IntArray

    def has(self, rows: int) -> bool:
        return int(self.rows.min()) >= rows


def _facts(group: GroupConfig, column: Column | None) -> GroupingFacts:
    where = f"conformal.groups: {group.name}"
    if (fault := None if column is None else _column_fault(group, column)) is not None:
        raise ConfigError(where, f"column {group.raw_column} {fault}")
    usual = {"name": group.name, "column": group.raw_column, "is_feature": column is not None, "doc": group.doc}
    if group.cuts:
        return GroupingFacts(**usual, cells=_bands(group.cuts), cuts=group.cuts)
    # false and true of a bool are 0 and 1 in the manifest, and equal to them
    levels: Any = coded_levels(column) if column is not None else group.levels or _listed(group)
    if unlisted := [str(level) for level in _listed(group) if level not in levels]:
        raise ConfigError(where, f"column {group.raw_column} has no level {', '.join(unlisted)}")
    cells = {level: name for name, of in group.cells.items() for level in of}
    of_level = [cells.get(level, "other") if cells else _name_of_level(level) for level in levels]
    order = [name for name in dict.fromkeys((*group.cells, *of_level)) if name != "other"]
    order += ["other"] if "other" in of_level else []
    if UNKNOWN in order or len(order) > MOST_CELLS:
        problem = f"{MOST_CELLS} cells at most, and none is called {UNKNOWN}: put levels together with cells"
        raise ConfigError(where, problem)
    level_cells = tuple(order.index(name) for name in of_level)
    return GroupingFacts(**usual, cells=tuple(order), levels=_as_stored(levels), level_cells=level_cells)


def _column_fault(group: GroupConfig, column: Column) -> str | None:
    """Why a grouping cannot look at a feature."""
    if column.dtype in ("int", "float"):
        return None if group.cuts else "is a number, and needs cuts"
    if not coded_levels(column):
        return f"is of type {column.dtype}, which has no groups"
    return "is a category of the feature version, and takes cells at most" if group.cuts or group.levels else None


def _listed(group: GroupConfig) -> tuple[str | int, ...]:
    return tuple(level for levels in group.cells.values() for level in levels)


def _name_of_level(level: object) -> str:
    return str(level).lower() if isinstance(level, bool) else str(level)


def _as_stored(levels: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(int(level) if isinstance(level, bool) else level for level in levels)


def _bands(cuts: Sequence[float]) -> tuple[str, ...]:
    """Names of the bands between cuts."""
    texts = [f"{cut:.12g}" for cut in cuts]
    inner = [f"{low} to below {high}" for low, high in pairwise(texts)]
    return (f"below {texts[0]}", *inner, f"{texts[-1]} and above")
