"""Counts the processes of one service: who reports, who is missing, and for how long."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psutil

from ml_core.clock import utc_now, utc_text
from ml_core.rollout.reports import WorkerReport, beating

__all__ = ["Census", "Identity"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Which process this is.

    Attributes
    ----------
    server : the same for all processes that one ``bentoml serve`` has started, and for no others
    role, index : ``api`` or ``runner``, and its number there
    """

    server: str
    role: str
    index: int
    pid: int
    started_at: str

    @classmethod
    def of_this_process(cls, role: str, index: int) -> Identity:
        """The identity of this process; its server is the process that started it, on this host."""
        parent = psutil.Process().ppid()
        try:
            began = psutil.Process(parent).create_time() if parent else 0.0
        except psutil.Error:
            began = 0.0
        host = "".join(c for c in socket.gethostname() if c.isalnum())[:40]
        return cls(f"{host}-{parent}-{int(began * 100)}", role, index, os.getpid(), utc_text(utc_now()))


class Census:
    """Looks at reports and remembers since when somebody is missing.

    Parameters
    ----------
    server : whose processes
    expected : how many there should be, by role
    clock : monotonic seconds, the clock of the reports
    """

    def __init__(self, server: str, expected: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self.server = server
        self._clock = clock
        self._missing_since: float | None = None
        self.expected = dict(expected)
        self.alive = dict.fromkeys(expected, 0)
        self.seen: set[str] = set()

    def look(self, reports: Iterable[WorkerReport]) -> list[WorkerReport]:
        """Take in what is reported now; the reports of lost processes of this server."""
        own = [r for r in reports if r.server == self.server]
        now = self._clock()
        living = beating(own, now)
        self.alive = {role: len({r.pid for r in living if r.role == role}) for role in self.expected}
        self.seen |= {role for role, n in self.alive.items() if n}
        if all(self.alive[role] >= n for role, n in self.expected.items()):
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = now
        pids = {r.pid for r in living}
        return [r for r in own if r.pid not in pids]

    @property
    def missing_s(self) -> float:
        """How long somebody has been missing without a break; 0 where nobody is."""
        return 0.0 if self._missing_since is None else self._clock() - self._missing_since

    def has_lost(self, role: str) -> bool:
        """Whether that role has reported before and does so no more."""
        return role in self.seen and self.alive.get(role, 0) == 0
