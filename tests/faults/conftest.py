"""The stores of the fault suite, made once (v1 promoted, v2 gated, v3 without a passed gate), and places with copies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import walk, written_config
from tests.faults.place import MODEL, FaultPlace


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> FaultPlace:
    """Three versions of the example model; nothing is served from here.

    SURETY_FAULT_STORES may name a folder where they are made once and found again in later runs.
    """
    kept = os.environ.get("SURETY_FAULT_STORES")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("stores")
    place = FaultPlace(folder, MODEL)
    if not (folder / "made").exists():
        make(place)
        (folder / "made").touch()
    return place


@pytest.fixture(scope="session")
def place_for(stores: FaultPlace, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], FaultPlace]:
    """Makes a place with the models of the stores, for one server or for several servers that share it."""
    return lambda name: stores.copy(tmp_path_factory.mktemp(name))


@pytest.fixture
def place(place_for: Callable[[str], FaultPlace], request: pytest.FixtureRequest) -> FaultPlace:
    """A separate place for one test."""
    return place_for(request.node.originalname[:30])


def make(place: FaultPlace) -> None:
    """Features, three trainings, two gates, one promotion, three imports."""
    place.surety("data", "make", "--out", "data/cohort.parquet", "--rows", "12000")
    config = written_config(place, "readmission_v1.yaml")
    walk(place, config)
    settings = json.loads(config.read_text())
    for changed, gated in (({"seed": 20141}, True), ({"training": {**settings["training"], "rounds": 2}}, False)):
        config.write_text(json.dumps({**settings, **changed}))
        version = place.surety("train", "--config", str(config))["version"]
        if gated:
            place.surety("validate", "--model", place.model, "--version", version, "--config", str(config))
        place.surety("import-model", "--model", place.model, "--version", version)
