"""Matured rows of the ledger as arrays, with what each was promised, and what they show of each group of patients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ml_core.lab.measuring.cell_measures import CellMeasures, cell_measures, watched_cells
from ml_core.lab.measuring.live_coverage import CoverageTarget, RowTargets
from ml_core.lab.measuring.performance import MaturedArrays
from ml_core.lab.watching.ledger import MaturedRow
from ml_core.serve.model.manifest import GroupFacts

__all__ = ["arrays_of", "cells_of", "judged_rows", "row_targets"]


def judged_rows(rows: Iterable[MaturedRow], targets: Mapping[str, CoverageTarget]) -> tuple[MaturedRow, ...]:
    """Those that the model itself gave, and whose calibration can say whether they missed."""
    return tuple(row for row in rows if row.own and row.missed is not None and row.calibration_id in targets)


def arrays_of(rows: Sequence[MaturedRow]) -> MaturedArrays:
    """The rows as arrays. Groups are pseudonyms; an answer without one is a group of its own."""
    return MaturedArrays(
        proba=np.array([row.probabilities for row in rows], dtype=np.float64),
        p_values=np.array([row.p_values for row in rows], dtype=np.float64),
        labels=[row.label for row in rows],
        groups=[row.subject or row.request_id for row in rows],
    )


def row_targets(rows: Sequence[MaturedRow], targets: Mapping[str, CoverageTarget]) -> RowTargets:
    """The coverage target of each row, by the calibration that answered it."""
    ids = list(dict.fromkeys(row.calibration_id for row in rows))
    places = {name: n for n, name in enumerate(ids)}
    which = np.array([places[row.calibration_id] for row in rows], dtype=np.int64)
    return RowTargets(tuple(targets[name] for name in ids), which)


def cells_of(
    rows: Sequence[MaturedRow],
    targets: Mapping[str, CoverageTarget],
    facts: GroupFacts | None,
    grouping: str | None = None,
) -> tuple[CellMeasures, ...]:
    """What the rows show of each group of patients that the model declares, of one grouping or of all.

    Rows that matured under an earlier release have no group, and are in no cell.
    """
    cells = [cell for cell in watched_cells(facts) if grouping in (None, cell.grouping)]
    known = [row for row in rows if row.groups is not None]
    if not cells or not known:
        return ()
    names = dict.fromkeys(cell.grouping for cell in cells)
    declared = {name: np.array([(row.groups or {}).get(name, "") for row in known]) for name in names}
    return cell_measures(arrays_of(known), row_targets(known, targets), cells, declared)
