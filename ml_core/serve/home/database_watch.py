"""Knows the newest documents of a home's database without being asked for them, and sends the newest reports.

One thread of a process listens for changes, and looks every half second in case it was not told. While the database is
away, it tries again and again, and says since when it has not reached it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg

from ml_core.base.errors import HomeUnreachable, SuretyError
from ml_core.serve.home.database_tables import BEAT, CHANGED, DOCUMENTS, PRESENCE
from ml_core.serve.home.postgres import HomeDatabase
from ml_core.serve.home.stores import Glimpse

__all__ = ["Watcher"]

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_RETRY_S = 0.2
_PROBE_S = 0.4
"""How long the port of a database that is away may take to answer, so that it is found again soon."""
_REACHED_S = 3.0
_LOOK = (
    "SELECT w.name, d.generation, extract(epoch FROM clock_timestamp() - d.written_at)::float8, "
    "CASE WHEN d.generation IS DISTINCT FROM w.known THEN d.content END, extract(epoch FROM clock_timestamp())::float8 "
    "FROM unnest(%s::text[], %s::bigint[]) AS w(name, known) LEFT JOIN surety.document d ON d.name = w.name"
)


@dataclass(frozen=True, slots=True)
class _Known:
    """A document as it was seen last: its content, generation, and the monotonic time when it was written."""

    content: bytes | None
    generation: int
    written_s: float | None


class Watcher:
    """What one process knows of its home's database; the thread starts with the first question.

    Parameters
    ----------
    database : of the home

    Attributes
    ----------
    clock_ahead_s : by how much this machine's time of day is ahead of the database's, as seen last
    """

    def __init__(self, database: HomeDatabase) -> None:
        self._database = database
        self._known: dict[str, _Known | None] = {}
        self._beats: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._seen_at = -math.inf
        self._changing = threading.Lock()
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._problem = ""
        self.clock_ahead_s = 0.0

    def glimpse(self, name: str) -> Glimpse:
        """What is known of a document. Only the first glimpse of a name asks the database."""
        if name not in self._known:
            self._begin_with(name)
        known, now = self._known[name], time.monotonic()
        if known is None:
            return Glimpse(None, None, math.inf)
        age = None if known.written_s is None else max(0.0, now - known.written_s)
        return Glimpse(known.content, age, max(0.0, now - self._seen_at))

    def wait(self, timeout_s: float) -> None:
        """Return after that time, or as soon as a known document has changed or the database is back."""
        if self._news.wait(timeout_s):
            self._news.clear()

    @property
    def is_cut_off(self) -> bool:
        """Whether the thread runs and has not reached the database lately."""
        return self._thread is not None and time.monotonic() - self._seen_at > _REACHED_S

    def beat(self, model_name: str, process: str, machine: str, report: bytes) -> None:
        """Send a report soon; one that was not sent yet is replaced."""
        with self._changing:
            self._beats[model_name, process] = (machine, report)
        self._start()

    def forget(self, model_name: str, process: str) -> None:
        """Do not send the report that waits."""
        with self._changing:
            self._beats.pop((model_name, process), None)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _begin_with(self, name: str) -> None:
        with self._changing:
            self._known.setdefault(name, None)
        if not self.is_cut_off and self._database.answers(_PROBE_S):
            with suppress(SuretyError, psycopg.Error):
                self._database.ready(DOCUMENTS)
                with self._database.transaction() as connection:
                    self._look(connection, [name])
        self._start()

    def _start(self) -> None:
        with self._changing:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="surety-home", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except (SuretyError, psycopg.Error) as error:
                self._say(str(error).strip().partition("\n")[0])
            except Exception:  # whatever goes wrong, this thread goes on
                logger.exception("home.look_failed")
            self._stopping.wait(_RETRY_S)

    def _follow(self) -> None:
        """Listen and look until the connection breaks or the thread is to end."""
        if not self._database.answers(_PROBE_S):
            raise HomeUnreachable(self._database.shown, "its port does not answer")
        with self._database.connect() as connection:
            self._database.ready(DOCUMENTS)
            self._database.ready(PRESENCE)
            connection.execute("SET synchronous_commit = off")  # of reports, the only thing that is written here
            connection.execute(f"LISTEN {CHANGED}")
            while not self._stopping.is_set():
                self._look(connection, list(self._known))
                self._say("")
                self._send(connection)
                for _ in connection.notifies(timeout=_LOOK_EVERY_S, stop_after=1):
                    pass

    def _look(self, connection: psycopg.Connection[Any], names: list[str]) -> None:
        asked_at, clock_s = time.monotonic(), time.time()
        generations = [0 if (known := self._known.get(name)) is None else known.generation for name in names]
        rows = connection.execute(_LOOK, (names, generations)).fetchall()
        now = time.monotonic()
        if rows:
            self.clock_ahead_s = clock_s + (now - asked_at) / 2 - rows[0][-1]
        for name, generation, age_s, content, _ in rows:
            self._take(name, generation, None if age_s is None else now - age_s, content)
        self._seen_at = max(self._seen_at, asked_at)

    def _take(self, name: str, generation: int | None, written_s: float | None, content: bytes | None) -> None:
        with self._changing:
            known = self._known.get(name)
            if known is not None and known.generation != (generation or 0):
                self._news.set()
            if generation is None:
                self._known[name] = _Known(None, 0, None)
            elif content is not None:
                if known is None or generation >= known.generation:  # a first glimpse may come in between
                    self._known[name] = _Known(bytes(content), generation, written_s)
            elif known is not None and known.generation == generation:
                self._known[name] = _Known(known.content, generation, written_s)

    def _send(self, connection: psycopg.Connection[Any]) -> None:
        with self._changing:
            beats, self._beats = self._beats, {}
        try:
            for (model_name, process), (machine, report) in beats.items():
                connection.execute(BEAT, (model_name, process, machine, report))
        except BaseException:
            with self._changing:
                self._beats = {**beats, **self._beats}
            raise

    def _say(self, problem: str) -> None:
        """Log when the database goes away, and when it is back."""
        if bool(problem) != bool(self._problem):
            if problem:
                logger.warning("home.away", extra={"reason": problem})
            else:
                logger.warning("home.back")
                self._news.set()
        self._problem = problem
