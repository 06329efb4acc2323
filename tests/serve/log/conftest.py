"""Callers of the log wait longer than a busy machine may take, where waiting is not what a test is about."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered for is stored, unless the store fails."""
    monkeypatch.setattr("ml_core.serve.log.writer.STANDARD_WAIT_S", 10.0)
    monkeypatch.setattr("ml_core.serve.log.writer.STRICT_WAIT_S", 10.0)
