"""Looks up a feature version by name: its columns, its transform and the sha256 of its module.

A version is code (a module of this package, of an installed one, or in a file), or a column table that is data. Column
tables and files are registered where they are read: from a configuration, an artefact, or the home.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

import ml_core.serve.features
from ml_core.base.errors import ConfigError, UnknownFeatureVersion
from ml_core.features.columns import Column, ColumnArrays, features_of, table_fault, table_hash
from ml_core.serve.features.matrix_sources import DECLARED, Sources, declared_sources

__all__ = [
    "MODULES_FOLDER",
    "FeatureVersion",
    "find_module",
    "get_feature_version",
    "known_versions",
    "module_version",
    "register_version",
    "transform_version",
]

MODULES_FOLDER = "surety_features"
"""Files of feature versions that are no part of this package lie in it, beside ``ml_core``."""
MODULES_GROUP = "surety.features"
"""Entry points of installed packages that bring a feature version: its name and its module."""

_MODULES_VARIABLE = "SURETY_FEATURE_MODULES"
"""Of ``Settings``, which do not travel with a model to where MLflow loads it."""
_BESIDE = Path(__file__).resolve().parents[3] / MODULES_FOLDER
_NAME = re.compile(r"v[0-9]+")
_FREE_NAME = re.compile(r"(?!table(_|$)|standard$)[a-z][a-z0-9_]{0,39}")
_registered: dict[str, FeatureVersion] = {}


@dataclass(frozen=True, slots=True)
class FeatureVersion:
    """One edition of the features.

    Attributes
    ----------
    name : e.g. ``v2``
    columns : the whole column table; empty for a module that is only a transform
    feature_names : names of the d columns of the matrix, in order
    transform : ``ColumnArrays`` of n rows -> float32 ``(n, d)``; row i never depends on row j
    module_hash : sha256 (hex) of the source of the transform's module; every artefact carries it
    is_table : whether its column table is data, which travels in the artefact; else it is in the module
    source : file of the module that is no part of this package; None for one that is
    sources : raw columns of which each column of the matrix is made; None where nobody says so
    """

    name: str
    columns: tuple[Column, ...]
    feature_names: tuple[str, ...]
    transform: Callable[[ColumnArrays], npt.NDArray[np.float32]]
    module_hash: str
    is_table: bool = False
    source: Path | None = None
    sources: Sources | None = None

    @property
    def features(self) -> tuple[Column, ...]:
        """The raw columns the transform looks at."""
        return features_of(self.columns)

    @property
    def module_name(self) -> str:
        """Under which its module is looked for: its own name, for a table without the digits of the table."""
        return self.name.rpartition("_")[0] if self.is_table else self.name

    @property
    def id(self) -> tuple[str, str, str]:
        """Name, sha256 of the module and of the column table: two versions with the same ones are the same."""
        return self.name, self.module_hash, table_hash(self.columns)


def known_versions() -> tuple[str, ...]:
    """Names of the feature versions in this package, oldest first."""
    names = (m.name for m in pkgutil.iter_modules(ml_core.serve.features.__path__))
    return tuple(sorted((n for n in names if _NAME.fullmatch(n)), key=lambda n: int(n[1:])))


def get_feature_version(name: str) -> FeatureVersion:
    """The feature version of that name: registered before, of this package, or a module that :func:`find_module` finds.

    Raises
    ------
    UnknownFeatureVersion
        There is none.
    ConfigError
        The module has no usable column table, or lacks a name that every version has.
    """
    version = transform_version(name)
    if not version.columns:
        raise ConfigError(f"feature version {name}", "has no COLUMNS")
    return version


def transform_version(name: str) -> FeatureVersion:
    """As :func:`get_feature_version`, for a module that need not have columns, since a table is given to it."""
    if name not in _registered:
        found = _packaged(name) if name in known_versions() else find_module(name)
        if found is None:
            raise UnknownFeatureVersion(name, sorted({*known_versions(), *_registered}))
        _registered[name] = found
    return _registered[name]


def register_version(version: FeatureVersion) -> FeatureVersion:
    """Makes the version known under its name in this process; the version.

    Raises
    ------
    ConfigError
        The name is that of another version.
    """
    if version.name in _registered or version.name in known_versions():
        there = transform_version(version.name)
        if there.id != version.id:
            raise ConfigError(f"feature version {version.name}", "another one has this name: give it one of its own")
        return there
    _registered[version.name] = version
    return version


def find_module(name: str) -> FeatureVersion | None:
    """The module of that name that this package does not have; None where there is none.

    It is looked for in the folder ``surety_features`` beside ``ml_core``, which travels with a bento and with MLflow's
    code, then among the files of ``SURETY_FEATURE_MODULES``, then among the entry points ``surety.features`` of
    installed packages.

    Raises
    ------
    ConfigError
        It is no usable feature module.
    """
    if not _FREE_NAME.fullmatch(name):  # a name in a log or an artefact is no path
        return None
    if (beside := _BESIDE / f"{name}.py").is_file():
        return module_version(beside)
    for path in filter(None, os.environ.get(_MODULES_VARIABLE, "").split(os.pathsep)):
        if Path(path).stem == name:
            return module_version(Path(path))
    for entry in entry_points(group=MODULES_GROUP, name=name):
        module = importlib.import_module(entry.module)
        return _of_module(name, module, Path(module.__file__ or "").read_bytes(), Path(module.__file__ or ""))
    return None


def module_version(path: Path) -> FeatureVersion:
    """The feature version in a Python file, named by the file.

    Raises
    ------
    ConfigError
        The file is missing or fails, its name is none of a version, or it lacks a name that every version has.
    """
    if not _FREE_NAME.fullmatch(path.stem) or path.suffix != ".py":
        raise ConfigError(
            str(path), "must be a .py file named in small letters, digits and _; not standard, not table…"
        )
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    module = ModuleType(f"surety_feature_module_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 - the very bytes that are hashed
    except Exception as error:
        raise ConfigError(str(path), f"fails when it is imported: {type(error).__name__}: {error}") from error
    return _of_module(path.stem, module, source, path)


def _packaged(name: str) -> FeatureVersion:
    module = importlib.import_module(f"ml_core.serve.features.{name}")
    return _of_module(name, module, Path(module.__file__ or "").read_bytes(), None)


def _of_module(name: str, module: ModuleType, source: bytes, file: Path | None) -> FeatureVersion:
    columns = tuple(getattr(module, "COLUMNS", ()))
    missing = [needed for needed in ("FEATURE_NAMES", "transform") if not hasattr(module, needed)]
    fault = f"has no {', '.join(missing)}" if missing else table_fault(columns) if columns else None
    if fault is not None:
        raise ConfigError(f"feature version {name}", fault)
    features = tuple(module.FEATURE_NAMES)
    declared = getattr(module, "FEATURE_SOURCES", DECLARED.get(name) if file is None else None)
    return FeatureVersion(
        name=name,
        columns=columns,
        feature_names=features,
        transform=module.transform,
        module_hash=hashlib.sha256(source).hexdigest(),
        source=file,
        sources=declared_sources(name, features, columns, declared),
    )
