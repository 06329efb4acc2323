"""The tables that each model of a home has beside its log: labels with their chain, and the monitor's ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_core.base.settings import Settings
from ml_core.lab.home_care.still_files import still_copy
from ml_core.lab.watching.ledger import LEDGER_FORMAT, open_ledger_tables
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.table_stores import TableStore, open_tables
from ml_core.serve.home.tables import FileFormat
from ml_core.serve.log.label_tables import LABEL_FORMAT, open_label_tables

__all__ = ["MODEL_TABLES", "tables_to_read"]

MODEL_TABLES: tuple[tuple[FileFormat, Callable[[Settings, str], TableStore]], ...] = (
    (LABEL_FORMAT, open_label_tables),
    (LEDGER_FORMAT, open_ledger_tables),
)
"""Formats, each with what opens such tables of a model."""
_BUSY_S = 10.0


@contextmanager
def tables_to_read(form: FileFormat, settings: Settings, name: str, draft: Path, *, live: bool) -> Iterator[TableStore]:
    """Tables of a home that is not to be changed: a copy of a file, and a database as it is.

    Parameters
    ----------
    draft : folder for the copy
    live : somebody may be writing to the file
    """
    database = open_home(settings).database
    path = settings.labels if form is LABEL_FORMAT else settings.monitor / f"{name}.ledger.db"
    if database is not None:
        yield open_tables(form, path, database, name, busy_s=_BUSY_S)
        return
    with still_copy(path, draft / "tables", is_live=live) as still:
        yield open_tables(form, still, None, name, busy_s=_BUSY_S)
