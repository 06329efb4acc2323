"""Machines as network namespaces on two bridges: clients reach a machine over one, it reaches the stores over the other.

A link is cut by setting its interface down, as a pulled cable would. Needs root and iproute2.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

__all__ = ["Host", "Network", "network"]

_MOST = 250
"""Networks of test runs on one machine; each has a subnet."""


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _take_away(namespace: str) -> None:
    """End what runs in a namespace, and delete it."""
    with suppress(RuntimeError):
        while pids := _ip("netns", "pids", namespace).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.01)
        _ip("netns", "delete", namespace)


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

    def die(self) -> None:
        """Go as in a power cut: first the cables, so that nothing is said any more, then all processes."""
        if not self.is_there:
            return
        self.is_there = False
        for side in "fb":
            with suppress(RuntimeError):
                _ip("link", "delete", f"{self.name}{side}")
        _take_away(self.name)


class Network:
    """Two bridges of this test run, with this (root) namespace on both: the stores and the balancer run here.

    Attributes
    ----------
    front, back : addresses of this side
    objects : a further address of this side, which can be taken away
    """

    def __init__(self) -> None:
        self._lock, number = _own_number()
        self._mark = f"sty{number}"
        self._base = {"f": f"10.231.{number}", "b": f"10.232.{number}"}
        self.front, self.back = f"{self._base['f']}.1", f"{self._base['b']}.1"
        self.objects = f"{self._base['b']}.254"
        self._made = 0
        self._hosts: list[Host] = []

    def begin(self) -> None:
        """Make the bridges, after what a run that was killed has left under their names."""
        self._clear()
        for side, base in self._base.items():
            _ip("link", "add", self._bridge(side), "type", "bridge")
            _ip("link", "set", self._bridge(side), "address", _hardware(f"{base}.1"))
            _ip("address", "add", f"{base}.1/24", "dev", self._bridge(side))
            _ip("link", "set", self._bridge(side), "up")
        self.join(self.objects)

    def join(self, address: str) -> None:
        """Have that address of the stores here."""
        _ip("address", "replace", f"{address}/24", "dev", self._bridge("b"))

    def leave(self, address: str) -> None:
        """Have it no more: who asks there gets no answer."""
        _ip("address", "delete", f"{address}/24", "dev", self._bridge("b"))

    def host(self, instead_of: Host | None = None) -> Host:
        """A further machine, or one with the addresses of a machine that is no more."""
        self._made += 1
        name, number = f"{self._mark}m{self._made}", self._made + 1
        if instead_of is None:
            made = Host(name, f"{self._base['f']}.{number}", f"{self._base['b']}.{number}")
        else:
            made = Host(name, instead_of.front, instead_of.back)
        _ip("netns", "add", made.name)
        self._hosts.append(made)
        _ip("-n", made.name, "link", "set", "lo", "up")
        for side, address in (("f", made.front), ("b", made.back)):
            outside, inside = f"{made.name}{side}", f"eth{side}"
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", made.name)
            # The same for the same address, as if a machine that is replaced told its neighbours so at once.
            _ip("-n", made.name, "link", "set", inside, "address", _hardware(address))
            _ip("link", "set", outside, "master", self._bridge(side), "up")
            _ip("-n", made.name, "address", "add", f"{address}/24", "dev", inside)
            _ip("-n", made.name, "link", "set", inside, "up")
        for address in (
            self.back,
            self.objects,
        ):  # known, as behind a router: else a second may go by until it is asked for
            neighbour = ("lladdr", _hardware(self.back), "dev", "ethb", "nud", "permanent")
            _ip("-n", made.name, "neighbour", "replace", address, *neighbour)
        return made

    def end(self) -> None:
        """Take everything away."""
        for host in self._hosts:
            host.die()
        self._clear()
        self._lock.close()

    def _clear(self) -> None:
        for line in _ip("netns", "list").splitlines():
            name = line.split()[0]
            if name.startswith(f"{self._mark}m"):
                _take_away(name)
        for side in self._base:
            with suppress(RuntimeError):
                _ip("link", "delete", self._bridge(side))

    def _bridge(self, side: str) -> str:
        return f"{self._mark}{side}r"


def _hardware(address: str) -> str:
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def _own_number() -> tuple[IO[str], int]:
    """A number that no other run on this machine has until the file is closed."""
    folder = Path(tempfile.gettempdir()) / "surety-test-networks"
    folder.mkdir(exist_ok=True)
    for number in range(1, _MOST):
        lock = (folder / str(number)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        return lock, number
    raise RuntimeError(f"{_MOST} networks of tests are in use")


@contextmanager
def network() -> Iterator[Network]:
    """A network that goes away with the block; skips the test where none can be made, and fails it in CI."""
    if os.geteuid():
        pytest.skip("machines as network namespaces need root (sudo make test-cluster)")
    if shutil.which("ip") is None:
        _cannot("machines as network namespaces need iproute2 (Debian: apt-get install iproute2)")
    made = Network()
    try:
        try:
            made.begin()
        except RuntimeError as error:
            _cannot(f"no network namespace can be made here: {error}")
        yield made
    finally:
        made.end()


def _cannot(told: str) -> None:
    pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
