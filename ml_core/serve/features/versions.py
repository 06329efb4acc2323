"""Looks up a feature version by name: its columns, its transform and the sha256 of its module."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

import ml_core.serve.features
from ml_core.base.errors import ConfigError, UnknownFeatureVersion
from ml_core.features.columns import Column, ColumnArrays, features_of, table_fault

__all__ = ["FeatureVersion", "get_feature_version", "known_versions"]

_NAME = re.compile(r"v[0-9]+")


@dataclass(frozen=True, slots=True)
class FeatureVersion:
    """One edition of the features.

    Attributes
    ----------
    name : e.g. ``v2``
    columns : the whole column table
    feature_names : names of the d columns of the matrix, in order
    transform : ``ColumnArrays`` of n rows -> float32 ``(n, d)``; row i never depends on row j
    module_hash : sha256 (hex) of the module's source; every artefact carries it
    """

    name: str
    columns: tuple[Column, ...]
    feature_names: tuple[str, ...]
    transform: Callable[[ColumnArrays], npt.NDArray[np.float32]]
    module_hash: str

    @property
    def features(self) -> tuple[Column, ...]:
        """The raw columns the transform looks at."""
        return features_of(self.columns)


def known_versions() -> tuple[str, ...]:
    """Names of all feature versions in this code, oldest first."""
    names = (m.name for m in pkgutil.iter_modules(ml_core.serve.features.__path__))
    return tuple(sorted((n for n in names if _NAME.fullmatch(n)), key=lambda n: int(n[1:])))


@cache
def get_feature_version(name: str) -> FeatureVersion:
    """The feature version of that name.

    Raises
    ------
    UnknownFeatureVersion
        There is no module of that name.
    ConfigError
        The module has no usable column table, or lacks a name that every version has.
    """
    if name not in known_versions():
        raise UnknownFeatureVersion(name, known_versions())
    module = importlib.import_module(f"ml_core.serve.features.{name}")
    missing = [needed for needed in ("COLUMNS", "FEATURE_NAMES", "transform") if not hasattr(module, needed)]
    fault = f"has no {', '.join(missing)}" if missing else table_fault(module.COLUMNS)
    if fault is not None:
        raise ConfigError(f"feature version {name}", fault)
    source = Path(module.__file__ or "").read_bytes()
    return FeatureVersion(
        name=name,
        columns=tuple(module.COLUMNS),
        feature_names=tuple(module.FEATURE_NAMES),
        transform=module.transform,
        module_hash=hashlib.sha256(source).hexdigest(),
    )
