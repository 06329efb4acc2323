"""Tables in a SQLite file: connections that read it and transactions that write it.

It has a rollback journal and no WAL file. Several processes write it, and SQLite up to 3.51.2 can, very rarely, damage
a WAL file that one connection writes while another checkpoints it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from ml_core.base.errors import LogDamaged, SuretyError
from ml_core.serve.home.tables import FileFormat, Transaction

__all__ = ["SqliteTables"]

_RETRY_S = 0.002


class SqliteTables:
    """One SQLite file. A connection lives for one call, so any thread may make it and a lost file is not held.

    Parameters
    ----------
    form : of the file
    path : made with its folder on the first write
    busy_s : longest wait for other processes, seconds

    Attributes
    ----------
    name : of the file
    """

    def __init__(self, form: FileFormat, path: Path, *, busy_s: float) -> None:
        self.path = path
        self.name = path.name
        self._form = form
        self._busy_s = busy_s

    def is_made(self) -> bool:
        """Whether the file is there."""
        return self.path.exists()

    @contextmanager
    def reading(
        self, failing: Callable[[str, str], SuretyError] | None = None, *, snapshot: bool = False
    ) -> Iterator[sqlite3.Connection | None]:
        """As :meth:`table_stores.TableStore.reading`.

        It is not opened read-only: a writer that was killed may have left a journal, which must be undone first.
        """
        with self._as_our_errors(failing or LogDamaged):
            if not self._is_there(failing or LogDamaged):
                yield None
                return
            with self._connected("rw") as connection:
                is_made = self._form.open(connection, self.name, may_write=False)
                connection.execute("PRAGMA query_only=ON")
                if is_made and snapshot:
                    connection.execute("BEGIN")
                yield connection if is_made else None

    @contextmanager
    def writing(self, failing: Callable[[str, str], SuretyError] | None = None) -> Iterator[sqlite3.Connection]:
        """As :meth:`table_stores.TableStore.writing`."""
        with self._as_our_errors(failing or LogDamaged):
            self._make_folder(failing or LogDamaged)
            with self._connected("rwc") as connection:
                # FULL flushes a truncated journal too; a deleted one may come back after a power cut and undo a commit
                connection.execute("PRAGMA journal_mode=TRUNCATE").fetchall()
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA secure_delete=ON")  # what is erased leaves no copy in the file
                with Transaction(connection):
                    self._form.bring_up_to_date(connection, self.name)
                    yield connection

    def sweep(self, tables: Sequence[str] = ()) -> None:  # noqa: ARG002 - a file is written anew as a whole
        """As :meth:`table_stores.TableStore.sweep`: pages of indexes that were merged keep copies otherwise."""
        if not self.path.exists():
            return
        with self._as_our_errors(LogDamaged), self._connected("rw") as connection:
            connection.execute("PRAGMA journal_mode=TRUNCATE").fetchall()
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("VACUUM")

    def _is_there(self, failing: Callable[[str, str], SuretyError]) -> bool:
        try:
            return self.path.exists()
        except OSError as error:
            raise failing(self.name, error.strerror or type(error).__name__) from error

    def _make_folder(self, failing: Callable[[str, str], SuretyError]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failing(self.name, error.strerror or type(error).__name__) from error

    def _connected(self, mode: str) -> closing[_WaitingConnection]:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, factory=_WaitingConnection)
        connection.busy_s = self._busy_s
        return closing(connection)

    @contextmanager
    def _as_our_errors(self, failing: Callable[[str, str], SuretyError]) -> Iterator[None]:
        """Our errors for those of SQLite; their words name no value."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise failing(self.name, str(error)) from error
        except sqlite3.DatabaseError as error:
            raise LogDamaged(self.name, f"cannot be read: {error}") from error


class _WaitingConnection(sqlite3.Connection):
    """A connection whose statements wait ``busy_s`` seconds for a lock, asking for it every few milliseconds.

    SQLite's own wait ends in asking ten times a second. Beside somebody who writes without a pause, as an import does,
    it misses every gap for seconds (measured: refused after five).
    """

    busy_s = 0.0

    def execute(self, sql: str, parameters: Sequence[object] = (), /) -> sqlite3.Cursor:  # type: ignore[override]
        """As SQLite's; a COMMIT that waits for readers keeps new ones out meanwhile."""
        ends = time.monotonic() + self.busy_s
        while True:
            try:
                return super().execute(sql, parameters)
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= ends:
                    raise
                time.sleep(_RETRY_S)
