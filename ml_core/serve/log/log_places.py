"""Where a log lies: SQLite files in a folder of one machine, or the database that the spools of many are shipped to.

Both are asked in the same few statements over ``entry``, ``lineage`` and ``fact``, so that whoever reads or checks the
log need not know which it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ml_core.base.errors import LogBusy, LogDamaged
from ml_core.base.files import drafts_of
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.client_names import ClientNames
from ml_core.serve.log.database import (
    ClosedDatabase,
    Erasable,
    open_for_change,
    open_for_reading,
    reading,
    settle_wholly,
)
from ml_core.serve.log.log_files import LogFile, closing_day, day_gate, log_files, only_closed, state_of

__all__ = ["FileFacts", "FolderPlace", "LogPart", "LogPlace", "LogRows", "place_of"]


class LogRows(Protocol):
    """Rows of the log that can be asked for, as of one file or of several."""

    def execute(self, statement: str, values: Any = (), /) -> Any:
        """A cursor over what a SELECT finds; its rows are tuples that know the names of their columns, too."""


@dataclass(frozen=True, slots=True)
class LogPart:
    """A part of the log that can be asked at once.

    Attributes
    ----------
    name, day : of the file; "" where it is several, whose rows have a column ``file_name``
    reading : opens it
    """

    name: str
    day: str
    reading: Callable[[], AbstractContextManager[LogRows]]

    def file_of(self, row: Any) -> str:
        """Name of the file that a row lies in."""
        return self.name or str(row["file_name"])


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file at a glance.

    Attributes
    ----------
    rows : None where it cannot be read; a bulk call is one row
    bytes : of the file and what belongs to it
    is_live : whether a worker writes to it
    is_sealed : whether the sealed copy of its day shows these rows
    """

    file: LogFile
    rows: int | None
    bytes: int
    is_live: bool
    is_sealed: bool


class LogPlace(Protocol):
    """Where the log of one model lies, read-only."""

    @property
    def folder(self) -> Path:
        """Of bulk calls and sealed copies."""

    def files(self) -> list[LogFile]:
        """Its files, oldest day first."""

    def reading(self, file: LogFile) -> AbstractContextManager[LogRows]:
        """The rows of one file.

        Raises
        ------
        LogDamaged
            It cannot be read.
        HomeUnreachable
            The database cannot be asked.
        """

    def parts(self, days: Collection[str] | None = None) -> list[LogPart]:
        """Parts that have all files of these days, or of all days."""

    def grown(self, files: list[LogFile], seen: Mapping[str, int]) -> list[LogFile]:
        """Those of these files that may have rows after the numbers that were seen, by name; in the same order."""

    def first_of_clients(self, texts: Collection[str]) -> dict[str, bytes]:
        """Id of the first answer that callers named so, by that name; names of none are left out."""

    def forget_clients(self) -> None:
        """Forget names of answers that are erased, or gone."""

    def fetch(self, name: str) -> None:
        """Have a file beside the rows in the folder, such as that of a bulk call; all of a folder that ends in ``/``.

        Raises
        ------
        HomeUnreachable, OSError
            It cannot be brought here now.
        """

    # --- for whoever looks after it ---

    def keep(self, name: str) -> None:
        """Keep a file that was written into the folder, where files are kept elsewhere; raises as :meth:`fetch`."""

    def discard(self, name: str) -> None:
        """Remove a file that is kept elsewhere than in the folder; raises as :meth:`fetch`."""

    def at_a_glance(self) -> list[FileFacts] | None:
        """All files, where that takes no look into each of them; None where it does."""

    def snapshot(self, file: LogFile) -> AbstractContextManager[LogRows]:
        """The rows of one file, as far as that can be as of one moment."""

    def damage(self, file: LogFile, rows: LogRows, /) -> str:
        """What the engine itself finds wrong with a file that was walked through; "" where nothing is."""

    def is_live(self, file: LogFile) -> bool:
        """Whether a worker still writes to it, or has not shipped all of it."""

    def give_up(self, file: LogFile, /) -> bool:
        """Expect nothing more of a spool, since its machine is gone; False where its worker alone can end a file."""

    def size_of(self, file: LogFile) -> int:
        """Room that it takes, bytes; 0 where that is not known of one file."""

    def holding(self, day: str) -> AbstractContextManager[list[LogFile]]:
        """Hold all files of a day, and get them; nobody begins another meanwhile.

        Raises
        ------
        LogBusy
            A worker writes to one.
        """

    def settle(self, file: LogFile) -> None:
        """Bring a file that is held into the form in which it is kept."""

    def rebuild(self, file: LogFile) -> None:
        """Write a file that is held anew from its rows, so that no page holds copies of erased ones."""

    def purge(self, day: str) -> None:
        """Leave no copy of what was erased from a day in files of the engine.

        Raises
        ------
        HomeUnreachable
            Others use the day's rows for too long, or the database cannot be asked.
        """

    def seal(self, day: str) -> None:
        """The journal says that a day is sealed: let nothing come into it from now on."""

    def remove(self, day: str) -> None:
        """Remove the rows of a day that is held."""

    def erasing(self, file: LogFile) -> AbstractContextManager[Erasable]:
        """A file held for change.

        Raises
        ------
        LogBusy
            A worker writes to it.
        """


class FolderPlace:
    """SQLite files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ends: dict[str, tuple[tuple[int, ...], int]] = {}

    def files(self) -> list[LogFile]:
        """Its files, oldest day first."""
        return log_files(self.folder)

    def reading(self, file: LogFile) -> AbstractContextManager[LogRows]:
        """The rows of one file."""
        return reading(file)

    def parts(self, days: Collection[str] | None = None) -> list[LogPart]:
        """One part for each file."""
        return [
            LogPart(file.name, file.day, lambda file=file: reading(file))  # type: ignore[misc]
            for file in self.files()
            if days is None or file.day in days
        ]

    def grown(self, files: list[LogFile], seen: Mapping[str, int]) -> list[LogFile]:
        """A file that is closed, and as it was when it was last opened here, need not be opened again."""
        return [file for file in files if self._may_have_grown(file, seen.get(file.name, 0))]

    def first_of_clients(self, texts: Collection[str]) -> dict[str, bytes]:
        """From the index of names, after it has taken in what is new."""
        return ClientNames(self.folder).first(texts)

    def fetch(self, name: str) -> None:
        """It is here."""

    def keep(self, name: str) -> None:
        """It is kept here."""

    def discard(self, name: str) -> None:
        """Whoever looks after the folder removes it."""

    def at_a_glance(self) -> list[FileFacts] | None:
        """Each file tells for itself."""
        return None

    def forget_clients(self) -> None:
        """Remove the index; it is made anew."""
        ClientNames(self.folder).forget()

    @contextmanager
    def snapshot(self, file: LogFile) -> Iterator[LogRows]:
        """The rows of one file as of one moment."""
        with closing(open_for_reading(file.path)) as connection:
            connection.execute("BEGIN")
            yield connection

    def damage(self, _file: LogFile, rows: LogRows, /) -> str:
        """What SQLite finds."""
        found = rows.execute("PRAGMA integrity_check(1)").fetchone()[0]
        return "" if found == "ok" else f"SQLite finds it damaged: {found}"

    def is_live(self, file: LogFile) -> bool:
        """Whether a worker writes to that database just now."""
        if not file.lock_path.exists():
            return False
        try:
            with only_closed(file):
                return False
        except LogBusy:
            return True

    def give_up(self, _file: LogFile, /) -> bool:
        """A file ends with the process that writes it."""
        return False

    def size_of(self, file: LogFile) -> int:
        """Of the database and what belongs to it."""
        return sum(path.stat().st_size for path in self.folder.glob(f"{file.name}*") if path.exists())

    @contextmanager
    def holding(self, day: str) -> Iterator[list[LogFile]]:
        """Hold the day's gate, and the lock of each database."""
        with ExitStack() as stack:
            stack.enter_context(closing_day(self.folder, day))
            files = [file for file in self.files() if file.day == day]
            for file in files:
                stack.enter_context(only_closed(file))
            yield files

    def settle(self, file: LogFile) -> None:
        """Move what a worker that was killed left in the WAL file into the database."""
        try:
            with closing(open_for_change(file.path)) as connection:
                settle_wholly(connection)
                connection.execute("PRAGMA journal_mode=DELETE").fetchall()  # it can be read without writing here
        except sqlite3.OperationalError:  # a reader is in the way, or no room on the disk: it stays where it is
            return
        except (sqlite3.DatabaseError, LogDamaged):
            return  # what is wrong with it is found and told by whoever verifies it

    def rebuild(self, file: LogFile) -> None:
        """Write the database anew."""
        with closing(open_for_change(file.path)) as connection:
            connection.execute("VACUUM")
            settle_wholly(connection)

    def purge(self, day: str) -> None:
        """Whoever erases from a database writes it anew at once."""

    def seal(self, day: str) -> None:
        """The journal is enough: workers ask it under the day's gate."""

    def remove(self, day: str) -> None:
        """Remove databases first and locks last."""
        locks = sorted((*self.folder.glob(f".predictions-{day}-w*.db.lock"), day_gate(self.folder, day)))
        for path in (*sorted(self.folder.glob(f"predictions-{day}-w*.db*")), *locks):
            path.unlink(missing_ok=True)

    @contextmanager
    def erasing(self, file: LogFile) -> Iterator[Erasable]:
        """A database that no worker writes to."""
        with only_closed(file), closing(open_for_change(file.path)) as connection:
            for draft in drafts_of(file.path):
                draft.unlink(missing_ok=True)
            yield ClosedDatabase(connection)

    def _may_have_grown(self, file: LogFile, seen: int) -> bool:
        state = state_of(file)
        if state is None:
            return True
        known = self._ends.get(file.name)
        if known is None or known[0] != state:
            with reading(file) as connection:
                last = connection.execute("SELECT seq FROM entry ORDER BY seq DESC LIMIT 1").fetchone()
            known = self._ends[file.name] = (state, 0 if last is None else int(last[0]))
        return known[1] > seen


def place_of(settings: Settings) -> LogPlace:
    """Where the log of the configured model lies."""
    home = open_home(settings)
    if home.database is None:
        return FolderPlace(settings.log)
    from ml_core.serve.log.shipped_place import ShippedPlace  # needs the extra `cluster`

    return ShippedPlace(home.database, settings.model_name, settings.log, home.objects)
