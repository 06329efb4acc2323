"""The processes of one server: which one this is, which of them report, and how long one has been missing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import psutil

from ml_core.base.clock import utc_now, utc_text
from ml_core.serve.rollout.worker_reports import WorkerReport, beating

__all__ = ["Identity", "ServerProcesses"]

_SAY_AFTER_S = 5.0
"""Workers of one server start, and are replaced, within a few seconds of each other."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which process this is.

    Attributes
    ----------
    server : the same for all processes that one ``bentoml serve`` has started, and for no others
    role, index : ``api`` or ``runner``, and its number there
    machine : its name
    """

    server: str
    role: Literal["api", "runner"]
    index: int
    pid: int
    started_at: str
    machine: str = ""

    @classmethod
    def of_this_process(cls, role: Literal["api", "runner"], index: int, machine: str = "") -> Identity:
        """The identity of this process; its server is the process that started it, on this host."""
        parent = psutil.Process().ppid()
        try:
            began = psutil.Process(parent).create_time() if parent else 0.0
        except psutil.Error:
            began = 0.0
        host = "".join(c for c in socket.gethostname() if c.isalnum())[:40]
        return cls(f"{host}-{parent}-{int(began * 100)}", role, index, os.getpid(), utc_text(utc_now()), machine)

    def report(self, **facts: Any) -> WorkerReport:
        """The report of this process, of now."""
        return WorkerReport(**asdict(self), beat_s=time.monotonic(), **facts)


class ServerProcesses:
    """Which processes of a server report, and since when one has been missing.

    Parameters
    ----------
    server : names the server, as in :class:`Identity`
    expected : how many processes there should be, by role
    pid : of this process. While its own report is missing, the folder is at fault and no process counts as lost
    clock : monotonic seconds, the clock of the reports
    is_running : whether there is a process of that id

    Attributes
    ----------
    alive : how many processes report, by role
    last_seen : ids of the processes that reported last, by role
    """

    def __init__(
        self,
        server: str,
        expected: Mapping[str, int],
        clock: Callable[[], float] = time.monotonic,
        *,
        pid: int | None = None,
        is_running: Callable[[int], bool] | None = None,
    ) -> None:
        self.server = server
        self.expected = dict(expected)
        self.alive = dict.fromkeys(expected, 0)
        self._clock = clock
        self._pid = pid
        self._is_running = is_running or _is_running
        self._missing_since: float | None = None
        self.last_seen: dict[str, frozenset[int]] = {}

    def look(self, reports: Iterable[WorkerReport]) -> list[WorkerReport]:
        """Take in the reports of now; returns those of lost processes of this server."""
        own = [r for r in reports if r.server == self.server]
        now = self._clock()
        living = beating(own, now)
        pids = {r.pid for r in living}
        if self._pid is not None and self._pid not in pids:
            self._missing_since = None
            return []
        for role in self.expected:
            of_role = frozenset(r.pid for r in living if r.role == role)
            # A process that was replaced at once still counts for a moment beside its successor.
            self.alive[role] = min(len(of_role), self.expected[role])
            if of_role:
                self.last_seen[role] = of_role
        if all(self.alive[role] >= n for role, n in self.expected.items()):
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = now
        return [r for r in own if r.pid not in pids]

    @property
    def missing_s(self) -> float:
        """Seconds for which at least one process has been missing; 0 where none is."""
        return 0.0 if self._missing_since is None else self._clock() - self._missing_since

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the processes that report are not those there should be, one sentence for each role."""
        seen = {role: len(self.last_seen.get(role, ())) for role in self.expected}
        short = self.missing_s > _SAY_AFTER_S
        return tuple(
            f"{self.alive[role] if short else seen[role]} processes of role {role} report, {n} are expected"
            for role, n in self.expected.items()
            if (short and self.alive[role] < n) or seen[role] > n
        )

    def has_lost(self, role: str) -> bool:
        """Whether processes of that role reported before, none does now, and none of them is running."""
        if self.alive.get(role, 0) or role not in self.last_seen:
            return False
        return not any(self._is_running(pid) for pid in self.last_seen[role])


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
