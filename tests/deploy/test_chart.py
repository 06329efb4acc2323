"""The Helm chart: helm, Kubernetes' own schemas and Prometheus take it, and what cannot be meant is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.charts import (
    CHART,
    EVERYTHING,
    EXAMPLE,
    KUBERNETES,
    SETS,
    SMALL,
    containers,
    helm,
    pods,
    rendered,
    rendered_text,
    the,
    variables,
)
from tests.deploy.conftest import Promtool
from tests.deploy.queries import DASHBOARD, ROOT, RULES, RULES_TEST, rules, selected
from tests.documents import blocks
from tests.oracles import oracle

OPERATORS = {"PrometheusRule", "ServiceMonitor"}


# --- what other people's tools say --------------------------------------------------------------------------------


@SETS
def test_helm_finds_nothing_to_blame(values: tuple[Path, ...]) -> None:
    status, said, _ = helm("lint", "--strict", "--quiet", CHART, *(word for path in values for word in ("-f", path)))
    assert (status, said.strip()) == (0, "")


def test_a_packed_chart_is_whole_and_renders_the_same(tmp_path: Path) -> None:
    """Rules and dashboard are links here, and files in the archive that is handed on."""
    status, _, said = helm("package", CHART, "--destination", tmp_path)
    assert status == 0, said
    (packed,) = tmp_path.iterdir()
    values = [word for path in EVERYTHING for word in ("--values", path)]
    status, text, said = helm("template", "ward", packed, "--namespace", "surety", *values)
    assert (status, text) == (0, rendered_text(*EVERYTHING)), said


@pytest.mark.parametrize("version", KUBERNETES)
@SETS
def test_kubernetes_takes_every_object(values: tuple[Path, ...], version: str, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(rendered_text(*values))
    done = oracle("kubernetes-validate", "-k", version, "--strict", tmp_path / "all.yaml", name="deploy")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    found = rendered(*values)
    assert len(re.findall(r"^INFO .+ passed for resource .+ against version", said, re.MULTILINE)) == len(
        [made for made in found if made["kind"] not in OPERATORS]
    )


def test_kubernetes_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    wrong = rendered_text(*SMALL).replace("readOnlyRootFilesystem", "readonlyRootFilesystem", 1)
    (tmp_path / "all.yaml").write_text(wrong)
    done = oracle("kubernetes-validate", "-k", KUBERNETES[-1], "--strict", tmp_path / "all.yaml", name="deploy")
    assert done.returncode != 0


TAKE = """
import sys, yaml
import cloudcoil.pydantic

cloudcoil.pydantic.BaseModel.model_config["extra"] = "forbid"  # before the classes are made
from cloudcoil.models.prometheus_operator import v1

for found in yaml.load_all(sys.stdin, yaml.CSafeLoader):
    try:
        getattr(v1, found["kind"])(**found)
        print("taken", found["kind"])
    except ValueError as error:
        print("refused", found["kind"], *str(error).split())
"""


def test_prometheus_operator_takes_its_objects_and_no_others() -> None:
    made = yaml.safe_dump_all([found for found in rendered(*EVERYTHING) if found["kind"] in OPERATORS])
    wrong = made.replace("endpoints:", "endpoint:").replace("alert: SuretyDown", "alarm: SuretyDown")
    done = oracle("python", "-c", TAKE, text=f"{made}---\n{wrong}", name="deploy")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert {line for line in said if line.startswith("taken")} == {f"taken {kind}" for kind in OPERATORS}
    refused = [line for line in said if line.startswith("refused")]
    assert len(said) == len(OPERATORS) + len(refused) == 2 * len(OPERATORS)
    assert all("Extra inputs are not permitted" in line for line in refused)


def test_the_page_shows_the_example() -> None:
    (shown,) = (block.text for block in blocks(ROOT / "docs" / "kubernetes.md") if block.kind == "yaml")
    assert yaml.safe_load(shown) == yaml.safe_load(EXAMPLE.read_text())


def test_oldest_kubernetes_is_the_oldest_that_was_tried() -> None:
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert described["kubeVersion"] == f">={KUBERNETES[0]}.0-0"
    status, _, said = helm("template", "ward", CHART, "--values", EXAMPLE, "--kube-version", "1.33.0")
    assert status != 0
    assert "incompatible" in said


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ('image.repository=""', "/image/repository"),
        ('image.tag=""', "/image"),
        ('image.digest="sha256:1"', "/image/digest"),
        ('secret=""', "/secret"),
        ('objects.url="/mnt/objects"', "/objects/url"),
        ("service.replica=2", "/service"),
        ("autoscaling.min=0", "/autoscaling/min"),
        ("jobs.retrain.enabled=true", "/jobs/retrain/claim"),
        ('ingress={"enabled": true, "host": "surety.example.org"}', "/ingress/tlsSecret"),
        ("serviceMonitor.enabled=true", "/serviceMonitor/keySecret"),
        ('settings={"SURETY_LOG_RETENTION_DAYS": 365}', "/settings/SURETY_LOG_RETENTION_DAYS"),
        ('jobs.seal.schedule="@daily"', "/jobs/seal/schedule"),
        ('trustedKeys=["mine"]', "/trustedKeys/0"),
        ("networkPolicy.from=[]", "/networkPolicy/from"),
    ],
)
def test_value_that_cannot_be_meant_is_refused_by_its_place(wrong: str, named: str) -> None:
    status, _, said = helm("template", "ward", CHART, "--values", EXAMPLE, "--set-json", wrong)
    assert status != 0
    assert f"at '{named}'" in said


def test_settings_do_not_take_what_the_chart_sets_itself() -> None:
    wrong = 'settings={"SURETY_DATABASE": "postgresql://ward:secret@db/surety"}'
    status, _, said = helm("template", "ward", CHART, "--values", EXAMPLE, "--set-json", wrong)
    assert (status, "invalid propertyName 'SURETY_DATABASE'" in said) == (1, True)
    chart = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]["propertyNames"]
    told = {
        name for _, pod in pods(rendered(*EVERYTHING)) for c in containers(pod) if "env" in c for name in variables(c)
    }
    assert set(chart["not"]["enum"]) == {name for name in told if name.startswith("SURETY_")} - {
        "SURETY_LOG_RETENTION_DAYS"
    }


def test_retraining_needs_a_registry() -> None:
    wrong = 'jobs.retrain={"enabled": true, "claim": "trainer"}'
    status, _, said = helm("template", "ward", CHART, "--values", EXAMPLE, "--set-json", wrong)
    assert (status, "at '/registry/uri'" in said) == (1, True)


def test_a_range_of_pods_that_is_none_is_refused() -> None:
    status, _, said = helm("template", "ward", CHART, "--values", EXAMPLE, "--set-json", "autoscaling.min=12")
    assert (status, "autoscaling.max is 10, less than autoscaling.min (12)" in said) == (1, True)


def test_names_of_a_long_release_are_ones_that_kubernetes_takes() -> None:
    """A CronJob's name has at most 52 characters, since its jobs get eleven more; a release's at most 53."""
    values = [word for path in EVERYTHING for word in ("--values", path)]
    status, text, said = helm("template", "w" * 53, CHART, *values)
    assert status == 0, said
    made = [found["metadata"]["name"] for found in yaml.load_all(text, yaml.CSafeLoader) if found]
    assert max(map(len, made)) <= 52


def test_values_and_their_schema_name_the_same() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def check(value: dict[str, Any], rule: dict[str, Any], where: str) -> None:
        while "$ref" in rule:
            rule = schema["definitions"][rule["$ref"].rpartition("/")[2]]
        if "properties" not in rule:
            return
        assert rule["additionalProperties"] is False, where
        assert rule["properties"].keys() - {"global"} == value.keys(), where
        for name, inner in value.items():
            check(inner, rule["properties"][name], f"{where}.{name}")

    check(values, schema, "")


# --- metrics and alerts -------------------------------------------------------------------------------------------


def test_alerts_are_those_of_the_rules_for_this_release(promtool: Promtool, tmp_path: Path) -> None:
    """Prometheus' own tests of the rules hold for the rules of the chart, with the release's name as the job."""
    made = the(rendered(*EVERYTHING), "PrometheusRule", "ward-surety")["spec"]
    text = RULES.read_text().replace('job="surety"', 'job="ward-surety"')
    assert made == yaml.safe_load(text)
    (tmp_path / "surety.yml").write_text(yaml.safe_dump(made))
    tests = (
        RULES_TEST.read_text().replace('job="surety"', 'job="ward-surety"').replace("job: surety", "job: ward-surety")
    )
    tests = re.sub(r"(to|of|of job) surety (got|were|took|within|for)", r"\1 ward-surety \2", tests)
    (tmp_path / "tests.yml").write_text(tests)
    promtool("test", "rules", tmp_path / "tests.yml")


def test_the_job_of_the_series_is_the_one_that_the_rules_look_for() -> None:
    """The operator takes the Service's name, as the ServiceMonitor names no other."""
    found = rendered(*EVERYTHING)
    monitor, service = the(found, "ServiceMonitor", "ward-surety")["spec"], the(found, "Service", "ward-surety")
    assert "jobLabel" not in monitor
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["authorization"]["credentials"] == {"name": "surety-metrics", "key": "key"}


def test_labels_of_our_series_are_not_replaced_by_the_operator() -> None:
    """It gives each target labels of its own; without `honorLabels` ours of the same name become `exported_endpoint`."""
    given = {"namespace", "service", "pod", "container", "endpoint"}
    ours = {label for rule in rules() for _, labels in selected(rule["expr"]) for label in labels}
    assert given & ours == {"endpoint"}
    (endpoint,) = the(rendered(*EVERYTHING), "ServiceMonitor", "ward-surety")["spec"]["endpoints"]
    assert endpoint["honorLabels"] is True


def test_rules_and_dashboard_of_the_chart_are_the_ones_beside_it() -> None:
    assert (CHART / "files" / "rules.yml").resolve() == RULES
    assert (CHART / "files" / "dashboard.json").resolve() == DASHBOARD
    made = the(rendered(*EVERYTHING), "ConfigMap", "ward-surety-dashboard")
    assert made["data"]["surety.json"] == DASHBOARD.read_text()
