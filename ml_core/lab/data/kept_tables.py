"""Column tables that a home keeps, for where only the name of a feature version is known."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ml_core.base.errors import ArtefactError, UnknownFeatureVersion
from ml_core.base.settings import Settings
from ml_core.features.columns import table_hash
from ml_core.serve.features.column_table import table_bytes
from ml_core.serve.features.table_versions import TABLE_NAME, version_of_bytes
from ml_core.serve.features.versions import FeatureVersion, get_feature_version
from ml_core.serve.home.object_stores import FolderObjects, objects_of

if TYPE_CHECKING:
    from ml_core.serve.home.stores import Objects

__all__ = ["column_tables", "keep_table", "kept_version"]

_KEPT = "columns"
_LARGEST_TABLE = 1 << 24


def column_tables(settings: Settings) -> Objects:
    """Where a home keeps column tables: in its feature store, or among its objects."""
    return objects_of(settings) or FolderObjects(settings.feature_store)


def keep_table(kept: Objects, version: FeatureVersion) -> None:
    """Keep the table of a version in the home, for where only its name is known; a version in code needs no keeping.

    Parameters
    ----------
    kept : as :func:`column_tables` gives them
    """
    if version.is_table:
        kept.put(f"{_KEPT}/{table_hash(version.columns)}.json", table_bytes(version.columns))


def kept_version(kept: Objects, name: str) -> FeatureVersion:
    """The feature version of that name, which may be of a table that the home keeps.

    Raises
    ------
    UnknownFeatureVersion
        It is not known here.
    ArtefactError
        The table that is kept is not the one that its file is named by.
    """
    with suppress(UnknownFeatureVersion):
        return get_feature_version(name)
    named = TABLE_NAME.fullmatch(name)
    for found in kept.names(_KEPT) if named is not None else ():
        file = found.rpartition("/")[2]
        if named is not None and file.startswith(named["digits"]) and file.endswith(".json"):
            version = version_of_bytes(name, kept.get(found, _LARGEST_TABLE) or b"", file)
            if table_hash(version.columns) != file.removesuffix(".json"):
                raise ArtefactError(file, "is not the column table that it is named by")
            return version
    return get_feature_version(name)  # which says what is known
