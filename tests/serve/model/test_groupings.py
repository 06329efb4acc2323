"""Groups of patients: one cell for a row on every path, and sets that are those of the cell's own calibration."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from crepes import ConformalClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ml_core.base.errors import InvalidCalibration
from ml_core.lab.measuring.calibration import calibrate
from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.table import encode_table
from ml_core.serve.features.v1 import COLUMNS
from ml_core.serve.model.groupings import GroupedCalibration, Groupings
from ml_core.serve.model.manifest import CellFacts, GroupFacts, GroupingFacts
from tests.raw_rows import valid_rows, valid_values
from tests.serve.model.agreement import crepes_sets
from tests.toy_scores import ScoredRows, binary_rows

AGE = GroupingFacts(
    name="age_band", column="age", is_feature=True, cells=("below 50", "50 to below 70", "70 and above"), cuts=(50, 70)
)
GLUCOSE = GroupingFacts(name="glucose", column="glucose", is_feature=True, cells=("low", "high"), cuts=(140.5,))
WARD = GroupingFacts(
    name="ward",
    column="ward",
    is_feature=False,
    cells=("north", "other"),
    levels=("n1", "n2", "s"),
    level_cells=(0, 0, 1),
)
STAYS = GroupingFacts(name="stays", column="stays", is_feature=False, cells=("none", "some"), cuts=(1,))
DECLARED = (AGE, GLUCOSE, WARD, STAYS)


def by_ward(*cells: CellFacts, **changes: Any) -> GroupFacts:
    facts: dict[str, Any] = {"declared": DECLARED, "calibrated_by": "ward", "min_rows": 20, "cells": cells}
    return GroupFacts.model_validate({**facts, **changes})


def cell(name: str, *of: str, is_own: bool = True) -> CellFacts:
    return CellFacts(name=name, of=of or (name,), rows={}, is_own=is_own)


UNKNOWN = cell("unknown", is_own=False)
WARDS = by_ward(cell("north"), cell("other"), UNKNOWN)


def grouped(facts: GroupFacts, n_own: int, seed: int = 0, n: int = 300) -> GroupedCalibration:
    """Calibrations of different rows, one of all and one of each cell that has its own."""
    whole, *own = (calibrate(r.proba, r.y, 2) for r in (binary_rows(n, seed + i, grid=50) for i in range(n_own + 1)))
    return GroupedCalibration.of(facts, Groupings(facts), whole, own)


@st.composite
def records(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Valid records, with values at the borders of bands; columns beside the features may be absent or null."""
    beside = {
        "ward": st.sampled_from(["n1", "n2", "s", None]),
        "stays": st.one_of(st.none(), st.sampled_from([0, 1, 1.0, 0.999]), st.floats(-5, 5)),
    }
    features = {c.name: valid_values(c) for c in COLUMNS if c.role == "feature"}
    features["age"] = st.one_of(features["age"], st.sampled_from([49, 50, 69, 70]))
    one = st.fixed_dictionaries(features, optional=beside)
    return draw(st.lists(one, min_size=1, max_size=8))


@given(records())
@settings(max_examples=200, deadline=None)
def test_a_row_is_in_the_same_cells_as_a_record_and_in_a_table(sent: list[dict[str, Any]]) -> None:
    groupings = Groupings(WARDS)
    reader = RecordReader(COLUMNS, groupings.beside)
    read = [reader.read(record) for record in sent]
    one_by_one = np.array([groupings.of_record(record) for record in read])
    names = [*(c.name for c in COLUMNS if c.role == "feature"), "ward", "stays"]
    table = encode_table((*COLUMNS, *groupings.beside), {name: [r.get(name) for r in sent] for name in names})
    assert np.array_equal(one_by_one, groupings.of_columns(reader.arrays(read)))
    assert not table.problems
    assert np.array_equal(one_by_one, groupings.of_columns(table.arrays))


@given(records(), st.integers(0, 50), st.sampled_from(["0.5", "0.8", "0.9", "0.95"]))
@settings(max_examples=100, deadline=None)
def test_the_answer_to_a_row_is_the_same_alone_and_among_others_bit_for_bit(
    sent: list[dict[str, Any]], seed: int, level: str
) -> None:
    by_cell = grouped(WARDS, 2)
    reader = RecordReader(COLUMNS, Groupings(WARDS).beside)
    read = [reader.read(record) for record in sent]
    p1 = np.random.default_rng(seed).integers(0, 51, len(sent)) / 50  # many ties with the calibration scores
    proba = np.column_stack([1 - p1, p1])
    found = by_cell.rows(proba, Decimal(level), by_cell.cells(reader.arrays(read)))
    for record, p, row in zip(read, proba.tolist(), found.rows(), strict=True):
        alone = by_cell.of_record(record).row(p, Decimal(level))
        assert alone == row
        assert [x.hex() for x in alone.p_values] == [x.hex() for x in row.p_values]


def test_sets_by_group_are_crepes_with_class_times_bin_on_a_million_tie_heavy_rows() -> None:
    """crepes' Mondrian classifier, whose bins are our class and cell, on rows nearly all of which are tied."""
    facts, groupings = WARDS, Groupings(WARDS)
    rows, asked = binary_rows(9_001, 21, grid=400), binary_rows(1_000_000, 22, grid=400)
    rng = np.random.default_rng(23)
    cells, asked_cells = rng.integers(0, 2, len(rows.y)), rng.integers(0, 2, len(asked.y))
    shifted = np.where(cells == 1, rows.proba[:, 1] ** 2, rows.proba[:, 1])  # the cells are of different laws
    rows = ScoredRows(np.column_stack([1 - shifted, shifted]), rows.y, rows.groups)
    own = [calibrate(rows.proba[cells == c], rows.y[cells == c], 2) for c in (0, 1)]
    ours = GroupedCalibration.of(facts, groupings, calibrate(rows.proba, rows.y, 2), own)
    found = ours.rows(asked.proba, Decimal("0.9"), asked_cells)
    differ = {"p": 0, "set": 0}
    for k in (0, 1):
        mine = rows.y == k
        theirs = ConformalClassifier().fit(1.0 - rows.proba[mine, k], bins=cells[mine])
        score = 1.0 - asked.proba[:, k]
        pairs, where = np.unique(np.column_stack([score, asked_cells]), axis=0, return_inverse=True)
        p = theirs.predict_p(pairs[:, :1], bins=pairs[:, 1].astype(np.int64), smoothing=False)[where.ravel(), 0]
        is_whole = (np.array([own[c].sizes[k] + 1 for c in (0, 1)]) % 10 == 0)[asked_cells]
        differ["p"] += int((p != found.p_values[:, k]).sum())
        differ["set"] += int((crepes_sets(p, 0.9) != found.sets[:, k])[~is_whole].sum())
        assert not is_whole.all()
    assert differ == {"p": 0, "set": 0}


def test_rows_without_a_value_are_answered_with_all_calibration_rows() -> None:
    by_cell = grouped(WARDS, 2)
    assert by_cell.names == ("ward=north", "ward=other", "ward=unknown")
    assert [by_cell.promise(c) for c in range(3)] == ["class_and_group", "class_and_group", "class_conditional"]
    cells = by_cell.cells({"ward": np.array([-1, 0, 2])})
    assert cells.tolist() == [2, 0, 1]
    assert by_cell.cells({"age": np.zeros(2)}).tolist() == [2, 2]  # the caller's table has no such column
    proba = np.array([[0.8, 0.2]] * 3)
    found = by_cell.rows(proba, Decimal("0.9"), cells)
    whole = by_cell.calibrations[2].rows(proba[:1], Decimal("0.9"))
    assert found.p_values[0].tolist() == whole.p_values[0].tolist() != found.p_values[1].tolist()


def test_pooled_cells_share_one_calibration_and_its_name() -> None:
    age = by_ward(cell("below 50"), cell("older", "50 to below 70", "70 and above"), UNKNOWN, calibrated_by="age_band")
    by_cell = grouped(age, 2)
    assert by_cell.cells({"age": np.array([49.0, 50.0, 70.0, np.nan])}).tolist() == [0, 1, 1, 2]
    assert by_cell.names[1] == "age_band=older"


def test_the_calibration_id_covers_every_cell() -> None:
    ids = {
        grouped(WARDS, 2).calibration_id,
        grouped(WARDS, 2, seed=1).calibration_id,
        grouped(by_ward(cell("all", "north", "other"), UNKNOWN), 1).calibration_id,
    }
    facts, groupings = WARDS, Groupings(WARDS)
    whole, a, b = (calibrate(r.proba, r.y, 2) for r in (binary_rows(200, s) for s in (1, 2, 3)))
    ids |= {GroupedCalibration.of(facts, groupings, whole, pair).calibration_id for pair in ((a, b), (b, a))}
    assert len(ids) == 5


@pytest.mark.parametrize(
    "cells",
    [
        (cell("north"), UNKNOWN),  # "other" is missing
        (cell("north"), cell("other"), cell("more", "other"), UNKNOWN),  # twice
        (cell("north"), cell("south"), UNKNOWN),  # no cell of the grouping
    ],
)
def test_cells_that_are_not_those_of_the_grouping_are_refused(cells: tuple[CellFacts, ...]) -> None:
    with pytest.raises(InvalidCalibration):
        grouped(by_ward(*cells), sum(c.is_own for c in cells))


def test_another_number_of_calibrations_than_cells_is_refused() -> None:
    with pytest.raises(InvalidCalibration):
        grouped(WARDS, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"cuts": (70, 50)},
        {"cuts": (50,)},
        {"cells": ("a", "b", "unknown")},
        {"cells": ("a", "a", "b")},
        {"cuts": (), "levels": ("x", "y"), "level_cells": (0, 1)},
        {"cuts": (), "levels": ("x", "y", "z"), "level_cells": (0, 1)},
        {"name": "Age Band"},
    ],
)
def test_a_grouping_whose_cells_do_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GroupingFacts.model_validate({**AGE.model_dump(), **changes})


def test_columns_beside_the_features_are_never_features_of_a_record() -> None:
    reader = RecordReader(COLUMNS, Groupings(WARDS).beside)
    (raw,) = valid_rows(tuple(c for c in COLUMNS if c.role == "feature"), 1, 5)
    with_ward, without = reader.read({**raw, "ward": "n1"}), reader.read(raw)
    assert reader.canonical(with_ward) == reader.canonical(without)
    assert with_ward.ids["ward"] == "n1"
    assert "ward" in reader.json_schema()["properties"]
    assert "ward" not in reader.json_schema()["required"]
