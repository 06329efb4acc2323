"""One database of the log: its tables, its one writing connection, and connections that only read.

SQLite up to 3.51.2 can, very rarely, damage a WAL file that one connection writes while another checkpoints it. So a
file has one writing connection, which also checkpoints, and everybody else opens it read-only.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from ml_core.base.errors import LogDamaged
from ml_core.base.files import FileLock, write_whole
from ml_core.serve.home.tables import Transaction
from ml_core.serve.log import fields
from ml_core.serve.log.entries import Lineage, Row, new_salts, next_head, row_digest
from ml_core.serve.log.log_files import LogFile, free_file, span_us
from ml_core.serve.log.log_keys import LogKey

__all__ = [
    "ENTRIES",
    "ClosedDatabase",
    "Erasable",
    "OpenLog",
    "end_of",
    "erase_subjects",
    "genesis_head",
    "key_of",
    "open_for_change",
    "open_for_reading",
    "reading",
    "rows_of_subjects",
    "settle_wholly",
]

ENTRIES = "SELECT e.*, l.facts, l.digest AS lineage_digest FROM entry e JOIN lineage l ON l.id = e.lineage"
"""Reads entries, each with its lineage."""
_LAST = "SELECT seq, head FROM entry ORDER BY seq DESC LIMIT 1"
_BUSY_MS = 250
_READ_BUSY_MS = 5_000


def genesis_head(file: LogFile, key: LogKey | None = None) -> bytes:
    """What the first commit of a file chains on, 32 bytes: made of what names the file."""
    said = f"{file.day}/w{file.worker}{'/' if file.origin else ''}{file.origin}"
    if key is None:
        return hashlib.sha256(f"surety-prediction-log-1/{said}".encode()).digest()
    return hmac.digest(key.chain, f"surety-prediction-log-2/{said}".encode(), "sha256")


def key_of(connection: Any) -> str:
    """Id of the key that makes a file's chain, "" where none does."""
    found = connection.execute("SELECT value FROM fact WHERE name = ?", (fields.KEY_FACT,)).fetchone()
    return "" if found is None else str(found[0])


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot change the file; rows come as ``sqlite3.Row``.

    A file that a worker has only just begun, or that has gone since it was listed, reads as an empty log.

    Raises
    ------
    LogDamaged
        It cannot be read, or is no log of this version or an earlier one.
    """
    return _opened(path, "ro")


@contextmanager
def reading(file: LogFile) -> Iterator[sqlite3.Connection]:
    """A connection as :func:`open_for_reading`; what turns out to be wrong meanwhile names the file, too.

    Raises
    ------
    LogDamaged
        As :func:`open_for_reading`.
    """
    with closing(open_for_reading(file.path)) as connection:
        try:
            yield connection
        except sqlite3.DatabaseError as error:
            raise LogDamaged(file.path.name, str(error)) from error


def end_of(
    file: LogFile, read: Callable[[LogFile], AbstractContextManager[Any]] = reading
) -> tuple[int | None, str | None]:
    """Number of a file's last row and head of its chain (hex); None for what cannot be read.

    Parameters
    ----------
    read : opens it
    """
    try:
        with read(file) as rows:
            last = rows.execute(_LAST).fetchone()
            genesis = rows.execute("SELECT value FROM fact WHERE name = 'genesis'").fetchone()
    except (sqlite3.Error, LogDamaged):
        return None, None
    if last is None:
        return 0, genesis_head(file).hex() if genesis is None else str(genesis[0])
    return int(last["seq"]), None if last["head"] is None else last["head"].hex()


def open_for_change(path: Path) -> sqlite3.Connection:
    """The one writing connection to a file whose lock the caller holds; brings an older one up to date.

    Raises
    ------
    LogDamaged
        As :func:`open_for_reading`.
    """
    return _opened(path, "rw")


def rows_of_subjects(connection: sqlite3.Connection, pseudonyms: Sequence[bytes]) -> list[int]:
    """Numbers of the rows that are about any of these pseudonyms."""
    marks = ",".join("?" * len(pseudonyms))
    found = connection.execute(f"SELECT seq FROM entry WHERE subject IN ({marks}) ORDER BY seq", pseudonyms)  # noqa: S608 - marks alone
    return [int(row[0]) for row in found]


def erase_subjects(connection: sqlite3.Connection, pseudonyms: Sequence[bytes]) -> int:
    """Erase what the rows about these pseudonyms say; how many there were.

    Number, id, time, lineage and digest stay, so that the chain still holds. The indexes are made anew: where SQLite
    has merged their pages, copies of what they no longer list can be left.
    """
    connection.execute("PRAGMA secure_delete=ON").fetchall()
    with Transaction(connection):
        marks = ",".join("?" * len(pseudonyms))
        erased = connection.execute(f"{fields.LAYOUT.erase} subject IN ({marks})", pseudonyms).rowcount
        for index in fields.LAYOUT.erased_indexes if erased else ():
            connection.execute(f"REINDEX {index}")
    return erased


def settle_wholly(connection: sqlite3.Connection) -> None:
    """Move all that the WAL file holds into the database, and empty it.

    Raises
    ------
    sqlite3.OperationalError
        A reader is in the way.
    """
    if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        raise sqlite3.OperationalError("a reader is in the way")


class Erasable(Protocol):
    """A database held for change."""

    def rows_of(self, pseudonyms: Sequence[bytes]) -> list[int]:
        """Numbers of the rows that are about any of these pseudonyms."""

    def erase(self, pseudonyms: Sequence[bytes]) -> int:
        """Erase what those rows say; how many there were."""


class ClosedDatabase:
    """A database that no worker writes to, held for change."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows_of(self, pseudonyms: Sequence[bytes]) -> list[int]:
        """Numbers of the rows that are about any of these pseudonyms."""
        return rows_of_subjects(self._connection, pseudonyms)

    def erase(self, pseudonyms: Sequence[bytes]) -> int:
        """Erase what those rows say, and write the file anew, so that no page holds a copy; how many there were."""
        erased = erase_subjects(self._connection, pseudonyms)
        self._connection.execute("VACUUM")
        settle_wholly(self._connection)
        return erased


class OpenLog:
    """The database a worker writes to, held by a lock.

    Attributes
    ----------
    file : which one
    seq : number of the last row
    head : of the chain after it
    rows_unsettled : rows in the WAL file since the last checkpoint
    shipped : number of the last row that the home's database has; 0 where there is none
    """

    def __init__(self, file: LogFile, lock: FileLock, key: LogKey | None = None) -> None:
        self.file = file
        self.shipped = 0
        self._key = key
        self._path, self._wal = str(file.path), f"{file.path}-wal"  # looked at with every commit
        self._lock = lock
        self._lineages: dict[bytes, int] = {}
        self._is_durable, self._is_patient = False, True
        self._span_us = span_us(file.day)
        self.rows_unsettled = 0
        self._first = 1
        try:
            self._connection, self.seq, self.head = _writing(file, key)
            self._inodes = self._inodes_now()
            self._first = self._connection.execute("SELECT coalesce(min(seq), 1) FROM entry").fetchone()[0]
        except BaseException:
            lock.release()
            raise

    @property
    def kept(self) -> int:
        """How many rows lie in the file."""
        return self.seq - self._first + 1

    @classmethod
    def of_day(
        cls, folder: Path, day: str, damaged: Collection[Path] = (), key: LogKey | None = None, machine: str = ""
    ) -> OpenLog:
        """The day's first database that nobody else writes to and that is not (known to be) damaged.

        Parameters
        ----------
        key : makes its chain; a database of another key, or of none, is passed over
        machine : name of this machine, whose rows are shipped; "" where they stay in their file

        Raises
        ------
        OSError, sqlite3.Error
            The place cannot be written to.
        """
        after = 0
        while True:
            file, lock = free_file(folder, day, after)
            after = file.worker
            file = file.spool(machine) if machine else file
            if file.path in damaged:
                lock.release()
                continue
            with suppress(LogDamaged):  # what is damaged stays as it is, for people to look at
                return cls(file, lock, key)

    def commit(self, rows: Sequence[Row], *, durable: bool, patient: bool = True) -> None:
        """Store rows in one transaction, chained to what was there.

        Parameters
        ----------
        durable : wait for the disk, so that a power cut loses nothing either
        patient : wait a moment where somebody else has the file; otherwise fail at once

        Raises
        ------
        LogDamaged
            Somebody else writes to this file, or it does not hold what was stored last.
        sqlite3.Error
            Nothing of it was stored.
        """
        if durable != self._is_durable:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._is_durable = durable
        if patient != self._is_patient:
            self._connection.execute(f"PRAGMA busy_timeout={_BUSY_MS if patient else 0}").fetchall()
            self._is_patient = patient
        salts = new_salts(len(rows))
        digests = [row_digest(row, salt) for row, salt in zip(rows, salts, strict=True)]
        head = next_head(self.head, digests, self._key)
        seq = self.seq
        connection = self._connection
        with Transaction(connection):
            self._check_end()
            new = self._add_lineages(rows)
            given, lineages = fields.LAYOUT.given, self._lineages | new if new else self._lineages
            values = [
                (seq + i, lineages[row.lineage.digest], salt, digest, None if i < len(rows) else head, *given(row))
                for i, (row, salt, digest) in enumerate(zip(rows, salts, digests, strict=True), start=1)
            ]
            if len(values) == 1:
                connection.execute(fields.LAYOUT.insert, values[0])
            else:
                connection.executemany(fields.LAYOUT.insert, values)
        self._lineages |= new
        self.seq, self.head = seq + len(rows), head
        self.rows_unsettled += len(rows)

    def takes(self, rows: Sequence[Row]) -> bool:
        """Whether all those rows are of the day of this file."""
        first, end = self._span_us
        return all(first <= row.at_us < end for row in rows)

    def is_gone(self) -> bool:
        """Whether somebody has removed or replaced the files under us.

        Raises
        ------
        OSError
            The place cannot be looked at.
        """
        return self._inodes_now() != self._inodes or _NO_FILE in self._inodes

    def rescue(self) -> OpenLog:
        """Write everything that was stored into a new file, as long as we can still read what was removed.

        It takes the old place, or the next free one where something else has it now. This log is closed once the new
        one is open, so that somebody always holds the rows.

        Raises
        ------
        OSError, sqlite3.Error
            The place cannot be written to; nothing is lost as long as this object lives.
        """
        file, lock = self._refuge()
        gone = self.shipped if file != self.file else 0  # under a new name, what was shipped would be shipped again
        try:
            with write_whole(file.path, mode=0o600) as draft:
                _copy(self._connection, draft, file, self._key, gone)
                self._remove_wal()
        except BaseException:
            lock.release()
            raise
        rescued = self._reopened(file, lock, self.seq - gone)
        rescued.shipped = self.shipped - gone
        self._connection.close()
        self._lock.release()
        return rescued

    def sync_ahead(self) -> None:
        """Bring the WAL file to the disk, from another thread, so that the next checkpoint need not wait for that.

        SQLite holds no lock on this file; a descriptor of the database itself must never be closed in this process,
        which would drop the locks on it.
        """
        with suppress(OSError):  # the checkpoint meets it again, and says so
            descriptor = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)

    def try_out(self) -> None:
        """Write a mark that is no row, to see whether the file can be written to.

        Raises
        ------
        sqlite3.Error
            It cannot.
        """
        self._connection.execute("INSERT OR REPLACE INTO fact VALUES('tried_at', unixepoch())")

    def checkpoint(self) -> None:
        """Move what the WAL file holds into the database, as far as readers allow."""
        self.rows_unsettled = 0
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def rows_of(self, pseudonyms: Sequence[bytes]) -> list[int]:
        """Numbers of the rows that are about any of these pseudonyms."""
        return rows_of_subjects(self._connection, pseudonyms)

    def forget(self, most: int) -> int:
        """Remove the first rows that were shipped, and are not the last one; how many.

        The last row stays, since the next commit is chained to it.

        Parameters
        ----------
        most : rows to remove at most

        Raises
        ------
        sqlite3.Error
            They are all still there.
        """
        last = min(self.shipped, self.seq - 1, self._first + most - 1)
        if last < self._first:
            return 0
        with Transaction(self._connection):
            gone = self._connection.execute("DELETE FROM entry WHERE seq <= ?", (last,)).rowcount
        self._first = last + 1
        self.rows_unsettled += gone
        return int(gone)

    def erase(self, pseudonyms: Sequence[bytes]) -> int:
        """Erase what the rows about these pseudonyms say, in the WAL file too; how many there were.

        Raises
        ------
        sqlite3.Error
            It was not done, or a reader keeps the WAL file from being emptied: do it again later.
        """
        erased = erase_subjects(self._connection, pseudonyms)
        settle_wholly(self._connection)
        self.rows_unsettled = 0
        return erased

    def close(self) -> None:
        """Checkpoint, close, and give up the lock.

        Leaves a file without WAL mode, where no reader is in the way: it can then be read by who may not write here.
        """
        try:
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA busy_timeout=0")
                self._connection.execute("PRAGMA journal_mode=DELETE").fetchall()
            self._connection.close()
        finally:
            self._lock.release()

    def _check_end(self) -> None:
        last = self._connection.execute("SELECT seq FROM entry ORDER BY seq DESC LIMIT 1").fetchone()
        if (0 if last is None else last[0]) != self.seq:
            raise LogDamaged(self.file.path.name, "does not end with the row that was stored last")

    def _reopened(self, file: LogFile, lock: FileLock, seq: int) -> OpenLog:
        problem = FileNotFoundError(f"{file.path.name} has vanished again")
        try:
            rescued = OpenLog(file, lock, self._key)
        except LogDamaged as error:  # so it is something else by now
            raise problem from error
        if rescued.seq != seq:
            rescued.close()
            raise problem
        return rescued

    def _remove_wal(self) -> None:
        """Remove our WAL file: whatever has the database's name by now is not what it belongs to."""
        if _identity(self._wal) in {self._inodes[1], _NO_FILE}:
            Path(self._wal).unlink(missing_ok=True)
            Path(f"{self._path}-shm").unlink(missing_ok=True)

    def _refuge(self) -> tuple[LogFile, FileLock]:
        """A place for what is to be rescued, and the lock on it."""
        if _identity(self._path) in {self._inodes[0], _NO_FILE}:
            if self._lock.is_there():
                return self.file, self._lock.again()
            with suppress(BlockingIOError):
                return self.file, FileLock(self.file.lock_path)
        worker = self.file.worker
        while True:
            file, lock = free_file(self.file.folder, self.file.day, worker)
            if self.file.origin:
                file = file.spool(self.file.origin.rpartition("-")[0])
            if not file.path.exists():
                return file, lock
            lock.release()
            worker = file.worker

    def _add_lineages(self, rows: Sequence[Row]) -> dict[bytes, int]:
        new: dict[bytes, int] = {}
        for lineage in {row.lineage for row in rows if row.lineage.digest not in self._lineages}:
            if lineage.digest not in new:
                new[lineage.digest] = self._lineage_id(lineage)
        return new

    def _lineage_id(self, lineage: Lineage) -> int:
        found = self._connection.execute("SELECT id FROM lineage WHERE digest=?", (lineage.digest,)).fetchone()
        if found is not None:
            return int(found[0])
        cursor = self._connection.execute(
            "INSERT INTO lineage(digest, facts) VALUES(?,?)", (lineage.digest, lineage.text)
        )
        return int(cursor.lastrowid or 0)

    def _inodes_now(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return _identity(self._path), _identity(self._wal)


_NO_FILE = (0, 0)


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - per commit
    except FileNotFoundError:
        return _NO_FILE
    return found.st_dev, found.st_ino


def _writing(file: LogFile, key: LogKey | None) -> tuple[sqlite3.Connection, int, bytes]:
    """The file's one writing connection, its tables made where it is new; number of its last row, head of its chain."""
    if file.path.exists() and not file.path.is_file():
        raise LogDamaged(file.path.name, "is no file")
    connection = sqlite3.connect(
        file.path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=False, cached_statements=32
    )
    try:
        last = 0, genesis_head(file, key)
        if fields.LAYOUT.format.version_of(connection, file.path.name):
            last = _last(connection, file, last, key)  # before anything is changed: what is damaged stays as it is
        _begin_wal(connection)
        connection.execute("PRAGMA secure_delete=ON").fetchall()  # pages keep no copies of rows that were moved
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        with Transaction(connection):
            if not fields.LAYOUT.format.bring_up_to_date(connection, file.path.name):
                connection.execute("INSERT INTO fact(name, value) VALUES('genesis', ?)", (last[1].hex(),))
                if key is not None:
                    connection.execute("UPDATE fact SET value = ? WHERE name = ?", (key.id, fields.KEY_FACT))
    except BaseException as error:
        connection.close()
        if says_damaged(error):
            raise LogDamaged(file.path.name, str(error)) from error
        raise
    return connection, *last


def _begin_wal(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
        raise sqlite3.OperationalError("no write-ahead log can be kept here")


def _copy(connection: sqlite3.Connection, draft: Path, file: LogFile, key: LogKey | None, gone: int) -> None:
    """A copy of what a connection reads, on the disk, as the file it will be, without its first ``gone`` rows."""
    with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
        if gone:
            with Transaction(copy):
                copy.execute("DELETE FROM entry WHERE seq <= ?", (gone,))
                copy.execute("UPDATE entry SET seq = seq - ?", (gone,))
        genesis = genesis_head(file, key)
        if copy.execute("SELECT value FROM fact WHERE name='genesis'").fetchone()[0] != genesis.hex():
            _chain_anew(copy, genesis, key)


def _chain_anew(copy: sqlite3.Connection, genesis: bytes, key: LogKey | None) -> None:
    """Chain the same commits to another beginning: a chain begins with the name of its file."""
    head, digests, heads = genesis, [], []
    for seq, digest, ends in copy.execute("SELECT seq, digest, head IS NOT NULL FROM entry ORDER BY seq"):
        digests.append(digest)
        if ends:
            head = next_head(head, digests, key)
            heads.append((head, seq))
            digests = []
    with Transaction(copy):
        copy.executemany("UPDATE entry SET head = ? WHERE seq = ?", heads)
        copy.execute("UPDATE fact SET value = ? WHERE name = 'genesis'", (genesis.hex(),))


def _empty() -> sqlite3.Connection:
    """What an empty log reads like."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    fields.LAYOUT.format.bring_up_to_date(connection, "")
    connection.row_factory = sqlite3.Row
    return connection


def says_damaged(error: BaseException) -> bool:
    """Whether SQLite's error is about what a file holds, and not about its place."""
    return type(error) is sqlite3.DatabaseError or (
        isinstance(error, sqlite3.OperationalError)
        and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR  # such as "no such table"
    )


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(
            f"file:{_quoted(path)}?mode={mode}",
            uri=True, timeout=_READ_BUSY_MS / 1000, isolation_level=None, check_same_thread=False,
        )  # fmt: skip
    except sqlite3.Error as error:
        if not path.exists():
            return _empty()
        raise LogDamaged(path.name, f"cannot be opened: {error}") from error
    try:
        is_made = fields.LAYOUT.format.open(connection, path.name, may_write=mode == "rw")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise LogDamaged(path.name, f"is no prediction log: {error}") from error
    except BaseException:
        connection.close()
        raise
    if not is_made:
        connection.close()
        return _empty()
    connection.row_factory = sqlite3.Row
    return connection


def _last(
    connection: sqlite3.Connection, file: LogFile, genesis: tuple[int, bytes], key: LogKey | None
) -> tuple[int, bytes]:
    """Number of the last row and head of the chain; those of its beginning where it has no row.

    Raises
    ------
    LogDamaged
        The chain is not made with that key, or the last row does not end a commit.
    """
    if key_of(connection) != ("" if key is None else key.id):
        raise LogDamaged(file.path.name, "is chained with another key, or with none")
    found = connection.execute(_LAST).fetchone()
    if found is None:
        return genesis
    if found[1] is None:
        raise LogDamaged(file.path.name, "its last row does not end a commit")
    return int(found[0]), bytes(found[1])


def says_unreadable(error: BaseException) -> bool:
    """Whether reading or writing a file failed below SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
