from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.lab.drift.drift_table import DriftTable

FRAME = pd.DataFrame({"age": [40, 50, 60], "bmi": [21.5, np.nan, 30.0], "code": ["a", None, "b"]})
CODED = (Column("age", "int", "Age."), Column("code", "category", "Code.", levels=(1, 2)))


@pytest.fixture(params=["parquet", "csv"])
def path(request, tmp_path):
    path = tmp_path / f"rows.{request.param}"
    FRAME.to_parquet(path) if request.param == "parquet" else FRAME.to_csv(path, index=False)
    return path


def test_both_formats_give_the_same_rows(path):
    file = DriftTable(path)
    assert (file.columns, file.rows) == (("age", "bmi", "code"), 3)
    found = file.frame(["bmi", "code", "age"])
    assert list(found) == ["bmi", "code", "age"]
    assert found["age"].tolist() == [40, 50, 60]
    assert found["bmi"].isna().tolist() == found["code"].isna().tolist() == [False, True, False]


def test_csv_is_typed_by_the_column_table(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("age,code\n40,1\n50,2\n")
    assert DriftTable(path, CODED).frame(["age", "code"])["code"].tolist() == [1, 2]


def test_a_sample_is_of_the_files_own_rows_and_the_same_for_the_same_seed(tmp_path):
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"x": np.arange(200_000.0)}).to_parquet(path, row_group_size=30_000)
    first, again = (DriftTable(path).sample(["x"], 500, np.random.default_rng(1))["x"].to_numpy() for _ in range(2))
    assert len(np.unique(first)) == 500
    assert (first == again).all()
    assert first.min() < 5_000
    assert first.max() > 195_000


def test_a_sample_of_more_rows_than_there_are_is_all_rows(path):
    assert len(DriftTable(path).sample(["age"], 10, np.random.default_rng(0))) == 3


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "rows.parquet"
    FRAME.to_parquet(path)
    path.write_bytes(path.read_bytes()[:60] + b"\0" * 60 + path.read_bytes()[120:])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        DriftTable(path).frame(["age", "bmi", "code"])
