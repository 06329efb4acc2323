"""Ordinary clients as they come, and hostile bytes, before a real service: the JDK's, Python's, BentoML's, a browser."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import bentoml
import httpx
import pytest
import requests

from ml_core.serve.http.api_keys import add_key
from tests.e2e.workplace import ROOT, Workplace
from tests.lab.report.browser import BROWSER, FLAGS
from tests.security.figures import record
from tests.security.served import RECORD
from tests.serve.http.test_connection import OFFER, SMUGGLED, exchanged, offering, post, replies, with_bytes, with_lines

pytestmark = pytest.mark.e2e

CALLER = Path(__file__).parent / "clients" / "Caller.java"
BODY = json.dumps({"features": RECORD}).encode()
LARGE = b" " * 30_000_000
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def address(example: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service without keys, on a home of its own."""
    home = example.copied_home(tmp_path_factory.mktemp("clients") / "home")
    with example.serving(SURETY_HOME=str(home), SURETY_ROOT_PATH="/surety") as address:
        yield address


@pytest.fixture(scope="module")
def port(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.mark.skipif(shutil.which("java") is None, reason="needs a JDK (Debian: default-jdk-headless)")
def test_the_jdks_client_works_with_its_defaults(address: str) -> None:
    """It offers an upgrade to HTTP/2 with its first request, and takes a refused body's reply for what it is."""
    done = subprocess.run(
        ["java", str(CALLER), address, json.dumps(RECORD)], capture_output=True, text=True, timeout=120
    )
    said = [line.split() for line in done.stdout.splitlines()]
    assert [(what, int(status)) for what, status in said] == [
        *[("predict", 200)] * 5, ("chunked", 200), ("get", 200), ("large", 413), ("after", 200),
    ], done.stderr  # fmt: skip
    record("clients: the JDK's HttpClient", "its defaults work; 30 MB get 413, not a reset", {"calls": len(said)})


def by_urllib(url: str) -> int:
    request = urllib.request.Request(url, LARGE, JSON)
    try:
        return int(urllib.request.urlopen(request, timeout=30).status)
    except urllib.error.HTTPError as error:
        return error.code if b"too_large" in error.read() else 0


def by_requests(url: str) -> int:
    return requests.post(url, LARGE, headers=JSON, timeout=30).status_code


def by_requests_in_chunks(url: str) -> int:
    return requests.post(url, (LARGE[:100_000] for _ in range(300)), headers=JSON, timeout=30).status_code


def by_httpx(url: str) -> int:
    return httpx.post(url, content=LARGE, headers=JSON, timeout=30).status_code


def by_bentoml(url: str) -> int:
    with (
        bentoml.SyncHTTPClient(url.removesuffix("/predict")) as client,
        pytest.raises(bentoml.exceptions.BentoMLException, match="too_large"),
    ):
        client.predict(features={"age": "x" * len(LARGE)})
    return 413


@pytest.mark.parametrize("client", [by_urllib, by_requests, by_requests_in_chunks, by_httpx, by_bentoml])
def test_a_client_that_sends_30_mb_sees_413(address: str, client: Callable[[str], int]) -> None:
    assert [client(f"{address}/predict") for _ in range(5)] == [413] * 5
    record("clients: 30 MB " + client.__name__.replace("_", " "), "413, not a reset", {"calls": 5, "answered": 5})


def test_no_body_becomes_a_request(port: int) -> None:
    """However the head lies about the body, and with an offer to upgrade or without."""
    forms = [
        post(body=SMUGGLED),
        post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
        post(b"Transfer-Encoding: xchunked", body=SMUGGLED),
        post(b"Content-Length: 3", body=SMUGGLED),
        post(b"Transfer-Encoding : chunked", body=SMUGGLED),
        post(b"Transfer-Encoding:\x0bchunked", body=SMUGGLED),
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n" + SMUGGLED,
        b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n" + SMUGGLED,
    ]
    tried = 0
    for form in [*forms, *map(offering, forms)]:
        head, _, body = form.partition(b"\r\n\r\n")
        for pieces in ([form], [head + b"\r\n\r\n", body], [form[: len(head)], form[len(head) :]]):
            got = replies(exchanged(port, *pieces, apart=True))
            assert len(got) == 1, (form, got)
            assert 400 <= got[0] < 500
            tried += 1
    assert replies(exchanged(port, offering(post(body=BODY)) + post(body=BODY), expected=2)) == [200, 200]
    record("requests hidden in bodies", "one reply, a refusal; never a second request", {"tried": tried, "taken": 0})


def test_heads_are_bounded_and_what_is_refused_is_counted(port: int, address: str) -> None:
    def count(code: str) -> float:
        text = httpx.get(f"{address}/metrics").text
        found = re.search(rf'^surety_refused_total{{code="{code}"}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = {code: count(code) for code in ("head_too_large", "invalid_http")}
    for head in (with_lines(101), with_bytes(70_000)):
        assert replies(exchanged(port, head)) == [431]
        dripped = exchanged(port, *(head[i : i + 500] for i in range(0, len(head), 500)))
        assert replies(dripped) in ([431], [])
    assert replies(exchanged(port, b"nonsense\r\n\r\n")) == [400]
    assert count("head_too_large") - before["head_too_large"] == 4
    assert count("invalid_http") - before["invalid_http"] == 1
    record("heads of more than 64 KiB or 100 lines", "431 before anything else, counted", {"tried": 4, "refused": 4})


def test_gzip_is_read_and_other_codings_are_not(address: str) -> None:
    url = f"{address}/predict"
    for coding, packed, status in (("gzip", gzip.compress(BODY), 200), ("br", BODY, 415), ("deflate", BODY, 415)):
        assert httpx.post(url, content=packed, headers=JSON | {"content-encoding": coding}).status_code == status
    bomb = gzip.compress(b" " * 50_000_000)
    reply = httpx.post(f"{address}/predict_batch", content=bomb, headers=JSON | {"content-encoding": "gzip"})
    assert reply.status_code == 413


def test_head_is_answered_wherever_get_is(address: str) -> None:
    for path in ("/", "/health", "/livez", "/readyz", "/healthz", "/status", "/docs.json", "/metrics", "/schema.json"):
        reply = httpx.head(address + path)
        assert (reply.status_code, reply.content) == (200, b""), path


def test_a_prefix_is_understood_and_named(address: str) -> None:
    assert httpx.get(f"{address}/surety/health").status_code == 200
    assert httpx.get(f"{address}/surety/schema.json").status_code == 200
    assert httpx.post(f"{address}/surety/predict", content=BODY, headers=JSON).status_code == 200
    assert httpx.get(f"{address}/docs.json").json()["servers"] == [{"url": "/surety"}]


def test_bentomls_page_and_assets_are_not_served(address: str) -> None:
    page = httpx.get(f"{address}/")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "googletagmanager" not in page.text
    for path in ("/static_content/swagger-ui.css", "/static_content/index.css", "/assets/index.js", "/docs"):
        assert httpx.get(address + path).status_code == 404


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_browser_shows_the_page_without_a_complaint(address: str, tmp_path: Path) -> None:
    """Its policy lets its own style and script work, and nothing is asked of anybody else."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", f"{address}/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    assert "<h1>Surety</h1>" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


def reachable(port: int) -> bool:
    """Whether the service listens on more than 127.0.0.1: 127.0.0.2 is this machine as well."""
    with socket.socket() as caller:
        caller.settimeout(5)
        return caller.connect_ex(("127.0.0.2", port)) == 0


def test_without_keys_only_this_machine_is_listened_to(example: Workplace, port: int, tmp_path: Path) -> None:
    assert not reachable(port)
    key = add_key(tmp_path / "keys.json", "ward", ["predict"])
    with example.serving(ready=False, SURETY_API_KEYS_FILE=str(tmp_path / "keys.json")) as guarded:
        bentoml.SyncHTTPClient(guarded, token=key, server_ready_timeout=90).close()
        assert reachable(int(guarded.rpartition(":")[2]))
        assert "there are no keys" not in log_of(example, guarded)
    assert "--host 0.0.0.0" in log_of(example, f"http://127.0.0.1:{port}")


def log_of(place: Workplace, address: str) -> str:
    return (place.folder / f"serve-{address.rpartition(':')[2]}.log").read_text()


@pytest.mark.parametrize(
    ("more", "host"),
    [
        ({}, "127.0.0.1"),
        ({"BENTOML_CONTAINERIZED": "true"}, "0.0.0.0"),
        ({"SURETY_API_KEYS_FILE": "x.json"}, "0.0.0.0"),
    ],
)
def test_default_host(example: Workplace, more: dict[str, str], host: str) -> None:
    """In a container its own address is not enough: who publishes the port decides who reaches it."""
    code = "import service; print(service.Surety.config['http']['host'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=example.environment(**more), capture_output=True, text=True, timeout=300
    )  # fmt: skip
    assert done.stdout.split()[-1] == host, done.stderr
