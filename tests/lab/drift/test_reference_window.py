from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import ArtefactError, DataError
from ml_core.features.columns import Column
from ml_core.lab.drift.detect import detect_drift
from ml_core.lab.drift.drift_columns import Feature
from ml_core.lab.drift.reference_window import CategoryReference, NumberReference, ReferenceWindow
from ml_core.lab.training.training_reference import SHARED_BY, order_statistics
from tests.lab.drift.windows import COLUMNS, DOSES, arrays, content, published


def of(values) -> NumberReference:
    return NumberReference.of(np.array(values, dtype=np.float64))


def test_numbers_are_described_by_their_finite_values():
    found = of([3.0, np.nan, 1.0, np.inf, 2.0])
    assert found.points.tolist() == [1.0, 2.0, 3.0]
    assert (found.count, found.missing, found.infinite, found.mean) == (3, 1, 1, 2.0)
    assert found.sd == pytest.approx(np.std([1, 2, 3]))


def test_a_whole_reference_is_no_grid():
    assert (of(range(50)).ranks, of(range(50)).resolution) == (None, 0.0)


def test_robust_scale_of_a_normal_law_is_its_standard_deviation():
    assert of(np.random.default_rng(0).normal(5, 3, 50_000)).robust_scale == pytest.approx(3, rel=0.02)


def test_robust_scale_falls_back_on_the_standard_deviation():
    values = [0.0] * 80 + [1.0] * 20
    assert of(values).robust_scale == pytest.approx(np.std(values))


@pytest.mark.parametrize("sentinels", [[1e9], [-999.0] * 20, [1e200], [-9_999.0, 9_999.0]])
def test_a_few_values_far_off_are_taken_for_sentinels(sentinels):
    assert of([*np.random.default_rng(0).normal(120, 30, 1_000), *sentinels]).has_sentinel


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=1_000),
        np.random.default_rng(0).exponential(size=10_000),
        np.random.default_rng(0).lognormal(0, 1.5, size=10_000),
        [0.0] * 990 + [1.0] * 10,
        [7.0] * 50,
        np.arange(30.0),
    ],
)
def test_a_law_with_a_long_tail_or_of_few_values_has_no_sentinel(values):
    assert not of(values).has_sentinel


def test_few_values_are_counted():
    found = of([2.0] * 30 + [1.0] * 20 + [5.0] * 10)
    assert (found.few_values.tolist(), found.few_counts.tolist()) == ([1.0, 2.0, 5.0], [20, 30, 10])
    assert of(range(11)).few_values is None


def test_categories_keep_the_order_of_the_table_and_list_what_it_lacks_after_it():
    feature = Feature("dose", "category", ("No", "Up"), tabled=True)
    found = CategoryReference.of(feature, pd.Series(["Up", "Other", None, "No", "Up"]))
    assert (found.levels, found.counts.tolist(), found.missing) == (("No", "Up", "Other"), [1, 2, 1], 1)


def test_a_window_lists_what_it_lacks():
    window = ReferenceWindow.of(arrays(50), ["age"], COLUMNS)
    with pytest.raises(DataError, match="no column bmi"):
        window.only(["age", "bmi"])


# --- the reference that travels with a model ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def window() -> ReferenceWindow:
    return ReferenceWindow.read(published(25_000), COLUMNS)


def test_a_models_reference_says_how_many_rows_it_describes(window):
    assert window.rows == 25_000
    assert window.columns["age"].count == 25_000
    assert window.columns["glucose"].missing == pytest.approx(2_500, abs=200)
    assert window.columns["dose"].counts / 25_000 == pytest.approx(DOSES, abs=0.02)
    assert window.columns["code"].rest == 0


def test_ranks_are_those_the_points_were_taken_at():
    values = np.arange(25_000.0)
    points = order_statistics(values, np.arange(25_000))
    found = NumberReference(points, 25_000, 0.0, 1.0, 25_000, drawn_in=True)
    assert np.abs(found.ranks - points).max() < SHARED_BY  # a point stands for so many neighbours


def test_moments_are_of_all_rows_and_not_of_the_points(window):
    glucose = arrays(25_000)["glucose"]
    assert window.columns["glucose"].mean == pytest.approx(np.nanmean(glucose), abs=np.nanstd(glucose) / 1_000)
    assert window.columns["glucose"].sd == pytest.approx(np.nanstd(glucose), rel=1 / 1_000)


def test_a_sentinel_that_no_ten_patients_share_shows_in_the_standard_deviation():
    column = Column("x", "float", "X.")
    values = np.append(np.random.default_rng(0).normal(size=2_000), 1e9)
    raw = published_of(column, values)
    assert ReferenceWindow.read(raw, [column]).columns["x"].has_sentinel


def test_rare_levels_are_compared_together():
    column = Column("unit", "category", "Unit.", levels=("a", "b", "c", "d"))
    positions = np.repeat(np.arange(4), [500, 6, 7, 300])
    window = ReferenceWindow.read(published_of(column, positions), [column])
    found = window.columns["unit"]
    assert (found.levels, found.counts.tolist(), found.rest, found.missing) == (("a", "d"), [500, 300], 13, 0)
    same = {"unit": np.array(["a", "b", "c", "d"], dtype=object)[positions]}
    (report,) = detect_drift(window, same, rule="extended", columns=[column])
    assert (report.drifted, report.flags) == (False, ())


def published_of(column, values):
    from ml_core.lab.training.training_reference import reference_bytes

    groups = np.arange(len(values))
    return reference_bytes([column], {column.name: values}, groups, np.full((50, 1), 0.5), np.arange(50), ("a",))


def test_scores_are_there_for_every_label(window):
    assert set(window.scores) == {"0", "1"}
    assert window.scores["1"].count == 2_000
    assert window.scores["1"].mean == pytest.approx(0.2, abs=0.02)


def test_a_file_and_its_content_give_the_same(tmp_path, window):
    path = tmp_path / "reference.npz"
    path.write_bytes(published(25_000))
    assert ReferenceWindow.read(path, COLUMNS).columns["age"].mean == window.columns["age"].mean


def test_another_feature_version_is_refused():
    with pytest.raises(ArtefactError, match="another feature version"):
        ReferenceWindow.read(published(500), [Column("bmi", "float", "BMI.")])


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"PK\x03\x04 but no archive"])
def test_what_is_no_reference_is_refused(raw):
    with pytest.raises(ArtefactError, match="is no reference"):
        ReferenceWindow.read(raw, COLUMNS)


def test_a_reference_without_its_head_is_refused():
    buffer = io.BytesIO()
    np.savez(buffer, **{k: v for k, v in content(published(500)).items() if k != "n_rows"})
    with pytest.raises(ArtefactError, match="n_rows"):
        ReferenceWindow.read(buffer.getvalue(), COLUMNS)
