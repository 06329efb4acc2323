"""All tests here draw anew with ``--chance N``."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _drawn_anew(seeds: None) -> None:
    """Before any other fixture of a module."""
