"""Stores answers before they are given.

In standard mode the event loop commits what has come once a turn: that needs no disk and takes some 30 us, far less
than handing rows to a thread and back. Whatever may take longer is done by one thread a worker, which also takes over
the commits while the store is busy, slow or broken: opening files, strict mode's waiting for the disk, checkpoints,
erasures, retries.

Standard mode gives an answer once it is committed, which survives a crash of any process; where the store fails,
answers go on, their rows wait in a bounded queue, and what does not fit is counted as lost. Strict mode also waits for
the disk, and gives no answer that is not stored.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ml_core.base.errors import ArtefactError, ConfigError, HomeUnreachable, LogDamaged, LogUnavailable
from ml_core.base.files import FileLock
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.database import OpenLog, says_damaged, says_unreadable
from ml_core.serve.log.entries import Row
from ml_core.serve.log.erasure_requests import pending_erasures
from ml_core.serve.log.log_files import day_after, day_gate, day_of
from ml_core.serve.log.log_records import LogRecords, publish_heads
from ml_core.serve.log.prediction_store import Backlog, LogCounts, Ticket, by_day, release

if TYPE_CHECKING:
    from ml_core.serve.log.shipping import Shipping  # its own imports are of the extra `cluster`

__all__ = ["LogWriter", "shipping_of"]

logger = logging.getLogger(__name__)

STANDARD_WAIT_S = 0.1
"""Longest an answer waits for its commit in standard mode; the row is stored a little later then."""
STRICT_WAIT_S = 1.0
_BATCH_ROWS = 1_000
_IDLE_S = 0.5
_LOOK_S = 0.1
"""How often the thread looks whether the files are still there while the event loop commits. The event loop does not:
a look at a disk that hangs would hold it. What is committed to a file that was removed meanwhile is still held open,
and is written again."""
_SETTLE_IDLE_ROWS, _SETTLE_ROWS = 200, 2_000
"""Rows in the WAL file from which on it is moved into the database: when nobody waits, and at the latest."""
_RETRY_FIRST_S, _RETRY_MOST_S = 0.1, 1.0
_ERASE_EVERY_S = 5.0
_SYNC_EVERY_S = 1.0
_PUBLISH_EVERY_S = 3_600.0
_QUICK_ROWS = 200
"""Most rows that the event loop commits in one turn."""
_SLOW_COMMIT_S, _AWAY_FIRST_S, _AWAY_MOST_S = 0.005, 1.0, 60.0
"""After a commit that held up the event loop for so long the thread commits instead, for a while that doubles."""
_SLOW = "it is slow"
_OF_THE_PLACE = (sqlite3.OperationalError, OSError, LogDamaged, MemoryError)
"""What says nothing about the rows: they can be stored later, or in another file."""


class LogWriter:
    """The log of one worker.

    Parameters
    ----------
    folder : of the model name's log
    is_strict : whether strict mode is on; asked at each call
    records : gives the key of the chains, and says which erasures were asked for; None for files without a key
    shipping : takes the rows on to the home's database; None where they stay in their files
    """

    def __init__(
        self,
        folder: Path,
        is_strict: Callable[[], bool] = lambda: False,
        records: LogRecords | None = None,
        shipping: Shipping | None = None,
    ) -> None:
        self._folder = folder
        self._records = records
        self._shipping = shipping
        self._is_strict = is_strict
        self._backlog = Backlog()
        self._hand: list[Ticket] = []
        self._damaged: set[Path] = set()
        self._sealed: set[str] = set()
        self._log: OpenLog | None = None
        self._problem = ""
        self._is_slow = False
        self._retry_at = 0.0
        self._retry_s = _RETRY_FIRST_S
        self._drop_at = float("inf")
        self._erase_at = 0.0
        self._publish_at = 0.0
        self._goes_on = True
        self._syncing: threading.Thread | None = None
        self._synced: tuple[OpenLog | None, int] = (None, 0)
        self._sync_at = 0.0
        self._seen = 0
        self._turn = threading.Lock()  # whoever has it may use the database
        self._here: list[Ticket] = []
        self._away_until, self._away_s = 0.0, _AWAY_FIRST_S
        self._thread = threading.Thread(target=self._run, name="surety-log", daemon=True)

    def start(self) -> None:
        """Open today's database, if that can be done, and store from now on."""
        self._thread.start()
        if self._shipping is not None:
            self._shipping.start(self)

    @property
    def counts(self) -> LogCounts:
        """What was done so far."""
        problem, shipping = self._problem or (_SLOW if self._is_slow else ""), self._shipping
        return self._backlog.counts(problem, None if shipping is None else shipping.counts)

    @property
    def spool(self) -> OpenLog | None:
        """The database that is written to now, only to be looked at."""
        return self._log

    @contextmanager
    def held(self) -> Iterator[OpenLog | None]:
        """Nobody else uses the database during the block. Never waits: None where it is in use, or none is open."""
        if not self._turn.acquire(blocking=False):
            yield None
            return
        try:
            yield self._log
        finally:
            self._turn.release()

    def leave(self, log: OpenLog) -> None:
        """Go on in another database, as soon as that can be done."""
        self._damaged.add(log.file.path)

    async def store(self, rows: Sequence[Row]) -> None:
        """Return once the rows are stored, or, in standard mode, as soon as waiting for it would hold up the answer.

        Raises
        ------
        LogUnavailable
            Strict mode, and they are not stored.
        """
        if not rows:
            return
        loop, strict = asyncio.get_running_loop(), self._is_strict()
        ticket = Ticket(rows, loop, strict=strict)
        waiting = ticket.future
        assert waiting is not None
        if not self._admitted(ticket):
            return
        if strict or self._problem or self._is_slow or loop.time() < self._away_until:
            self._backlog.queue((ticket,))
            if not strict and self._need_not_wait():
                return
            self._limit_wait(ticket)
        else:
            self._here.append(ticket)
            loop.call_soon(self._commit_here)  # the first of a turn commits for all of them
        try:
            stored = await waiting
        except asyncio.CancelledError:
            self._backlog.let_go(ticket)
            raise
        finally:
            if ticket.timer is not None:
                ticket.timer.cancel()
        if strict and not stored:
            raise LogUnavailable(self._problem or self._not_shipped or _SLOW)

    def missed(self, answers: int, problem: str) -> None:
        """Count answers whose rows could not even be brought here.

        Raises
        ------
        LogUnavailable
            Strict mode: they must not be given.
        """
        strict = self._is_strict()
        self._backlog.miss(answers, strict=strict)
        logger.error("log.not_stored", extra={"reason": problem, "answers": answers})
        if strict:
            raise LogUnavailable(problem)

    def close(self, timeout_s: float) -> None:
        """Store what waits, within that time; count the rest as lost; close the database."""
        self._drop_at = time.monotonic() + timeout_s
        here, self._here = self._here, []
        self._backlog.queue(here)
        if self._backlog.end() and self._thread.is_alive():
            self._thread.join(timeout_s + _RETRY_MOST_S)
        if self._shipping is not None:
            self._shipping.wait_until_shipped(max(0.0, self._drop_at - time.monotonic()))

    # --- on the event loop ---

    @property
    def _not_shipped(self) -> str:
        """Why the home's database takes nothing now; "" where it does, or where there is none."""
        return "" if self._shipping is None else self._shipping.problem

    def _admitted(self, ticket: Ticket) -> bool:
        """Take it in; where that cannot be, count it as lost, or refuse it in strict mode."""
        refused = ticket.strict and ((self._problem and time.monotonic() < self._retry_at) or self._not_shipped)
        if not refused and self._thread.is_alive() and self._backlog.admit(ticket):
            return True
        self._backlog.miss(ticket.answers, strict=ticket.strict)
        if ticket.strict:
            raise LogUnavailable(self._problem or self._not_shipped or "too many rows wait")
        return False

    def _need_not_wait(self) -> bool:
        """Whether an answer would wait in vain, and there is room enough to let callers come as fast as they like."""
        return bool(self._problem or self._is_slow) and not self._backlog.is_half_full

    def _commit_here(self) -> None:
        """Commit what has come in this turn of the event loop; leave it to the thread where that cannot be done now."""
        tickets, self._here = self._here, []
        if tickets and not self._committed_here(tickets):
            self._backlog.queue(tickets)
            for ticket in tickets:
                self._limit_wait(ticket)

    def _committed_here(self, tickets: list[Ticket]) -> bool:
        if self._is_syncing or not self._backlog.is_empty or not self._turn.acquire(blocking=False):
            return False
        began = time.monotonic()
        try:
            log, rows = self._log, [row for ticket in tickets for row in ticket.rows]
            if log is None or len(rows) > _QUICK_ROWS or log.rows_unsettled > 2 * _SETTLE_ROWS:
                return False
            if not log.takes(rows):
                return False
            log.commit(rows, durable=False, patient=False)
        except Exception:  # noqa: BLE001 - the thread tries again, and finds out what is wrong
            return False
        finally:
            self._turn.release()
            self._note_time(time.monotonic() - began)
        self._backlog.decide(tickets, stored=True)
        return True

    def _note_time(self, seconds: float) -> None:
        """Have the thread commit for a while where the event loop was held up."""
        if seconds > _SLOW_COMMIT_S:
            self._away_until = time.monotonic() + self._away_s
            self._away_s = min(2 * self._away_s, _AWAY_MOST_S)
        elif self._away_s > _AWAY_FIRST_S and time.monotonic() > self._away_until + self._away_s:
            self._away_s = _AWAY_FIRST_S

    def _limit_wait(self, ticket: Ticket) -> None:
        """End the caller's wait for the thread after a while."""
        if ticket.future is not None:
            limit_s = STRICT_WAIT_S if ticket.strict else STANDARD_WAIT_S
            ticket.timer = ticket.loop.call_later(limit_s, self._give_up, ticket, ticket.future)

    def _give_up(self, ticket: Ticket, waiting: asyncio.Future[bool]) -> None:
        fate = self._backlog.give_up(ticket)
        if fate is None and not ticket.strict:
            self._is_slow = True  # until the next commit, so that it does not cost every caller the whole wait
        if not waiting.done():
            waiting.set_result(fate == "stored")

    # --- on the thread ---

    def _run(self) -> None:
        """Work until told to end. No error ends this thread: one that nobody foresaw is a problem like any other."""
        self._guarded(self._begin)
        while self._goes_on:
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - see above
                self._goes_on = time.monotonic() < self._drop_at
                with self._turn:
                    self._failed(error)
        self._guarded(self._end)

    def _work(self) -> None:
        if self._problem:
            time.sleep(max(0.0, min(self._retry_at, self._drop_at) - time.monotonic()))
        more = True
        if not self._hand:
            before, self._seen = self._seen, self._seq
            self._hand, more = self._backlog.take(_BATCH_ROWS, _IDLE_S if self._seen == before else _LOOK_S)
        if self._hand or more:
            self._guarded(self._store if self._hand else self._rest)
        self._settle(idle=not self._hand)
        if time.monotonic() >= self._erase_at:
            self._guarded(self._erase_requested)
        if time.monotonic() >= self._publish_at:
            self._guarded(self._publish_head)
        self._goes_on = (more or bool(self._hand)) and time.monotonic() < self._drop_at

    def _guarded(self, step: Callable[[], None]) -> None:
        """Do something with the database, alone."""
        with self._turn:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - see _run
                self._failed(error)

    def _begin(self) -> None:
        """Open today's database: the first answer need not wait for that, and what is wrong shows early."""
        self._opened(_today())

    def _store(self) -> None:
        """Commit what is in hand. What may wait stays there where that fails."""
        self._hand = self._backlog.wanted(self._hand)
        for day, part in self._dated():
            log = self._opened(day)
            try:
                self._commit(log, part)
            except _OF_THE_PLACE:
                raise
            except Exception as error:
                if says_damaged(error):
                    raise
                self._store_one_by_one(log, part)

    def _store_one_by_one(self, log: OpenLog, tickets: Sequence[Ticket]) -> None:
        """A row that cannot be stored must not hold up the others."""
        for ticket in tickets:
            try:
                self._commit(log, [ticket])
            except _OF_THE_PLACE:
                raise
            except Exception as error:
                if says_damaged(error):
                    raise
                self._refuse(ticket, error)

    def _dated(self) -> list[tuple[str, list[Ticket]]]:
        """What is in hand by days. A row without a date must not hold up the others either."""
        try:
            return by_day(self._hand)
        except Exception:  # noqa: BLE001 - whichever row it is, each is looked at now
            parts = []
            for ticket in self._hand:
                try:
                    parts += by_day([ticket])
                except Exception as error:  # noqa: BLE001 - as above
                    self._refuse(ticket, error)
            return parts

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        logger.error("log.row_refused", extra={"reason": f"{type(error).__name__}: {error}"})
        self._decided([ticket], stored=False)

    def _commit(self, log: OpenLog, tickets: Sequence[Ticket]) -> None:
        strict, rows = any(ticket.strict for ticket in tickets), [row for ticket in tickets for row in ticket.rows]
        log.commit(rows, durable=strict and self._shipping is None)
        if strict and self._shipping is not None:
            try:
                self._shipping.ship_all_of(log)
            except Exception:  # noqa: BLE001 - it has told why; the rows are shipped later, and their callers must not wait
                self._backlog.withhold(tickets)
        self._decided(tickets, stored=True)
        self._recovered(log)  # after that, so that nobody finds the store slow once it has answered

    def _decided(self, tickets: Sequence[Ticket], *, stored: bool) -> None:
        self._backlog.decide(tickets, stored=stored)
        self._hand = [ticket for ticket in self._hand if ticket.fate is None]

    def _recovered(self, log: OpenLog) -> None:
        if self._problem:
            logger.warning("log.recovered", extra={"file": log.file.path.name})
        self._problem, self._retry_s, self._is_slow = "", _RETRY_FIRST_S, False

    def _failed(self, error: Exception) -> None:
        """Try again later; meanwhile give the answers, or refuse them in strict mode."""
        problem = f"{type(error).__name__}: {error}"
        if not self._problem:
            logger.error("log.not_stored", extra={"reason": problem})
        self._problem = problem
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _RETRY_MOST_S)
        with suppress(sqlite3.Error, OSError):
            self._leave_file(error)
        self._hand = self._backlog.kept(self._hand)
        release(self._hand, stored=False)

    def _leave_file(self, error: Exception) -> None:
        """Go on in the next file where this one is damaged, and open it afresh where it could not be read."""
        log = self._log
        damaged = isinstance(error, LogDamaged) or says_damaged(error)
        if log is None or not (damaged or (says_unreadable(error) and not log.is_gone())):
            return
        if damaged:
            self._damaged.add(log.file.path)
        self._log = None
        log.close()

    def _opened(self, day: str) -> OpenLog:
        if self._log is not None and self._log.is_gone():
            self._rescue(self._log)
        while day in self._sealed:
            day = day_after(day)
        if self._log is not None and (self._log.file.day != day or self._log.file.path in self._damaged):
            self._close_log(self._log)
        while self._log is None:
            self._log = self._opened_unless_sealed(day)
            day = day_after(day)
        return self._log

    def _opened_unless_sealed(self, day: str) -> OpenLog | None:
        """A file of that day; None where the day is sealed, or is being sealed, so that its rows go to the next one.

        Whoever seals holds the gate from before it lists the day's files until the journal says that the day is
        sealed. So he either finds our file, held, or we find the day sealed.
        """
        key = None if self._records is None else self._records.key()
        try:
            gate = FileLock(day_gate(self._folder, day), shared=True)
        except BlockingIOError:
            return None
        try:
            machine = "" if self._shipping is None else self._shipping.machine
            return None if self._is_sealed(day) else OpenLog.of_day(self._folder, day, self._damaged, key, machine)
        finally:
            gate.release()

    def _is_sealed(self, day: str) -> bool:
        """Whether the journal says so; only asked of days that are over, since no other day can be sealed."""
        if self._records is None or day >= _today():
            return False
        try:
            sealed = self._records.is_sealed(day)
        except (ConfigError, OSError, LogDamaged, HomeUnreachable):
            return True  # nobody can tell: a later file is always right
        if sealed:
            self._sealed.add(day)
        return sealed

    def _rescue(self, log: OpenLog) -> None:
        self._log = log.rescue()
        facts = {"file": log.file.path.name, "to": self._log.file.path.name, "rows": log.seq}
        logger.warning("log.rescued", extra=facts)

    def _close_log(self, log: OpenLog) -> None:
        self._publish_head()
        self._log = None
        log.close()

    def _rest(self) -> None:
        """What is done while nothing waits."""
        if self._log is not None and self._log.is_gone():
            self._rescue(self._log)
        today = _today()
        if self._problem:
            log = self._opened(today)
            log.try_out()
            self._recovered(log)
        elif self._log is not None and self._log.file.path in self._damaged:
            self._opened(today)
        elif self._log is not None and self._log.file.day < today:
            self._close_log(self._log)

    def _erase_requested(self) -> None:
        """Erase what somebody has asked to be erased from the file that only this thread may change."""
        self._erase_at = time.monotonic() + _ERASE_EVERY_S
        log = self._log
        if log is None or self._records is None or self._shipping is not None:  # which does it as well
            return
        try:
            for erasure in pending_erasures(self._records, log.file.path.name):
                rows = erasure.carry_out(log, log.file.path.name)
                logger.warning("log.erased", extra={"file": log.file.path.name, "rows": rows})
        except (sqlite3.Error, OSError, ArtefactError, ConfigError) as error:
            logger.warning("log.not_erased", extra={"reason": f"{type(error).__name__}: {error}"})

    def _publish_head(self) -> None:
        """Tell the service's own log how far the log has come."""
        self._publish_at = time.monotonic() + _PUBLISH_EVERY_S
        if self._log is None or self._records is None or self._shipping is not None:  # which does it as well
            return
        try:
            publish_heads(self._records, {self._log.file.path.name: (self._log.seq, self._log.head.hex())})
        except (OSError, ConfigError) as error:
            logger.warning("log.head_not_published", extra={"reason": f"{type(error).__name__}: {error}"})

    def _settle(self, *, idle: bool) -> None:
        """Bring rows to the disk about once a second, and the WAL file into the database where it has grown.

        A thread of its own syncs, because a disk that hangs shows there first. The event loop commits nothing
        meanwhile, so it is not held up by a disk that is slow or hangs.
        """
        log = self._log
        if log is None or self._is_syncing:
            return
        grown = log.rows_unsettled >= (_SETTLE_IDLE_ROWS if idle else _SETTLE_ROWS)
        synced_log, synced_seq = self._synced
        if grown and synced_log is log and synced_seq > log.seq - log.rows_unsettled:
            self._guarded(self._checkpoint)
        elif self._synced != (log, log.seq) and (grown or time.monotonic() >= self._sync_at):
            self._synced, self._sync_at = (log, log.seq), time.monotonic() + _SYNC_EVERY_S
            self._syncing = threading.Thread(target=log.sync_ahead, name="surety-log-sync", daemon=True)
            self._syncing.start()

    @property
    def _seq(self) -> int:
        """Number of the last row of the open file."""
        return 0 if self._log is None else self._log.seq

    @property
    def _is_syncing(self) -> bool:
        return self._syncing is not None and self._syncing.is_alive()

    def _checkpoint(self) -> None:
        try:
            if self._log is not None:
                self._log.checkpoint()
        except sqlite3.Error as error:
            logger.warning("log.not_settled", extra={"reason": str(error)})

    def _end(self) -> None:
        left = [*self._hand, *self._backlog.take(1 << 62, 0.0)[0]]
        self._decided(left, stored=False)
        try:
            if self._log is not None and self._log.is_gone():
                self._rescue(self._log)
            if self._log is not None:
                self._close_log(self._log)
        except (sqlite3.Error, OSError) as error:
            logger.error("log.not_closed", extra={"reason": f"{type(error).__name__}: {error}"})  # noqa: TRY400 - a traceback might quote values


def _today() -> str:
    return day_of(time.time_ns() // 1_000)


def shipping_of(settings: Settings, records: LogRecords) -> Shipping | None:
    """What ships the log of the configured model to the database of its home; None where the home is a folder."""
    home = open_home(settings)
    if home.database is None:
        return None
    from ml_core.serve.log.shipping import Shipping  # needs the extra `cluster`

    return Shipping(home.database, settings.model_name, settings.machine_name, settings.log, records, home.objects)
