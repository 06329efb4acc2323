"""MLflow's tables as a whole: their version, bringing them up to date, and copying them between two databases.

MLflow numbers its tables by itself, and refuses to work with others than its own. Services need no MLflow; only
commands that train, register and import do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ml_core.base.errors import RegistryError
from ml_core.base.settings import Settings
from ml_core.lab.registry.model_registry import ModelRegistry, mlflow_at, quiet_environment, registry_errors
from ml_core.lab.registry.moved_home import rename_addresses

__all__ = ["RegistryRows", "copy_registry", "has_own_registry", "migrate_registry", "registry_rows", "registry_version"]

_VERSION = "alembic_version"
_ROWS_AT_A_TIME = 1_000
RegistryRows = Mapping[str, int]
"""Number of rows by table."""


def has_own_registry(settings: Settings) -> bool:
    """Whether the home itself holds MLflow's tables, and no server that ``MLFLOW_TRACKING_URI`` names."""
    own = settings.registry_uri
    if settings.database:
        return own.startswith("postgresql+psycopg:") and own.endswith("search_path%3Dmlflow")
    return own == f"sqlite:///{settings.home.absolute() / 'mlflow.db'}"


def registry_version(settings: Settings) -> str:
    """Version (Alembic's revision) of MLflow's tables in the home; "" where there are none.

    Raises
    ------
    RegistryError
        They cannot be read.
    """
    if not _is_made(settings):
        return ""
    with _engine(settings.registry_uri) as engine:
        return _revision(engine)


def migrate_registry(settings: Settings, *, dry_run: bool = False) -> Mapping[str, Any]:
    """Bring MLflow's tables of a home up to date by MLflow's own steps: versions before and after, and why not.

    Raises
    ------
    RegistryError
        MLflow cannot do it.
    """
    if not has_own_registry(settings):
        return {"before": "", "after": "", "note": "is a server of its own, which looks after its tables"}
    if find_spec("mlflow") is None:
        return {"before": "", "after": "", "note": "MLflow is not installed here: run this where models are trained"}
    before = registry_version(settings)
    if not before:
        return {"before": "", "after": "", "note": "holds nothing yet"}
    from mlflow.store.db import utils

    with _engine(settings.registry_uri) as engine:
        newest = utils._get_latest_schema_revision()  # type: ignore[no-untyped-call]  # noqa: SLF001 - see below
        if before != newest and not dry_run:
            utils._upgrade_db(engine)  # type: ignore[no-untyped-call]  # noqa: SLF001 - as above
    return {"before": before, "after": newest, "note": ""}


def registry_rows(settings: Settings) -> RegistryRows:
    """How many rows each of MLflow's tables in the home has; none where there are no tables.

    Raises
    ------
    RegistryError
        They cannot be read.
    """
    if not _is_made(settings):
        return {}
    with _engine(settings.registry_uri) as engine:
        return _counts(engine)


def copy_registry(source: Settings, target: Settings, draft: Path) -> RegistryRows:
    """Put MLflow's tables of one home into another, in one transaction, in place of what is there; rows by table.

    Addresses of artefacts in the source's own place become those of the same artefacts in the target's.

    Parameters
    ----------
    draft : folder for a copy of a source that is a file, which itself stays as it is

    Raises
    ------
    RegistryError
        MLflow's tables cannot be read or written.
    """
    if not _is_made(source):
        return {}
    uri = _still_uri(source, draft)
    if not target.database:
        target.home.mkdir(parents=True, exist_ok=True)
    else:
        ModelRegistry(target)  # makes the schema
    old, new = artefact_root(source), artefact_root(target)
    with _engine(uri) as one, _engine(target.registry_uri) as other:
        _make_ready(other)
        if _revision(one) != _revision(other):
            raise RegistryError(source.registry_shown, "has tables of another MLflow: run `surety home migrate` first")
        _replace_rows(one, other, old, new)
        return _counts(other)


def artefact_root(settings: Settings) -> str:
    """Address of the folder that has the artefacts of a home's registry, ending in ``/``."""
    if settings.database and settings.objects:
        root = settings.objects if "://" in settings.objects else Path(settings.objects).as_uri()
        return f"{root.rstrip('/')}/mlartifacts/"
    return f"{settings.home.absolute().as_uri()}/mlartifacts/"


def _is_made(settings: Settings) -> bool:
    if not has_own_registry(settings):
        return False
    if not settings.database:
        return (settings.home / "mlflow.db").is_file()
    with _engine(settings.registry_uri) as engine:
        import sqlalchemy

        return bool(sqlalchemy.inspect(engine).has_table(_VERSION))


def _still_uri(settings: Settings, draft: Path) -> str:
    """A copy of a file, with tables of this MLflow and addresses of its own place; a database as it is."""
    if settings.database:
        return settings.registry_uri
    path = draft / "mlflow.db"
    path.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"{(settings.home / 'mlflow.db').absolute().as_uri()}?mode=ro", uri=True)) as old,
            closing(sqlite3.connect(path)) as new,
        ):
            old.backup(new)
    except sqlite3.Error as error:
        raise RegistryError(str(settings.home / "mlflow.db"), f"cannot be read: {error}") from error
    rename_addresses(path, artefact_root(settings))
    with _engine(f"sqlite:///{path}") as engine:
        _make_ready(engine)
    return f"sqlite:///{path}"


def _make_ready(engine: Any) -> None:
    """Make MLflow's tables where there are none, and bring others up to date."""
    from mlflow.store.db import utils

    if not _revision(engine):
        utils._initialize_tables(engine)  # type: ignore[no-untyped-call]  # noqa: SLF001 - what MLflow does as it opens
    else:
        utils._upgrade_db(engine)  # type: ignore[no-untyped-call]  # noqa: SLF001 - what `mlflow db upgrade` does


def _replace_rows(one: Any, other: Any, old: str, new: str) -> None:
    import sqlalchemy

    read, written = sqlalchemy.MetaData(), sqlalchemy.MetaData()
    read.reflect(one)
    written.reflect(other)
    tables = [table for table in written.sorted_tables if table.name != _VERSION and table.name in read.tables]
    with one.connect() as source, other.begin() as target:
        if all(_alike(source, target, read.tables[t.name], t, old, new) for t in tables):
            return
        for table in reversed(tables):
            target.execute(table.delete())
        for table in tables:
            rows = _moved(source, read.tables[table.name], old, new)
            while some := [row for _, row in zip(range(_ROWS_AT_A_TIME), rows, strict=False)]:
                target.execute(table.insert(), some)
            _go_on(target, table)


def _moved(connection: Any, table: Any, old: str, new: str) -> Iterator[dict[str, Any]]:
    """Rows of a table in the order of its key, with addresses of the target."""
    query = table.select().order_by(*(table.primary_key.columns or table.columns))
    for row in connection.execute(query).mappings():
        yield {name: _address(value, old, new) for name, value in row.items()}


def _address(value: Any, old: str, new: str) -> Any:
    return new + value[len(old) :] if isinstance(value, str) and value.startswith(old) else value


def _alike(source: Any, target: Any, one: Any, other: Any, old: str, new: str) -> bool:
    """Whether the target has the very rows that it would get."""
    wanted, found = list(_moved(source, one, old, new)), list(_moved(target, other, new, new))
    return _plain(wanted) == _plain(found)


def _plain(rows: Sequence[Mapping[str, Any]]) -> list[list[tuple[str, Any]]]:
    return sorted((sorted(row.items()) for row in rows), key=repr)


def _go_on(connection: Any, table: Any) -> None:
    """Let a number that the database gives come after those that were copied."""
    import sqlalchemy

    if connection.dialect.name != "postgresql":
        return
    for column in table.primary_key.columns:
        found = connection.execute(
            sqlalchemy.text("SELECT pg_get_serial_sequence(:place, :column)"),
            {"place": f'"{table.name}"', "column": column.name},
        ).scalar()
        if found is not None:
            last = connection.execute(sqlalchemy.select(sqlalchemy.func.max(column))).scalar()
            connection.execute(
                sqlalchemy.text("SELECT setval(:found, :last, :is_given)"),
                {"found": found, "last": last or 1, "is_given": last is not None},
            )


def _counts(engine: Any) -> RegistryRows:
    import sqlalchemy

    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        return {
            table.name: int(connection.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(table)).scalar())
            for table in tables.sorted_tables
            if table.name != _VERSION
        }


def _revision(engine: Any) -> str:
    import sqlalchemy

    with engine.connect() as connection:
        if not sqlalchemy.inspect(connection).has_table(_VERSION):
            return ""
        return str(connection.execute(sqlalchemy.text(f"SELECT version_num FROM {_VERSION}")).scalar() or "")  # noqa: S608 - a name of ours


@contextmanager
def _engine(uri: str) -> Iterator[Any]:
    """A database that MLflow has tables in, silent, with errors of ours."""
    quiet_environment()
    import sqlalchemy

    with mlflow_at(uri), registry_errors("MLflow's tables"):
        engine = sqlalchemy.create_engine(uri)
        try:
            yield engine
        finally:
            engine.dispose()
