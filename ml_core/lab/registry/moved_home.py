"""MLflow's database names artefacts by absolute paths; those in a copied or moved home are changed to its own place."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from ml_core.base.errors import RegistryError

__all__ = ["move_in", "rename_addresses"]

_ARTEFACTS = "/mlartifacts/"
_BUSY_S = 10.0


def move_in(home: Path) -> None:
    """Change paths into another home's ``mlartifacts`` to paths into that of this home.

    Raises
    ------
    RegistryError
        The database cannot be read or changed.
    """
    if (home / "mlflow.db").is_file():
        rename_addresses(home / "mlflow.db", home.as_uri() + _ARTEFACTS)


def rename_addresses(database: Path, here: str) -> None:
    """Change addresses in folders of artefacts of any home to addresses in that folder.

    Parameters
    ----------
    here : its address, ending in ``/mlartifacts/``

    Raises
    ------
    RegistryError
        As :func:`move_in`.
    """
    try:
        with closing(sqlite3.connect(database, timeout=_BUSY_S)) as connection, connection:
            for elsewhere in _others(connection, here):
                _rename(connection, elsewhere, here)
    except sqlite3.Error as error:
        raise RegistryError(str(database), f"paths of another home cannot be changed to this one's: {error}") from error


def _others(connection: sqlite3.Connection, here: str) -> list[str]:
    """Addresses of folders of artefacts in other homes, which experiments of ours name."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name='experiments'").fetchone():
        return []
    query = "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE ?"
    places = [str(row[0]) for row in connection.execute(query, (f"file://%{_ARTEFACTS}%",))]
    return sorted({place.partition(_ARTEFACTS)[0] + _ARTEFACTS for place in places} - {here})


def _rename(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Replace the beginning of every text in the database that begins so."""
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    for table in tables:
        for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
            if kind.upper().startswith(("VARCHAR", "TEXT")):
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) WHERE substr("{column}", 1, ?) = ?',  # noqa: S608 - names from the database's own list
                    (new, len(old) + 1, len(old), old),
                )
