"""The manifests for KServe: KServe's own classes know every field, Kubernetes takes the pod, and the service its settings."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_core.base.settings import Settings
from ml_core.serve.http.access import OPEN_TO_ALL
from tests.deploy.charts import KUBERNETES, SMALL, containers, the_service, variables
from tests.deploy.queries import DEPLOY
from tests.oracles import oracle

RUNTIME: dict[str, Any] = yaml.safe_load((DEPLOY / "kserve" / "serving-runtime.yaml").read_text())
SERVICE: dict[str, Any] = yaml.safe_load((DEPLOY / "kserve" / "inference-service.yaml").read_text())
OF_KSERVE = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "model"}
"""Fields of a predictor that are no fields of a pod."""


def pod() -> dict[str, Any]:
    """The pod that KServe makes of the two: the runtime's containers and volumes, the predictor's pod and variables."""
    predictor = SERVICE["spec"]["predictor"]
    (container,) = RUNTIME["spec"]["containers"]
    whole = {**container, "env": [*container["env"], *predictor["model"]["env"]]}
    spec = {name: value for name, value in predictor.items() if name not in OF_KSERVE}
    spec |= {"containers": [whole], "volumes": RUNTIME["spec"]["volumes"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "surety"}, "spec": spec}


STRANGERS = """
import json, re, sys
from kserve import models

def strangers(made, kind, where):
    one = getattr(models, kind)
    types = {one.attribute_map[name]: told for name, told in one.openapi_types.items()}
    for name, value in made.items():
        if name not in types:
            yield f"{where}.{name}"
            continue
        inner = re.sub(r"^(?:list|List)\\[(.*)\\]$", r"\\1", types[name])
        if hasattr(models, inner):  # the others are Kubernetes' own
            for each in value if isinstance(value, list) else [value]:
                yield from strangers(each, inner, f"{where}.{name}")

kinds = ("V1alpha1ServingRuntime", "V1beta1InferenceService")
print(json.dumps([list(strangers(made, kind, kind)) for made, kind in zip(json.load(sys.stdin), kinds)]))
"""
"""Writes the fields that KServe's generated classes do not know."""


def strangers(runtime: dict[str, Any], service: dict[str, Any]) -> list[list[str]]:
    done = oracle("python", "-c", STRANGERS, text=json.dumps([runtime, service]), name="kserve")
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_kserves_classes_know_every_field() -> None:
    assert strangers(RUNTIME, SERVICE) == [[], []]
    runtime, service = copy.deepcopy(RUNTIME), copy.deepcopy(SERVICE)
    runtime["spec"]["supportedModelFormats"][0]["autoselect"] = True
    service["spec"]["predictor"]["model"]["protocol"] = "v2"
    assert strangers(runtime, service) == [
        ["V1alpha1ServingRuntime.spec.supportedModelFormats.autoselect"],
        ["V1beta1InferenceService.spec.predictor.model.protocol"],
    ]


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_pod(version: str, tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod()))
    done = oracle("kubernetes-validate", "-k", version, "--strict", tmp_path / "pod.yaml", name="deploy")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_uses_the_runtime_for_the_format_that_it_offers() -> None:
    model = SERVICE["spec"]["predictor"]["model"]
    (offered,) = RUNTIME["spec"]["supportedModelFormats"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["modelFormat"] == {"name": offered["name"], "version": offered["version"]}
    assert [model["protocolVersion"]] == RUNTIME["spec"]["protocolVersions"]


def test_probes_ask_what_needs_no_key_on_the_port_that_is_open() -> None:
    (container,) = pod()["spec"]["containers"]
    (port,) = container["ports"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in OPEN_TO_ALL
        assert asked["port"] == port["containerPort"]


def test_the_pod_is_told_what_the_chart_tells_its_own() -> None:
    (container,) = pod()["spec"]["containers"]
    (of_chart,) = containers(the_service(*SMALL)["spec"]["template"])
    ours, theirs = variables(container), variables(of_chart)
    assert ours.keys() == theirs.keys()
    for name in (
        "SURETY_HOME",
        "SURETY_DATABASE",
        "SURETY_LOG_KEY_FILE",
        "SURETY_SUBJECT_KEY_FILE",
        "SURETY_API_KEYS_FILE",
    ):
        assert ours[name] == theirs[name]
    names = {name.removeprefix("SURETY_").lower() for name in ours}
    assert names - set(Settings.model_fields) <= {"machine"}
    assert {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"} <= container["securityContext"].keys()
