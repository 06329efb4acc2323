"""MLflow's registry and artefacts move with a home: versions, aliases, tags and models, to a database and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_core.base.settings import Settings
from ml_core.lab.home_care.copying import copy_home
from ml_core.lab.home_care.migration import migrate_home
from ml_core.lab.registry.importer import import_version
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.registry.registry_tables import registry_rows
from ml_core.serve.rollout.rollout_store import RolloutStore
from tests.homes import MODEL, registered_home, road_model
from tests.object_server import Bucketeer
from tests.postgres import Server


@pytest.fixture
def bucket(bucketeer: Bucketeer, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in bucketeer.settings.items():
        monkeypatch.setenv(name, value)
    return bucketeer.new_bucket()


def said(settings: Settings) -> dict[str, Any]:
    """What a registry says of its models, and the bytes of the bundle behind the alias."""
    registry = ModelRegistry(settings)
    (version,) = registry.versions(MODEL)
    with registry.bundle_folder(version) as folder:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {"version": version, "metrics": registry.metrics(version), "files": files}


def test_a_registry_survives_the_move_and_the_way_back(database_server: Server, bucket: str, tmp_path: Path) -> None:
    home = registered_home(tmp_path / "old")
    home.registry.set_alias(home.challenger(), "own-name")
    home.registry.set_tags(home.challenger(), {"owner": "ward é"})
    before = said(home.settings)
    assert before["version"].aliases == ("challenger", "own-name")
    target = Settings(home=tmp_path / "here", database=database_server.new_database(), objects=bucket, model_name=MODEL)
    tag = import_version(home.registry, home.challenger(), home.settings).tag
    RolloutStore(home.settings).begin(tag, "", road_model().model_hash, why="first")
    assert not home.settings.models.exists(), "it lies in the Bento store alone"
    raw = (home.settings.home / "mlflow.db").read_bytes()
    done = copy_home(home.settings, target)
    assert done.models.hashes == {tag: road_model().model_hash}
    assert (home.settings.home / "mlflow.db").read_bytes() == raw
    assert done.registry == registry_rows(home.settings) == registry_rows(target)
    (tmp_path / "old").rename(tmp_path / "away")
    assert said(target) == before
    back = Settings(home=tmp_path / "back", model_name=MODEL)
    copy_home(target, back)
    assert said(back) == before
    assert copy_home(target, back).changed == 0
    registry = ModelRegistry(target)
    assert registry.experiment("another"), "numbers that the database gives go on"
    assert before["version"].model_hash == road_model().model_hash
    assert migrate_home(target)["registry"]["before"] == migrate_home(back)["registry"]["after"] != ""
