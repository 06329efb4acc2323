"""Where tables lie: a SQLite file, or a schema of a home's database. Whoever reads and writes them need not know which.

Statements are written once, for SQLite: with ``?`` or ``:name`` for values. What both engines take is used of SQL, no
more: no column is a truth value, a sub-query has a name, and a column that stands for two tables names its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ml_core.base.errors import SuretyError
from ml_core.serve.home.sqlite_tables import SqliteTables
from ml_core.serve.home.tables import FileFormat

if TYPE_CHECKING:
    from ml_core.serve.home.postgres import HomeDatabase

__all__ = ["Failing", "TableConnection", "TableCursor", "TableStore", "open_tables"]

Failing = Callable[[str, str], SuretyError]
"""Makes the error of tables that are locked or out of reach, from their name and the reason."""


class TableCursor(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""

    def fetchone(self) -> Any:
        """The next row, None where there is none."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""

    def __iter__(self) -> Iterator[Any]: ...


class TableConnection(Protocol):
    """Carries out statements."""

    def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> TableCursor:
        """Carry out a statement."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> TableCursor:
        """Carry out a statement for each of these rows."""


class TableStore(Protocol):
    """The tables of one kind and one model.

    Attributes
    ----------
    name : of the file, or of the tables, for messages
    """

    name: str

    def is_made(self) -> bool:
        """Whether something may have been stored.

        Raises
        ------
        HomeUnreachable
            The database cannot be asked.
        """

    def reading(
        self, failing: Failing | None = None, *, snapshot: bool = False
    ) -> AbstractContextManager[TableConnection | None]:
        """A connection that changes nothing, or None where nothing has been stored yet.

        Parameters
        ----------
        failing : makes the error of tables that are locked or out of reach; None for LogDamaged and HomeUnreachable
        snapshot : all statements see one moment; without it a reader of much keeps no writer of a file waiting long

        Raises
        ------
        LogDamaged
            The tables cannot be read, or are of another kind or of a later version.
        HomeUnreachable, HomeTooOld, HomeTooNew
            As ``HomeDatabase.ready``.
        """

    def writing(self, failing: Failing | None = None) -> AbstractContextManager[TableConnection]:
        """A connection in a transaction: kept at the end and safe on the disk, undone on any error.

        One writer at a time. So what gets a higher number is seen later, and whoever reads on from a number misses
        nothing.

        Parameters
        ----------
        failing : as for :meth:`reading`

        Raises
        ------
        LogDamaged, HomeUnreachable, HomeTooOld, HomeTooNew
            As :meth:`reading`.
        """

    def sweep(self, tables: Sequence[str]) -> None:
        """Write these tables anew, so that what was erased has left no copy where they lie.

        Raises
        ------
        LogBusy
            Others may still see what was erased. To try again is safe.
        LogDamaged, HomeUnreachable
            As :meth:`reading`.
        """


def open_tables(
    form: FileFormat,
    path: Path,
    database: HomeDatabase | None,
    model: str,
    *,
    busy_s: float,
) -> TableStore:
    """The tables of one kind and one model, where the home keeps them. Nothing is made before something is written.

    Parameters
    ----------
    path : the file, where the home is a folder
    database : of the home, None where it is a folder
    busy_s : longest wait for other processes, seconds
    """
    if database is None:
        return SqliteTables(form, path, busy_s=busy_s)
    from ml_core.serve.home.postgres_tables import PostgresTables  # needs the extra

    return PostgresTables(form, database, model, busy_s=busy_s)
