"""Callers of the log wait longer than a busy machine may take, where waiting is not what a test is about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import Server, server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered for is stored, unless the store fails."""
    monkeypatch.setattr("ml_core.serve.log.writer.STANDARD_WAIT_S", 10.0)
    monkeypatch.setattr("ml_core.serve.log.writer.STRICT_WAIT_S", 10.0)


@pytest.fixture(scope="session")
def database_server() -> Iterator[Server]:
    """One database server for all tests of this folder."""
    with server() as found:
        yield found
