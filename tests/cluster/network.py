"""Machines as network namespaces on two bridges: clients reach a machine over one, it reaches the stores over the other.

A link is cut by setting its interface down, as a pulled cable would. Needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

__all__ = ["Host", "Network", "network"]

_NUMBERS = count(1)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass
class Host:
    """One machine.

    Attributes
    ----------
    name : of its namespace
    front, back : its addresses, for clients and towards the stores
    """

    name: str
    front: str
    back: str
    is_there: bool = field(default=True, repr=False)

    def command(self, command: Sequence[str]) -> list[str]:
        """The command as it is run on this machine."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut(self) -> None:
        """Cut it off from the stores. Clients still reach it."""
        _ip("link", "set", f"{self.name}b", "down")

    def heal(self) -> None:
        """Connect it with the stores again."""
        _ip("link", "set", f"{self.name}b", "up")

    def pids(self) -> list[int]:
        """Processes that run on it."""
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(line) for line in done.stdout.split()]

    def die(self) -> None:
        """End all its processes at once, and take it out of the network."""
        if not self.is_there:
            return
        self.is_there = False
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _ip("netns", "delete", self.name)


class Network:
    """Two bridges of this test run, with this (root) namespace on both: the stores and the balancer run here.

    Attributes
    ----------
    front, back : addresses of this side
    """

    def __init__(self) -> None:
        number = (os.getpid() * 7 + next(_NUMBERS)) % 250
        self._mark = f"s{os.getpid() % 100_000:05d}"
        self._base = {"f": f"10.231.{number}", "b": f"10.232.{number}"}
        self.front, self.back = f"{self._base['f']}.1", f"{self._base['b']}.1"
        self._hosts: list[Host] = []

    def begin(self) -> None:
        """Make the bridges."""
        for side, base in self._base.items():
            _ip("link", "add", self._bridge(side), "type", "bridge")
            _ip("address", "add", f"{base}.1/24", "dev", self._bridge(side))
            _ip("link", "set", self._bridge(side), "up")

    def host(self) -> Host:
        """A further machine."""
        number = len(self._hosts) + 2
        made = Host(f"{self._mark}m{number}", f"{self._base['f']}.{number}", f"{self._base['b']}.{number}")
        _ip("netns", "add", made.name)
        self._hosts.append(made)
        _ip("-n", made.name, "link", "set", "lo", "up")
        for side, address in (("f", made.front), ("b", made.back)):
            outside, inside = f"{made.name}{side}", f"eth{side}"
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", made.name)
            _ip("link", "set", outside, "master", self._bridge(side), "up")
            _ip("-n", made.name, "address", "add", f"{address}/24", "dev", inside)
            _ip("-n", made.name, "link", "set", inside, "up")
        return made

    def end(self) -> None:
        """Take everything away."""
        for host in self._hosts:
            with suppress(RuntimeError):
                host.die()
        for side in self._base:
            with suppress(RuntimeError):
                _ip("link", "delete", self._bridge(side))

    def _bridge(self, side: str) -> str:
        return f"{self._mark}{side}r"


@contextmanager
def network() -> Iterator[Network]:
    """A network that goes away with the block; skips the test where none can be made, and fails it in CI."""
    problem = ""
    if os.geteuid() or shutil.which("ip") is None:
        problem = "machines as network namespaces need root and iproute2 (Debian: apt-get install iproute2)"
    made = Network()
    if not problem:
        try:
            made.begin()
        except RuntimeError as error:
            problem = f"no network namespace can be made here: {error}"
    if problem:
        pytest.fail(problem) if os.environ.get("CI") else pytest.skip(problem)
    try:
        yield made
    finally:
        made.end()


def disk_of(host: Host, below: Path) -> Path:
    """Folder that stands for a machine's disk; it goes when the machine dies with its disk."""
    folder = below / host.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
