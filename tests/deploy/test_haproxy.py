"""The balancer's configuration: HAProxy takes it, asks for readiness, and sends nothing twice."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ml_core.base.settings import Settings
from tests.deploy.queries import DEPLOY

CONFIG = DEPLOY / "haproxy" / "haproxy.cfg"
LINES = [line.strip() for line in CONFIG.read_text().splitlines()]


def test_haproxy_takes_the_configuration() -> None:
    program = shutil.which("haproxy")
    if program is None:
        pytest.skip("needs haproxy (apt-get install haproxy)")
    done = subprocess.run([program, "-c", "-f", CONFIG], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_colour_that_is_not_ready_is_left_alone() -> None:
    assert "http-check send meth GET uri /readyz" in LINES
    assert "http-check expect status 200" in LINES


def test_a_request_that_may_have_been_answered_is_not_sent_again() -> None:
    assert [line for line in LINES if line.startswith("retry-on")] == ["retry-on conn-failure"]


def test_there_are_two_colours() -> None:
    assert [line.split()[1] for line in LINES if line.startswith("server ")] == ["blue", "green"]


def test_the_service_keeps_idle_connections_longer_than_the_balancer() -> None:
    """Else the balancer sends a request on a connection that the service is just ending."""
    (kept,) = [line.split()[2] for line in LINES if line.startswith("timeout http-keep-alive")]
    assert int(kept.removesuffix("s")) < Settings().keep_alive_s
    assert not [line for line in LINES if line.startswith("pool-purge-delay")]  # its default is 5 s
