"""A workplace whose servers can be broken on purpose, with the questions that tests ask them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from ml_core.base.settings import Settings
from ml_core.serve.rollout.changes import Change
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import WorkerReport, beating, read_reports
from tests.e2e.workplace import ROOT, Workplace
from tests.folder_files import heartbeats

__all__ = [
    "MODEL",
    "PROBE",
    "RECORD",
    "RECORDS",
    "FaultPlace",
    "Served",
    "connected",
    "open_files",
    "request_bytes",
    "threads_by_name",
    "until",
]

MODEL = "readmission_risk"
RECORD = {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148}
RECORDS = [
    {
        "age": 20 + i % 80,
        "glucose": None if i % 7 == 0 else 80.0 + i,
        "bmi": 18.0 + i % 25,
        "bp_systolic": 95.0 + i % 90,
    }
    for i in range(200)
]
"""Two hundred different records."""
_WORKER = "_bentoml_impl.worker.service"
PROBE = Path(__file__).parent / "probe"
"""Put on PYTHONPATH, it breaks models of servers under test (probe/sitecustomize.py)."""


class FaultPlace(Workplace):
    """A workplace with the champion v1, a gated v2 and an ungated v3 in its Bento store."""

    @property
    def fault_file(self) -> Path:
        return self.folder / "fault.json"

    def break_model(self, *rules: dict[str, Any], quick: bool = True) -> None:
        """Let the model follow these rules from now on (probe/sitecustomize.py); without rules it is healthy."""
        beside = self.fault_file.with_suffix(".new")
        beside.write_text(json.dumps({"quick": quick, "rules": rules}))
        beside.replace(self.fault_file)

    def copy(self, folder: Path) -> Self:
        """The same models in a separate place where nothing was served yet."""
        made = type(self)(folder, self.model)
        shutil.rmtree(folder / "bentoml")
        shutil.copytree(self.folder / "bentoml", folder / "bentoml", symlinks=True)
        for name in ("promotions", "gates", "trust"):
            shutil.copytree(self.folder / "home" / name, folder / "home" / name)
        return made

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, model_name=self.model)

    def tag(self, version: int) -> str:
        (found,) = (self.folder / "bentoml" / "models" / self.model).glob(f"v{version}-*")
        return f"{self.model}:{found.name}"

    def bundle(self, tag: str) -> Path:
        """Folder of that model's artefact."""
        return self.folder / "bentoml" / "models" / tag.replace(":", "/") / "mlflow_model" / "artifacts" / "bundle"

    def change(self, change: Change) -> int:
        """Change the rollout as the command would, in this process; the new generation."""
        _, after = RolloutStore(self.settings).change(change, why="test", by="test")
        return after.generation

    def reports(self, role: str = "api") -> list[WorkerReport]:
        """Reports of the processes that report now."""
        return [r for r in beating(read_reports(heartbeats(self.settings))) if r.role == role]

    def obeyed(self, generation: int, within_s: float = 10.0, workers: int = 1) -> float:
        """Seconds until this many workers obey that generation."""
        return until(
            lambda: sum(r.generation >= generation for r in self.reports()) >= workers,
            within_s,
            f"{workers} workers obey generation {generation}",
        )

    @contextmanager
    def served(self, what: str = "service:Surety", *, ready: bool = True, **more: str) -> Iterator[Served]:
        """A running server; its model can be broken while it runs."""
        if not self.fault_file.exists():
            self.break_model()
        environment = {"PYTHONPATH": f"{PROBE}:{ROOT}", "SURETY_TEST_FAULT": str(self.fault_file), **more}
        began = time.monotonic()
        processes: list[psutil.Process] = []
        try:
            with self.serving(what, ready=ready, **environment) as address:
                log = self.folder / f"serve-{address.rsplit(':', 1)[1]}.log"
                try:
                    yield Served(address, self.server_pid, log, time.monotonic() - began)
                finally:
                    with suppress(psutil.Error):
                        processes = psutil.Process(self.server_pid).children(recursive=True)
        finally:
            for process in processes:  # workers have their own sessions; a worker must not outlive its test
                with suppress(psutil.Error):
                    process.kill()


@dataclass
class Served:
    """A running ``bentoml serve``.

    Attributes
    ----------
    pid : of BentoML's arbiter
    ready_s : how long it took to be ready
    headers : of every question, such as a key
    """

    address: str
    pid: int
    log: Path
    ready_s: float
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def get(self, path: str, timeout: float = 10.0) -> httpx.Response:
        return httpx.get(self.address + path, timeout=timeout, headers=self.headers)

    def post(self, path: str, body: object, timeout: float = 30.0) -> httpx.Response:
        return httpx.post(self.address + path, json=body, timeout=timeout, headers=self.headers)

    def predict(self, record: object = None) -> dict[str, Any]:
        """The envelope for one record."""
        reply = self.post("/predict", {"features": RECORD if record is None else record})
        assert reply.status_code == 200, reply.text
        return reply.json()  # type: ignore[no-any-return]

    def status(self) -> dict[str, Any]:
        return self.get("/status").json()  # type: ignore[no-any-return]

    def champion(self) -> dict[str, Any]:
        """The champion's part of ``/status``."""
        return self.status()["models"][0]  # type: ignore[no-any-return]

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name with those labels."""
        text = self.get("/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def processes(self, role: str = "api") -> list[psutil.Process]:
        """The serving processes of that role: ``api`` or ``runner``."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if _WORKER in command and ("SuretyRunner" in command) == (role == "runner"):
                found.append(process)
        return found

    def worker(self) -> psutil.Process:
        """The one API process."""
        (found,) = self.processes()
        return found

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Our log lines with that event."""
        return [line for line in self.lines() if line.get("event") == event]

    def lines(self) -> list[dict[str, Any]]:
        """All of our log lines."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith('{"time"'):
                try:
                    found.append(json.loads(line))
                except ValueError:  # two processes wrote at the same time
                    continue
        return found


def until(condition: Callable[[], object], within_s: float, what: str = "", every_s: float = 0.05) -> float:
    """Seconds until the condition holds. A condition that raises does not hold yet."""
    began = time.monotonic()
    problem: object = None
    while True:
        try:
            if condition():
                return time.monotonic() - began
            problem = None
        except (httpx.HTTPError, OSError, KeyError, IndexError, ValueError, psutil.Error) as error:
            problem = error
        if time.monotonic() - began > within_s:
            raise AssertionError(f"not within {within_s:g} s: {what} ({problem!r})")
        time.sleep(every_s)


def connected(port: int, timeout: float = 10.0) -> socket.socket:
    """A plain connection to a server on this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def request_bytes(
    body: bytes, path: str = "/predict", *, length: int | None = None, kind: str = "application/json"
) -> bytes:
    """A POST as bytes; ``length`` replaces the number in the header."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    return head.encode() + body


def threads_by_name(process: psutil.Process) -> Counter[str]:
    """Threads of a served process, by what the probe names them, without the numbers of a pool.

    A thread that has just begun still has the name of the one that began it, so that of the log counts for its sync.
    """
    found: Counter[str] = Counter()
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            found[(task / "comm").read_text().strip().rstrip("0123456789").rstrip("_-").removesuffix("-sync")] += 1
    return found


def open_files(process: psutil.Process) -> int:
    """Number of descriptors that a process holds."""
    return len(os.listdir(f"/proc/{process.pid}/fd"))
