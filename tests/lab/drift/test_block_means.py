"""Blocks of rows, and what is measured of each: in the reference itself every statistic has its own mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.features.columns import Column
from ml_core.lab.drift.block_means import BlockStatistics, blocks_of
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.lab.training.training_reference import reference_bytes

LEVELS = ("home", "rare", "ward", "hospice")
COLUMNS = (
    Column("age", "float", "X.", nullable=True),
    Column("stays", "int", "X."),
    Column("place", "category", "X.", nullable=True, levels=LEVELS),
    Column("code", "text", "X.", nullable=True),
)
ROWS = 4_000


def rows(n=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "age": np.where(rng.random(n) < 0.1, np.nan, rng.normal(60, 10, n)),
        "stays": rng.poisson(0.5, n).astype(np.float64),
        "place": rng.choice([0, 1, 2, -1], n, p=[0.6, 0.001, 0.349, 0.05]),
        "code": rng.choice(np.array(["428", "250", None], dtype=object), n, p=[0.5, 0.3, 0.2]),
    }


@pytest.fixture(scope="module")
def reference():
    raw = reference_bytes(COLUMNS, rows(), np.arange(ROWS), np.full((50, 1), 0.5), np.arange(50), (0,))
    return BlockStatistics.of(ReferenceWindow.read(raw, COLUMNS))


def named(statistics, means):
    return {(s.column, s.about): mean for s, mean in zip(statistics.statistics, means, strict=True)}


def test_every_row_of_every_statistic_lies_between_0_and_1(reference):
    found = reference.rows(rows(seed=1))
    assert found.shape == (ROWS, len(reference.statistics))
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_the_rows_of_the_reference_have_the_means_of_the_reference(reference):
    found = reference.rows(rows()).mean(axis=0)
    for statistic, mean in zip(reference.statistics, found, strict=True):
        assert abs(mean - statistic.mean) < statistic.tolerance / 2, statistic


def test_what_changes_shows_in_the_statistic_that_is_about_it(reference):
    now = rows()
    now["age"] = now["age"] * 10
    now["stays"] = np.full(ROWS, 0.0)
    now["place"] = np.full(ROWS, 3)
    now["code"] = np.full(ROWS, None, dtype=object)
    found = named(reference, reference.rows(now).mean(axis=0))
    assert found["age", "above"] == pytest.approx(0.9 + 0.1 * 0.01, abs=0.01)  # a tenth is missing, and says nothing
    assert found["stays", "place"] < 0.35
    assert (found["place", "rare"], found["place", "unlisted"], found["place", "missing"]) == (1.0, 1.0, 0.0)
    assert (found["code", "missing"], found["code", "level:0"]) == (1.0, pytest.approx(0.375, abs=0.02))


def test_levels_of_a_column_table_keep_their_positions_where_rare_ones_are_not_published(reference):
    now = {**rows(), "place": np.full(ROWS, 2)}  # the third of four levels, of which two are published
    found = named(reference, reference.rows(now).mean(axis=0))
    (ward,) = [s for s in reference.statistics if s.column == "place" and abs(s.mean - 0.37) < 0.03]
    assert found["place", ward.about] == 1.0
    assert found["place", "unlisted"] == 0.0


def test_a_small_reference_tolerates_its_own_error():
    few, many = (
        BlockStatistics.of(ReferenceWindow.of(rows(n), ["age"])).statistics[0].tolerance for n in (100, 100_000)
    )
    assert few > 3 * many


def test_columns_without_values_are_not_judged():
    window = ReferenceWindow.of(
        {"age": np.full(100, np.nan), "when": np.zeros(100, dtype="datetime64[D]")}, ["age", "when"]
    )
    found = BlockStatistics.of(window)
    assert {s.about for s in found.statistics} == {"missing"}
    assert found.rows({"age": np.ones(5), "when": np.zeros(5, dtype="datetime64[D]")}).shape == (5, 2)


# --- blocks ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=1, max_size=60), st.integers(1, 70))
def test_blocks_keep_a_subject_whole_and_their_order(subjects, size):
    found = blocks_of(subjects, size)
    assert (found.min() >= 0, found.max() < max(len(subjects) // size, 1)) == (True, True)
    for subject in set(subjects) - {None}:
        assert len({b for b, s in zip(found.tolist(), subjects, strict=True) if s == subject}) == 1


def test_without_subjects_blocks_are_consecutive_rows():
    assert blocks_of([None] * 10, 3).tolist() == sorted(blocks_of([None] * 10, 3).tolist())
    assert np.bincount(blocks_of([None] * 1_000, 100)).tolist() == [100] * 10


def test_the_mean_of_a_block_is_that_of_its_rows(reference):
    now, blocks = rows(600, 3), blocks_of([i % 200 for i in range(600)], 100)
    found = reference.block_means(now, blocks)
    assert len(found) == len(set(blocks.tolist()))
    for mean, block in zip(found, sorted(set(blocks.tolist())), strict=True):
        np.testing.assert_allclose(mean, reference.rows(now)[blocks == block].mean(axis=0))
