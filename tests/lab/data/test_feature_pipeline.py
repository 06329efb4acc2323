"""Ingest, validate, transform, store: what is kept, what is reported, what is set aside."""

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import DataError, InvalidRows
from ml_core.base.settings import Settings
from ml_core.lab.config import ConformalConfig, DataConfig, ModelConfig, load_config
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.data.feature_pipeline import FeaturePipeline, PipelineConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.table_frames import write_table
from ml_core.serve.features.versions import get_feature_version
from tests.raw_rows import valid_rows


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


def config(source, adapter="columns", version="v1"):
    return ModelConfig(model="m", feature_version=version, data=DataConfig(source=source, adapter=adapter))


def cohort(tmp_path, suffix=".parquet", n=300, **changes):
    frame, _ = make_cohort(n, seed=1)
    frame = frame.assign(**changes)
    write_table(frame, tmp_path / f"rows{suffix}")
    return frame, tmp_path / f"rows{suffix}"


def test_the_configuration_tells_the_pipeline_what_to_read(tmp_path):
    assert PipelineConfig.of(config(tmp_path / "x.csv")) == PipelineConfig(DataConfig(source=tmp_path / "x.csv"), "v1")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_rows_come_into_the_store_as_they_were(tmp_path, settings, suffix):
    frame, path = cohort(tmp_path, suffix)
    result = FeaturePipeline(config(path), settings).run()
    assert (result.rows_in, result.rows_kept, result.quarantined, result.version, result.problems) == (
        300,
        300,
        0,
        0,
        (),
    )
    stored = FeatureStore(settings.feature_store, "m").read("v1")
    for name in ("patient_id", "age", "glucose", "bmi", "bp_systolic", "readmission_30d"):
        assert stored[name].isna().equals(frame[name].isna())
        assert stored[name].dropna().tolist() == frame[name].dropna().tolist()
    assert stored["encounter_date"].dt.date.tolist() == frame["encounter_date"].dt.date.tolist()


def test_the_same_rows_again_make_no_new_version_in_whatever_format(tmp_path, settings):
    _, parquet = cohort(tmp_path, ".parquet")
    _, csv = cohort(tmp_path, ".csv")
    versions = [FeaturePipeline(config(path), settings).run().version for path in (parquet, parquet, csv, parquet)]
    assert versions == [0, 0, 0, 0]


def test_other_rows_make_a_new_version_and_the_old_one_stays(tmp_path, settings):
    _, first = cohort(tmp_path, n=300)
    FeaturePipeline(config(first), settings).run()
    _, second = cohort(tmp_path, n=200)
    assert FeaturePipeline(config(second), settings).run().version == 1
    store = FeatureStore(settings.feature_store, "m")
    assert [len(store.read("v1", v)) for v in (0, 1)] == [300, 200]


def broken(tmp_path, suffix):
    frame, _ = make_cohort(100, seed=2)
    frame = frame.astype({"age": object, "patient_id": object})
    frame.loc[3, "age"] = 130
    frame.loc[4, "age"] = 45.7
    frame.loc[[5, 6], "glucose"] = 7.1
    frame.loc[6, "patient_id"] = None
    frame["age"] = frame["age"].astype("float64")
    write_table(frame, tmp_path / f"broken{suffix}")
    return tmp_path / f"broken{suffix}"


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_bad_rows_stop_the_run_and_are_told_by_column_check_and_count(tmp_path, settings, suffix):
    path = broken(tmp_path, suffix)
    with pytest.raises(InvalidRows) as caught:
        FeaturePipeline(config(path), settings).run()
    assert set(caught.value.checks) == {
        ("glucose", "too low", 2),
        ("age", "too high", 1),
        ("age", "not a whole number", 1),
        ("patient_id", "null", 1),
    }
    message = str(caught.value)
    assert "4 of 100 rows" in message
    assert not any(value in message for value in ("130", "45.7", "7.1"))
    with pytest.raises(DataError):
        FeatureStore(settings.feature_store, "m").latest("v1")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("aside", ["aside.parquet", "aside.csv"])
def test_with_a_quarantine_bad_rows_are_written_aside_and_the_rest_goes_on(tmp_path, settings, suffix, aside):
    result = FeaturePipeline(config(broken(tmp_path, suffix)), settings).run(tmp_path / aside)
    assert (result.rows_in, result.rows_kept, result.quarantined) == (100, 96, 4)
    assert len(FeatureStore(settings.feature_store, "m").read("v1")) == 96
    refused = pd.read_csv(tmp_path / aside) if aside.endswith("csv") else pd.read_parquet(tmp_path / aside)
    assert refused["refused_because"].tolist() == [
        "age: too high",
        "age: not a whole number",
        "glucose: too low",
        "patient_id: null; glucose: too low",
    ]
    assert refused["age"].astype(float).tolist()[:2] == [130, 45.7]


def test_texts_where_numbers_belong_are_quarantined_as_they_were(tmp_path, settings):
    frame, _ = make_cohort(20, seed=3)
    frame = frame.astype({"glucose": object})
    frame.loc[2, "glucose"] = "high"
    frame.to_csv(tmp_path / "rows.csv", index=False)
    result = FeaturePipeline(config(tmp_path / "rows.csv"), settings).run(tmp_path / "aside.csv")
    assert result.problems == (("glucose", "not a number", 1),)
    assert pd.read_csv(tmp_path / "aside.csv")["glucose"].tolist() == ["high"]


def test_a_dry_run_judges_and_writes_nothing(tmp_path, settings):
    result = FeaturePipeline(config(broken(tmp_path, ".csv")), settings).run(tmp_path / "aside.csv", dry_run=True)
    assert (result.version, result.rows_kept, result.quarantined) == (-1, 96, 4)
    assert not (tmp_path / "aside.csv").exists()
    assert not settings.home.exists()


def test_no_row_left_is_an_error(tmp_path, settings):
    _, path = cohort(tmp_path, age=200)
    with pytest.raises(DataError, match=r"no row holds: age: too high \(300 rows\)"):
        FeaturePipeline(config(path), settings).run(tmp_path / "aside.csv")


def test_a_forgotten_column_is_an_error_also_when_it_is_nullable(tmp_path, settings):
    frame, _ = make_cohort(10, seed=4)
    write_table(frame.rename(columns={"glucose": "glukose"}), tmp_path / "rows.csv")
    with pytest.raises(DataError, match="has no column glucose"):
        FeaturePipeline(config(tmp_path / "rows.csv"), settings).run()


def test_ids_and_times_may_be_absent_and_other_columns_are_ignored_by_name(tmp_path, settings):
    frame, _ = make_cohort(10, seed=4)
    write_table(frame.drop(columns="encounter_date").assign(ward="x"), tmp_path / "rows.csv")
    result = FeaturePipeline(config(tmp_path / "rows.csv"), settings).run()
    assert result.ignored == ("ward",)
    assert FeatureStore(settings.feature_store, "m").read("v1")["encounter_date"].isna().all()


def test_nan_in_parquet_is_a_wrong_value_and_null_is_not(tmp_path, settings):
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame, _ = make_cohort(3, seed=5)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    place = table.column_names.index("bmi")
    table = table.set_column(place, "bmi", pa.array([20.0, np.nan, None]))
    pq.write_table(table, tmp_path / "rows.parquet")
    result = FeaturePipeline(config(tmp_path / "rows.parquet"), settings).run(tmp_path / "aside.csv")
    assert result.problems == (("bmi", "not finite", 1),)
    assert result.rows_kept == 2


def test_an_encounter_that_comes_twice_is_refused_the_second_time(tmp_path, settings):
    rows = valid_rows(get_feature_version("v2").columns, 4, seed=1)
    frame = pd.DataFrame(rows).assign(encounter_id=[1, 2, 2, 3], patient_nbr=[1, 1, 2, 2], readmission_30d=[0, 1, 0, 1])
    write_table(frame, tmp_path / "rows.parquet")
    result = FeaturePipeline(config(tmp_path / "rows.parquet", version="v2"), settings).run(tmp_path / "aside.csv")
    assert result.problems == (("encounter_id", "repeated", 1),)
    assert FeatureStore(settings.feature_store, "m").read("v2")["encounter_id"].tolist() == [1, 2, 3]


def test_the_matrix_of_the_version_is_ready_after_the_run(tmp_path, settings):
    _, path = cohort(tmp_path)
    result = FeaturePipeline(config(path), settings).run()
    assert FeatureStore(settings.feature_store, "m").matrix("v1", result.version).shape == (300, 11)
    assert list((settings.feature_store / "models" / "m" / "cache" / "v1").glob("*.npy"))


def grouped(source, **group):
    groups = [{"name": "ward", "levels": ["north", "south"], **group}]
    return config(source).model_copy(update={"conformal": ConformalConfig.model_validate({"groups": groups})})


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_column_that_only_tells_a_group_is_kept_beside_the_features(tmp_path, settings, suffix):
    wards = np.where(np.arange(300) % 3 == 0, "north", np.where(np.arange(300) % 3 == 1, "south", None))
    _, path = cohort(tmp_path, suffix, ward=wards)
    result = FeaturePipeline(grouped(path), settings).run()
    assert (result.rows_kept, result.ignored) == (300, ())
    stored = FeatureStore(settings.feature_store, "m").read("v1")
    assert [None if pd.isna(ward) else ward for ward in stored["ward"]] == wards.tolist()
    assert FeaturePipeline(grouped(path), settings).run().version == result.version
    assert FeatureStore(settings.feature_store, "m").matrix("v1", result.version).shape == (300, 11)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_number_or_whole_level_that_only_tells_a_group_is_kept_too(tmp_path, settings, suffix):
    incomes = np.where(np.arange(300) % 4 == 0, np.nan, np.arange(300) / 7)
    _, path = cohort(tmp_path, suffix, income=incomes, site=np.arange(300) % 2 + 1)
    groups = [{"name": "income", "cuts": [10, 20]}, {"name": "site", "levels": [1, 2]}]
    chosen = config(path).model_copy(update={"conformal": ConformalConfig.model_validate({"groups": groups})})
    FeaturePipeline(chosen, settings).run()
    stored = FeatureStore(settings.feature_store, "m").read("v1")
    assert np.array_equal(stored["income"].to_numpy(), incomes, equal_nan=True)
    assert stored["site"].tolist() == (np.arange(300) % 2 + 1).tolist()


def test_a_group_column_is_judged_like_every_other(tmp_path, settings):
    wards = np.full(300, "north", dtype=object)
    wards[[4, 5]] = "west"
    _, path = cohort(tmp_path, ward=wards)
    with pytest.raises(InvalidRows, match=r"ward: not a level"):
        FeaturePipeline(grouped(path), settings).run()
    result = FeaturePipeline(grouped(path), settings).run(tmp_path / "aside.csv")
    assert (result.rows_kept, result.quarantined) == (298, 2)


def test_a_file_without_a_declared_group_column_is_refused_by_its_name(tmp_path, settings):
    _, path = cohort(tmp_path)
    with pytest.raises(DataError, match="has no column ward"):
        FeaturePipeline(grouped(path), settings).run()


@pytest.mark.parametrize("free", [False, True])
def test_an_unknown_level_is_named_with_its_count_and_free_text_is_not(tmp_path, free):
    (tmp_path / "columns.yaml").write_text(
        "columns: {who: {dtype: int, role: group}, sex: {dtype: category, levels: [f, m]}, y: {dtype: category, role: label, levels: [a, b]}}"
    )
    (tmp_path / "model.yaml").write_text("{model: m, columns: columns.yaml, data: {source: rows.csv}}")
    wrong = [f"name {i}" for i in range(30)] if free else ["Unknown"] * 20 + ["x"] * 10
    sexes = wrong + ["f", "m"] * 35
    pd.DataFrame({"who": range(100), "sex": sexes, "y": ["a", "b"] * 50}).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InvalidRows) as caught:
        FeaturePipeline(load_config(tmp_path / "model.yaml"), Settings(home=tmp_path / "home")).run()
    told = str(caught.value)
    assert ("sex: not a level (30 rows)" if free else "sex: not a level (30 rows: 'Unknown' 20, 'x' 10)") in told
    assert "name 1" not in told
