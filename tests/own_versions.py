"""Feature versions that a test makes up: a column table whose numbers pass through unchanged."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from ml_core.features.columns import Column
from ml_core.lab.data.schemas import get_schema
from ml_core.serve.features import versions

_SOURCE = """
import numpy as np
from ml_core.features.columns import Column

COLUMNS = {columns!r}
FEATURE_NAMES = {names!r}


def transform(columns):
    return np.column_stack([columns[name] for name in FEATURE_NAMES]).astype(np.float32)
"""


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, columns: tuple[Column, ...]) -> None:
    """Make ``name`` a feature version with these columns, until the test ends or another table takes its place.

    Parameters
    ----------
    name : of no version in the code, e.g. ``v901``
    columns : features must be numbers
    """
    path = folder / f"{name}.py"
    names = tuple(c.name for c in columns if c.role == "feature")
    path.write_text(_SOURCE.format(columns=columns, names=names))
    spec = importlib.util.spec_from_file_location(f"{versions.__name__.rpartition('.')[0]}.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, spec.name, module)
    known = (*versions.known_versions(), name)
    monkeypatch.setattr(versions, "known_versions", lambda: known)
    forget()


def forget() -> None:
    """Have every feature version looked up anew."""
    versions._registered.clear()
    get_schema.cache_clear()
