"""A home that was copied works at its new place, and holds no path to the old one."""

from __future__ import annotations

import shutil
from pathlib import Path

from ml_core.lab.registry.model_registry import ModelRegistry
from tests.homes import MODEL, Home, registered_home, road_config, settings_in


def files_that_name(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_copied_home_works_without_the_old_one(tmp_path: Path) -> None:
    old = registered_home(tmp_path / "old")
    assert old.registry.by_alias(MODEL, "challenger").version == "1"
    shutil.copytree(tmp_path / "old", tmp_path / "new with blank")
    shutil.rmtree(tmp_path / "old")
    new = Home(settings_in(tmp_path / "new with blank"), road_config())
    version = new.challenger()
    with new.registry.session("the model") as mlflow:
        local = mlflow.artifacts.download_artifacts(
            f"models:/{MODEL}/{version.version}", dst_path=str(tmp_path / "got")
        )
    assert any(Path(local).rglob("manifest.json"))
    registry = new.registry
    assert registry.experiment("another")  # new experiments lie in the new home
    assert files_that_name(new.settings.home, str(tmp_path / "old")) == []


def test_a_home_that_was_not_moved_is_not_written_to(tmp_path: Path) -> None:
    home = registered_home(tmp_path / "home")
    ModelRegistry(home.settings)
    before = (tmp_path / "home" / "mlflow.db").read_bytes()
    ModelRegistry(home.settings)
    assert (tmp_path / "home" / "mlflow.db").read_bytes() == before
