"""What tests of the log's care share: a home of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from tests.serve.log.filled import settings_in


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty home."""
    return settings_in(tmp_path / "home")
