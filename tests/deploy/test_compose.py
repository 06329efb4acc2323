"""The compose file: pinned images, a health check each, no secret with a default, and everything it names is there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_core.base.settings import Settings
from tests.deploy.conftest import Promtool
from tests.deploy.queries import CONFIG, DEPLOY, ROOT

TEXT = (DEPLOY / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = [name for name, service in SERVICES.items() if "restart" in service]
OWN = ["surety", "monitor", "upkeep", "mlflow", "tools"]
SCRAPED = DEPLOY / "compose" / "prometheus.yml"


def mounts(service: str) -> dict[str, str]:
    """What is mounted, by where it is seen inside."""
    found = [volume.split(":") for volume in SERVICES[service].get("volumes", [])]
    return {parts[1]: parts[0] for parts in found}


def variables() -> dict[str, str]:
    """What follows the name of every variable, as ``:-0.0.0.0`` or ``:?why``."""
    return dict(re.findall(r"\$\{(\w+)([^}]*)\}", TEXT))


def dockerfile(folder: str) -> str:
    return (DEPLOY / folder / "Dockerfile").read_text()


def test_everything_is_there_and_nothing_else_lasts() -> None:
    assert set(LASTING) == {"surety", "monitor", "upkeep", "mlflow", "prometheus", "grafana"}
    assert SERVICES.keys() - LASTING == {"tools"}  # does one thing and ends


@pytest.mark.parametrize("name", SERVICES)
def test_image_is_pinned_or_has_to_be_named(name: str) -> None:
    image = SERVICES[name]["image"]
    given = re.fullmatch(r"\$\{\w+_IMAGE:\?[^}]+\}", image)
    assert (given is not None) == (name in OWN)
    assert given or re.fullmatch(r"[\w.]+/[\w/-]+:v?\d+\.\d+\.\d+", image)


@pytest.mark.parametrize("name", LASTING)
def test_health_is_asked_for(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert check.keys() == {"test", "interval", "timeout", "start_period"}


@pytest.mark.parametrize("name", [name for name in LASTING if SERVICES[name]["healthcheck"]["test"][1] == "python"])
def test_health_check_is_python_that_compiles(name: str) -> None:
    _, _, flag, code = SERVICES[name]["healthcheck"]["test"]
    assert flag == "-c"
    compile(code, name, "exec")


def test_no_secret_has_a_default() -> None:
    for name, rest in variables().items():
        if re.search("PASSWORD|KEY|TOKEN|SECRET", name):
            assert rest.startswith(":?"), name
    given = [
        (s, key, value) for s, service in SERVICES.items() for key, value in service.get("environment", {}).items()
    ]
    for service, key, value in given:
        if re.search("PASSWORD|TOKEN|SECRET", key):
            assert str(value).startswith("${"), (service, key)


def test_what_is_mounted_from_here_exists_and_cannot_be_changed() -> None:
    found = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    ours = [volume.split(":") for volume in found if volume.startswith(".")]
    assert len(ours) == 4
    for source, _, mode in ours:
        assert (DEPLOY / source).exists(), source
        assert mode == "ro"
    named = {volume.split(":")[0] for volume in found if not volume.startswith(".")}
    assert named == COMPOSE["volumes"].keys()


@pytest.mark.parametrize("name", ["surety", "monitor", "upkeep", "mlflow", "prometheus"])
def test_may_do_next_to_nothing(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_nothing_is_privileged_or_sees_more_of_the_machine_than_it_must() -> None:
    for service in SERVICES.values():
        assert service.keys().isdisjoint({"privileged", "cap_add", "devices", "pid", "ipc", "user"})
        assert service["cap_drop"] == ["ALL"]
        assert service.get("network_mode") in {None, "none", "service:prometheus"}  # above all not the machine's own
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_service_is_given_time_to_stop() -> None:
    assert SERVICES["surety"]["stop_grace_period"] == "40s"
    assert '"--timeout-graceful-shutdown", "10"' in dockerfile("container")


@pytest.mark.parametrize("name", ["surety", "monitor", "tools"])
def test_home_is_one_volume_and_where_the_image_says(name: str) -> None:
    assert mounts(name) == {"/var/lib/surety": "home"}


@pytest.mark.parametrize("folder", ["container", "tools"])
def test_images_share_home_user_and_base(folder: str) -> None:
    text = dockerfile(folder)
    assert re.search(r"SURETY_HOME=/var/lib/surety\b", text)
    assert "VOLUME /var/lib/surety" in text
    assert "USER 1034:1034" in text.splitlines()
    assert "ORT_DISABLE_TELEMETRY=1" in text
    (base,) = re.findall(r"^ARG BASE=(.+)$", text, re.MULTILINE)
    bento = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["docker"]
    assert base == bento["base_image"]
    assert re.fullmatch(rf"docker\.io/library/python:{bento['python_version']}\.\d+-slim-\w+", base)


def test_what_the_image_of_the_commands_copies_is_sent_to_its_builder() -> None:
    sent = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    lines = [shlex.split(line) for line in dockerfile("tools").splitlines() if re.match(r"COPY (?!--from)", line)]
    copied = {source for line in lines for source in line[1:-1]}
    assert sent == copied
    assert all((ROOT / path).exists() for path in copied)


def test_keys_are_on_the_volume_and_names_are_settings() -> None:
    home = SERVICES["surety"]["environment"]
    assert home["SURETY_API_KEYS_FILE"] == "/var/lib/surety/keys.json"
    named = {
        key for service in SERVICES.values() for key in service.get("environment", {}) if key.startswith("SURETY_")
    }
    assert {key.removeprefix("SURETY_").lower() for key in named} <= Settings.model_fields.keys()


def test_registry_is_found_under_its_name() -> None:
    assert SERVICES["tools"]["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert "--port=5000" in SERVICES["mlflow"]["command"]
    (hosts,) = (part for part in SERVICES["mlflow"]["command"] if part.startswith("--allowed-hosts="))
    assert "mlflow:5000" in hosts.split("=")[1].split(",")
    assert "/var/lib/mlflow" in mounts("mlflow")


def test_prometheus_takes_its_configuration_where_it_is_mounted(promtool: Promtool, tmp_path: Path) -> None:
    seen = mounts("prometheus")
    assert (DEPLOY / seen["/etc/prometheus/prometheus.yml"]).resolve() == SCRAPED
    shutil.copytree(DEPLOY / seen["/etc/prometheus/rules"], tmp_path / "rules")
    key = tmp_path / "metrics_key"
    key.write_text("surety_x")
    (tmp_path / "prometheus.yml").write_text(SCRAPED.read_text().replace("/run/secrets/metrics_key", str(key)))
    assert "1 rule files found" in promtool("check", "config", tmp_path / "prometheus.yml")


def test_prometheus_asks_the_service_with_its_key() -> None:
    (job,) = yaml.safe_load(SCRAPED.read_text())["scrape_configs"]
    (secret,) = SERVICES["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert COMPOSE["secrets"][secret]["file"].startswith("${SURETY_METRICS_KEY_FILE:?")
    assert job["static_configs"] == [{"targets": ["surety:3000"]}]
    assert SERVICES["surety"]["ports"][0].endswith(":3000")


def test_prometheus_differs_from_the_one_for_one_service_in_address_and_key_only() -> None:
    here, alone = (yaml.safe_load(path.read_text()) for path in (SCRAPED, CONFIG))
    for config in (here, alone):
        for job in config["scrape_configs"]:
            for name in ("static_configs", "authorization"):
                job.pop(name, None)
    assert here == alone


def test_grafana_has_source_and_dashboards() -> None:
    seen = mounts("grafana")
    provisioning = DEPLOY / seen["/etc/grafana/provisioning"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "surety.yml").read_text())["providers"]
    board = DEPLOY / seen[provider["options"]["path"]] / "surety.json"
    assert json.loads(board.read_text())["uid"] == "surety"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://localhost:9090"
    assert SERVICES["grafana"]["network_mode"] == "service:prometheus"  # so that this is Prometheus
    assert "127.0.0.1:3001:3000" in SERVICES["prometheus"]["ports"]


def test_the_log_is_sealed_and_pruned_once_a_day_and_a_failure_is_unhealthy() -> None:
    (loop,) = SERVICES["upkeep"]["command"]
    assert re.findall(r"surety (log \w+)", loop) == ["log seal", "log prune"]
    assert "&& touch /tmp/done; sleep 86400" in loop
    assert "/tmp/done" in SERVICES["upkeep"]["healthcheck"]["test"][-1]
    assert "/tmp" in SERVICES["upkeep"]["tmpfs"]
