"""Feature versions whose column table is data: named by the table's sha256, kept in artefacts and in the home.

The transform is ``standard``, or that of a module.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import orjson

import ml_core.serve.features.standard
from ml_core.base.errors import ArtefactError, ConfigError
from ml_core.features.columns import Column, table_hash
from ml_core.serve.features.column_table import one_spelling, parse_columns, table_bytes
from ml_core.serve.features.matrix_sources import Sources, declared_sources, standard_sources
from ml_core.serve.features.standard import StandardTransform, standard_fault, with_transforms
from ml_core.serve.features.versions import FeatureVersion, register_version, transform_version

__all__ = [
    "COLUMNS_FILE",
    "STANDARD",
    "TABLE_NAME",
    "table_version",
    "version_of_bytes",
]

COLUMNS_FILE = "columns.json"
"""The table in an artefact."""
STANDARD = "standard"
"""How a configuration names the transform of this package."""

_STANDARD_NAME = "table"
TABLE_NAME = re.compile(r"(?P<transform>[a-z][a-z0-9_]*)_(?P<digits>[0-9a-f]{12})")


def table_version(columns: Sequence[Column], transform: str = STANDARD) -> FeatureVersion:
    """The feature version of a column table, registered.

    Parameters
    ----------
    columns : the table; with the standard transform, features without a transform get that of their type
    transform : ``standard``, or the name of a feature version whose transform takes these columns

    Raises
    ------
    ConfigError
        The transform cannot take the table; the message names column and key.
    UnknownFeatureVersion
        There is no such transform.
    """
    columns = tuple(map(one_spelling, columns))
    if transform == STANDARD:
        return register_version(_standard(columns))
    said = next((c.name for c in columns if c.transform is not None or c.missing_flag), None)
    if said is not None:
        raise ConfigError(f"{said}.transform", f"is for the standard transform; {transform} has one of its own")
    return register_version(_with_module(columns, transform_version(transform)))


def version_of_bytes(name: str, raw: bytes, where: str) -> FeatureVersion:
    """The feature version of that name, from the bytes of its table, registered.

    Parameters
    ----------
    raw : as :func:`table_bytes` writes them
    where : of the bytes, for messages

    Raises
    ------
    ArtefactError
        They are not the table of that name.
    UnknownFeatureVersion
        The module that makes the matrix of that table is not here.
    """
    named = TABLE_NAME.fullmatch(name)
    try:
        columns = parse_columns(orjson.loads(raw), where)
        if named is None or table_bytes(columns) != raw:
            raise ArtefactError(where, "is no column table in the form it was written in (edited by hand?)")
        transform = STANDARD if named["transform"] == _STANDARD_NAME else named["transform"]
        version = table_version(columns, transform)
    except (orjson.JSONDecodeError, ConfigError) as error:
        raise ArtefactError(where, f"is no column table: {error}") from error
    if version.name != name:
        raise ArtefactError(where, f"is the table of {version.name}, not of {name}")
    return version


def _standard(columns: Sequence[Column]) -> FeatureVersion:
    whole = with_transforms(columns)
    if (fault := standard_fault(whole)) is not None:
        where, _, problem = fault.partition(" ")
        raise ConfigError(where, problem)
    transform = StandardTransform(whole)
    source = Path(ml_core.serve.features.standard.__file__).read_bytes()
    return FeatureVersion(
        name=_name(_STANDARD_NAME, whole),
        columns=whole,
        feature_names=transform.names,
        transform=transform,
        module_hash=hashlib.sha256(source).hexdigest(),
        is_table=True,
        sources=standard_sources(whole),
    )


def _with_module(columns: Sequence[Column], module: FeatureVersion) -> FeatureVersion:
    return FeatureVersion(
        name=_name(module.name, columns),
        columns=tuple(columns),
        feature_names=module.feature_names,
        transform=module.transform,
        module_hash=module.module_hash,
        is_table=True,
        source=module.source,
        sources=_fitting(module, columns),
    )


def _fitting(module: FeatureVersion, columns: Sequence[Column]) -> Sources | None:
    """What a module says that its features are made of, where the table has these columns."""
    if module.sources is None:
        return None
    return declared_sources(
        module.name, module.feature_names, columns, dict(zip(module.feature_names, module.sources, strict=True))
    )


def _name(transform: str, columns: Sequence[Column]) -> str:
    return f"{transform}_{table_hash(columns)[:12]}"
