from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import DataError, InvalidRows
from ml_core.lab.config import SplitConfig
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.training.labelled_rows import PARTS, label_rows, place_of, rows_from_file, rows_from_store, split_of
from tests.homes import road_config, road_rows, settings_in


@pytest.fixture
def frame() -> pd.DataFrame:
    return make_cohort(300, seed=5)[0]


def test_no_patient_is_in_two_parts():
    rows = road_rows()
    patients = [set(rows.part(name).groups.tolist()) for name in ("train", "validation", "calibration", "test")]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert sum(rows.counts.values()) == len(rows) == sum(len(rows.part(p)) for p in rows.counts)


def test_parts_keep_every_encounter_of_their_patients_and_match_their_matrix():
    rows = road_rows()
    test = rows.part("test")
    assert np.array_equal(test.matrix, rows.matrix[rows.parts == "test"], equal_nan=True)
    assert len(set(test.groups.tolist())) < len(test)


def test_the_store_names_table_and_version():
    rows = road_rows()
    assert (rows.table, rows.table_version, rows.classes) == ("v1", 0, (0, 1))


def test_a_missing_table_says_how_to_make_it(tmp_path):
    with pytest.raises(DataError, match="surety features run"):
        rows_from_store(road_config(), settings_in(tmp_path))


def test_a_file_gives_the_same_rows_as_the_table(tmp_path):
    path = tmp_path / "rows.parquet"
    road_rows().frame.to_parquet(path)
    rows = rows_from_file(path, road_config())
    assert np.array_equal(rows.matrix, road_rows().matrix, equal_nan=True)
    assert np.array_equal(rows.parts, road_rows().parts)
    assert (rows.table, rows.origin) == ("", "file rows.parquet")


@pytest.mark.parametrize("column", ["readmission_30d", "patient_id"])
def test_label_and_patient_must_be_there(frame, column):
    with pytest.raises(DataError, match=f"no column {column}"):
        label_rows(frame.drop(columns=column), "v1", SplitConfig(), "here")


def test_a_patient_may_not_be_null(frame):
    frame.loc[3, "patient_id"] = None
    with pytest.raises(DataError, match="patient_id has nulls"):
        label_rows(frame, "v1", SplitConfig(), "here")


def test_one_class_is_not_enough(frame):
    with pytest.raises(DataError, match="one class only"):
        label_rows(frame[frame["readmission_30d"] == 0], "v1", SplitConfig(), "here")


def test_labels_outside_the_column_table_are_refused_without_being_shown(frame):
    frame["readmission_30d"] = frame["readmission_30d"].replace(1, 77)
    with pytest.raises(DataError, match="1 labels that are no level") as caught:
        label_rows(frame, "v1", SplitConfig(), "here")
    assert "77" not in str(caught.value)


def test_rows_that_break_the_column_table_are_refused(frame):
    frame.loc[0, "age"] = 300
    with pytest.raises(InvalidRows, match="age"):
        _ = label_rows(frame, "v1", SplitConfig(), "here").matrix


def test_only_the_newest_rows_calibrate_and_test_where_that_is_configured():
    frame = make_cohort(1_200, seed=5)[0]
    usual = label_rows(frame, "v1", SplitConfig(), "x")
    rows = label_rows(frame, "v1", SplitConfig(newest_rows=1_000), "x")
    assert rows.newest.tolist() == [False] * 200 + [True] * 1_000
    assert rows.recent().frame.index.tolist() == list(range(200, 1_200))
    moved = ~rows.newest & np.isin(usual.parts, ("calibration", "test"))
    assert rows.parts.tolist() == np.where(moved, "left_out", usual.parts).tolist()
    assert usual.recent().frame.equals(usual.frame)


# --- splits ----------------------------------------------------------------------------------------------------------


# printf 'surety-split-1:135' | sha256sum begins with 5ed0d2f8e84fd765, so place = 0x5ed0... / 2^64 = 0.3704, and so on.
BY_HAND = {
    135: ("5ed0d2f8e84fd765", "train"),
    3069: ("9689d7cbf7a87e88", "validation"),
    1152: ("9c38c3b0d8d7af95", "calibration"),
    774: ("cbf0a2d2c6f925ac", "calibration"),
    378: ("e271d52d47a5ee7e", "test"),
    927: ("e8d32f5f149f7d3a", "test"),
}


def test_places_and_parts_are_those_worked_out_by_hand():
    for group, (digest, _) in BY_HAND.items():
        assert place_of(group, "surety-split-1") == pytest.approx(int(digest, 16) / 2**64, abs=2**-52)
    assert split_of(list(BY_HAND), SplitConfig()).tolist() == [part for _, part in BY_HAND.values()]


def test_a_number_and_its_text_are_the_same_patient():
    numbers = np.arange(1, 500)
    for same in (numbers.astype(str), numbers.astype(float), numbers.astype(object)):
        assert (split_of(numbers, SplitConfig()) == split_of(same, SplitConfig())).all()


@given(groups=st.lists(st.integers(1, 50), min_size=1, max_size=60), data=st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_patient_stays_whole_and_stays_put_whatever_else_is_there(groups, data):
    parts = split_of(groups, SplitConfig())
    order = data.draw(st.permutations(range(len(groups))))
    assert parts[order].tolist() == split_of([groups[i] for i in order], SplitConfig()).tolist()
    some = data.draw(st.integers(1, len(groups)))
    assert split_of(groups[:some], SplitConfig()).tolist() == parts[:some].tolist()


def test_parts_have_their_shares():
    parts = split_of(np.arange(100_000), SplitConfig())
    share = {part: float((parts == part).mean()) for part in PARTS}
    # five standard deviations of a binomial share at n = 100,000
    assert share == pytest.approx({"train": 0.5, "validation": 0.1, "calibration": 0.2, "test": 0.2}, abs=0.008)


def test_another_salt_is_another_split():
    groups = np.arange(10_000)
    a, b = (split_of(groups, SplitConfig(salt=salt)) for salt in ("surety-split-1", "surety-split-2"))
    assert 0.30 < float((a == b).mean()) < 0.38  # independent: 0.5^2 + 0.1^2 + 0.2^2 + 0.2^2 = 0.34
