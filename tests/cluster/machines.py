"""One service on several machines: a database, an object store and a balancer here, services and monitors on hosts."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_core.base.settings import Settings
from tests.cluster.network import Host, Network, network
from tests.e2e.workplace import READY_WITHIN_S, ROOT, free_port
from tests.faults.place import PROBE, FaultPlace, Served
from tests.object_server import Bucketeer, object_server
from tests.oracles import cluster_packages
from tests.postgres import Server, server

__all__ = ["Cluster", "Machine", "MachinePlace", "at_another_time", "cluster"]

PORT = 3000
BALANCER = ROOT / "deploy" / "compose" / "haproxy.cluster.cfg"


class MachinePlace(FaultPlace):
    """Home and Bento store of a machine."""

    @property
    def settings(self) -> Settings:
        """Of this process, which reaches the database as another machine does."""
        return Settings(
            home=self.home, model_name=self.model, database=self.more["SURETY_DATABASE"], machine=self.more["SURETY_MACHINE"]
        )  # fmt: skip


@dataclass
class Machine:
    """A host with a disk of its own, on which a service, a monitor and commands run.

    Attributes
    ----------
    settings : environment variables of everything that runs on it
    headers : of every question to its service
    runs : what runs on it, by ``serve`` and ``monitor``
    """

    host: Host
    disk: Path
    settings: Mapping[str, str]
    headers: Mapping[str, str]
    runs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As answers and ``/status`` have it."""
        return self.settings["SURETY_MACHINE"]

    @property
    def address(self) -> str:
        return f"http://{self.host.front}:{PORT}"

    @property
    def place(self) -> MachinePlace:
        """Its home and Bento store, for commands of this process and for reading what lies there."""
        return MachinePlace(self.disk, self.settings["SURETY_MODEL_NAME"], dict(self.settings))

    @property
    def served(self) -> Served:
        """Questions to its service."""
        return Served(self.address, self.runs["serve"].pid, self.disk / "serve.log", 0.0, self.headers)

    def is_running(self, what: str) -> bool:
        """Whether its service or monitor runs."""
        return what in self.runs and self.runs[what].poll() is None

    def serve(self, workers: int = 2, **more: str) -> None:
        """Start the service, whose model can be broken; see :meth:`until_ready`."""
        place = self.place
        if not place.fault_file.exists():
            place.break_model()
        command = [sys.executable, "-m", "bentoml", "serve", "service:Surety", "--host", "0.0.0.0", "--port", str(PORT)]
        path = f"{PROBE}{os.pathsep}{self.settings['PYTHONPATH']}"
        fault = {"PYTHONPATH": path, "SURETY_TEST_FAULT": str(place.fault_file)}
        self._start("serve", command, SURETY_WORKERS=str(workers), **fault, **more)

    def monitor(self, every: str = "1s", **more: str) -> None:
        """Start a monitor."""
        self._start("monitor", [sys.executable, "-m", "ml_core.cli.main", "monitor", "--every", every], **more)

    def _start(self, what: str, command: Sequence[str], **more: str) -> None:
        with (self.disk / f"{what}.log").open("ab") as out:
            self.runs[what] = subprocess.Popen(
                self.host.command(command), cwd=ROOT, env=self.place.environment(**more), stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    def stop(self, what: str) -> None:
        """End its service or monitor in good order."""
        process = self.runs.pop(what, None)
        if process is not None:
            process.terminate()
            process.wait(60)

    def kill(self, what: str) -> None:
        """End its monitor at once."""
        process = self.runs.pop(what)
        process.kill()
        process.wait(10)

    def until_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until the service answers."""
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/readyz", timeout=2).status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError((self.disk / "serve.log").read_text(errors="replace")[-4_000:])

    def command(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command on it, as far as it goes."""
        return subprocess.run(
            self.host.command([sys.executable, "-m", "ml_core.cli.main", *arguments]),
            cwd=self.place.run, env=self.place.environment(**more), capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    def surety(self, *arguments: str, status: int = 0) -> Any:
        """Run a command on it, expect that exit status, and return its result."""
        done = self.command(*arguments)
        assert done.returncode == status, (
            f"surety {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return json.loads(done.stdout) if done.stdout.strip() else None

    def obeyed_at(self, generation: int) -> list[float]:
        """When each worker began to obey that generation or, where it skipped it, a later one; seconds since 1970."""
        lines = [(line["generation"], line["time"]) for line in self.served.logged("rollout.obeyed")]
        first = min((g for g, _ in lines if g >= generation), default=None)
        return [datetime.fromisoformat(at).timestamp() for g, at in lines if g == first]

    def die(self) -> None:
        """It goes with its processes and its disk."""
        self.host.die()
        for process in self.runs.values():
            process.wait(10)
        self.runs.clear()
        shutil.rmtree(self.disk, ignore_errors=True)


@dataclass
class Cluster:
    """Everything of one service.

    Attributes
    ----------
    settings : environment variables that are the same on all machines
    headers : of every question to the service: the key of the tests
    lost : names of machines that are no more
    """

    network: Network
    database: Server
    objects: Bucketeer
    folder: Path
    settings: Mapping[str, str]
    headers: dict[str, str] = field(default_factory=dict)
    machines: list[Machine] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _made: int = 0

    def machine(self, instead_of: Machine | None = None) -> Machine:
        """A further machine, or one with the address of a machine that is no more."""
        host = self.network.host(None if instead_of is None else instead_of.host)
        self._made += 1
        name = f"m{self._made}"
        disk = self.folder / name
        for part in ("home", "bentoml", "run"):
            (disk / part).mkdir(parents=True)
        made = Machine(host, disk, {**self.settings, "SURETY_MACHINE": name}, self.headers)
        if instead_of is None:
            self.machines.append(made)
        else:
            self.machines[self.machines.index(instead_of)] = made
            self.lost.append(instead_of.name)
        return made

    @contextmanager
    def balanced(self) -> Iterator[int]:
        """Port of a balancer in front of all machines, set up as in deploy/."""
        if shutil.which("haproxy") is None:
            told = "HAProxy is not installed (`make system-packages`)"
            pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
        port = free_port()
        config = self.folder / "haproxy.cfg"
        config.write_text(_balancer(port, [f"{m.host.front}:{PORT}" for m in self.machines]))
        with (self.folder / "haproxy.log").open("ab") as log:
            process = subprocess.Popen(["haproxy", "-f", str(config)], stdout=log, stderr=log)
        try:
            yield port
        finally:
            process.kill()
            process.wait(30)


def at_another_time(ahead_s: int) -> dict[str, str]:
    """Environment variables of a program whose time of day is ahead of the system's by so many seconds."""
    return {"LD_PRELOAD": str(_other_time()), "SURETY_TEST_AHEAD_S": str(ahead_s)}


@cache
def _other_time() -> Path:
    """other_time.c, compiled."""
    folder = Path(tempfile.mkdtemp(prefix="surety-clock-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made, source = folder / "other_time.so", Path(__file__).with_name("other_time.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", made, source, "-ldl"], check=True)
    return made


def _balancer(port: int, machines: Sequence[str]) -> str:
    """The configuration in deploy/ with these machines, and without what only containers have."""
    kept, is_left_out = [], False
    for line in BALANCER.read_text().splitlines():
        if line and not line[0].isspace():
            is_left_out = line.startswith("resolvers")
        if not is_left_out and not line.strip().startswith(("stats socket", "server ")):
            kept.append(
                line.replace("bind :8080", f"bind 127.0.0.1:{port}").replace(" resolvers containers init-addr none", "")
            )
    return "\n".join([*kept, *(f"    server m{i} {address}" for i, address in enumerate(machines, 1)), ""])


@contextmanager
def cluster(folder: Path, model: str = "readmission_risk") -> Iterator[Cluster]:
    """A cluster without machines: its database, its objects, its keys, its network. All of it ends with the block."""
    packages = cluster_packages()
    with ExitStack() as stack:
        lan = stack.enter_context(network())
        database = stack.enter_context(server(listens_on=lan.back, durable=True))
        objects = stack.enter_context(object_server(listens_on=lan.objects))
        made = Cluster(
            lan,
            database,
            objects,
            folder,
            {
                **objects.settings,
                **_secrets_in(folder / "secrets"),
                "SURETY_DATABASE": database.new_database(),
                "SURETY_OBJECTS": objects.new_bucket(),
                "SURETY_MODEL_NAME": model,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{packages}",
            },
        )
        try:
            yield made
        finally:
            for machine in made.machines:
                machine.die()


def _secrets_in(folder: Path) -> dict[str, str]:
    """Keys that every machine must have, in files outside of database and objects; the settings that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"SURETY_SUBJECT_KEY_FILE": "subject.key", "SURETY_LOG_KEY_FILE": "log.key"}
    for name in names.values():
        path = folder / name
        path.write_text(os.urandom(32).hex() + "\n")
        path.chmod(0o600)
    return {variable: str(folder / name) for variable, name in names.items()}
