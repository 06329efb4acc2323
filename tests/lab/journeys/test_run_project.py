"""What a run of a project takes for the rows that it has read before."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

from ml_core.lab.config import DataConfig, ModelConfig
from ml_core.lab.journeys.example import _make_data
from ml_core.lab.journeys.run_project import _fingerprint


def seen(tmp_path, source):
    (tmp_path / "model.yaml").write_text("model: m\n")
    config = SimpleNamespace(columns=None, data=SimpleNamespace(source=source))
    return _fingerprint(SimpleNamespace(file=tmp_path / "model.yaml", config=config))


def test_rows_of_a_folder_are_others_when_a_file_is_added_changed_renamed_or_gone(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text("x\n1\n")
    known = [seen(tmp_path, folder)]
    assert seen(tmp_path, folder) == known[0]
    (folder / "b.csv").write_text("x\n1\n")
    known.append(seen(tmp_path, folder))
    os.utime(folder / "b.csv", ns=(1, 1))
    known.append(seen(tmp_path, folder))
    (folder / "b.csv").rename(folder / "c.csv")
    known.append(seen(tmp_path, folder))
    assert len(set(known)) == 4
    (folder / "c.csv").unlink()
    assert seen(tmp_path, folder) == known[0]
    assert seen(tmp_path, folder / "a.csv") != known[0]


def test_no_rows_are_made_up_in_place_of_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(model="m", feature_version="v1", data=DataConfig(source=Path("s3://bucket/rows.parquet")))
    _make_data(config, lambda _: None)
    assert list(tmp_path.iterdir()) == []
