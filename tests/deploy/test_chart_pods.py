"""The pods of the Helm chart: they may do next to nothing, are of one home, lose nothing and talk to few."""

from __future__ import annotations

import re
from pathlib import Path

from ml_core.base.settings import Settings
from ml_core.cli.main import VERBS
from tests.deploy.charts import (
    EVERYTHING,
    SETS,
    SMALL,
    containers,
    pods,
    rendered,
    the,
    the_service,
    variables,
)
from tests.test_docs import command_of

PARTS = {"service", "monitor", "seal", "prune", "drift", "retrain", "migrate", "test"}


# --- what runs ----------------------------------------------------------------------------------------------------


def test_every_part_is_there() -> None:
    kinds = sorted(made["kind"] for made in rendered(*EVERYTHING))
    assert kinds == sorted(
        [
            "Deployment", "Deployment", "Service", "ServiceAccount", "HorizontalPodAutoscaler", "PodDisruptionBudget",
            "PodDisruptionBudget", "NetworkPolicy", "NetworkPolicy", "Ingress", "ServiceMonitor", "PrometheusRule", "ConfigMap",
            "CronJob", "CronJob", "CronJob", "CronJob", "Job", "Pod",
        ]
    )  # fmt: skip
    found = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in pods(rendered(*EVERYTHING))}
    assert found == PARTS


@SETS
def test_every_pod_meets_the_restricted_standard(values: tuple[Path, ...]) -> None:
    """Pod Security Standards, level restricted, and a root that cannot be written to."""
    for who, pod in pods(rendered(*values)):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, who
        assert spec["enableServiceLinks"] is False, who  # a Service named surety would set SURETY_PORT
        assert spec.keys().isdisjoint({"hostNetwork", "hostPID", "hostIPC", "hostUsers"}), who
        assert spec["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 1034, "runAsGroup": 1034, "fsGroup": 1034,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        }, who  # fmt: skip
        assert {next(iter(volume.keys() - {"name"})) for volume in spec.get("volumes", [])} <= {
            "emptyDir", "secret", "ephemeral", "persistentVolumeClaim",
        }, who  # fmt: skip
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }, who  # fmt: skip
            assert not [port for port in container.get("ports", []) if "hostPort" in port], who
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, who
            assert "memory" in container["resources"]["limits"], who


@SETS
def test_every_pod_finds_what_its_secret_and_its_volumes_are_for(values: tuple[Path, ...]) -> None:
    for who, pod in pods(rendered(*values)):
        made = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for container in containers(pod):
            mounted = {mount["name"]: mount for mount in container.get("volumeMounts", [])}
            assert mounted.keys() == made.keys(), who
            if not mounted:
                continue
            told = variables(container)
            assert told["SURETY_HOME"] == mounted["home"]["mountPath"]
            assert mounted["secrets"]["readOnly"] is True
            shown = {item["path"] for item in made["secrets"]["secret"]["items"]}
            files = {name for name, value in told.items() if str(value).startswith("/run/secrets/")}
            assert {told[name] for name in files} == {f"/run/secrets/surety/{name}" for name in shown}, who
            assert ("SURETY_API_KEYS_FILE" in files) == (container["name"] == "surety"), who  # nobody else needs it


@SETS
def test_every_pod_is_of_one_home_and_says_which_machine_it_is(values: tuple[Path, ...]) -> None:
    for who, pod in pods(rendered(*values)):
        for container in containers(pod):
            if "env" not in container:
                continue
            told = variables(container)
            assert told["SURETY_MACHINE"] == {"fieldRef": {"fieldPath": "metadata.name"}}, who
            assert told["SURETY_DATABASE"] == {"secretKeyRef": {"name": "surety", "key": "database-url"}}, who
            assert told["SURETY_OBJECTS"] == "s3://ward/surety", who
            assert container["envFrom"] == [{"secretRef": {"name": "surety-objects"}}], who
            assert [entry["name"] for entry in container["env"]] == list(told), who  # none is told twice


@SETS
def test_what_pods_are_told_are_settings(values: tuple[Path, ...]) -> None:
    told = {name for _, pod in pods(rendered(*values)) for c in containers(pod) if "env" in c for name in variables(c)}
    names = {name.removeprefix("SURETY_").lower() for name in told - {"MLFLOW_TRACKING_URI"}}
    assert names <= Settings.model_fields.keys()
    assert {"database", "objects", "machine", "home", "workers", "api_keys_file"} <= names


@SETS
def test_no_secret_is_in_what_is_rendered(values: tuple[Path, ...]) -> None:
    found = rendered(*values)
    assert "Secret" not in {made["kind"] for made in found}
    for _, pod in pods(found):
        for container in containers(pod):
            for name, value in variables(container).items() if "env" in container else ():
                assert not re.search("KEY$|TOKEN|PASSWORD|DATABASE", name) or isinstance(value, dict), name


def test_commands_are_ones_that_surety_has() -> None:
    ran = []
    for who, pod in pods(rendered(*EVERYTHING)):
        (container,) = pod["spec"][
            "containers"
        ]  # and no side car, from which the process manager could be told what to do
        words = container.get("args")
        if words is None:
            continue
        ran.append(words[:2])
        if words[0] in VERBS:
            command, left = command_of(words)
            command.make_context(who, left)
    assert ["home", "migrate"] in ran
    assert {tuple(words) for words in ran} >= {
        ("monitor", "--every"),
        ("log", "seal"),
        ("log", "prune"),
        ("drift", "check"),
    }


def test_digest_comes_before_the_tag() -> None:
    (image,) = (container["image"] for container in the_service(*EVERYTHING)["spec"]["template"]["spec"]["containers"])
    assert image == f"registry.example.org/ward/surety@sha256:{'0' * 64}"
    (image,) = (container["image"] for container in the_service(*SMALL)["spec"]["template"]["spec"]["containers"])
    assert image == "registry.example.org/ward/surety:1.0.0"


# --- change without a failed request ------------------------------------------------------------------------------


def test_a_pod_goes_only_after_another_answers_and_after_it_was_left_out() -> None:
    spec = the_service(*SMALL)["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    drained = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    ready = container["readinessProbe"]
    assert drained >= ready["periodSeconds"]
    assert pod["terminationGracePeriodSeconds"] >= drained + 40  # as long as the compose file gives it


def test_probes_ask_what_they_are_for() -> None:
    (container,) = the_service(*SMALL)["spec"]["template"]["spec"]["containers"]
    asked = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert asked == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 120


def test_the_number_of_pods_has_one_owner() -> None:
    assert "replicas" not in the_service(*SMALL)["spec"]
    scaled = the(rendered(*SMALL), "HorizontalPodAutoscaler", "ward-surety")
    assert scaled["spec"]["scaleTargetRef"]["name"] == "ward-surety"
    fixed = rendered(*SMALL, "autoscaling.enabled=false", "service.replicas=4")
    assert the(fixed, "Deployment", "ward-surety")["spec"]["replicas"] == 4
    assert "HorizontalPodAutoscaler" not in {made["kind"] for made in fixed}


def test_a_restart_of_a_container_keeps_its_spool() -> None:
    for values, kind in ((SMALL, "emptyDir"), (EVERYTHING, "ephemeral")):
        volumes = {v["name"]: v for v in the_service(*values)["spec"]["template"]["spec"]["volumes"]}
        assert kind in volumes["home"]


def test_two_monitors_stand_on_different_nodes_where_that_can_be() -> None:
    spec = the(rendered(*SMALL), "Deployment", "ward-surety-monitor")["spec"]
    assert spec["replicas"] == 2
    (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == spec["selector"]["matchLabels"]


def test_tables_are_brought_up_to_date_before_anything_else() -> None:
    job = the(rendered(*SMALL), "Job", "ward-surety-migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert "serviceAccountName" not in job["spec"]["template"]["spec"]  # it is not there yet
    assert "Job" not in {made["kind"] for made in rendered(*SMALL, "migrate.enabled=false")}


def test_jobs_run_one_at_a_time_and_a_sound_no_is_not_tried_again() -> None:
    found = {m["metadata"]["name"]: m["spec"] for m in rendered(*EVERYTHING) if m["kind"] == "CronJob"}
    assert found.keys() == {f"ward-surety-{name}" for name in ("seal", "prune", "drift", "retrain")}
    for name, spec in found.items():
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["timeZone"] == "Etc/UTC"
        job = spec["jobTemplate"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        fails, ignores = job["podFailurePolicy"]["rules"]
        assert fails["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2, 3]}
        assert ignores["onPodConditions"][0]["type"] == "DisruptionTarget"
        assert name.endswith(container["name"])
    minute, hour = found["ward-surety-seal"]["schedule"].split()[:2]
    assert (int(hour), int(minute)) < tuple(int(n) for n in found["ward-surety-prune"]["schedule"].split()[1::-1])


def test_only_the_trainer_mounts_what_signs() -> None:
    claims = {
        who: volume["persistentVolumeClaim"]["claimName"]
        for who, pod in pods(rendered(*EVERYTHING))
        for volume in pod["spec"].get("volumes", [])
        if "persistentVolumeClaim" in volume
    }
    assert claims == {"CronJob ward-surety-retrain": "trainer"}


# --- who may talk to whom -----------------------------------------------------------------------------------------


@SETS
def test_selectors_select_what_they_are_for(values: tuple[Path, ...]) -> None:
    found = rendered(*values)
    labels = {who: pod["metadata"]["labels"] for who, pod in pods(found)}

    def selected(selector: dict[str, str]) -> set[str]:
        return {who for who, has in labels.items() if selector.items() <= has.items()}

    service = {"Deployment ward-surety"}
    assert selected(the(found, "Service", "ward-surety")["spec"]["selector"]) == service
    assert selected(the_service(*values)["spec"]["selector"]["matchLabels"]) == service
    for name, who in (("ward-surety", "ward-surety"), ("ward-surety-monitor", "ward-surety-monitor")):
        budget = the(found, "PodDisruptionBudget", name)
        assert selected(budget["spec"]["selector"]["matchLabels"]) == {f"Deployment {who}"}
    assert selected(the(found, "NetworkPolicy", "ward-surety")["spec"]["podSelector"]["matchLabels"]) == service
    tools = the(found, "NetworkPolicy", "ward-surety-tools")["spec"]["podSelector"]
    (but,) = tools["matchExpressions"]
    assert {has[but["key"]] for has in labels.values()} - set(but["values"]) == {
        has[but["key"]] for who, has in labels.items() if not who.endswith((" ward-surety", "-ready"))
    }


def test_nobody_asks_monitors_and_jobs_and_they_reach_what_they_need() -> None:
    found = rendered(*EVERYTHING)
    tools = the(found, "NetworkPolicy", "ward-surety-tools")["spec"]
    assert tools["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in tools
    service = the(found, "NetworkPolicy", "ward-surety")["spec"]
    assert service["egress"] == tools["egress"]
    names, database, objects = service["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert ([port["port"] for port in database["ports"]], database["to"]) == (
        [5432],
        [{"ipBlock": {"cidr": "192.0.2.10/32"}}],
    )
    assert [port["port"] for port in objects["ports"]] == [443, 9000]
    (rule,) = service["ingress"]
    assert [port["port"] for port in rule["ports"]] == ["http"]
    monitoring, test = rule["from"]
    assert monitoring == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    asks = the(found, "Pod", "ward-surety-ready")["metadata"]["labels"]
    assert test["podSelector"]["matchLabels"].items() <= asks.items()  # `helm test` is let in, whoever else is


def test_callers_from_outside_come_by_tls() -> None:
    spec = the(rendered(*EVERYTHING), "Ingress", "ward-surety")["spec"]
    (rule,), (tls,) = spec["rules"], spec["tls"]
    assert (tls["hosts"], tls["secretName"]) == ([rule["host"]], "surety-tls")
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "ward-surety", "port": {"name": "http"}}
