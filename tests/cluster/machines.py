"""One service on several machines: a database, an object store and a balancer here, services and monitors on hosts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.network import Host, Network, disk_of, network
from tests.e2e.workplace import READY_WITHIN_S, ROOT, free_port
from tests.faults.place import FaultPlace, Served
from tests.object_server import object_server
from tests.oracles import cluster_packages
from tests.postgres import Server, server

__all__ = ["Cluster", "Machine", "cluster", "secrets_in"]

PORT = 3000
_HAPROXY = """
global
    maxconn 4000
defaults
    mode http
    timeout connect 2s
    timeout client 65s
    timeout server 65s
    option redispatch
    retries 3
    retry-on conn-failure
frontend surety
    bind 127.0.0.1:{port}
    default_backend machines
backend machines
    balance leastconn
    option httpchk
    http-check send meth GET uri /readyz
    http-check expect status 200
    default-server check inter 500ms fall 2 rise 2 maxconn 512
{servers}
"""


def secrets_in(folder: Path) -> dict[str, str]:
    """Keys that every machine must have, in files outside of database and objects; the settings that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"SURETY_SUBJECT_KEY_FILE": "subject.key", "SURETY_LOG_KEY_FILE": "log.key"}
    for name in names.values():
        path = folder / name
        if not path.exists():
            path.write_text("".join(f"{b:02x}" for b in os.urandom(32)) + "\n")
            path.chmod(0o600)
    return {variable: str(folder / name) for variable, name in names.items()}


@dataclass
class Machine:
    """A host with a disk of its own, on which services, monitors and commands run.

    Attributes
    ----------
    settings : environment variables of everything that runs on it
    """

    host: Host
    disk: Path
    settings: Mapping[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://{self.host.front}:{PORT}"

    @property
    def place(self) -> FaultPlace:
        """Its home and Bento store, for commands and for reading what lies there."""
        return FaultPlace(self.disk, self.settings["SURETY_MODEL_NAME"], dict(self.settings))

    def start(self, command: Sequence[str], log: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a program on it."""
        with (self.disk / log).open("ab") as out:
            process = subprocess.Popen(
                self.host.command(command), cwd=ROOT, env=self.place.environment(**more), stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def serve(self, workers: int = 2, **more: str) -> subprocess.Popen[bytes]:
        """Start the service; see :meth:`until_ready`."""
        command = [sys.executable, "-m", "bentoml", "serve", "service:Surety", "--host", "0.0.0.0", "--port", str(PORT)]
        return self.start(command, "serve.log", SURETY_WORKERS=str(workers), **more)

    def until_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until the service answers."""
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/readyz", timeout=2).status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError((self.disk / "serve.log").read_text(errors="replace")[-4_000:])

    def monitor(self, every: str = "1s", **more: str) -> subprocess.Popen[bytes]:
        """Start a monitor."""
        command = [sys.executable, "-m", "ml_core.cli.main", "monitor", "--every", every]
        return self.start(command, "monitor.log", **more)

    def surety(self, *arguments: str, status: int = 0) -> Any:
        """Run a command on it; as ``Workplace.surety``."""
        import json

        done = subprocess.run(
            self.host.command([sys.executable, "-m", "ml_core.cli.main", *arguments]),
            cwd=self.place.run, env=self.place.environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == status, (
            f"surety {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return json.loads(done.stdout) if done.stdout.strip() else None

    @property
    def served(self) -> Served:
        """Questions to its service."""
        return Served(self.address, self.processes[0].pid, self.disk / "serve.log", 0.0)

    def die(self) -> None:
        """It goes with its processes and its disk."""
        self.host.die()
        shutil.rmtree(self.disk, ignore_errors=True)


@dataclass
class Cluster:
    """Everything of one service.

    Attributes
    ----------
    settings : environment variables that are the same on all machines
    """

    network: Network
    database: Server
    folder: Path
    settings: Mapping[str, str]
    machines: list[Machine] = field(default_factory=list)

    def machine(self) -> Machine:
        """A further machine."""
        host = self.network.host()
        disk = disk_of(host, self.folder)
        for name in ("home", "bentoml", "run"):
            (disk / name).mkdir(exist_ok=True)
        made = Machine(host, disk, {**self.settings, "SURETY_MACHINE": f"m{len(self.machines) + 1}"})
        self.machines.append(made)
        return made

    @contextmanager
    def balanced(self) -> Iterator[int]:
        """Port of a balancer in front of all machines."""
        port = free_port()
        servers = "\n".join(f"    server m{i} {m.host.front}:{PORT}" for i, m in enumerate(self.machines, 1))
        config = self.folder / "haproxy.cfg"
        config.write_text(_HAPROXY.format(port=port, servers=servers))
        if shutil.which("haproxy") is None:
            told = "HAProxy is not installed (`make system-packages`)"
            pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
        process = subprocess.Popen(["haproxy", "-f", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield port
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def cluster(folder: Path, model: str = "readmission_risk", *, durable: bool = True) -> Iterator[Cluster]:
    """A cluster without machines: its database, its objects, its keys, its network."""
    packages = cluster_packages()
    with ExitStack() as stack:
        lan = stack.enter_context(network())
        database = stack.enter_context(server(listens_on=lan.back, durable=durable))
        objects = stack.enter_context(object_server(listens_on=lan.back))
        settings = {
            **objects.settings,
            **secrets_in(folder / "secrets"),
            "SURETY_DATABASE": database.new_database(),
            "SURETY_OBJECTS": objects.new_bucket(),
            "SURETY_MODEL_NAME": model,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{packages}",
        }
        made = Cluster(lan, database, folder, settings)
        try:
            yield made
        finally:
            for machine in made.machines:
                for process in machine.processes:
                    with suppress(ProcessLookupError):
                        process.send_signal(signal.SIGTERM)
