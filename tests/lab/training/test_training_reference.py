from __future__ import annotations

import io

import numpy as np
import pytest

from ml_core.features.columns import Column, features_of
from ml_core.lab.data.frames import to_arrays
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.lab.measuring.evaluation import SHARED_BY
from ml_core.lab.training.training_reference import (
    MOST_ORDER_STATISTICS,
    column_importance,
    order_statistics,
    reference_bytes,
)
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.model.bundle import REFERENCE_FILE
from tests.toy_models import toy_frame, toy_model

COLUMNS = (
    Column("age", "int", "Age.", low=0, high=120),
    Column("sex", "category", "Sex.", levels=("f", "m"), nullable=True),
    Column("code", "text", "Code.", pattern=".*", nullable=True, examples=("a",)),
)


def read(raw: bytes) -> dict:
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture
def reference() -> dict:
    n = 1_000
    age = np.arange(n, dtype=np.float64) % 90
    age[:100] = np.nan
    code = np.array(["common" if i % 2 else None for i in range(n)], dtype=object)
    code[1::200] = "rare"
    columns = {"age": age, "sex": np.array([-1, 0, 1, 1] * 250), "code": code}
    groups = np.arange(n)
    scores = np.column_stack([np.linspace(0, 1, n), np.linspace(1, 0, n)])
    return read(reference_bytes(COLUMNS, columns, groups, scores, groups, (0, 1)))


def test_numbers_are_described_by_order_statistics_moments_and_missing_rate(reference):
    assert len(reference["values/age"]) == reference["count/age"][0] == 900
    assert (np.diff(reference["values/age"]) >= 0).all()
    assert reference["missing_rate/age"][0] == pytest.approx(0.1)
    age = np.arange(100, 1_000) % 90
    assert reference["mean/age"][0] == pytest.approx(age.mean(), abs=age.std() / 1_000)
    assert reference["sd/age"][0] == pytest.approx(age.std(), rel=1 / 1_000)


def test_categories_are_counted_per_level(reference):
    assert reference["levels/sex"].tolist() == [250, 500]
    assert reference["missing_rate/sex"][0] == pytest.approx(0.25)


def test_a_text_that_few_patients_have_is_not_published(reference):
    assert reference["texts/code"].tolist() == ["common"]
    assert (reference["texts_count/code"][0], reference["texts_other/code"][0]) == (495, 5)


def test_the_score_distribution_is_there_for_every_label(reference):
    assert len(reference["scores/0"]) == len(reference["scores/1"]) == 1_000


def test_no_extreme_is_one_patients():
    values = np.concatenate([[-1e9], np.linspace(0, 1, 500), [1e9]])
    found = order_statistics(values, np.arange(502))
    assert (found >= np.sort(values)[SHARED_BY - 1]).all()
    assert (found <= np.sort(values)[-SHARED_BY]).all()
    assert len(found) == 502


def test_rows_of_one_patient_do_not_make_an_extreme_shared():
    values = np.concatenate([np.full(50, -100.0), np.arange(100, dtype=np.float64)])
    groups = np.concatenate([np.zeros(50, dtype=np.int64), np.arange(1, 101)])
    assert order_statistics(values, groups).min() == SHARED_BY - 1.5


def test_fewer_patients_than_may_be_published_give_nothing():
    assert order_statistics(np.arange(9.0), np.arange(9)).size == 0
    assert order_statistics(np.arange(90.0), np.repeat(np.arange(9), 10)).size == 0


def test_no_value_is_kept_that_few_patients_have():
    rng = np.random.default_rng(3)
    values = np.round(np.concatenate([rng.normal(100, 30, 400), rng.normal(140, 5, 600)]), 1)
    groups = rng.integers(0, 300, 1_000)
    found = order_statistics(values, groups)
    held = {value: len(set(groups[values == value].tolist())) for value in values.tolist()}
    assert [value for value in found.tolist() if 0 < held.get(value, 0) < SHARED_BY] == []
    # each number stands for rows of enough patients, and near where they were
    for value in np.unique(found).tolist():
        assert len(set(groups[np.argsort(values, kind="stable")][found == value].tolist())) >= SHARED_BY
    grid = np.linspace(values.min(), values.max(), 500)
    shares = [np.searchsorted(np.sort(x), grid, side="right") / 1_000 for x in (values, found)]
    assert np.abs(shares[0] - shares[1]).max() < 3 * SHARED_BY / 1_000


def test_a_value_that_enough_patients_share_is_kept_as_it_is():
    values = np.concatenate([np.full(20, 3.0), [3.5], np.full(20, 7.0), [99.0]])
    assert set(order_statistics(values, np.arange(42)).tolist()) == {3.0, 7.0}


def test_rounded_moments_do_not_tell_a_single_value():
    rng = np.random.default_rng(0)
    glucose = np.append(np.round(rng.normal(110, 15, 999), 2), 599.37)
    column = Column("glucose", "float", "Glucose.")
    raw = reference_bytes((column,), {"glucose": glucose}, np.arange(1_000), np.full((50, 1), 0.5), np.arange(50), (0,))
    found = read(raw)
    told = found["mean/glucose"][0] * 1_000 - found["values/glucose"].sum() + found["values/glucose"][-1]
    assert abs(told - 599.37) > 1.0


def level_counts(*held: int, repeats: int = 1) -> dict:
    sizes = [n * repeats for n in held]
    column = Column("unit", "category", "Unit.", levels=tuple("abcdefgh"[: len(held)]), nullable=True)
    positions = np.repeat(np.arange(len(held)), sizes)
    groups = np.concatenate([np.repeat(np.arange(n) + 1_000 * k, repeats) for k, n in enumerate(held)])
    scores = (np.full((50, 1), 0.5), np.arange(50))
    return read(reference_bytes((column,), {"unit": positions}, groups, *scores, (0,)))


def test_rare_levels_are_counted_together_and_repeats_do_not_make_them_common():
    found = level_counts(50, 4, 9, 60, repeats=3)
    assert (found["levels/unit"].tolist(), found["levels_other/unit"].tolist()) == ([150, 0, 0, 180], [39])


def test_a_lone_rare_level_counts_as_missing():
    found = level_counts(50, 4, 0, 60)
    assert (found["levels/unit"].tolist(), found["levels_other/unit"].tolist()) == ([50, 0, 0, 60], [0])
    assert found["missing_rate/unit"][0] == pytest.approx(4 / 114)


def test_a_column_that_few_patients_have_has_no_moments():
    column = Column("x", "float", "X.", nullable=True)
    values = np.full(100, np.nan)
    values[:9] = 12.5
    raw = reference_bytes((column,), {"x": values}, np.arange(100), np.full((50, 1), 0.5), np.arange(50), (0,))
    assert np.isnan(read(raw)["mean/x"][0])
    assert np.isnan(read(raw)["sd/x"][0])


def test_large_columns_keep_evenly_spaced_ranks():
    values = np.random.default_rng(0).permutation(250_000).astype(np.float64)
    found = order_statistics(values, np.arange(250_000))
    assert len(found) == MOST_ORDER_STATISTICS
    ranks = np.linspace(0, 249_999, MOST_ORDER_STATISTICS)
    assert np.abs(found - ranks).max() < SHARED_BY  # a number stands for a cell of neighbours


def test_the_same_rows_give_the_same_bytes():
    columns = {"age": np.arange(50.0), "sex": np.zeros(50, dtype=np.int64), "code": np.array(["a"] * 50, dtype=object)}
    args = (COLUMNS, columns, np.arange(50), np.full((50, 2), 0.5), np.arange(50), (0, 1))
    assert reference_bytes(*args) == reference_bytes(*args)


# --- importance -------------------------------------------------------------------------------------------------------


def of_a_model(proba, rows=500):
    version = get_feature_version("v1")
    return column_importance(version, to_arrays(toy_frame().head(rows), version), proba, seed=1)


def test_a_column_is_important_if_the_answers_hang_on_it():
    names = get_feature_version("v1").feature_names
    by_age = of_a_model(lambda matrix: np.stack([matrix[:, names.index("age")] / 120.0] * 2, axis=1))
    assert by_age == {"age": 1.0, "glucose": 0.0, "bmi": 0.0, "bp_systolic": 0.0}
    nothing = of_a_model(lambda matrix: np.full((len(matrix), 2), 0.5))
    assert set(nothing.values()) == {0.0}


def test_shares_of_importance_travel_in_the_artefact_and_add_up():
    columns = features_of(get_feature_version("v1").columns)
    window = ReferenceWindow.read((toy_model().folder / REFERENCE_FILE).read_bytes(), columns)
    assert set(window.importance) == {"age", "glucose", "bmi", "bp_systolic"}
    assert sum(window.importance.values()) == pytest.approx(1.0, abs=0.002)
    assert min(window.importance.values()) >= 0.0


def test_a_reference_of_an_earlier_version_has_no_importance():
    columns = {"x": np.random.default_rng(0).normal(size=500)}
    raw = reference_bytes(
        [Column("x", "float", "X.")], columns, np.arange(500), np.full((50, 1), 0.5), np.arange(50), (0,)
    )
    assert ReferenceWindow.read(raw, [Column("x", "float", "X.")]).importance == {}
