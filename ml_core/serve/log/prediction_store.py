"""Where answers are stored: what such a place must be able to do, and the bounded queue of rows that wait for it.

One such place exists: ``LogWriter``, SQLite files on this machine.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Literal, Protocol

from ml_core.serve.log.entries import Row
from ml_core.serve.log.log_files import day_of

__all__ = [
    "Backlog",
    "LogCounts",
    "LogOutcome",
    "MOST_WAITING_ROWS",
    "PredictionStore",
    "ShippingCounts",
    "Ticket",
    "by_day",
    "release",
]

LogOutcome = Literal["stored", "lost", "refused", "unanswered"]
"""What became of an answer: ``refused`` ones were not stored and their callers got an error; ``unanswered`` ones were
stored after a caller in strict mode had got an error."""


@dataclass(frozen=True, slots=True)
class ShippingCounts:
    """How much of what is stored on this machine waits for the home's database, in rows; a bulk call is one.

    Attributes
    ----------
    shipped : since the process started
    unshipped : now
    at_risk : most that have waited at one moment of the last ten seconds: about what is lost if the disk is lost now
    bytes : of the files they lie in
    oldest_s : how long the oldest of them has waited, at most
    problem : why nothing can be shipped now, "" where it can
    """

    shipped: int = 0
    unshipped: int = 0
    at_risk: int = 0
    bytes: int = 0
    oldest_s: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class LogCounts:
    """What a store has done, in answers.

    Attributes
    ----------
    stored, lost, refused, unanswered : by outcome
    pending : given, and still to be stored
    problem : why nothing can be stored now, "" where it can
    shipping : of the home's database; None where answers stay on this machine
    """

    stored: int = 0
    lost: int = 0
    refused: int = 0
    unanswered: int = 0
    pending: int = 0
    problem: str = ""
    shipping: ShippingCounts | None = None


class PredictionStore(Protocol):
    """Takes answers before they are given, and accounts for every one."""

    @property
    def counts(self) -> LogCounts:
        """What was done so far."""

    async def store(self, rows: Sequence[Row]) -> None:
        """Return once the rows are stored, or, in standard mode, as soon as waiting for it would hold up the answer.

        Raises
        ------
        LogUnavailable
            Strict mode, and they are not stored.
        """

    def missed(self, answers: int, problem: str) -> None:
        """Count answers whose rows could not even be brought here.

        Raises
        ------
        LogUnavailable
            Strict mode: they must not be given.
        """

    def close(self, timeout_s: float) -> None:
        """Store what waits, within that time, and count the rest as lost."""


MOST_WAITING_ROWS = 10_000
_DAY_US = 86_400_000_000


class Ticket:
    """Rows of one call, and the caller that waits for them.

    Attributes
    ----------
    answers : how many its rows stand for
    strict : the caller is not answered before the rows are stored
    given_up : a caller in strict mode has got an error already
    fate : what became of the rows, None while they wait
    """

    __slots__ = ("answers", "fate", "future", "given_up", "loop", "rows", "strict", "timer")

    def __init__(self, rows: Sequence[Row], loop: asyncio.AbstractEventLoop, *, strict: bool) -> None:
        self.rows = rows
        self.answers = rows[0].answers if len(rows) == 1 else sum(row.answers for row in rows)
        self.loop = loop
        self.future: asyncio.Future[bool] | None = loop.create_future()
        self.strict = strict
        self.given_up = False
        self.fate: LogOutcome | None = None
        self.timer: asyncio.TimerHandle | None = None


class Backlog:
    """Tickets in the order in which they came. Callers put them in on their event loops, one thread takes them out."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Ticket | None] = SimpleQueue()
        self._lock = threading.Lock()  # what is decided is decided once, and counted in the same moment
        self._rows = 0
        self._put = 0
        self._done: dict[LogOutcome, int] = {"stored": 0, "lost": 0, "refused": 0, "unanswered": 0}
        self._ended = False

    def counts(self, problem: str, shipping: ShippingCounts | None = None) -> LogCounts:
        """The counts, and the problem that keeps answers from being stored at present."""
        with self._lock:
            pending = self._put - sum(self._done.values())
            return LogCounts(**self._done, pending=pending, problem=problem, shipping=shipping)

    # --- for callers ---

    @property
    def is_half_full(self) -> bool:
        """Whether half of the room is taken."""
        return 2 * self._rows > MOST_WAITING_ROWS

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits for the thread."""
        return self._queue.empty()

    def admit(self, ticket: Ticket) -> bool:
        """Count it as pending, where there is room before the end. A call larger than all room waits alone."""
        with self._lock:
            if self._ended or (self._rows and self._rows + len(ticket.rows) > MOST_WAITING_ROWS):
                return False
            self._put += ticket.answers
            self._rows += len(ticket.rows)
        return True

    def queue(self, tickets: Iterable[Ticket]) -> None:
        """Leave admitted tickets to the thread."""
        for ticket in tickets:
            self._queue.put(ticket)

    def miss(self, answers: int, *, strict: bool) -> None:
        """Count answers that were never taken in."""
        outcome: LogOutcome = "refused" if strict else "lost"
        with self._lock:
            self._put += answers
            self._done[outcome] += answers

    def give_up(self, ticket: Ticket) -> LogOutcome | None:
        """The caller stops waiting; returns what has become of the rows by now."""
        with self._lock:
            ticket.given_up = ticket.strict and ticket.fate is None
            return ticket.fate

    def withhold(self, tickets: Iterable[Ticket]) -> None:
        """Their rows are stored, and those callers that must know them safer than that get an error."""
        with self._lock:
            strict = [ticket for ticket in tickets if ticket.strict]
            for ticket in strict:
                ticket.given_up = True
        release(strict, stored=False)

    def let_go(self, ticket: Ticket) -> None:
        """The caller has disconnected. The rows stay queued, and count as those of an answer that was given."""
        with self._lock:
            ticket.strict = False

    def end(self) -> bool:
        """Close the queue; False where it was closed already."""
        with self._lock:
            first, self._ended = not self._ended, True
            self._queue.put(None)
        return first

    # --- for the thread ---

    def take(self, most_rows: int, wait_s: float) -> tuple[list[Ticket], bool]:
        """Up to about ``most_rows`` queued rows, after waiting for the first; and whether more may come."""
        found: list[Ticket] = []
        rows = 0
        with suppress(Empty):
            ticket = self._queue.get(timeout=wait_s)
            while ticket is not None:
                found.append(ticket)
                rows += len(ticket.rows)
                if rows >= most_rows:
                    return found, True
                ticket = self._queue.get_nowait()
            return found, False
        return found, True

    def wanted(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """Tickets that are still to be stored; callers of the others have got an error."""
        return self._without(tickets, strict=False)

    def kept(self, tickets: Iterable[Ticket]) -> list[Ticket]:
        """Tickets that may wait until the store works again; the others are refused."""
        return self._without(tickets, strict=True)

    def decide(self, tickets: Sequence[Ticket], *, stored: bool) -> None:
        """Count what became of them, and tell their callers."""
        with self._lock:
            for ticket in tickets:
                self._decide(ticket, stored=stored)
        release(tickets, stored=stored)

    def _without(self, tickets: Iterable[Ticket], *, strict: bool) -> list[Ticket]:
        left, refused = [], []
        with self._lock:
            for ticket in tickets:
                if ticket.given_up or (strict and ticket.strict):
                    self._decide(ticket, stored=False)
                    refused.append(ticket)
                else:
                    left.append(ticket)
        release(refused, stored=False)
        return left

    def _decide(self, ticket: Ticket, *, stored: bool) -> None:
        if stored:
            ticket.fate = "unanswered" if ticket.given_up else "stored"
        else:
            ticket.fate = "refused" if ticket.given_up or ticket.strict else "lost"
        self._done[ticket.fate] += ticket.answers
        self._rows -= len(ticket.rows)


def by_day(tickets: Sequence[Ticket]) -> list[tuple[str, list[Ticket]]]:
    """Tickets by the day of their first row, in their order; almost always one day."""
    parts = groupby(sorted(tickets, key=_day_number), key=_day_number)
    found = [list(part) for _, part in parts]
    return [(day_of(part[0].rows[0].at_us), part) for part in found]


def _day_number(ticket: Ticket) -> int:
    return ticket.rows[0].at_us // _DAY_US


def release(tickets: Sequence[Ticket], *, stored: bool) -> None:
    """Tell all callers that still wait, one wake-up for each event loop."""
    waiting: dict[asyncio.AbstractEventLoop, list[asyncio.Future[bool]]] = {}
    for ticket in tickets:
        if ticket.future is not None:
            waiting.setdefault(ticket.loop, []).append(ticket.future)
            ticket.future = None
    for loop, theirs in waiting.items():
        if loop is asyncio._get_running_loop():  # noqa: SLF001 - documented, and None instead of an error in a thread
            _settle(theirs, stored)
            continue
        with suppress(RuntimeError):  # its event loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(_settle, theirs, stored)


def _settle(futures: Sequence[asyncio.Future[bool]], stored: bool) -> None:  # noqa: FBT001 - a callback's argument
    for future in futures:
        if not future.done():
            future.set_result(stored)
