"""One service on several machines by compose: one home, a folder for each machine, nothing that leads past balancer and keys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ml_core.base.settings import Settings
from tests.deploy.conftest import Promtool
from tests.deploy.queries import DEPLOY, ROOT
from tests.e2e.workplace import free_port
from tests.oracles import oracle

TEXT = (DEPLOY / "compose.cluster.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MACHINES = ["surety-1", "surety-2"]
MONITORS = ["monitor-1", "monitor-2"]
OWN = [*MACHINES, *MONITORS, "upkeep", "migrate", "tools"]
LASTING = {name for name, service in SERVICES.items() if "restart" in service}
BALANCER = DEPLOY / "compose" / "haproxy.cluster.cfg"
SCRAPED = DEPLOY / "compose" / "prometheus.cluster.yml"


def mounts(service: str) -> dict[str, str]:
    """What is mounted, by where it is seen inside."""
    found = [re.sub(r"\$\{(\w+)[^}]*\}", r"\1", volume).split(":") for volume in SERVICES[service].get("volumes", [])]
    return {parts[1]: parts[0] for parts in found}


def told(service: str) -> dict[str, str]:
    return dict(SERVICES[service].get("environment", {}))


def test_everything_is_there_and_nothing_else_lasts() -> None:
    assert {*MACHINES, *MONITORS, "upkeep", "database", "objects", "haproxy", "prometheus", "grafana"} == LASTING
    assert SERVICES.keys() - LASTING == {"migrate", "tools"}  # do one thing and end


@pytest.mark.parametrize("name", SERVICES)
def test_image_is_pinned_or_has_to_be_named(name: str) -> None:
    image = SERVICES[name]["image"]
    given = re.fullmatch(r"\$\{\w+_IMAGE:\?[^}]+\}", image)
    assert (given is not None) == (name in OWN)
    assert given or re.fullmatch(r"[\w.]+/[\w/-]+:v?\d+\.\d+(\.\d+)?", image)


def test_no_secret_has_a_default_and_none_is_written_here() -> None:
    for name, rest in re.findall(r"\$\{(\w+)([^}]*)\}", TEXT):
        if re.search("PASSWORD|KEY|SECRET", name):
            assert rest.startswith(":?"), name
    for name in SERVICES:
        for key, value in told(name).items():
            if re.search("PASSWORD|TOKEN|SECRET", key):
                assert str(value).startswith("${"), (name, key)
    assert re.fullmatch(
        r"postgresql://surety:\$\{\w+:\?[^}]+\}@database:5432/surety", told("surety-1")["SURETY_DATABASE"]
    )


def test_all_share_one_home_and_each_says_which_machine_it_is() -> None:
    shared = (
        "SURETY_DATABASE",
        "SURETY_OBJECTS",
        "SURETY_MODEL_NAME",
        "SURETY_LOG_KEY_FILE",
        "SURETY_SUBJECT_KEY_FILE",
    )
    homes = {name: tuple(told(name)[key] for key in shared) for name in OWN}
    assert len(set(homes.values())) == 1
    assert {name: told(name)["SURETY_MACHINE"] for name in OWN} == {name: name for name in OWN}
    named = {key.removeprefix("SURETY_").lower() for name in OWN for key in told(name) if key.startswith("SURETY_")}
    assert named <= Settings.model_fields.keys()


def test_each_has_a_folder_of_its_own_that_outlives_its_container() -> None:
    lasting = [name for name in OWN if name != "migrate"]
    assert {name: mounts(name)["/var/lib/surety"] for name in lasting} == {name: name for name in lasting}
    named = {source for name in SERVICES for source in mounts(name).values() if source.islower() and "." not in source}
    assert named == COMPOSE["volumes"].keys()


def test_secrets_are_one_folder_that_only_a_person_may_change() -> None:
    """A folder, since a file that is mounted by itself stays the old one where it is replaced."""
    for name in OWN:
        (mounted,) = (volume for volume in SERVICES[name]["volumes"] if "/run/secrets/surety" in volume)
        assert mounted.startswith("${SURETY_SECRETS:?")
        assert mounted.endswith(":ro") == (name != "tools")
    assert all(
        told(name)["SURETY_API_KEYS_FILE"] == "/run/secrets/surety/api-keys.json" for name in [*MACHINES, "tools"]
    )
    assert not [name for name in MONITORS if "SURETY_API_KEYS_FILE" in told(name)]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_may_do_next_to_nothing(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) == (name not in {"tools", "grafana"})
    assert service.keys().isdisjoint({"privileged", "cap_add", "devices", "pid", "ipc"})
    assert ("user" in service) == (name == "database")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_callers_come_through_the_balancer_and_nobody_reaches_the_database() -> None:
    published = {name for name, service in SERVICES.items() if "ports" in service}
    assert published == {"haproxy", "prometheus"}  # Grafana is in the latter's network
    assert COMPOSE["networks"]["home"] == {"internal": True}
    networks = {name: set(service.get("networks", ())) for name, service in SERVICES.items()}
    assert {name for name, joined in networks.items() if joined == {"front", "home"}} == set(MACHINES)
    assert {name for name, joined in networks.items() if joined == {"front"}} == published
    assert networks["database"] == networks["objects"] == {"home"}


@pytest.mark.parametrize("name", sorted(LASTING - set(MONITORS)))
def test_health_is_asked_for(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert check.keys() == {"test", "interval", "timeout", "start_period"}
    if check["test"][1] == "python":
        compile(check["test"][3], name, "exec")


def test_tables_are_up_to_date_before_anything_answers_or_watches() -> None:
    for name in [*MACHINES, *MONITORS, "upkeep"]:
        assert SERVICES[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    healthy = {"condition": "service_healthy"}
    assert SERVICES["migrate"]["depends_on"] == {"database": healthy, "objects": healthy}
    assert SERVICES["migrate"]["command"] == ["home", "migrate"]


def test_services_are_given_time_to_stop() -> None:
    assert {SERVICES[name]["stop_grace_period"] for name in MACHINES} == {"40s"}


def test_what_is_mounted_from_here_exists_and_cannot_be_changed() -> None:
    found = [
        volume for service in SERVICES.values() for volume in service.get("volumes", []) if volume.startswith("./")
    ]
    assert len(found) == 5
    for source, _, mode in (volume.split(":") for volume in found):
        assert (DEPLOY / source).exists(), source
        assert mode == "ro"


# --- the balancer and Prometheus ----------------------------------------------------------------------------------


def test_haproxy_takes_its_configuration() -> None:
    program = shutil.which("haproxy")
    if program is None:
        pytest.skip("needs haproxy (apt-get install haproxy)")
    done = subprocess.run([program, "-c", "-f", BALANCER], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_balancer_is_the_one_for_two_colours_with_other_servers() -> None:
    lines, colours = (
        [line.strip() for line in path.read_text().splitlines()]
        for path in (BALANCER, DEPLOY / "haproxy" / "haproxy.cfg")
    )
    assert [line.split()[1:] for line in lines if line.startswith("server ")] == [
        [name, f"{name}:3000"] for name in MACHINES
    ]

    def defaults(found: list[str]) -> list[str]:
        return [
            line
            for line in found[found.index("defaults") :]
            if re.match("mode|timeout|option (?!srvtcpka)|retr|http-check|balance", line)
        ]

    assert defaults(lines) == defaults(colours)
    assert "option srvtcpka" in lines  # a colour is on the same machine, and does not vanish without a word
    assert "bind :8080" in lines
    assert SERVICES["haproxy"]["ports"] == ["127.0.0.1:${SURETY_PORT:-3000}:8080"]
    (socket,) = (line for line in lines if line.startswith("stats socket"))
    assert socket.split()[2].startswith("ipv4@127.0.0.1:")  # within its container


def test_prometheus_reads_every_machine_as_one_job(promtool: Promtool, tmp_path: Path) -> None:
    (job,) = yaml.safe_load(SCRAPED.read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{name}:3000" for name in MACHINES]}]
    alone = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())
    alone["scrape_configs"][0]["static_configs"] = job["static_configs"]
    assert yaml.safe_load(SCRAPED.read_text()) == alone
    shutil.copytree(DEPLOY / "prometheus" / "rules", tmp_path / "rules")
    (tmp_path / "metrics_key").write_text("surety_x")
    (tmp_path / "prometheus.yml").write_text(
        SCRAPED.read_text().replace("/run/secrets/metrics_key", str(tmp_path / "metrics_key"))
    )
    assert "1 rule files found" in promtool("check", "config", tmp_path / "prometheus.yml")


def test_prometheus_and_grafana_are_those_of_one_machine() -> None:
    alone = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert SERVICES["grafana"] == alone["grafana"]
    here = {key: value for key, value in SERVICES["prometheus"].items() if key not in {"networks", "volumes"}}
    assert here == {key: value for key, value in alone["prometheus"].items() if key != "volumes"}


# --- the object store ---------------------------------------------------------------------------------------------

WRITES = """
import json, sys
from concurrent.futures import ThreadPoolExecutor

import obstore
from obstore.store import S3Store

bucket, prefix = sys.argv[1], sys.argv[2]
store = S3Store(bucket, prefix=prefix)  # the rest from the variables that the services get
tried = []


def make(i):
    try:
        obstore.put(store, "once", b"%d" % i, mode="create")
        return "made"
    except obstore.exceptions.AlreadyExistsError:
        return "there"


with ThreadPoolExecutor(8) as threads:
    tried += threads.map(make, range(8))
first = obstore.put(store, "changed", b"1")["e_tag"]
obstore.put(store, "changed", b"2", mode={"e_tag": first})
try:
    obstore.put(store, "changed", b"3", mode={"e_tag": first})
    tried.append("lost")
except obstore.exceptions.PreconditionError:
    tried.append("kept")
print(json.dumps([sorted(tried), bytes(obstore.get(store, "changed").bytes()).decode()]))
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The object store of the compose file, started by its own words on ports of this machine; its address."""
    tmp_path = tmp_path_factory.mktemp("objects")
    oracle("weed", "version", name="deploy")  # skips where it cannot be had
    command = [word for word in SERVICES["objects"]["command"] if not word.startswith(("-dir", "-ip"))]
    port = free_port()
    ports = [f"-s3.port={port}", *(f"-{part}.port={free_port()}" for part in ("master", "filer", "volume"))]
    variables = {**told("objects"), "AWS_SECRET_ACCESS_KEY": "of-the-test", "HOME": str(tmp_path)}
    (tmp_path / "data").mkdir()
    server = subprocess.Popen(
        [ROOT / "build" / "deploy" / "bin" / "weed", *command, f"-dir={tmp_path / 'data'}", "-ip=127.0.0.1", *ports],
        env=variables, cwd=tmp_path, stdout=(tmp_path / "said").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        until_healthy(
            server, f"{address}{SERVICES['objects']['healthcheck']['test'][-1].partition(':8333')[2]}", tmp_path
        )
        yield address
    finally:
        server.kill()  # nothing of it is kept
        server.wait()


def until_healthy(server: subprocess.Popen[bytes], address: str, folder: Path) -> None:
    """Ask until the health check of the compose file is content."""
    with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:
        for _ in range(600):
            assert server.poll() is None, (folder / "said").read_text()
            try:
                if client.get(address, timeout=1).status_code == 200:
                    return
            except httpx.HTTPError:
                continue
    pytest.fail((folder / "said").read_text())


def test_object_store_keeps_the_conditions_of_writes(objects: str) -> None:
    machine = told("surety-1")
    settings = {key: value for key, value in machine.items() if key.startswith("AWS_")}
    settings |= {"AWS_ENDPOINT_URL": objects, "AWS_SECRET_ACCESS_KEY": "of-the-test"}
    bucket, _, prefix = machine["SURETY_OBJECTS"].removeprefix("s3://").partition("/")
    done = oracle("python", "-c", WRITES, bucket, prefix, name="deploy", settings=settings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["kept", "made", *["there"] * 7], "2"]


def test_object_store_asks_for_its_key(objects: str) -> None:
    assert httpx.get(f"{objects}/surety").status_code == 403
    assert httpx.put(f"{objects}/surety/x", content=b"x").status_code == 403


def test_object_store_is_the_one_that_was_tried() -> None:
    said = oracle("weed", "version", name="deploy").stdout
    assert f" {SERVICES['objects']['image'].rpartition(':')[2]} " in said.splitlines()[0]
    assert told("surety-1")["AWS_ENDPOINT_URL"] == "http://objects:8333"
