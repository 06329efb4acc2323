"""Names of people in the feature store: those of raw rows, and those made for answers whose person it does not know."""

from __future__ import annotations

from collections.abc import Sequence

from ml_core.base.errors import DataError
from ml_core.features.columns import Column, with_role
from ml_core.serve.features.versions import FeatureVersion

__all__ = ["group_of", "made_name", "names_of"]


def group_of(version: FeatureVersion) -> Column:
    """The column that names the person of a row.

    Raises
    ------
    DataError
        The feature version has none.
    """
    group = with_role(version.columns, "group")
    if group is None:
        raise DataError(f"feature version {version.name}", "has no group column")
    return group


def made_name(group: Column, hidden: bytes) -> int | str:
    """A name made of 48 bits of a pseudonym (or, without one, of the answer's id), in the column's type."""
    if group.dtype == "int":
        low, high = int(group.low or 0), int(group.high or (1 << 48))
        return low + int.from_bytes(hidden[-6:], "big") % (high - low + 1)
    return f"h-{hidden[-12:].hex()}"


def names_of(version: FeatureVersion, name: str, pseudonyms: Sequence[bytes]) -> frozenset[str]:
    """Every name, as text, under which a table of that version may hold the rows of one person."""
    group = group_of(version)
    return frozenset({name, *(str(made_name(group, hidden)) for hidden in pseudonyms)})
