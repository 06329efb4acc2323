"""A home in which something of every kind lies, and an empty one on a database for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from tests import oracles
from tests.homes import bento_store
from tests.lab.home_care.lived_in import MODEL, lived_in


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path) -> Iterator[None]:
    """No model of whoever runs the tests is taken for one of the home."""
    with bento_store(tmp_path / "bento"):
        yield


@pytest.fixture(scope="session")
def kept_home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home that no test changes."""
    oracles.cluster_packages()
    return lived_in(tmp_path_factory.mktemp("lived-in") / "home", rows=12)


@pytest.fixture
def own_home(kept_home: Settings, tmp_path: Path) -> Settings:
    """A copy of it for one test that does."""
    home = tmp_path / "own"
    shutil.copytree(kept_home.home, home)
    return kept_home.model_copy(update={"home": home, "api_keys_file": home / "api_keys.json"})


@pytest.fixture
def target(database_url: str, kept_home: Settings, tmp_path: Path) -> Settings:
    """An empty database, and a folder for objects."""
    return Settings(
        home=tmp_path / "here",
        database=database_url,
        objects=str(tmp_path / "objects"),
        model_name=MODEL,
        machine="ward-1",
        log_key_file=kept_home.log_key,
        subject_key_file=kept_home.subject_key,
    )
