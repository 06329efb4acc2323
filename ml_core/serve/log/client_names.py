"""Which answer was the first under a caller's own name for it, without a look into every file of the log.

A caller that got no reply sends its request again under the same ``client_request_id``, perhaps days later. So the
first id of each name is kept in an index beside the files, which takes in what is new whenever somebody asks. It says
nothing that the files do not say: it can be removed at any time, and is made anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from hashlib import blake2b
from pathlib import Path

from ml_core.base.errors import LogDamaged
from ml_core.serve.home.tables import FileFormat, StoredTable, Transaction
from ml_core.serve.log.database import reading
from ml_core.serve.log.log_files import LogFile, log_files, state_of

__all__ = ["ClientNames"]

_FORMAT = FileFormat(
    "index of the callers' names",
    0x5372436E,
    [
        StoredTable("name", ["name BLOB PRIMARY KEY", "at_us INTEGER NOT NULL", "request_id BLOB NOT NULL"]),
        StoredTable("seen", ["file TEXT PRIMARY KEY", "state TEXT NOT NULL", "seq INTEGER NOT NULL"]),
    ],
)
_CHUNK = 500
_PAGE = 5_000
_BUSY_S = 5.0
_ROOM = "PRAGMA cache_size = -65536"
"""kB: names come in no order, so that many pages of the index are changed at a time."""
_TAKE = (
    "INSERT INTO name(name, at_us, request_id) VALUES(?, ?, ?) ON CONFLICT(name) DO UPDATE SET at_us = excluded.at_us, "
    "request_id = excluded.request_id WHERE (excluded.at_us, excluded.request_id) < (name.at_us, name.request_id)"
)
_NEW = (
    "SELECT seq, client_request_id, at_us, request_id FROM entry WHERE seq > ? AND seq <= ? "
    "AND client_request_id IS NOT NULL ORDER BY seq LIMIT ?"
)


class ClientNames:
    """The index of one log.

    Parameters
    ----------
    folder : of the log
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "clients.db"

    def first(self, names: Collection[str]) -> dict[str, bytes]:
        """Id of the first answer under each of these names; names of none are left out.

        Files that cannot be read are passed over.
        """
        if not names or not self._folder.exists():
            return {}
        try:
            return self._found(str(self._path), names)
        except (sqlite3.Error, LogDamaged) as error:
            if type(error) is sqlite3.DatabaseError:  # it is damaged
                with suppress(OSError):
                    self.forget()
            return self._found(":memory:", names)  # made of the whole log, where it cannot be written

    def forget(self) -> None:
        """Remove the index: rows it was made of are gone, or were erased."""
        for end in ("", "-journal", "-wal", "-shm"):
            Path(f"{self._path}{end}").unlink(missing_ok=True)

    def _found(self, place: str, names: Collection[str]) -> dict[str, bytes]:
        hashed = {_hashed(name): name for name in names}
        wanted = sorted(hashed)
        with closing(sqlite3.connect(place, timeout=_BUSY_S, isolation_level=None)) as index:
            index.execute(_ROOM)
            with Transaction(index):
                _FORMAT.bring_up_to_date(index, self._path.name)
            self._take_in(index)
            found: dict[str, bytes] = {}
            for start in range(0, len(wanted), _CHUNK):
                part = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(part))
                query = f"SELECT name, request_id FROM name WHERE name IN ({marks})"  # noqa: S608 - marks alone
                found.update((hashed[bytes(name)], bytes(raw)) for name, raw in index.execute(query, part))
        return found

    def _take_in(self, index: sqlite3.Connection) -> None:
        """Take in what came since the last time. A file that is closed and as it was is not opened."""
        seen = {file: (state, seq) for file, state, seq in index.execute("SELECT file, state, seq FROM seen")}
        files = log_files(self._folder)
        if seen.keys() - {file.name for file in files}:  # a day was removed, and its names may be others' first
            with Transaction(index):
                index.execute("DELETE FROM name")
                index.execute("DELETE FROM seen")
            seen = {}
        for file in files:
            state, (before, seq) = str(state_of(file) or ""), seen.get(file.name, ("", 0))
            if not state or state != before:
                with suppress(LogDamaged):
                    self._take_file(index, file, state, seq)

    @staticmethod
    def _take_file(index: sqlite3.Connection, file: LogFile, state: str, seq: int) -> None:
        with reading(file) as connection:
            end = connection.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()[0]
            with Transaction(index):
                while True:
                    rows = connection.execute(_NEW, (seq, end, _PAGE)).fetchall()
                    index.executemany(_TAKE, _names(rows))
                    if len(rows) < _PAGE:
                        break
                    seq = rows[-1][0]
                index.execute("INSERT OR REPLACE INTO seen VALUES(?, ?, ?)", (file.name, state, end))


def _names(rows: Sequence[Sequence[object]]) -> Iterator[tuple[bytes, object, object]]:
    return ((_hashed(str(client)), at_us, raw) for _, client, at_us, raw in rows)


def _hashed(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()
