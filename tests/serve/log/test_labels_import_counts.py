"""Counts of imported labels grow by every import, and by several at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml_core.base.errors import ArtefactError
from ml_core.base.settings import Settings
from ml_core.serve.log.labels import ImportedCounts, LabelCounts, add_imported, read_imported


def test_counts_add_up_whoever_adds_at_the_same_time(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, model_name="toy")
    assert read_imported(settings) == ImportedCounts()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: add_imported(settings, LabelCounts(accepted=n, conflict=1)), range(20)))
    assert read_imported(settings) == ImportedCounts(accepted=190, conflict=20)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, model_name="toy")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "toy.imported.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"toy\.imported\.json"):
        read_imported(settings)
