"""MLflow in the home's database, its artefacts among the home's objects: registered on one machine, loaded on another."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from ml_core.lab.registry.importer import import_version
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.registry.object_artifacts import ObjectArtifacts
from ml_core.lab.registry.tracking import register
from ml_core.serve.model.loader import ModelLoader
from tests.homes import MODEL, Home, bento_store, road_config, road_model, road_rows
from tests.object_server import Bucketeer
from tests.oracles import cluster_packages
from tests.postgres import Server


@pytest.fixture
def bucket(bucketeer: Bucketeer, monkeypatch: pytest.MonkeyPatch) -> str:
    cluster_packages()
    for name, value in bucketeer.settings.items():
        monkeypatch.setenv(name, value)
    return bucketeer.new_bucket()


def test_files_and_folders_are_listed_as_mlflow_expects(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "MLmodel").write_text("a: 1")
    (tmp_path / "model" / "deep" / "file.bin").write_bytes(b"\x00" * 7)
    place = ObjectArtifacts(bucket)
    place.log_artifacts(str(tmp_path / "model"), "model")
    place.log_artifact(str(tmp_path / "model" / "MLmodel"))
    shown = [(f.path, f.is_dir, f.file_size) for f in place.list_artifacts()]
    assert shown == [("MLmodel", False, 4), ("model", True, None)]
    assert [(f.path, f.is_dir) for f in place.list_artifacts("model")] == [
        ("model/MLmodel", False),
        ("model/deep", True),
    ]
    assert place.list_artifacts("model/MLmodel") == []
    (tmp_path / "got").mkdir()
    got = Path(place.download_artifacts("model", str(tmp_path / "got")))
    assert (got / "deep" / "file.bin").read_bytes() == b"\x00" * 7
    place.delete_artifacts("model")
    assert [f.path for f in place.list_artifacts()] == ["MLmodel"]


def test_a_file_that_is_not_there_is_not_found(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ObjectArtifacts(bucket)._download_file("nothing", str(tmp_path / "x"))


def test_what_one_machine_registers_another_imports(bucket: str, database_server: Server, tmp_path: Path) -> None:
    here = Settings(home=tmp_path / "here", model_name=MODEL, database=database_server.new_database(), objects=bucket)
    there = here.model_copy(update={"home": tmp_path / "there"})
    home = Home(here, road_config())
    register(home.registry, road_model(), home.config, road_rows(), {})
    found = ModelRegistry(there).by_alias(MODEL, "challenger")
    assert found.model_hash == road_model().model_hash
    with bento_store(tmp_path / "bento"):
        tag = import_version(ModelRegistry(there), found, there).tag
    assert tag in ModelLoader(here).tags(), "it is among the objects now"
    assert "@" not in here.registry_shown
