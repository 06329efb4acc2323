"""Which models a home knows, and which tables it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ml_core.base.settings import Settings
from ml_core.lab.watching.ledger import LEDGER_FORMAT
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.label_tables import LABEL_FORMAT

if TYPE_CHECKING:
    from ml_core.serve.home.postgres import DatabaseFormat, HomeDatabase

__all__ = ["is_untouched", "known_models", "model_formats", "of_model", "schemas_of_models", "shared_formats"]

_NAMED_BY = (("rollout", ".json"), ("promotions", ".signed.json"), ("promotions", ".json"), ("retrain", ".json"),
             ("labels", ".imported.json"), ("monitor", ".state.json"))  # fmt: skip
_OF_MODEL = "model "


def known_models(settings: Settings) -> list[str]:
    """Names of the models that a home has anything of, in order.

    Raises
    ------
    HomeUnreachable
        The home cannot be asked now.
    """
    home = open_home(settings)
    found = set(_named(home.documents.every()))
    if home.database is not None:
        names = (schema.removeprefix(_OF_MODEL) for schema in schemas_of_models(home.database))
        return sorted(found | {name for name in names if " " not in name})
    found |= {path.name for path in settings.log.parent.glob("*") if path.is_dir()}
    found |= {path.name.removesuffix(".db") for path in settings.labels.parent.glob("[!.]*.db")}
    found |= {path.name.removesuffix(".ledger.db") for path in settings.monitor.glob("[!.]*.ledger.db")}
    return sorted(found)


def is_untouched(settings: Settings) -> bool:
    """Whether the home is a database without any table of ours; then there is nothing to look at, or to make.

    Raises
    ------
    HomeUnreachable
        The database cannot be asked now.
    """
    database = open_home(settings).database
    if database is None:
        return False
    with database.transaction() as connection:
        return bool(connection.execute("SELECT to_regclass('surety.format')").fetchone() == (None,))


def of_model(settings: Settings, name: str) -> Settings:
    """The same settings for another model."""
    return settings.model_copy(update={"model_name": name})


def shared_formats() -> tuple[DatabaseFormat, ...]:
    """The tables of a database that belong to no single model."""
    from ml_core.serve.home.database_tables import DOCUMENTS, JOURNAL, PRESENCE  # needs the extra

    return DOCUMENTS, JOURNAL, PRESENCE


def model_formats() -> tuple[DatabaseFormat, ...]:
    """The tables of a database that each model has."""
    from ml_core.serve.home.postgres_tables import database_format  # needs the extra
    from ml_core.serve.log.shipped_tables import shipped_tables

    return database_format(LABEL_FORMAT), database_format(LEDGER_FORMAT), shipped_tables().format


def schemas_of_models(database: HomeDatabase) -> list[str]:
    """Schemas of a database that hold tables of a model.

    Raises
    ------
    HomeUnreachable
        The database cannot be asked now.
    """
    with database.transaction() as connection:
        if connection.execute("SELECT to_regclass('surety.format')").fetchone() == (None,):
            return []
        rows = connection.execute("SELECT DISTINCT schema FROM surety.format ORDER BY schema").fetchall()
    return [str(row[0]) for row in rows if str(row[0]).startswith(_OF_MODEL)]


def _named(documents: list[str]) -> Iterator[str]:
    for document in documents:
        for folder, ending in _NAMED_BY:
            if document.startswith(f"{folder}/") and document.endswith(ending):
                yield document.removeprefix(f"{folder}/").removesuffix(ending)
                break
