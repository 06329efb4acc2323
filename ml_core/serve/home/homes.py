"""Opens the home that the settings name; nobody else knows which engine it is made of."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.documents import PublishedDocument
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.serve.home.folder_home import FolderDocuments, FolderHeartbeats, FolderSeat
from ml_core.serve.home.object_stores import objects_of
from ml_core.serve.home.stores import Documents, Heartbeats, JournalEntries, Objects, Seat

if TYPE_CHECKING:
    from ml_core.serve.home.postgres import HomeDatabase

__all__ = ["Home", "HomeName", "documents_in", "open_home"]

_NAME = "home.json"


class HomeName(PublishedDocument):
    """Content of ``home.json``: the name of a home, made on first use and never changed."""

    name: str
    made_at: str


@dataclass(frozen=True)
class Home:
    """Where what a service must remember lies.

    Attributes
    ----------
    documents, journal : of all models
    remember : from now on this process, a service, reads what its machine knew last while the home is away
    objects : large things, such as models; None where they lie in the home's folder
    clock_ahead_s : by how much this machine's time of day is ahead of the home's; 0 where it has no clock of its own
    machine : name of this machine among those that have the home; "" where it is the only one
    api_keys : name of the document with the API keys of all machines; None where only a file can have them
    database : of the stores that have tables of their own, in this room and in ``serve/log``; None for a folder
    """

    documents: Documents
    journal: JournalEntries
    heartbeats_of: Callable[[str], Heartbeats] = field(repr=False)
    seat_of: Callable[[str], Seat] = field(repr=False)
    close: Callable[[], None] = field(repr=False)
    clock_ahead_s: Callable[[], float] = field(repr=False)
    remember: Callable[[], None] = field(repr=False, default=lambda: None)
    objects: Objects | None = None
    machine: str = ""
    api_keys: str | None = None
    database: HomeDatabase | None = None

    def heartbeats(self, model_name: str) -> Heartbeats:
        """Reports of the processes that serve a model."""
        return self.heartbeats_of(model_name)

    def seat(self, name: str) -> Seat:
        """A seat, such as ``monitor/readmission_risk``; not taken yet."""
        return self.seat_of(name)

    def together(self) -> AbstractContextManager[object]:
        """A block whose writes come true together, where the home can do that; a folder has them one by one."""
        return nullcontext() if self.database is None else self.database.transaction()

    def name(self) -> str:
        """Name of this home; made on first use.

        Raises
        ------
        ArtefactError, HomeUnreachable, OSError
            It cannot be read or written.
        """
        found = self.documents.load(_NAME, HomeName)
        if found is None:
            with self.documents.locked("home.lock"):
                found = self.documents.load(_NAME, HomeName)
                if found is None:
                    found = HomeName(name=f"home-{secrets.token_hex(4)}", made_at=utc_text(utc_now()))
                    self.documents.save(_NAME, found)
        return found.name


_opened: dict[tuple[object, ...], Home] = {}
_opening = threading.Lock()


def open_home(settings: Settings) -> Home:
    """The home of these settings, the same object for the same place in one process. Nothing is read or made yet.

    Raises
    ------
    ConfigError
        ``SURETY_DATABASE`` cannot be used.
    ImportError
        It is set, and the extra ``cluster`` is not installed.
    """
    key = (os.getpid(), settings.home.absolute(), settings.database, settings.objects, settings.machine_name)
    with _opening:
        found = _opened.get(key)
        if found is None:
            found = _opened[key] = _on_database(settings) if settings.database else _in_folder(settings.home)
    return found


def documents_in(folder: Path, mode: int) -> Documents:
    """The files of a folder that is no home, as documents.

    Parameters
    ----------
    mode : permissions of new files
    """
    return FolderDocuments(folder, mode)


def _in_folder(folder: Path) -> Home:
    return Home(
        FolderDocuments(folder),
        Journal(folder / "journal.jsonl"),
        heartbeats_of=lambda model_name: FolderHeartbeats(folder / "workers" / model_name),
        seat_of=lambda name: FolderSeat(folder / f"{name}.lock", name),
        close=lambda: None,
        clock_ahead_s=lambda: 0.0,
    )


def _on_database(settings: Settings) -> Home:
    # Imported here: a home in a folder needs no database driver.
    from ml_core.serve.home.database_documents import DatabaseDocuments, DatabaseJournal
    from ml_core.serve.home.database_presence import DatabaseHeartbeats, DatabaseSeat
    from ml_core.serve.home.database_watch import Watcher
    from ml_core.serve.home.last_known import LastKnown
    from ml_core.serve.home.postgres import HomeDatabase

    database = HomeDatabase(settings.database)
    watcher = Watcher(database)
    machine, folder = settings.machine_name, settings.home

    def heartbeats_of(model_name: str) -> Heartbeats:
        local = FolderHeartbeats(folder / "workers" / model_name)
        return DatabaseHeartbeats(database, watcher, model_name, machine, local)

    def close() -> None:
        watcher.stop()
        database.close()

    documents = DatabaseDocuments(database, watcher)

    def remember() -> None:
        if documents.last_known is None:
            documents.last_known = LastKnown(folder / "last-known")

    return Home(
        documents,
        DatabaseJournal(database),
        heartbeats_of=heartbeats_of,
        seat_of=lambda name: DatabaseSeat(database, name, machine),
        close=close,
        clock_ahead_s=lambda: watcher.clock_ahead_s,
        remember=remember,
        objects=objects_of(settings),
        machine=machine,
        api_keys="keys.json",
        database=database,
    )
