"""Coverage by group on Diabetes 130-US hospitals: calibrated by class and group, every large group is covered as promised."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from ml_core.lab.config import ConformalConfig
from ml_core.lab.data.frames import columns_of
from ml_core.lab.data.raw_tables import columns_beside
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.cell_measures import CellMeasures, WatchedCell, cell_measures
from ml_core.lab.measuring.coverage_law import design_effect, design_effects
from ml_core.lab.measuring.group_coverage import CellRows
from ml_core.lab.measuring.live_coverage import BAND_TAIL, CoverageTarget, RowTargets
from ml_core.lab.measuring.performance import MaturedArrays
from ml_core.lab.training.declared_groups import group_facts, pooled_cells
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.model.groupings import GroupedCalibration, GroupedRows, Groupings
from tests.statistical.diabetes_rows import DATA, configured, unseen_encounters
from tests.toy_scores import ScoredRows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason="the published data set is not beside this folder"),
]

NINETY = Decimal("0.9")
GROUPINGS = ("age_band", "sex", "race", "disposition")
SEEDS = (1, 2)
LARGE = 200
"""Calibration rows of a class in a group, from which on the group must be covered as promised."""


@dataclass(frozen=True)
class Grouped:
    """Encounters of patients whom one model has not seen: scores, labels and patients, and their groups."""

    rows: ScoredRows
    by: GroupedRows
    conformal: ConformalConfig


@cache
def unseen() -> Grouped:
    """Calibration and test patients of the shipped configuration, with the groups that it declares."""
    found, conformal, version = unseen_encounters(), configured().conformal, get_feature_version("v2")
    facts = group_facts(conformal, version)
    assert facts is not None
    groupings = Groupings(facts)
    beside = columns_of(found.frame, columns_beside(conformal.groups, version.columns))
    positions = groupings.of_columns({**found.columns, **beside})
    return Grouped(found.rows, GroupedRows(groupings, positions), conformal)


@dataclass(frozen=True)
class Split:
    """One half of the patients calibrates, the other is covered."""

    calibration: np.ndarray
    test: np.ndarray


def split(seed: int) -> Split:
    patients = unseen().rows.groups
    names = np.unique(patients)
    half = np.random.default_rng(seed).permutation(names)[: names.size // 2]
    inside = np.isin(patients, half)
    return Split(np.flatnonzero(inside), np.flatnonzero(~inside))


def calibrated_by(name: str | None, halves: Split) -> tuple[CellRows, dict[int, str]]:
    """The calibrations behind the test half, by class and group or by class alone; and the cells that have their own."""
    rows, by = unseen().rows, unseen().by
    cal = rows[halves.calibration]
    whole = calibrate(cal.proba, cal.y, 2)
    if name is None:
        return CellRows((whole,), np.zeros(len(halves.test), dtype=np.int64)), {}
    at = by.groupings.names.index(name)
    grouping, group = by.groupings.declared[at], next(g for g in unseen().conformal.groups if g.name == name)
    positions = by.positions[halves.calibration, at]
    counts = np.zeros((len(grouping.cells), 2), dtype=np.int64)
    np.add.at(counts, (positions, cal.y), 1)
    cells = pooled_cells(grouping.cells, counts, (0, 1), LARGE, group.pooling)
    names = np.array(grouping.cells)[positions]
    own = [calibrate(cal.proba[i], cal.y[i], 2) for i in (np.isin(names, c.of) for c in cells if c.is_own)]
    facts = group_facts(unseen().conformal, get_feature_version("v2"))
    assert facts is not None
    facts = facts.model_copy(update={"calibrated_by": name, "min_rows": LARGE, "cells": cells})
    grouped = GroupedCalibration.of(facts, Groupings(facts), whole, own)
    test = GroupedRows(by.groupings, by.positions[halves.test])
    own_names = {cell: name for cell, name in enumerate(grouped.names) if grouped.is_own[cell]}
    return CellRows.of(whole, grouped, test, len(halves.test)), own_names


@dataclass(frozen=True)
class Covered:
    """Coverage of one class in one calibrated cell, how far it is from what is promised, and the labels in its sets."""

    cell: str
    label: int
    n_calibration: int
    n_test: int
    coverage: float
    error: float


def covered_by(name: str, seed: int) -> list[Covered]:
    halves = split(seed)
    rows, cells = calibrated_by(name, halves)
    test = unseen().rows[halves.test]
    covered, _ = rows.covered(test.proba, test.y, NINETY)
    found = []
    for cell, in_words in cells.items():
        for k in (0, 1):
            inside = (rows.cells == cell) & (test.y == k)
            n, n_calibration = int(inside.sum()), rows.calibrations[cell].sizes[k]
            effect = design_effect(covered[inside], test.groups[inside])
            error = float(np.sqrt(0.09 * effect * (1 / n + 1 / n_calibration)))
            found.append(Covered(in_words, k, n_calibration, n, float(covered[inside].mean()), error))
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", GROUPINGS)
def test_every_large_group_is_covered_as_promised(name: str, seed: int) -> None:
    found = covered_by(name, seed)
    assert len(found) >= 4
    beyond = [one for one in found if abs(one.coverage - 0.9) > 3 * one.error]
    assert not beyond


@pytest.mark.parametrize("seed", SEEDS)
def test_calibrating_by_class_alone_leaves_groups_far_from_the_promise(seed: int) -> None:
    halves = split(seed)
    rows, _ = calibrated_by(None, halves)
    test, by = unseen().rows[halves.test], unseen().by
    covered, _ = rows.covered(test.proba, test.y, NINETY)
    at = by.groupings.names.index("disposition")
    cells = by.groupings.declared[at].cells
    for name, label, measured in (("home", 1, 0.842), ("other hospital", 0, 0.579)):  # the higher of the two seeds
        inside = (by.positions[halves.test, at] == cells.index(name)) & (test.y == label)
        error = np.sqrt(0.09 / inside.sum())
        assert covered[inside].mean() < 0.9 - 3 * error
        assert covered[inside].mean() == pytest.approx(measured, abs=0.03)


@pytest.mark.parametrize(("name", "most"), [("age_band", 0.03), ("sex", 0.01), ("race", 0.02), ("disposition", 0.05)])
def test_a_promise_for_every_group_costs_few_labels(name: str, most: float) -> None:
    sizes = {}
    for by in (None, name):
        found = []
        for seed in SEEDS:
            halves = split(seed)
            found.append(calibrated_by(by, halves)[0].sets(unseen().rows.proba[halves.test], NINETY).sum(axis=1).mean())
        sizes[by] = float(np.mean(found))
    assert -0.01 < sizes[name] - sizes[None] < most


# --- as matured answers are watched ---------------------------------------------------------------------------------


def watched(name: str | None, seed: int) -> tuple[CellMeasures, ...]:
    """What the monitor makes of the half that is covered: its p-values, labels, patients and dispositions."""
    halves, by = split(seed), unseen().by
    rows, own = calibrated_by(name, halves)
    test, cal = unseen().rows[halves.test], unseen().rows[halves.calibration]
    effects = design_effects(calibrate(cal.proba, cal.y, 2), cal.proba, cal.y, cal.groups, NINETY)
    p_values = np.empty(test.proba.shape)
    for c, calibration in enumerate(rows.calibrations):
        p_values[rows.cells == c] = calibration.p_values(test.proba[rows.cells == c])
    targets = tuple(CoverageTarget((0, 1), c.sizes, NINETY, "class_conditional", effects) for c in rows.calibrations)
    at = by.groupings.names.index("disposition")
    names = np.array(by.groupings.declared[at].cells)[by.positions[halves.test, at]]
    cells = [
        WatchedCell("disposition", each, (each,), f"disposition={each}" in own.values())
        for each in by.groupings.declared[at].cells
    ]
    matured = MaturedArrays(test.proba, p_values, test.y, test.groups.tolist())
    return cell_measures(matured, RowTargets(targets, rows.cells), cells, {"disposition": names})


def test_groups_with_a_promise_leave_their_band_as_seldom_as_it_says() -> None:
    bands = [
        (each.cell.name, of_class.label, of_class.band)
        for seed in range(20)
        for each in watched("disposition", seed)
        if each.cell.is_promised
        for of_class in each.classes
        if of_class.band is not None
    ]
    outside = sum(not band.inside for _, _, band in bands)
    assert len(bands) >= 100
    assert outside <= binom.ppf(1 - 1e-3, len(bands), 2 * BAND_TAIL)


def test_groups_without_a_promise_that_are_covered_differently_are_seen() -> None:
    for seed in range(5):
        found = {
            (each.cell.name, of_class.label): of_class.band for each in watched(None, seed) for of_class in each.classes
        }
        for name, label in (("home", 1), ("other hospital", 0)):
            band = found[name, label]
            assert band is not None
            assert band.promised is None
            assert band.observed < band.lower
        above = found["skilled nursing", 1]
        assert above is not None
        assert above.observed > above.upper
