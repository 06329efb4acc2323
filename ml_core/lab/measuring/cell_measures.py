"""Matured answers by group of patients: coverage of each class in each cell with its band, and performance there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray, Label
from ml_core.lab.measuring.evaluation import SHARED_BY
from ml_core.lab.measuring.live_coverage import CoverageBand, RowTargets, class_indices, group_ids
from ml_core.lab.measuring.performance import MaturedArrays, MaturedPerformance, performance
from ml_core.serve.model.groupings import UNKNOWN
from ml_core.serve.model.manifest import GroupFacts

__all__ = ["CellMeasures", "ClassInCell", "WatchedCell", "cell_measures", "watched_cells"]


@dataclass(frozen=True, slots=True)
class WatchedCell:
    """A group of patients whose answers are measured by themselves.

    Attributes
    ----------
    grouping, name : of the grouping, and of the cell in it
    of : the declared cells that are in it; more than one where cells with too few calibration rows were pooled
    is_promised : whether its sets are calibrated with its own rows, so that coverage is promised to it
    """

    grouping: str
    name: str
    of: tuple[str, ...]
    is_promised: bool = False

    @property
    def group(self) -> str:
        """Its name as answers write it, e.g. ``age=80 and above``."""
        return f"{self.grouping}={self.name}"

    @property
    def promise(self) -> str:
        """What its coverage is held against, in words."""
        return "class_and_group" if self.is_promised else "measured only"


@dataclass(frozen=True, slots=True)
class ClassInCell:
    """Coverage of one class in one cell.

    Attributes
    ----------
    label : class label; None for all classes together
    patients : how many there are; None where they are fewer than ``SHARED_BY``
    band : coverage with the band of a valid model; ``promised`` is None where coverage is measured only, and the band
        then tells what chance explains in a group that is like the rows that calibrated it. None with too few patients
    """

    label: Label | None
    patients: int | None
    band: CoverageBand | None


@dataclass(frozen=True, slots=True)
class CellMeasures:
    """What matured answers show of one cell.

    Attributes
    ----------
    cell : which
    patients : how many there are; None where those of any class are fewer than ``SHARED_BY``, so that none can be
        found by subtraction
    classes : coverage of each class; of all together first where the promise is ``marginal``
    performance : of all its answers; None with fewer than ``SHARED_BY`` patients
    """

    cell: WatchedCell
    patients: int | None
    classes: tuple[ClassInCell, ...]
    performance: MaturedPerformance | None


def watched_cells(facts: GroupFacts | None) -> tuple[WatchedCell, ...]:
    """The cells of every declared grouping, in order; no others, so that there are as many as a model declares.

    In the grouping with the promise these are the calibrated cells. A declared cell that was pooled into one of them
    follows it, measured only.
    """
    found: list[WatchedCell] = []
    for grouping in () if facts is None else facts.declared:
        calibrated = facts.cells if facts is not None and grouping.name == facts.calibrated_by else ()
        names = {cell.name for cell in calibrated}
        for cell in calibrated:
            found.append(WatchedCell(grouping.name, cell.name, cell.of, cell.is_own))
            found += [WatchedCell(grouping.name, name, (name,)) for name in cell.of if name not in names]
        if not calibrated:
            found += [WatchedCell(grouping.name, name, (name,)) for name in (*grouping.cells, UNKNOWN)]
    return tuple(found)


def cell_measures(
    matured: MaturedArrays,
    targets: RowTargets,
    cells: Sequence[WatchedCell],
    declared: Mapping[str, npt.NDArray[np.str_]],
) -> tuple[CellMeasures, ...]:
    """What n matured answers of one model show of each of these cells.

    Bands are as for all patients: the law of the calibrations behind the rows, patients as units. Each is of one look
    at one cell; of many cells some end outside by chance.

    Parameters
    ----------
    targets : what each row was promised
    declared : by grouping, shape (n,), each row's declared cell; "" where it is not known

    Raises
    ------
    DataError, BadModelOutput
        As ``performance``.
    """
    return tuple(
        _measured(cell, matured.only(inside), targets.only(inside))
        for cell in cells
        for inside in (np.isin(declared[cell.grouping], cell.of),)
    )


def _measured(cell: WatchedCell, matured: MaturedArrays, targets: RowTargets) -> CellMeasures:
    found, index = performance(matured, targets), class_indices(matured.labels, targets.classes)
    ids = group_ids(matured.groups)
    who = np.arange(index.size) if ids is None else ids

    def told(band: CoverageBand, rows: BoolArray) -> ClassInCell:
        patients = np.unique(who[rows]).size
        if patients < SHARED_BY:
            return ClassInCell(band.label, None, None)
        return ClassInCell(band.label, patients, band if cell.is_promised else replace(band, promised=None))

    everybody = np.ones(index.size, dtype=np.bool_)
    whole = (told(found.coverage[0], everybody),) if targets.guarantee == "marginal" else ()
    classes = tuple(told(band, index == k) for k, band in enumerate(found.coverage[1:]))
    patients = np.unique(who).size
    return CellMeasures(
        cell=cell,
        patients=None if any(each.patients is None for each in classes) else patients,
        classes=whole + classes,
        performance=found if patients >= SHARED_BY else None,
    )
