"""The rows of many files become one version, the same as that of one file which has them all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import DataError, InvalidRows
from ml_core.base.settings import Settings
from ml_core.lab.batch.engines import InProcess
from ml_core.lab.batch.process_pool import ProcessPool
from ml_core.lab.config import DataConfig, ModelConfig
from ml_core.lab.data import feature_pipeline
from ml_core.lab.data.feature_pipeline import FeaturePipeline
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.table_frames import write_table
from ml_core.serve.features.versions import get_feature_version
from tests.own_versions import STANDARD, STANDARD_TABLE
from tests.raw_rows import valid_rows

HERE = InProcess()
N = 60
CUTS = {"a/1": slice(0, 25), "a/2": slice(25, 26), "b": slice(26, N)}


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


@pytest.fixture(autouse=True)
def _pieces_are_small(monkeypatch):
    monkeypatch.setattr(feature_pipeline, "PIECE_ROWS", 10)


def stays(**changes):
    frame = pd.DataFrame(valid_rows(get_feature_version("v2").columns, N, seed=1))
    labels = np.arange(N) % 2
    return frame.assign(
        encounter_id=np.arange(1, N + 1), patient_nbr=np.arange(N) // 3 + 1, readmission_30d=labels, **changes
    )


def whole_and_cut(tmp_path, frame, suffix, cuts=CUTS):
    """The rows as one file and as a folder of some."""
    write_table(frame, tmp_path / f"rows{suffix}")
    for name, rows in cuts.items():
        (tmp_path / "rows" / name).parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".parquet":
            frame[rows].to_parquet(tmp_path / "rows" / f"{name}.parquet", row_group_size=10, index=False)
        else:
            write_table(frame[rows], tmp_path / "rows" / f"{name}{suffix}")
    return tmp_path / f"rows{suffix}", tmp_path / "rows"


def pipeline(source, settings, version="v2", engine=HERE, told=lambda _: None, **data):
    config = ModelConfig(model="m", feature_version=version, data=DataConfig(source=source, **data))
    return FeaturePipeline(config, settings, engine, told)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_folder_makes_the_version_of_one_file_with_its_rows(tmp_path, settings, suffix):
    one, many = whole_and_cut(tmp_path, stays(), suffix)
    shares: list[float] = []
    first = pipeline(one, settings).run()
    again = pipeline(many, settings, told=shares.append).run()
    assert again == first  # the same content makes no new version
    assert (first.version, first.rows_kept) == (0, N)
    assert sum(shares) == pytest.approx(1.0)
    assert FeatureStore(settings.feature_store, "m").read("v2")["encounter_id"].tolist() == list(range(1, N + 1))


def test_a_pool_makes_the_same_version_also_of_a_column_table_that_is_data(tmp_path, settings, monkeypatch):
    frame = pd.DataFrame(valid_rows(STANDARD_TABLE, N, seed=2))
    frame = frame.assign(
        ward_patient=[f"p{i}" for i in range(N)], stay=np.arange(1, N + 1), outcome=["home", "icu"] * (N // 2)
    )
    one, _ = whole_and_cut(tmp_path, frame, ".parquet")
    first = pipeline(one, settings, STANDARD).run()
    monkeypatch.chdir(tmp_path)
    again = pipeline("rows", settings, STANDARD, ProcessPool(2)).run()
    assert again == first


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_what_is_refused_and_why_is_that_of_one_file(tmp_path, settings, suffix):
    frame = stays()
    frame.loc[[5, 40], "encounter_id"] = [1, 26]  # in the same file as the first, and in another
    frame.loc[30, "time_in_hospital"] = 900
    frame.loc[50, ["encounter_id", "time_in_hospital"]] = [1, 900]
    one, many = whole_and_cut(tmp_path, frame, suffix)
    told = []
    for source in (one, many):
        with pytest.raises(InvalidRows) as caught:
            pipeline(source, settings).run()
        told.append(str(caught.value).removeprefix(str(source)))
        assert not settings.feature_store.exists() or FeatureStore(settings.feature_store, "m").tables() == []
    assert told[0] == told[1]
    assert "encounter_id: repeated (3 rows)" in told[0]
    asides = [tmp_path / f"aside-{name}.csv" for name in ("one", "many")]
    first, again = (pipeline(s, settings).run(a) for s, a in zip((one, many), asides, strict=True))
    assert again == first
    assert (again.quarantined, again.rows_kept) == (4, N - 4)
    whole, cut = (pd.read_csv(path) for path in asides)
    assert whole["encounter_id"].tolist() == cut["encounter_id"].tolist() == [1, 20 + 11, 26, 1]
    for one_why, other_why in zip(whole["refused_because"], cut["refused_because"], strict=True):
        assert sorted(one_why.split("; ")) == sorted(other_why.split("; "))


def test_rows_are_numbered_through_and_labels_left_out_as_in_one_file(tmp_path, settings):
    frame = stays().drop(columns="patient_nbr")
    one, many = whole_and_cut(tmp_path, frame, ".csv")
    options = {"row_number": "patient_nbr", "leave_out_labels": (0,)}
    first, again = (pipeline(source, settings, **options).run() for source in (one, many))
    assert again == first
    assert (again.left_out, again.rows_kept) == (N // 2, N // 2)
    stored = FeatureStore(settings.feature_store, "m").read("v2")
    assert stored["patient_nbr"].tolist() == list(range(1, N, 2))


def test_a_row_that_is_left_out_does_not_make_a_later_one_a_repetition(tmp_path, settings):
    frame = stays()
    frame.loc[59, "encounter_id"] = 1  # whose first row has the label 0
    one, many = whole_and_cut(tmp_path, frame, ".parquet")
    first, again = (pipeline(source, settings, leave_out_labels=(0,)).run() for source in (one, many))
    assert again == first
    assert again.rows_kept == N // 2


def test_nothing_is_stored_of_a_folder_with_a_table_that_cannot_be_used(tmp_path, settings):
    _, many = whole_and_cut(tmp_path, stays(), ".parquet")
    stays()[26:].drop(columns="time_in_hospital").to_parquet(many / "b.parquet", index=False)
    with pytest.raises(DataError, match=r"b\.parquet: has no column time_in_hospital"):
        pipeline(many, settings).run()
    assert FeatureStore(settings.feature_store, "m").tables() == []


def test_a_data_set_of_its_own_is_one_file(tmp_path, settings):
    _, many = whole_and_cut(tmp_path, stays(), ".parquet")
    with pytest.raises(DataError, match="the adapter diabetes130 reads one file"):
        pipeline(many, settings, adapter="diabetes130").run()
