"""The feature store: versions that stay, order that stays, writes that are not made twice."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from ml_core.base.errors import DataError, UnknownFeatureVersion
from ml_core.lab.data import feature_store
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.frames import to_arrays
from ml_core.serve.features.versions import get_feature_version
from tests.raw_rows import valid_rows


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "features")


def cohort(n, seed=1):
    return make_cohort(n, seed=seed)[0]


def test_versions_can_be_read_back_for_ever(store):
    frames = [cohort(n, seed=n) for n in (50, 30, 40)]
    versions = [store.overwrite("v1", frame) for frame in frames]
    assert versions == [0, 1, 2]
    assert store.latest("v1") == 2
    for version, frame in zip(versions, frames, strict=True):
        read = store.read("v1", version)
        assert read["patient_id"].tolist() == frame["patient_id"].tolist()
        np.testing.assert_array_equal(read["glucose"], frame["glucose"])


def test_no_version_is_ever_forgotten_by_delta_itself(store, tmp_path):
    from deltalake import DeltaTable

    store.overwrite("v1", cohort(20, seed=1))
    store.overwrite("v1", cohort(20, seed=2))
    delta = DeltaTable(str(tmp_path / "features" / "v1"))
    assert delta.metadata().configuration["delta.enableExpiredLogCleanup"] == "false"
    delta.create_checkpoint()
    delta.cleanup_metadata()
    assert delta.vacuum(dry_run=False) == []
    assert store.read("v1", 0)["patient_id"].tolist() == cohort(20, seed=1)["patient_id"].tolist()


def test_appended_rows_follow_in_order_and_the_version_before_is_untouched(store):
    a, b, c = cohort(500, 1), cohort(300, 2), cohort(10, 3)
    assert [store.append("v1", frame) for frame in (a, b, c)] == [0, 1, 2]
    assert store.read("v1")["patient_id"].tolist() == [*a["patient_id"], *b["patient_id"], *c["patient_id"]]
    assert len(store.read("v1", 0)) == 500


def test_the_same_overwrite_or_append_again_makes_no_version(store):
    frame = cohort(50)
    assert [store.overwrite("v1", frame) for _ in range(3)] == [0, 0, 0]
    assert [store.append("v1", frame) for _ in range(3)] == [1, 1, 1]
    assert len(store.read("v1")) == 100
    assert store.overwrite("v1", frame) == 2  # the content is another now, so this is a change


def test_equal_rows_in_other_types_are_the_same_content(store):
    frame = cohort(50)
    other = frame.astype({"age": "float64", "readmission_30d": "Int64", "patient_id": object, "glucose": "Float64"})
    other["encounter_date"] = other["encounter_date"].dt.strftime("%Y-%m-%d")
    assert [store.overwrite("v1", f) for f in (frame, other, frame[sorted(frame.columns)])] == [0, 0, 0]


def test_one_changed_cell_is_another_content(store):
    frame = cohort(50)
    changed = frame.copy()
    changed.loc[7, "bmi"] = 33.3
    nulled = frame.copy()
    nulled.loc[7, "bmi"] = None
    assert [store.overwrite("v1", f) for f in (frame, changed, nulled)] == [0, 1, 2]


def test_columns_have_one_type_each_nulls_included(store):
    version = get_feature_version("v2")
    frame = pd.DataFrame(valid_rows(version.columns, 60, seed=1)).assign(
        patient_nbr=range(1, 61), readmission_30d=[0, 1] * 30
    )
    store.overwrite("v2", frame)
    read = store.read("v2")
    assert list(read.columns) == [c.name for c in version.columns]
    assert read["encounter_id"].isna().all()
    a, b = to_arrays(frame, version), to_arrays(read, version)
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name])


def test_the_matrix_is_the_transform_of_the_version_and_is_kept(store, tmp_path):
    frames = [cohort(20, seed=1), cohort(30, seed=2)]
    for frame in frames:
        store.overwrite("v1", frame)
    version = get_feature_version("v1")
    for number, frame in enumerate(frames):
        expected = version.transform(to_arrays(frame, version))
        for _ in range(2):  # computed, then from the cache
            assert store.matrix("v1", number).tobytes() == expected.tobytes()
    assert len(list((tmp_path / "features" / "cache" / "v1").iterdir())) == 2


def test_a_cut_off_cache_file_is_computed_again(store, tmp_path):
    store.overwrite("v1", cohort(20))
    expected = store.matrix("v1").tobytes()
    (cached,) = (tmp_path / "features" / "cache" / "v1").iterdir()
    for content in (b"", cached.read_bytes()[:200]):
        cached.write_bytes(content)
        assert store.matrix("v1").tobytes() == expected


def test_a_table_made_anew_never_meets_the_old_ones_cache(store, tmp_path):
    import shutil

    store.overwrite("v1", cohort(20, seed=1))
    old = store.matrix("v1", 0)
    shutil.rmtree(tmp_path / "features" / "v1")
    store.overwrite("v1", cohort(20, seed=2))
    assert store.matrix("v1", 0).tobytes() != old.tobytes()


def test_what_is_not_there_is_a_clear_error(store):
    with pytest.raises(DataError, match="no such table"):
        store.latest("v1")
    store.overwrite("v1", cohort(5))
    with pytest.raises(DataError, match="has no version 7"):
        store.read("v1", 7)
    with pytest.raises(UnknownFeatureVersion):
        store.overwrite("v99", cohort(5))
    with pytest.raises(DataError, match="has no column readmission_30d"):
        store.overwrite("v1", cohort(5).drop(columns="readmission_30d"))


def test_a_damaged_data_file_is_a_clear_error(store, tmp_path):
    store.overwrite("v1", cohort(500))
    (data,) = (tmp_path / "features" / "v1").glob("*.parquet")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        store.read("v1")


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        FeatureStore(tmp_path / "file").overwrite("v1", cohort(5))


# --- what a table tells without being read, and what is left of a person ----------------------------------------------


def every_byte(folder):
    """Content of all files below a folder by path, Parquet columns unpacked."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found[path] = path.read_bytes()
        if path.suffix == ".parquet" and "_delta_log" not in path.parts:
            found[path] += repr(pq.read_table(path).to_pydict()).encode()
    return found


def test_neither_log_nor_footers_hold_statistics(store, tmp_path):
    store.overwrite("v1", cohort(200))
    store.append("v1", cohort(50, seed=2))
    DeltaTable(str(tmp_path / "features" / "v1")).create_checkpoint()
    table = tmp_path / "features" / "v1"
    for path in (table / "_delta_log").glob("*.json"):
        for action in map(json.loads, path.read_text().splitlines()):
            if "add" in action:
                assert json.loads(action["add"]["stats"]).keys() <= {
                    "numRecords", "minValues", "maxValues", "nullCount", "tightBounds",
                }  # fmt: skip
                stats = json.loads(action["add"]["stats"])
                assert [stats.get(name) or {} for name in ("minValues", "maxValues", "nullCount")] == [{}, {}, {}]
    for path in table.glob("*.parquet"):
        footer = pq.ParquetFile(path).metadata
        for group in range(footer.num_row_groups):
            for column in range(footer.num_columns):
                statistics = footer.row_group(group).column(column).statistics
                assert statistics is None or not statistics.has_min_max
    people = {*cohort(200)["patient_id"], *cohort(50, seed=2)["patient_id"]}
    log = b"".join(path.read_bytes() for path in (table / "_delta_log").rglob("*") if path.is_file())
    assert not [name for name in people if name.encode() in log]


def test_a_table_of_older_software_loses_its_statistics_with_the_next_write(store, tmp_path):
    from ml_core.lab.data.stored_columns import as_stored

    path = tmp_path / "features" / "v1"
    rows = as_stored(cohort(20), get_feature_version("v1"))
    write_deltalake(str(path), rows.append_column("surety_row", pa.array(range(20), pa.int64())))
    assert store.append("v1", cohort(5, seed=2)) == 2  # the properties are a version of their own
    assert store.append("v1", cohort(5, seed=2)) == 2
    log = (path / "_delta_log" / f"{2:020d}.json").read_text()
    assert not [name for name in cohort(5, seed=2)["patient_id"] if name in log]


def with_person(seed=1, name="anna-CANARY-31"):
    frame = cohort(60, seed=seed)
    frame.loc[frame.index[7:9], "patient_id"] = name
    return frame


def test_no_byte_of_an_erased_person_is_left(store, tmp_path):
    name = "anna-CANARY-31"
    store.overwrite("v1", with_person(1))
    store.extend("v1", with_person(2), upto=7)
    store.overwrite("v1", with_person(3))
    store.extend("v1", cohort(10, seed=4), upto=9)
    store.matrix("v1", 0)
    assert any(name.encode() in raw for raw in every_byte(tmp_path).values())
    before = store.read("v1")
    assert store.find_people("v1", {name}).rows == 2

    found = store.erase_people("v1", {name, "bert"})
    assert (found.rows, found.files, found.version) == (2, 3, 3)
    assert not [path for path, raw in every_byte(tmp_path).items() if name.encode() in raw]
    assert not list((tmp_path / "features" / "cache").rglob("*.npy"))
    left = before[before["patient_id"] != name].reset_index(drop=True)
    pd.testing.assert_frame_equal(store.read("v1"), left)
    assert (store.latest("v1"), store.extended_upto("v1")) == (4, 9)
    with pytest.raises(DataError, match="no longer has version 2: somebody's rows were erased"):
        store.read("v1", 2)
    with pytest.raises(DataError, match="has no version 9"):
        store.read("v1", 9)
    assert store.append("v1", cohort(5, seed=5)) == 5
    assert len(store.read("v1", 4)) == len(left)
    assert store.find_people("v1", {name}).files == 0


def test_a_person_of_old_versions_alone_is_erased_too(store, tmp_path):
    store.overwrite("v1", with_person(1))
    store.overwrite("v1", cohort(30, seed=2))
    found = store.erase_people("v1", {"anna-CANARY-31"})
    assert (found.rows, found.files) == (0, 1)
    assert not [p for p, raw in every_byte(tmp_path).items() if b"anna-CANARY-31" in raw]
    assert len(store.read("v1")) == 30


def test_who_is_not_there_changes_nothing(store):
    store.overwrite("v1", cohort(30))
    assert store.erase_people("v1", {"nobody"}).files == 0
    assert store.latest("v1") == 0


def test_an_erasure_that_was_killed_is_ended_by_the_next(store, tmp_path, monkeypatch):
    store.overwrite("v1", with_person(1))
    monkeypatch.setattr(FeatureStore, "_forget_older_versions", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.erase_people("v1", {"anna-CANARY-31"})
    monkeypatch.undo()
    (tmp_path / "features" / "v1" / "part-left.parquet").write_bytes(b"PAR1 anna-CANARY-31, cut short")
    store.erase_people("v1", {"anna-CANARY-31"})
    assert not [p for p, raw in every_byte(tmp_path).items() if b"anna-CANARY-31" in raw]
    assert len(store.read("v1")) == 58


def test_the_last_person_of_a_table_can_be_erased(store):
    frame = cohort(5)
    store.overwrite("v1", frame)
    store.erase_people("v1", set(frame["patient_id"]))
    assert len(store.read("v1")) == 0


def test_numbers_name_people_too(store):
    columns = get_feature_version("v2").columns
    frame = pd.DataFrame(valid_rows(columns, 40, seed=1))
    frame["patient_nbr"] = np.arange(40) // 2 + 1_000
    frame[next(c.name for c in columns if c.role == "label")] = 0
    store.overwrite("v2", frame)
    number = str(frame["patient_nbr"].iloc[3])
    expected = int((frame["patient_nbr"].astype(str) == number).sum())
    assert store.erase_people("v2", {number}).rows == expected
    assert number not in store.read("v2")["patient_nbr"].astype(str).tolist()


# --- one table per model ------------------------------------------------------------------------------------------


def test_two_models_of_one_feature_version_have_rows_of_their_own(tmp_path):
    a, b = (FeatureStore(tmp_path, model) for model in ("a", "b"))
    a.overwrite("v1", cohort(30, seed=1))
    b.overwrite("v1", cohort(20, seed=2))
    assert a.read("v1")["patient_id"].tolist() == cohort(30, seed=1)["patient_id"].tolist()
    assert b.read("v1")["patient_id"].tolist() == cohort(20, seed=2)["patient_id"].tolist()
    assert not np.array_equal(a.matrix("v1")[:20], b.matrix("v1"))


def test_a_table_of_an_earlier_release_is_read_until_the_model_writes_its_own(tmp_path):
    shared, own, other = FeatureStore(tmp_path), FeatureStore(tmp_path, "own"), FeatureStore(tmp_path, "other")
    for seed in (1, 2):
        shared.overwrite("v1", cohort(20, seed=seed))
    assert own.read("v1", 0)["patient_id"].tolist() == cohort(20, seed=1)["patient_id"].tolist()
    assert own.overwrite("v1", cohort(25, seed=3)) == 2
    assert own.read("v1", 1)["patient_id"].tolist() == cohort(20, seed=2)["patient_id"].tolist()
    assert len(own.read("v1")) == 25
    assert len(shared.read("v1")) == len(other.read("v1")) == 20
    assert shared.latest("v1") == 1


def test_a_copy_that_was_killed_is_made_again(tmp_path, monkeypatch):
    shared, own = FeatureStore(tmp_path), FeatureStore(tmp_path, "own")
    shared.overwrite("v1", cohort(20, seed=1))
    monkeypatch.setattr("pathlib.Path.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        own.append("v1", cohort(5, seed=2))
    monkeypatch.undo()
    assert own.tables() == []
    assert own.append("v1", cohort(5, seed=2)) == 1
    assert len(own.read("v1")) == 25


def killed(*_):
    raise KeyboardInterrupt


# --- nothing of Python's is left in other threads when a command ends -------------------------------------------------


def test_reading_opens_no_file_through_python(store, monkeypatch):
    store.overwrite("v1", cohort(50, seed=3))

    def python_files(*_, **__):
        raise AssertionError("Arrow's threads would hold files of Python's")

    monkeypatch.setattr("deltalake.fs.DeltaStorageHandler.__init__", python_files)
    monkeypatch.setattr("deltalake.fs.DeltaStorageHandler.from_table", python_files)
    assert len(store.read("v1")) == 50
    with pytest.raises(AssertionError, match="files of Python's"):  # which is what Delta Lake does by itself
        DeltaTable(store.table("v1").address).to_pyarrow_table()


def test_what_is_written_lies_in_memory_of_arrows_own(store, monkeypatch):
    numbers = np.arange(1_000, dtype=np.float64)
    table = pa.table({"x": pa.array(numbers), "t": [str(n) for n in range(1_000)]})
    assert table.column("x").chunk(0).buffers()[1].address == numbers.ctypes.data
    kept = feature_store._without_python(table)
    numbers[:] = -1
    assert kept.column("x").to_pylist() == list(range(1_000))
    assert kept.schema == table.schema
    written = []
    monkeypatch.setattr(feature_store, "_without_python", lambda rows: written.append(rows) or rows)
    store.overwrite("v1", cohort(20, seed=4))
    assert [len(rows) for rows in written] == [20]


def test_a_folder_with_blanks_and_letters_of_any_language_is_read(tmp_path):
    store = FeatureStore(tmp_path / "a b ü")
    store.overwrite("v1", cohort(20, seed=5))
    assert len(store.read("v1")) == 20
