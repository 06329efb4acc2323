"""Matured answers by group: whose numbers are shown, against which band, and what is held back."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from scipy.stats import binom

from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.cell_measures import cell_measures, watched_cells
from ml_core.lab.measuring.evaluation import SHARED_BY
from ml_core.lab.measuring.live_coverage import BAND_TAIL, CoverageTarget, RowTargets, coverage_bands
from ml_core.lab.measuring.performance import MaturedArrays, performance
from ml_core.serve.model.manifest import CellFacts, GroupFacts, GroupingFacts
from ml_core.serve.model.prediction_sets import ConformalCalibration
from tests.toy_scores import binary_rows

NINETY = Decimal("0.9")
WARD = GroupingFacts(
    name="ward", column="w", is_feature=False, cells=("a", "b", "c"), levels=("a", "b", "c"), level_cells=(0, 1, 2)
)
AGE = GroupingFacts(name="age", column="age", is_feature=True, cells=("below 50", "50 and above"), cuts=(50.0,))


def cell(name: str, *of: str, is_own: bool = True) -> CellFacts:
    return CellFacts(name=name, of=of or (name,), rows={"0": 50, "1": 50}, is_own=is_own)


MEASURED = GroupFacts(declared=(WARD, AGE))
PROMISED = GroupFacts(
    declared=(WARD, AGE),
    calibrated_by="ward",
    cells=(cell("a"), cell("other", "b", "c"), cell("unknown", is_own=False)),
)


def calibrated(n: int, seed: int) -> ConformalCalibration:
    rows = binary_rows(n, seed=seed)
    return calibrate(rows.proba, rows.y, 2)


def answered(n: int, seed: int, target_rows: int = 400) -> tuple[MaturedArrays, CoverageTarget]:
    """Answers of a calibrated model, each about a patient of its own."""
    calibration = calibrated(target_rows, seed + 1)
    rows = binary_rows(n, seed=seed)
    matured = MaturedArrays(rows.proba, calibration.p_values(rows.proba), rows.y, np.arange(n).tolist())
    return matured, CoverageTarget((0, 1), calibration.sizes, NINETY)


# --- which cells --------------------------------------------------------------------------------------------------


def test_every_declared_cell_is_watched_and_nothing_else() -> None:
    assert [(c.group, c.of, c.is_promised) for c in watched_cells(MEASURED)] == [
        ("ward=a", ("a",), False),
        ("ward=b", ("b",), False),
        ("ward=c", ("c",), False),
        ("ward=unknown", ("unknown",), False),
        ("age=below 50", ("below 50",), False),
        ("age=50 and above", ("50 and above",), False),
        ("age=unknown", ("unknown",), False),
    ]
    assert watched_cells(None) == ()


def test_the_promise_is_that_of_calibrated_cells_and_pooled_ones_are_measured_only() -> None:
    assert [(c.group, c.of, c.promise) for c in watched_cells(PROMISED) if c.grouping == "ward"] == [
        ("ward=a", ("a",), "class_and_group"),
        ("ward=other", ("b", "c"), "class_and_group"),
        ("ward=b", ("b",), "measured only"),
        ("ward=c", ("c",), "measured only"),
        ("ward=unknown", ("unknown",), "measured only"),
    ]


def test_a_declared_cell_with_the_name_of_the_pool_is_there_once() -> None:
    ward = WARD.model_copy(update={"cells": ("a", "b", "other")})
    pooled = PROMISED.model_copy(
        update={"declared": (ward,), "cells": (cell("a"), cell("other", "b", "other"), cell("unknown", is_own=False))}
    )
    names = [c.group for c in watched_cells(pooled)]
    assert names == ["ward=a", "ward=other", "ward=b", "ward=unknown"]


# --- what is measured ---------------------------------------------------------------------------------------------


def test_a_cell_is_what_its_rows_are_alone() -> None:
    matured, target = answered(900, seed=1)
    names = np.array(["a", "b", "c"])[np.arange(900) % 3]
    age = np.where(np.arange(900) < 300, "below 50", "50 and above")
    found = cell_measures(matured, RowTargets.of(target, 900), watched_cells(MEASURED), {"ward": names, "age": age})
    by_name = {each.cell.group: each for each in found}
    for group, inside in (("ward=b", names == "b"), ("age=below 50", age == "below 50")):
        alone = performance(matured.only(inside), target)
        measured = by_name[group]
        assert measured.performance == alone
        assert [(c.label, c.band.n, c.band.covered, c.band.lower, c.band.upper) for c in measured.classes] == [
            (b.label, b.n, b.covered, b.lower, b.upper) for b in alone.coverage[1:]
        ]
        assert measured.patients == sum(c.patients for c in measured.classes) == inside.sum()
    assert [c.promised for each in found for c in [each.classes[0].band] if c is not None] == [None] * 5


def test_a_promised_cell_is_held_against_its_own_calibration() -> None:
    rows = binary_rows(600, seed=3)
    cells = np.array(["a", "b"])[np.arange(600) % 2]
    small, large = (calibrated(n, seed=n) for n in (120, 2_000))
    p_values = np.where((cells == "a")[:, None], small.p_values(rows.proba), large.p_values(rows.proba))
    targets = RowTargets(
        tuple(CoverageTarget((0, 1), c.sizes, NINETY, "class_and_group") for c in (small, large)), np.arange(600) % 2
    )
    facts = GroupFacts(
        declared=(WARD,), calibrated_by="ward", cells=(cell("a"), cell("b"), cell("c"), cell("unknown", is_own=False))
    )
    found = cell_measures(MaturedArrays(rows.proba, p_values, rows.y), targets, watched_cells(facts), {"ward": cells})
    for measured, calibration, at in zip(found, (small, large), (0, 1), strict=False):
        inside = np.arange(600) % 2 == at
        covered = calibration.sets(rows.proba[inside], NINETY)[np.arange(300), rows.y[inside]]
        wanted = coverage_bands(covered, rows.y[inside], targets.targets[at])[1:]
        assert tuple(c.band for c in measured.classes) == wanted
    widths = [each.classes[1].band.upper - each.classes[1].band.lower for each in found[:2]]
    assert widths[0] > widths[1]


def test_a_valid_model_ends_outside_a_cells_band_as_seldom_as_it_says() -> None:
    outside = judged = 0
    for seed in range(60):
        matured, target = answered(300, seed=10_000 + 10 * seed, target_rows=200)
        names = np.array(["a", "b", "c"])[np.random.default_rng(seed).integers(0, 3, 300)]
        cells = watched_cells(GroupFacts(declared=(WARD,)))
        for measured in cell_measures(matured, RowTargets.of(target, 300), cells, {"ward": names})[:3]:
            bands = [each.band for each in measured.classes if each.band is not None]
            judged += len(bands)
            outside += sum(not band.inside for band in bands)
    # cells of one model share a calibration, so they end outside together: six cells count as one draw at worst
    assert outside <= 6 * binom.ppf(1 - 1e-3, judged // 6, 2 * BAND_TAIL)


def test_patients_and_not_rows_widen_a_band_and_make_a_cell_large_enough() -> None:
    matured, target = answered(200, seed=5)
    thrice = MaturedArrays(
        np.repeat(matured.proba, 3, axis=0), np.repeat(matured.p_values, 3, axis=0), np.repeat(matured.labels, 3),
        np.repeat(matured.groups, 3).tolist(),
    )  # fmt: skip
    alone = MaturedArrays(thrice.proba, thrice.p_values, thrice.labels)
    cells = watched_cells(GroupFacts(declared=(AGE,)))[:1]
    names = {"age": np.full(600, "below 50")}
    (together,), (apart,) = (cell_measures(m, RowTargets.of(target, 600), cells, names) for m in (thrice, alone))
    assert (together.patients, apart.patients) == (200, 600)
    wide, narrow = together.classes[0].band, apart.classes[0].band
    assert (wide.n, wide.observed) == (narrow.n, narrow.observed)
    assert wide.lower < narrow.lower


# --- what is held back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 1, SHARED_BY - 1])
def test_fewer_patients_than_may_be_shown_have_no_numbers(few: int) -> None:
    y = np.array([0] * 60 + [1] * few)
    matured = MaturedArrays(np.full((y.size, 2), 0.5), np.full((y.size, 2), 0.5), y)
    target = CoverageTarget((0, 1), (99, 99), NINETY)
    cells = watched_cells(GroupFacts(declared=(AGE,)))
    names = {"age": np.full(y.size, "below 50")}
    shown, empty, _ = cell_measures(matured, RowTargets.of(target, y.size), cells, names)
    common, rare = shown.classes
    assert (common.patients, common.band.n) == (60, 60)
    assert (rare.label, rare.patients, rare.band) == (1, None, None)
    assert shown.patients is None  # or the rare ones could be counted by subtraction
    assert shown.performance is not None
    assert (empty.patients, empty.performance, [c.band for c in empty.classes]) == (None, None, [None, None])


def test_just_as_many_as_may_be_shown_are_shown() -> None:
    y = np.array([0] * SHARED_BY + [1] * SHARED_BY)
    matured = MaturedArrays(np.full((y.size, 2), 0.5), np.full((y.size, 2), 0.5), y)
    cells = watched_cells(GroupFacts(declared=(AGE,)))[:1]
    names = {"age": np.full(y.size, "below 50")}
    (found,) = cell_measures(matured, RowTargets.of(CoverageTarget((0, 1), (99, 99), NINETY), y.size), cells, names)
    assert (found.patients, [c.patients for c in found.classes]) == (2 * SHARED_BY, [SHARED_BY, SHARED_BY])


def test_many_rows_of_few_patients_are_few() -> None:
    y = np.repeat([0, 1], 500)
    matured = MaturedArrays(np.full((1_000, 2), 0.5), np.full((1_000, 2), 0.5), y, (np.arange(1_000) % 9).tolist())
    cells = watched_cells(GroupFacts(declared=(AGE,)))[:1]
    names = {"age": np.full(1_000, "below 50")}
    (found,) = cell_measures(matured, RowTargets.of(CoverageTarget((0, 1), (99, 99), NINETY), 1_000), cells, names)
    assert (found.patients, found.performance, [c.band for c in found.classes]) == (None, None, [None, None])


def test_under_a_marginal_promise_all_classes_together_have_the_band() -> None:
    matured, _ = answered(400, seed=9)
    marginal = CoverageTarget((0, 1), (400, 400), NINETY, "marginal")
    ones = MaturedArrays(matured.proba, np.ones((400, 2)), matured.labels)
    cells = watched_cells(GroupFacts(declared=(AGE,)))[:1]
    (found,) = cell_measures(ones, RowTargets.of(marginal, 400), cells, {"age": np.full(400, "below 50")})
    assert [(c.label, c.band.upper - c.band.lower < 1.0) for c in found.classes] == [
        (None, True),
        (0, False),
        (1, False),
    ]
