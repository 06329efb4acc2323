"""A place with separate stores, in which commands and real servers run as processes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 90
IN_TURN = """
import json, sys
from ml_core.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
"""


@dataclass
class Workplace:
    """``SURETY_HOME``, ``BENTOML_HOME`` and a working folder, all in one temporary folder."""

    folder: Path
    model: str
    more: dict[str, str] = field(default_factory=dict)
    server_pid: int = 0

    def __post_init__(self) -> None:
        for name in ("home", "bentoml", "run"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def copied_home(self, to: Path) -> Path:
        """A copy of the home without earlier answers, for a test that counts or judges answers."""
        shutil.copytree(self.folder / "home", to, ignore=shutil.ignore_patterns("log", "labels", "monitor", "workers"))
        return to

    def environment(self, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SURETY_", "MLFLOW_", "BENTOML_", "MODEL_"))}
        places = {
            "SURETY_HOME": str(self.folder / "home"),
            "BENTOML_HOME": str(self.folder / "bentoml"),
            "SURETY_MODEL_NAME": self.model,
            "PYTHONPATH": str(ROOT),
            "BENTOML_DO_NOT_TRACK": "true",
        }
        return {**clean, **places, **self.more, **more}

    def surety(self, *arguments: str, status: int = 0) -> Any:
        """Run the command, expect that exit status, and return its result (None if it has none)."""
        done = subprocess.run(
            [sys.executable, "-m", "ml_core.cli.main", *arguments],
            cwd=self.run, env=self.environment(), capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == status, (
            f"surety {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return json.loads(done.stdout) if done.stdout.strip() else None

    def in_turn(self, *commands: Sequence[str]) -> None:
        """Run commands one after the other in one process, which imports its libraries once; each must succeed."""
        done = subprocess.run(
            [sys.executable, "-c", IN_TURN, json.dumps(commands)],
            cwd=self.run, env=self.environment(), capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{commands}: {done.returncode}\n{done.stdout}\n{done.stderr}"

    def bentoml(self, *arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "bentoml", *arguments],
            cwd=cwd or self.run, env=self.environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"bentoml {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(
        self,
        what: str = "service:Surety",
        *,
        python: str = sys.executable,
        cwd: Path = ROOT,
        ready: bool = True,
        options: Sequence[str] = (),
        **more: str,
    ) -> Iterator[str]:
        """Address of a running ``bentoml serve`` with those options; all its processes end with the block."""
        port = free_port()
        log = self.folder / f"serve-{port}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [python, "-m", "bentoml", "serve", what, "--port", str(port), *options],
                cwd=cwd, env=self.environment(**more), stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        self.server_pid = process.pid
        address = f"http://127.0.0.1:{port}"
        try:
            if ready:
                assert answers(f"{address}/readyz", process), log.read_text()
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            finally:
                kill_group(process.pid)

    def refused_start(self, **more: str) -> str:
        """Output of a server that is expected to end by itself with an error."""
        done = subprocess.run(
            [sys.executable, "-m", "bentoml", "serve", "service:Surety", "--port", str(free_port())],
            cwd=ROOT, env=self.environment(**more), capture_output=True, text=True, timeout=READY_WITHIN_S,
        )  # fmt: skip
        assert done.returncode != 0
        return done.stdout + done.stderr


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether a starting server comes to answer 200 there; a connection it cuts while it starts is no answer yet."""
    ends = time.monotonic() + READY_WITHIN_S
    while process.poll() is None and time.monotonic() < ends:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return True
        time.sleep(0.05)
    return False


def kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


_PORTS = iter(range(20_000, 32_000))
_HELD: list[IO[str]] = []


def free_port() -> int:
    """A port that nobody else takes until this process ends.

    It is below those that the system gives to clients, and a lock keeps out other runs of the tests on this machine:
    a server binds it seconds after it was found.
    """
    folder = Path(tempfile.gettempdir()) / "surety-test-ports"
    folder.mkdir(exist_ok=True)
    for port in _PORTS:
        lock = (folder / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        _HELD.append(lock)
        return port
    raise RuntimeError("no port from 20000 to 31999 is free")
