"""TLS and client certificates as docs/security.md has them set up, against the real server, and the traps on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography import x509

from tests.e2e.workplace import Workplace
from tests.faults.place import until
from tests.security.certificates import Authority, KeyPair
from tests.security.figures import record
from tests.security.served import RECORD

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")]

CIPHERS = ("--ssl-ciphers", "ECDHE+AESGCM:ECDHE+CHACHA20")
ASKED = {"features": RECORD}
Handshake = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Secured:
    """A server that speaks TLS.

    Attributes
    ----------
    ca : signed its certificate, and those of the clients that it knows
    client : a certificate that it lets in
    pid : of BentoML's arbiter
    """

    address: str
    ca: Authority
    server: KeyPair
    client: KeyPair
    pid: int

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def context(self, client: KeyPair | None = None, *, trusted: Path | None = None) -> ssl.SSLContext:
        """A caller that trusts this authority, or another, and shows a certificate or none."""
        context = ssl.create_default_context(cafile=str(trusted or self.ca.certificate))
        if client is not None:
            context.load_cert_chain(*client.files)
        return context

    def predict(self, context: ssl.SSLContext) -> int:
        """Status of one prediction on a connection of its own."""
        return httpx.post(f"{self.address}/predict", json=ASKED, verify=context, timeout=10).status_code

    def shaken(self, context: ssl.SSLContext, host: str = "127.0.0.1") -> Handshake:
        """Version and cipher of a handshake with that server name."""
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            cipher = secure.cipher()
            assert cipher is not None
            return secure.version() or "", cipher[0]

    def workers(self) -> list[psutil.Process]:
        """The API processes."""
        processes = psutil.Process(self.pid).children(recursive=True)
        return [p for p in processes if "--ssl-certfile" in p.cmdline()]


@contextmanager
def secured(
    place: Workplace, home: Path, folder: Path, *options: str, service: str = "Surety", mutual: bool = False
) -> Iterator[Secured]:
    """Serve with two workers and a new certificate; with ``mutual`` only to callers with one of the same authority."""
    ca = Authority(folder, "authority")
    server, client = ca.server(), ca.client()
    options = ("--ssl-certfile", server.files[0], "--ssl-keyfile", server.files[1], *options)
    if mutual:
        options = (*options, "--ssl-ca-certs", str(ca.certificate), "--ssl-cert-reqs", "2")
    environment = {"SURETY_HOME": str(home), "SURETY_WORKERS": "2"}
    with place.serving(f"service:{service}", ready=False, options=options, **environment) as plain:
        running = Secured(plain.replace("http:", "https:"), ca, server, client, place.server_pid)
        context = running.context(client)
        until(lambda: httpx.get(f"{running.address}/readyz", verify=context).is_success, 90, "ready over TLS")
        yield running


@pytest.fixture(scope="module")
def tls(example: Workplace, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """As the documents have it."""
    with secured(example, home, tmp_path_factory.mktemp("tls"), *CIPHERS) as running:
        yield running


@pytest.fixture(scope="module")
def mutual(example: Workplace, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """The isolated service, for callers with a certificate."""
    folder = tmp_path_factory.mktemp("mutual")
    with secured(example, home, folder, *CIPHERS, service="SuretyIsolated", mutual=True) as running:
        yield running


def test_caller_who_trusts_the_authority_is_answered_by_every_worker(tls: Secured) -> None:
    context = tls.context()
    assert {tls.predict(context) for _ in range(20)} == {200}
    with httpx.Client(verify=context, base_url=tls.address, timeout=10) as client:
        pages = {
            page: client.get(page).status_code for page in ("/readyz", "/livez", "/health", "/metrics", "/docs.json")
        }
        seen = client.get("/status").json()["workers"]
    assert set(pages.values()) == {200}
    assert len(tls.workers()) == 2
    assert seen
    record(
        "TLS", "who trusts the authority is answered", {"version": tls.shaken(context)[0], "workers": 2, "failed": 0}
    )


def test_bentomls_own_client_trusts_the_authority_that_the_environment_names(tls: Secured) -> None:
    code = (
        "import sys, json, bentoml\n"
        "with bentoml.SyncHTTPClient(sys.argv[1]) as client:\n"
        "    print(json.dumps(client.predict(**json.loads(sys.argv[2]))['prediction_set']))\n"
    )
    environment = {**os.environ, "SSL_CERT_FILE": str(tls.ca.certificate)}
    done = subprocess.run(
        [sys.executable, "-c", code, tls.address, json.dumps(ASKED)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) != []


def test_plain_http_gets_no_answer(tls: Secured) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{tls.port}/readyz", timeout=10)


def test_caller_who_trusts_another_authority_does_not_talk_to_it(tls: Secured, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other").certificate
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer certificate"):
        tls.shaken(tls.context(trusted=other))


def test_caller_who_meant_another_host_does_not_talk_to_it(tls: Secured) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"doesn't match|not valid for"):
        tls.shaken(tls.context(), host="another.example")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_of_tls_are_refused(tls: Secured, version: ssl.TLSVersion) -> None:
    """Also to a caller who would take any cipher: what is refused is the version."""
    context = tls.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = version
    context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionError)):
        tls.shaken(context)


def test_tls_1_2_has_forward_secrecy_and_authenticated_encryption(tls: Secured) -> None:
    context = tls.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    version, cipher = tls.shaken(context)
    assert version == "TLSv1.2"
    assert cipher.startswith("ECDHE-")
    assert "GCM" in cipher or "CHACHA20" in cipher
    context.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        tls.shaken(context)
    record(
        "TLS, old versions and ciphers",
        "1.0 and 1.1 refused; 1.2 only with forward secrecy and authenticated encryption",
        {"refused": ["TLS 1.0", "TLS 1.1", "1.2 with CBC"], "1.2": cipher},
    )


# --- client certificates ------------------------------------------------------------------------------------------


def test_caller_with_a_certificate_of_the_authority_is_answered(mutual: Secured) -> None:
    context = mutual.context(mutual.client)
    assert {mutual.predict(context) for _ in range(20)} == {200}
    assert len(mutual.workers()) == 2


def test_caller_without_a_certificate_gets_no_answer_not_even_of_a_probe(mutual: Secured) -> None:
    with pytest.raises(httpx.TransportError):
        mutual.predict(mutual.context())
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{mutual.address}/livez", verify=mutual.context(), timeout=10)


def test_caller_with_a_certificate_that_is_none_of_its_own_gets_no_answer(mutual: Secured, tmp_path: Path) -> None:
    """Of another authority, run out, or made for servers."""
    strangers = {
        "of another authority": Authority(tmp_path, "other").client(),
        "run out": mutual.ca.client("late", timedelta(hours=-1)),
        "made for servers": mutual.server,
    }
    for which, pair in strangers.items():
        with pytest.raises(httpx.TransportError):
            pytest.fail(f"{which}: {mutual.predict(mutual.context(pair))}")
    record(
        "client certificates",
        "answered with one of the authority; no answer without one, or with any other",
        {"with": 200, "no answer": ["without", *strangers]},
    )


# --- traps --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trapped(example: Workplace, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """What looks safe and is not: an authority for clients but no demand, BentoML's own ciphers, a password."""
    folder = tmp_path_factory.mktemp("trapped")
    known = Authority(folder, "clients").certificate
    options = ("--ssl-ca-certs", str(known), "--ssl-keyfile-password", "open sesame")
    with secured(example, home, folder / "server", *options) as running:
        yield running


def test_trap_an_authority_for_clients_alone_demands_no_certificate(trapped: Secured) -> None:
    assert trapped.predict(trapped.context()) == 200


def test_trap_bentomls_own_ciphers_leave_tls_1_2_without_authenticated_encryption(trapped: Secured) -> None:
    """So that callers of today who speak 1.2 find nothing in common with it."""
    context = trapped.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        trapped.shaken(context)
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert trapped.shaken(context)[1].endswith("-SHA")


def test_trap_password_of_the_key_can_be_read_by_everybody_on_the_machine(trapped: Secured) -> None:
    assert all("open sesame" in worker.cmdline() for worker in trapped.workers())


# --- settings in the environment ----------------------------------------------------------------------------------


def told(section: str, ca: Authority, server: KeyPair) -> str:
    """BentoML's settings for client certificates, as its variable takes them."""
    values = {
        "enabled": "true", "certfile": server.files[0], "keyfile": server.files[1],
        "ca_certs": ca.certificate, "cert_reqs": 2, "ciphers": CIPHERS[1],
    }  # fmt: skip
    return " ".join(f"{section}.ssl.{name}={value}" for name, value in values.items())


@pytest.mark.slow
def test_settings_of_the_environment_demand_the_same(example: Workplace, home: Path, tmp_path: Path) -> None:
    ca = Authority(tmp_path, "authority")
    server, client = ca.server(), ca.client()
    environment = {"SURETY_HOME": str(home), "BENTOML_CONFIG_OPTIONS": told("services.Surety", ca, server)}
    with example.serving(ready=False, **environment) as plain:
        running = Secured(plain.replace("http:", "https:"), ca, server, client, example.server_pid)
        until(lambda: running.predict(running.context(client)) == 200, 60, "ready over TLS")
        with pytest.raises(httpx.TransportError):
            running.predict(running.context())
        context = running.context(client)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert "GCM" in running.shaken(context)[1]


@pytest.mark.slow
def test_trap_settings_under_the_old_name_are_passed_over_and_plain_http_is_served(
    example: Workplace, home: Path, tmp_path: Path
) -> None:
    ca = Authority(tmp_path, "authority")
    environment = {"SURETY_HOME": str(home), "BENTOML_CONFIG_OPTIONS": told("api_server", ca, ca.server())}
    with example.serving(**environment) as plain:
        assert httpx.get(f"{plain}/readyz").status_code == 200


# --- renewal ------------------------------------------------------------------------------------------------------


def serial(running: Secured) -> int:
    """Serial number of the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", running.port), 10) as plain,
        running.context().wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        raw = secure.getpeercert(binary_form=True)
    assert raw is not None
    return x509.load_der_x509_certificate(raw).serial_number


@pytest.mark.slow
def test_new_certificate_is_shown_by_workers_that_were_ended_one_by_one(
    example: Workplace, home: Path, tmp_path: Path
) -> None:
    """Written over the old files, it is shown by none that runs on, and by each that has started since."""
    with secured(example, home, tmp_path, *CIPHERS) as running:
        before = serial(running)
        running.ca.server()  # the same files
        assert {serial(running) for _ in range(10)} == {before}
        for worker in running.workers():
            worker.send_signal(signal.SIGTERM)
            until(
                lambda gone=worker: not gone.is_running() and len(running.workers()) == 2, 30, "a worker in its place"
            )
            until(lambda: running.predict(running.context()) == 200, 30, "answers")
        until(lambda: before not in {serial(running) for _ in range(10)}, 30, "the new certificate alone")
