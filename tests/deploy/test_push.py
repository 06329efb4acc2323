"""`make push`: says what it lacks, and hands the token to the engine's standard input alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.queries import ROOT

TOKEN = "t0ken-of-the-ward"
ENGINE = """#!{python}
import json, os, sys
kept = os.environ.get("DOCKER_CONFIG")
told = {{"name": os.path.basename(sys.argv[0]), "said": sys.argv[1:], "kept": kept}}
if sys.argv[1] == "login":
    told["read"] = sys.stdin.read()
with open({record!r}, "a") as file:
    file.write(json.dumps(told) + "\\n")
sys.exit({refuses} if sys.argv[1] == "info" else 0)
"""


class Bench:
    """An engine that only writes down what it is asked, in front of the real ones, and a store with one bento."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "asked.jsonl"
        self.engine("docker", refuses=0)
        self.program("bentoml", f"#!/bin/sh\necho {folder}/bentos/surety/abc123\n")

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def engine(self, name: str, refuses: int) -> None:
        self.program(name, ENGINE.format(python=sys.executable, record=str(self.record), refuses=refuses))

    def push(self, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {
            k: v for k, v in os.environ.items() if k not in {"REGISTRY", "IMAGE", "REGISTRY_USER", "REGISTRY_TOKEN"}
        }
        mine = {"PATH": f"{self.folder}:{os.environ['PATH']}", "BENTOML": str(self.folder / "bentoml")}
        return subprocess.run(
            [ROOT / "deploy" / "container" / "push.sh"],
            env={**clean, **mine, **variables}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    @property
    def asked(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "REGISTRY IMAGE"),
        ({"REGISTRY": "r.example/ward"}, "IMAGE"),
        ({"REGISTRY": "", "IMAGE": "surety:1"}, "REGISTRY"),
        ({"REGISTRY": "r.example/ward", "IMAGE": "surety:1", "REGISTRY_TOKEN": TOKEN}, "REGISTRY_USER"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_asked(bench: Bench, given: dict[str, str], named: str) -> None:
    done = bench.push(**given)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"not set: {named};" in done.stderr
    assert bench.asked == []


def test_the_image_of_the_bento_is_pushed_under_the_name_asked_for(bench: Bench) -> None:
    done = bench.push(REGISTRY="r.example/ward", IMAGE="surety:1")
    assert (done.returncode, done.stdout) == (0, "r.example/ward/surety:1\n")
    said = [asked["said"] for asked in bench.asked]
    assert said == [["info"], ["tag", "surety:abc123", "r.example/ward/surety:1"], ["push", "r.example/ward/surety:1"]]


def test_the_token_is_read_from_standard_input_and_its_file_is_gone_afterwards(bench: Bench) -> None:
    done = bench.push(REGISTRY="r.example/ward", IMAGE="surety:1", REGISTRY_USER="nurse", REGISTRY_TOKEN=TOKEN)
    assert done.returncode == 0
    login = next(asked for asked in bench.asked if asked["said"][0] == "login")
    assert login["said"] == ["login", "--username", "nurse", "--password-stdin", "r.example"]
    assert login["read"] == TOKEN
    assert not Path(str(login["kept"])).exists()
    assert TOKEN not in done.stdout + done.stderr + str([asked["said"] for asked in bench.asked])


def test_without_dockers_daemon_podman_pushes(bench: Bench) -> None:
    bench.engine("docker", refuses=1)
    bench.engine("podman", refuses=0)
    assert bench.push(REGISTRY="r.example/ward", IMAGE="surety:1").returncode == 0
    assert [asked["name"] for asked in bench.asked] == ["docker", "podman", "podman"]
