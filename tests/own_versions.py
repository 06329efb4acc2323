"""Feature versions that a test makes up: a column table whose numbers pass through unchanged."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from ml_core.features.columns import Column
from ml_core.lab.data.schemas import get_schema
from ml_core.serve.features import versions
from ml_core.serve.features.table_versions import table_version

STANDARD_TABLE = (
    Column("ward_patient", "text", "Who.", role="group", pattern=r"[A-Za-z0-9._-]{1,16}"),
    Column("stay", "int", "Which stay.", role="id", low=1, high=10**9),
    Column("admitted", "datetime", "When.", role="time"),
    Column("age", "int", "Age.", unit="years", low=0, high=120, nullable=True, missing_flag=True),
    Column("stays", "int", "Stays before.", low=0, high=99),
    Column("lactate", "float", "Lactate.", unit="mmol/L", low=0, high=40),
    Column("sex", "category", "Sex.", levels=("F", "M"), nullable=True),
    Column("triage", "category", "Triage.", levels=(1, 2, 3, 4, 5), transform="ordinal", nullable=True),
    Column("band", "category", "Length of the last stay.", levels=("<30", "[30-60)", "60+"), missing_flag=True, nullable=True),
    Column("site", "category", "Where.", levels=("only one",), nullable=True),
    Column("urgent", "bool", "Whether it was urgent."),
    Column("on_oxygen", "bool", "Whether oxygen was given.", nullable=True, missing_flag=True),
    Column("seen_on", "datetime", "When a physician came.", nullable=True, missing_flag=True),
    Column("born", "datetime", "Birth."),
    Column(
        "note", "text", "What the nurse wrote.", nullable=True, pattern="[a-z ]{1,20}", examples=("calm", "in pain"),
        transform="none", missing_flag=True,
    ),
    Column("outcome", "category", "What came.", role="label", levels=("home", "ward", "icu")),
)  # fmt: skip
"""Every type and every transform of a column table that is data."""

STANDARD = table_version(STANDARD_TABLE).name
EVERY_KIND = (*versions.known_versions(), STANDARD)
"""The versions in the code, and one whose table is data."""

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
    for name in [name for name, version in versions._registered.items() if not version.is_table]:
        del versions._registered[name]
    get_schema.cache_clear()
