from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import DataError, InvalidRows
from ml_core.lab.config import SplitConfig
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.training.labelled_rows import label_rows, rows_from_file, rows_from_store
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
