"""An S3 server of the tests' own (moto, in an environment of its own), ended after."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.oracles import environment

_STARTS_WITHIN_S = 60.0


@dataclass
class Bucketeer:
    """A running server.

    Attributes
    ----------
    url : of the server
    pid : of its process, which a test may hold up
    """

    url: str
    pid: int

    def __post_init__(self) -> None:
        self._numbers = count(1)

    @property
    def settings(self) -> Mapping[str, str]:
        """Environment variables by which clients find it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def new_bucket(self) -> str:
        """The address of a new, empty bucket, with a prefix in it."""
        name = f"home-{os.getpid()}-{next(self._numbers)}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=10).close()
        return f"s3://{name}/surety"


@contextmanager
def object_server(listens_on: str = "127.0.0.1", port: int = 0, log: Path | None = None) -> Iterator[Bucketeer]:
    """A server without a bucket; skips the test where moto cannot be installed, and fails it in CI."""
    place = environment("cluster-server")
    if not port:
        with socket.socket() as probe:
            probe.bind((listens_on, 0))
            port = probe.getsockname()[1]
    url = f"http://{listens_on}:{port}"
    with open(log or os.devnull, "wb") as told:
        command = [place / "bin" / "moto_server", "-H", listens_on, "-p", str(port)]
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        try:
            _wait_for(url, process)
            yield Bucketeer(url, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _STARTS_WITHIN_S
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=1).close()
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"moto_server ended with {process.returncode}")
