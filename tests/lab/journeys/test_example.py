"""The road of one configuration, made as far as it is missing."""

from __future__ import annotations

import pytest

from ml_core.base.errors import DataError
from ml_core.base.settings import Settings
from ml_core.lab.config import DataConfig, ModelConfig
from ml_core.lab.journeys.example import make_example
from ml_core.lab.journeys.run_project import Project


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ("diabetes130", "there is no such file: run `surety data fetch`"),
        ("columns", "there is no such file: data.source of the configuration names it; put it there"),
    ],
)
def test_rows_that_nobody_here_can_make_are_asked_for_by_the_right_way(tmp_path, adapter, words):
    data = DataConfig(source=tmp_path / "rows.parquet", adapter=adapter)
    config = ModelConfig(model="theirs", feature_version="v2", data=data)
    settings = Settings(home=tmp_path / "home", model_name="theirs")
    with pytest.raises(DataError, match=words):
        make_example(Project(tmp_path, tmp_path / "theirs.yaml", config, settings), lambda _: None)
    assert not (tmp_path / "rows.parquet").exists()
