"""Ships what a worker has stored on its disk to the home's database, from a thread of its own, and empties the disk.

Answers are stored in a SQLite file first, as on one machine: the spool. Five times a second this thread sends what is
new, and removes what has arrived. While the database is away the spool grows, and is shipped once it is back. Spools
that a process has left behind are shipped by whichever worker finds them.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ml_core.base.errors import ArtefactError, ConfigError, SpoolForked
from ml_core.base.files import FileLock
from ml_core.serve.home.postgres import HomeDatabase, schema_of
from ml_core.serve.home.stores import Objects
from ml_core.serve.log.database import ClosedDatabase, Erasable, OpenLog, open_for_change, open_for_reading
from ml_core.serve.log.erasure_requests import Erasure, pending_erasures
from ml_core.serve.log.log_files import LogFile, day_of, log_files
from ml_core.serve.log.log_records import LogRecords, publish_heads
from ml_core.serve.log.prediction_store import ShippingCounts
from ml_core.serve.log.rehoming import rows_to_store_again
from ml_core.serve.log.shipped_place import ShippedPlace
from ml_core.serve.log.shipped_spools import ShippedSpool, ShippedSpools, rows_after

__all__ = ["Shipping"]

logger = logging.getLogger(__name__)

_EVERY_S = 0.2
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 2.0
_LOOK_S = 1.0
"""How often spools are looked for that nobody writes to."""
_ERASE_EVERY_S = 5.0
_FORGET_ROWS, _FORGET_S, _FORGET_AT_A_TIME = 1_000, 1.0, 200
"""So many shipped rows are removed at a time, each time with the event loop's commits kept waiting; or all, after a
second."""
_PEAK_S = 10.0
_PUBLISH_EVERY_S = 3_600.0


class Spooler(Protocol):
    """Who writes the spool of this process."""

    @property
    def spool(self) -> OpenLog | None:
        """The spool that is written to now, only to be looked at."""

    def held(self) -> AbstractContextManager[OpenLog | None]:
        """Nobody else uses the spool during the block. Never waits: None where it is in use, or there is none."""

    def leave(self, log: OpenLog) -> None:
        """Go on in another spool, as soon as that can be done."""


@dataclass(slots=True)
class _Spool:
    """A spool that is open for reading.

    Attributes
    ----------
    known : how far it was shipped; None where that must be asked
    shipped : number of the last row that is known to be in the database
    lineages : digest and facts by their numbers
    lock, last : of a spool that nobody writes to: held, and the number of its last row
    """

    file: LogFile
    connection: sqlite3.Connection
    known: ShippedSpool | None = None
    shipped: int = 0
    lineages: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    lock: FileLock | None = None
    last: int = 0

    def close(self) -> None:
        self.connection.close()
        if self.lock is not None:
            self.lock.release()


class Shipping:
    """Ships the spools of one process.

    Parameters
    ----------
    database : of the home
    model : whose log it is
    machine : name of this machine
    folder : of the spools, on a local disk
    records : says which erasures were asked for; None where nobody can ask
    objects : keep files of bulk calls; None where each machine keeps its own
    """

    def __init__(
        self,
        database: HomeDatabase,
        model: str,
        machine: str,
        folder: Path,
        records: LogRecords | None = None,
        objects: Objects | None = None,
    ) -> None:
        self.machine = machine
        self._folder = folder
        self._records = records
        self._place = ShippedPlace(database, model, folder, objects)
        self._spools = ShippedSpools(database, schema_of(model), self._place.keep)
        self._spooler: Spooler | None = None
        self._now: _Spool | None = None
        self._left: dict[str, _Spool] = {}
        self._turn = threading.Lock()  # whoever has it may use what this object has open
        self._wake = threading.Event()
        self._ends_at = float("inf")
        self._goes_on = True
        self._problem = ""
        self._retry_at, self._retry_s = 0.0, _RETRY_FIRST_S
        self._looks_at = self._erases_at = self._forgets_at = self._publishes_at = 0.0
        self._arrived_at = time.monotonic()
        self._shipped = self._bytes = 0
        self._peaks: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._run, name="surety-log-shipping", daemon=True)

    def start(self, spooler: Spooler) -> None:
        """Ship from now on."""
        self._spooler = spooler
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why nothing can be shipped now; "" where it can."""
        return self._problem

    @property
    def counts(self) -> ShippingCounts:
        """How much waits for the database."""
        now, behind = time.monotonic(), self._waiting()
        peak = max([behind, *(n for at, n in list(self._peaks) if now - at <= _PEAK_S)])
        age = now - self._arrived_at if behind else 0.0
        return ShippingCounts(self._shipped, behind, peak, self._bytes if behind else 0, round(age, 3), self._problem)

    def _waiting(self) -> int:
        """How many rows wait for the database."""
        log = None if self._spooler is None else self._spooler.spool
        own = 0 if log is None else min(log.seq - log.shipped, log.kept)
        return own + sum(max(0, spool.last - spool.shipped) for spool in list(self._left.values()))

    def ship_all_of(self, log: OpenLog) -> None:
        """Return once the database has every row of a spool that the caller holds.

        Raises
        ------
        Exception
            It has not, as far as is known; the rows stay in the spool, and are shipped later.
        """
        with self._turn:
            try:
                self._ship_current(log)
                self._well()
            except Exception as error:
                self._failed(error)
                raise

    def wait_until_shipped(self, timeout_s: float) -> None:
        """Ship what is left, within that time; called once the worker has closed its database."""
        self._ends_at = time.monotonic() + timeout_s
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s + _RETRY_MOST_S)
        with self._turn:
            self._spools.close()

    # --- on the thread ---

    def _run(self) -> None:
        while self._goes_on:
            self._wake.wait(max(0.0, min(_EVERY_S, self._ends_at - time.monotonic())))
            self._wake.clear()
            with self._turn:
                self._guarded()
        with self._turn:
            for spool in (self._now, *self._left.values()):
                if spool is not None:
                    spool.close()
            self._now, self._left = None, {}

    def _guarded(self) -> None:
        """One round. Nothing that goes wrong ends the thread."""
        now = time.monotonic()
        is_ending = self._ends_at < float("inf")
        try:
            self._count()
            if is_ending or now >= self._retry_at:
                self._round(now, is_ending=is_ending)
                self._well()
        except Exception as error:  # noqa: BLE001 - see above
            self._failed(error)
        self._goes_on = not is_ending or (bool(self._left or self._waiting()) and now < self._ends_at)

    def _round(self, now: float, *, is_ending: bool) -> None:
        assert self._spooler is not None
        if self._problem:
            self._spools.try_out()
        log = self._spooler.spool
        if log is None:
            self._part_from_current()
        else:
            self._ship_current(log)
            self._empty(log)
        if now >= self._looks_at or is_ending:
            self._looks_at = now + _LOOK_S
            self._look_for_others(log)
        for spool in list(self._left.values()):
            self._ship_left(spool)
        self._look_after(log, now)
        self._count()

    def _ship_current(self, log: OpenLog) -> None:
        spool, began = self._current(log), time.monotonic()
        try:
            while spool.shipped < log.seq and self._ship_some(spool):
                log.shipped = spool.shipped
            log.shipped = spool.shipped  # all of it may have been there before this process
        except SpoolForked as forked:
            assert self._spooler is not None
            self._spooler.leave(log)
            logger.warning("log.spool_left", extra={"file": log.file.name, "reason": str(forked)})
            raise
        self._arrived_at = began

    def _current(self, log: OpenLog) -> _Spool:
        if self._now is None or self._now.file != log.file:
            self._part_from_current()
            self._now = _Spool(log.file, _reader(log.file))
            log.shipped = 0
        return self._now

    def _part_from_current(self) -> None:
        if self._now is not None:
            self._now.close()
            self._now = None

    def _ship_some(self, spool: _Spool) -> bool:
        """Ship the next rows of a spool; False where there are none."""
        if spool.known is None:
            spool.known = self._spools.begin(spool.file, spool.connection)
            spool.shipped = spool.known.shipped
        known, some = spool.known, rows_after(spool.connection, spool.shipped)
        if some is None:
            return False
        spool.known = None  # until it is known what has become of the rows
        spool.known = self._spools.take(spool.file, known, some, _lineages(spool, some.rows))
        spool.shipped = spool.known.shipped
        self._shipped += len(some.rows)
        return True

    def _empty(self, log: OpenLog) -> None:
        """Remove what was shipped, a little at a time, so that no answer waits for long."""
        assert self._spooler is not None
        done, now = log.kept - (log.seq - log.shipped), time.monotonic()
        if done <= 1 or (done < _FORGET_ROWS and now < self._forgets_at):
            return
        self._forgets_at, gone = now + _FORGET_S, 1
        try:
            while gone:
                with self._spooler.held() as held:
                    gone = log.forget(_FORGET_AT_A_TIME) if held is log else 0
        except sqlite3.Error as error:  # to remove rows takes room, and to remove the file takes none
            logger.warning("log.spool_left", extra={"file": log.file.name, "reason": str(error)})
            self._spooler.leave(log)

    def _look_for_others(self, log: OpenLog | None) -> None:
        """Take over spools that nobody writes to."""
        for file in log_files(self._folder):
            if file.name in self._left or (log is not None and file == log.file):
                continue
            try:
                lock = FileLock(file.lock_path)
            except BlockingIOError:
                continue
            if not file.path.exists():  # its holder has shipped it since it was listed
                lock.release()
                continue
            try:
                self._left[file.name] = _Spool(file, _reader(file), lock=lock)
                self._left[file.name].last = _last(self._left[file.name])
            except BaseException:
                lock.release()
                raise

    def _ship_left(self, spool: _Spool) -> None:
        """Ship a spool that nobody writes to, and remove it once the database has all of it."""
        if not spool.last:  # nothing was ever stored in it, or it was never wholly made
            self._remove(spool)
            return
        try:
            while (spool.shipped < spool.last or spool.known is None) and self._ship_some(spool):
                pass
        except SpoolForked as forked:
            self._rehome(spool, forked)
            return
        if spool.known is not None and spool.shipped >= spool.last:
            self._spools.is_whole(spool.known)
            if spool.known.head is not None:
                self._publish(spool.file, spool.known.shipped, spool.known.head)
            self._remove(spool)

    def _rehome(self, spool: _Spool, forked: SpoolForked) -> None:
        """Store anew, in the file that is written to now, what a spool has and the database has not."""
        assert self._spooler is not None
        with self._spooler.held() as log:
            if log is None:  # in the next round
                return
            rows = rows_to_store_again(spool.file, self._spools)
            if rows:
                log.commit(rows, durable=False)
        logger.warning("log.spool_rehomed", extra={"file": spool.file.name, "rows": len(rows), "reason": str(forked)})
        self._remove(spool)

    def _remove(self, spool: _Spool) -> None:
        path = str(spool.file.path)
        spool.connection.close()
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
        if spool.file.day < day_of(time.time_ns() // 1_000):
            spool.file.lock_path.unlink(missing_ok=True)
        self._left.pop(spool.file.name, None)
        spool.close()

    def _count(self) -> None:
        """Count what waits."""
        assert self._spooler is not None
        now, log, behind = time.monotonic(), self._spooler.spool, self._waiting()
        files = [spool.file for spool in self._left.values()] + ([] if log is None else [log.file])
        self._bytes = sum(map(_size, files)) if behind else 0
        self._peaks = [(at, n) for at, n in self._peaks if now - at <= _PEAK_S]
        if behind:
            self._peaks.append((now, behind))

    def _look_after(self, log: OpenLog | None, now: float) -> None:
        """Obey who asked for an erasure, and tell the service's own log how far the spool has come."""
        if self._records is None:
            return
        if now >= self._erases_at:
            self._erases_at = now + _ERASE_EVERY_S
            self._erase(self._records, log)
        if log is not None and now >= self._publishes_at:
            self._publishes_at = now + _PUBLISH_EVERY_S
            self._publish(log.file, log.seq, log.head)

    def _erase(self, records: LogRecords, log: OpenLog | None) -> None:
        assert self._spooler is not None
        try:
            if log is not None:
                for erasure in pending_erasures(records, log.file.name):
                    with self._spooler.held() as held:
                        if held is log:
                            self._carry_out(erasure, log, log.file)
            for spool in self._left.values():
                for erasure in pending_erasures(records, spool.file.name):
                    with closing(open_for_change(spool.file.path)) as connection:
                        self._carry_out(erasure, ClosedDatabase(connection), spool.file)
        except (sqlite3.Error, OSError, ArtefactError, ConfigError) as error:
            logger.warning("log.not_erased", extra={"reason": f"{type(error).__name__}: {error}"})

    def _carry_out(self, erasure: Erasure, log: Erasable, file: LogFile) -> None:
        rows = erasure.carry_out(_Everywhere(log, self._place, file), file.name)
        logger.warning("log.erased", extra={"file": file.name, "rows": rows})

    def _publish(self, file: LogFile, seq: int, head: bytes) -> None:
        if self._records is None:
            return
        try:
            publish_heads(self._records, {file.name: (seq, head.hex())})
        except (OSError, ConfigError) as error:
            logger.warning("log.head_not_published", extra={"reason": f"{type(error).__name__}: {error}"})

    def _well(self) -> None:
        if self._problem:
            logger.warning("log.shipping_recovered", extra={"unshipped": self._waiting()})
        self._problem, self._retry_at, self._retry_s = "", 0.0, _RETRY_FIRST_S

    def _failed(self, error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        if not self._problem:
            logger.error("log.not_shipped", extra={"reason": problem})
        self._problem = problem
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _RETRY_MOST_S)
        for spool in (self._now, *self._left.values()):
            if spool is not None:
                spool.known = None  # asked anew
        with suppress(Exception):
            self._part_from_current()


class _Everywhere:
    """The rows of one spool, here and in the database. Nothing is shipped meanwhile, since this is who ships."""

    def __init__(self, here: Erasable, place: ShippedPlace, file: LogFile) -> None:
        self._here = here
        self._place = place
        self._file = file

    def rows_of(self, pseudonyms: Sequence[bytes]) -> list[int]:
        """Numbers of the rows that are about any of these pseudonyms."""
        return sorted({*self._here.rows_of(pseudonyms), *self._place.rows_of(self._file, pseudonyms)})

    def erase(self, pseudonyms: Sequence[bytes]) -> int:
        """Erase what those rows say; how many there were."""
        rows = len(self.rows_of(pseudonyms))
        self._here.erase(pseudonyms)
        self._place.erase_rows(self._file, pseudonyms)
        return rows


def _reader(file: LogFile) -> sqlite3.Connection:
    connection = open_for_reading(file.path)
    connection.row_factory = None
    return connection


def _last(spool: _Spool) -> int:
    return int(spool.connection.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()[0])


def _lineages(spool: _Spool, rows: Sequence[Sequence[Any]]) -> dict[int, tuple[bytes, bytes]]:
    """Digest and facts of the spool's lineages; read again where a row names a new one."""
    if not {row[0] for row in rows} <= spool.lineages.keys():
        found = spool.connection.execute("SELECT id, digest, facts FROM lineage")
        spool.lineages = {number: (digest, facts) for number, digest, facts in found}
    return spool.lineages


def _size(file: LogFile) -> int:
    total = 0
    for end in ("", "-wal"):
        with suppress(OSError):
            total += Path(f"{file.path}{end}").stat().st_size
    return total
