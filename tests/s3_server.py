"""An S3 server on this machine, and the environment in which programs find it."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.oracles import ROOT, server_tool

__all__ = ["s3_server"]


@contextmanager
def s3_server(*buckets: str) -> Iterator[Mapping[str, str]]:
    """The variables that name a server with these buckets, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tool = server_tool("moto_server")
    server = subprocess.Popen(
        [tool, "-H", "127.0.0.1", "-p", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address)
        for bucket in buckets:
            urllib.request.urlopen(urllib.request.Request(f"{address}/{bucket}", method="PUT"), timeout=10).close()
        yield {
            "AWS_ENDPOINT_URL": address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
    finally:
        server.kill()
        server.wait()


def _wait_for(address: str) -> None:
    give_up = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            assert time.monotonic() < give_up
            time.sleep(0.05)
        else:
            return
