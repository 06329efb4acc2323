"""The feature store among the objects of a home on many machines: the same tables, versions and erasures."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs
import pytest

from ml_core.base.errors import DataError
from ml_core.base.settings import Settings
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.data.feature_store import FeatureStore
from tests.object_server import Bucketeer
from tests.oracles import cluster_packages

MODEL = "risk"


@pytest.fixture
def settings(bucketeer: Bucketeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    cluster_packages()
    for name, value in bucketeer.settings.items():
        monkeypatch.setenv(name, value)
    return Settings(home=tmp_path / "here", model_name=MODEL, objects=bucketeer.new_bucket())


def elsewhere(settings: Settings, tmp_path: Path) -> Settings:
    """The same home, seen from another machine."""
    return settings.model_copy(update={"home": tmp_path / "there"})


def test_rows_written_on_one_machine_are_read_on_another(settings: Settings, tmp_path: Path) -> None:
    frame = make_cohort(50, seed=1)[0]
    here, there = FeatureStore.of(settings, MODEL), FeatureStore.of(elsewhere(settings, tmp_path), MODEL)
    with pytest.raises(DataError, match="surety features run"):
        there.read("v1")
    assert here.overwrite("v1", frame) == 0
    assert there.append("v1", frame) == 1
    assert here.latest("v1") == 1
    assert len(here.read("v1", 0)) == 50
    assert list(here.read("v1")["patient_id"]) == [*frame["patient_id"]] * 2
    assert there.matrix("v1").tobytes() == here.matrix("v1").tobytes()
    assert here.tables() == there.tables() == ["v1"]
    assert [store.tables() for store in FeatureStore.every(settings)] == [[], ["v1"]]


def test_the_same_write_makes_no_new_version(settings: Settings) -> None:
    store, frame = FeatureStore.of(settings, MODEL), make_cohort(20, seed=1)[0]
    assert [store.overwrite("v1", frame), store.overwrite("v1", frame)] == [0, 0]


def test_an_erased_person_leaves_no_byte_in_the_bucket(settings: Settings) -> None:
    store, frame = FeatureStore.of(settings, MODEL), make_cohort(20, seed=1)[0]
    frame.loc[3, "patient_id"] = "somebody-to-be-forgotten"
    store.overwrite("v1", frame)
    store.append("v1", make_cohort(5, seed=2)[0])
    found = store.erase_people("v1", ["somebody-to-be-forgotten"])
    assert (found.rows, found.files) == (1, 1)
    assert len(store.read("v1")) == 24
    files, base = pafs.FileSystem.from_uri(settings.objects)
    listed = files.get_file_info(pafs.FileSelector(base, recursive=True))
    for info in listed:
        if info.is_file:
            with files.open_input_file(info.path) as file:
                assert b"somebody-to-be-forgotten" not in file.read(), info.path
    with pytest.raises(DataError, match="somebody's rows were erased"):
        store.read("v1", 0)
