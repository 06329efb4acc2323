"""Brings the tables of a home up to date, kind by kind and model by model.

In a database each step adds and takes nothing away, so services of the release before go on. Files of a folder are of
one machine: a service brings them up to date itself as it writes, and the release before would not read them then. So
files are changed here only while nobody serves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_core.base.errors import HomeTooNew, LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.home_care.known_models import (
    known_models,
    model_formats,
    of_model,
    schemas_of_models,
    shared_formats,
)
from ml_core.lab.registry.registry_tables import migrate_registry
from ml_core.lab.watching.ledger import LEDGER_FORMAT, open_ledger_tables
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.table_stores import TableStore
from ml_core.serve.home.tables import FileFormat
from ml_core.serve.log import fields
from ml_core.serve.log.label_tables import LABEL_FORMAT, open_label_tables
from ml_core.serve.log.log_files import log_files
from ml_core.serve.rollout.worker_reports import beating, read_reports

if TYPE_CHECKING:
    from ml_core.serve.home.postgres import HomeDatabase

__all__ = ["TableVersion", "migrate_home", "table_versions"]

_LATER = "of a later release, left as it is"
_SERVED = "brought up to date by the service as it writes, and left alone while one runs"
_AS_IT_IS = "files of earlier versions are read as they are"


@dataclass(frozen=True, slots=True)
class TableVersion:
    """The version of the tables of one kind in one place.

    Attributes
    ----------
    place : schema of the database, or file in the home
    before, after : 0 where there are none
    note : why nothing was done where something could have been, "" otherwise
    """

    place: str
    kind: str
    before: int
    after: int
    note: str = ""


def migrate_home(settings: Settings, *, dry_run: bool = False) -> Mapping[str, Any]:
    """Bring every table of the home up to date; what was found and what is there now, ready to be shown.

    Parameters
    ----------
    dry_run : only say what would be done

    Raises
    ------
    HomeTooNew
        Tables are of a release whose changes this one must not touch; nothing was changed.
    HomeUnreachable
        The database cannot be reached, or others hold its tables for too long; to try again is safe.
    LogDamaged, RegistryError
        A file, or MLflow's database, is not what it should be.
    """
    database = open_home(settings).database
    tables = list(_in_folder(settings, dry_run) if database is None else _in_database(settings, database, dry_run))
    registry = migrate_registry(settings, dry_run=dry_run)
    changed = [each for each in tables if each.before != each.after]
    return {
        "home": str(settings.home) if database is None else database.shown,
        "changed": len(changed) + (registry["before"] != registry["after"]),
        "tables": [asdict(each) for each in tables],
        "registry": registry,
    }


def table_versions(settings: Settings) -> list[TableVersion]:
    """What :func:`migrate_home` would do to the tables of a database, without a refusal; nothing of a folder."""
    database = open_home(settings).database
    return [] if database is None else _planned(settings, database)[0]


def _in_database(settings: Settings, database: HomeDatabase, dry_run: bool) -> Iterator[TableVersion]:  # noqa: FBT001 - private
    planned, forms = _planned(settings, database)
    if not dry_run:
        for each in planned:
            form = forms.get((each.place, each.kind))
            if form is not None and each.before < each.after:
                with database.transaction() as connection:
                    connection.execute("SET LOCAL statement_timeout = 0")  # an index over many rows takes its time
                    database.migrate(form, each.place)
    yield from planned


def _planned(settings: Settings, database: HomeDatabase) -> tuple[list[TableVersion], dict[tuple[str, str], Any]]:
    """Versions that are there and that are wanted, and the formats of those that this release knows.

    Raises
    ------
    HomeTooNew
        As :func:`migrate_home`.
    """
    from ml_core.serve.home.postgres import SHARED, schema_of  # needs the extra

    schemas = sorted({*schemas_of_models(database), schema_of(settings.model_name)})
    forms = {(SHARED, form.kind): form for form in shared_formats()}
    forms |= {(schema, form.kind): form for schema in schemas for form in model_formats()}
    planned = []
    there = _there(database)
    for (schema, kind), form in forms.items():
        before, oldest = there.pop((schema, kind), (0, 0))
        if oldest > form.version:
            raise HomeTooNew(kind, before, form.version)
        later = before > form.version
        planned.append(TableVersion(schema, kind, before, max(before, form.version), _LATER if later else ""))
    planned += [TableVersion(schema, kind, version, version, _LATER) for (schema, kind), (version, _) in there.items()]
    return planned, forms


def _there(database: HomeDatabase) -> dict[tuple[str, str], tuple[int, int]]:
    with database.transaction() as connection:
        if connection.execute("SELECT to_regclass('surety.format')").fetchone() == (None,):
            return {}
        rows = connection.execute("SELECT schema, kind, version, oldest FROM surety.format ORDER BY schema, kind")
        return {(schema, kind): (version, oldest) for schema, kind, version, oldest in rows.fetchall()}


def _in_folder(settings: Settings, dry_run: bool) -> Iterator[TableVersion]:  # noqa: FBT001 - private
    for name in known_models(settings):
        own = of_model(settings, name)
        is_served = bool(beating(read_reports(open_home(own).heartbeats(name))))
        for form, path, store in (
            (LABEL_FORMAT, own.labels, open_label_tables(own, name)),
            (LEDGER_FORMAT, own.monitor / f"{name}.ledger.db", open_ledger_tables(own, name)),
        ):
            if path.exists():
                yield _file(own, form, path, store, is_served=is_served, dry_run=dry_run)
        versions = [_version(fields.LAYOUT.format, file.path) for file in log_files(own.log)]
        if versions:
            place = own.log.relative_to(settings.home).as_posix()
            yield TableVersion(place, fields.LAYOUT.format.kind, min(versions), min(versions), _AS_IT_IS)


def _file(
    settings: Settings, form: FileFormat, path: Path, store: TableStore, *, is_served: bool, dry_run: bool
) -> TableVersion:
    before, place = _version(form, path), path.relative_to(settings.home).as_posix()
    if before == form.version:
        return TableVersion(place, form.kind, before, before)
    if is_served:
        return TableVersion(place, form.kind, before, before, _SERVED)
    if not dry_run:
        with store.writing():
            pass  # whoever writes brings it up to date first
    return TableVersion(place, form.kind, before, form.version)


def _version(form: FileFormat, path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return form.version_of(connection, path.name)
    except sqlite3.DatabaseError as error:
        raise LogDamaged(path.name, f"cannot be read: {error}") from error
