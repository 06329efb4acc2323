"""Follows docs/bring-your-own-model.md as written: writes its files, runs its commands, compares its outputs."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from ml_core.lab.config import load_config
from ml_core.lab.training.labelled_rows import split_of
from tests.e2e.workplace import ROOT, free_port, kill_group
from tests.verdicts import beta_binomial_band

pytestmark = pytest.mark.e2e

PAGE = (ROOT / "docs" / "bring-your-own-model.md").read_text()
FENCE = re.compile(r"(?:^`(?P<path>[\w./-]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+|\d+")
DOTS = "…"


@dataclass
class Step:
    """A command of the page, its output on the page, and its real output."""

    command: str
    shown: str = ""
    notes: list[str] = field(default_factory=list)
    says_status: int = 0
    status: int = 0
    out: str = ""
    err: str = ""


@dataclass
class Walk:
    """The page's commands after they ran in an empty folder; its server still runs."""

    folder: Path
    environment: dict[str, str]
    steps: list[Step]
    address: str = ""

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )

    def step(self, words: str) -> Step:
        return next(step for step in self.steps if words in step.command)


def steps_of(console: str) -> list[Step]:
    """The commands of a console block with the outputs below them."""
    steps: list[Step] = []
    lines = iter(console.splitlines())
    for line in lines:
        if line == "$ echo $?":
            steps[-1].says_status = int(next(lines))
        elif line.startswith("$ "):
            command = line[2:]
            while not is_whole(command):
                command += "\n" + next(lines)
            steps.append(Step(command))
        elif line.startswith("! "):
            steps[-1].notes.append(line[2:])
        else:
            steps[-1].shown += line + "\n"
    return steps


def is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("own") / "mine"
    folder.mkdir()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SURETY_", "MLFLOW_", "BENTOML_", "MODEL_"))}
    places = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BENTOML_HOME": str(folder.parent / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    walk = Walk(folder, {**clean, **places}, [])
    port, servers = free_port(), []
    walk.address = f"http://localhost:{port}"
    try:
        for block in FENCE.finditer(PAGE):
            if block["path"]:
                (folder / block["path"]).write_text(block["text"])
                continue
            for step in steps_of(block["text"]):
                walk.steps.append(step)
                command = step.command.replace("3000", str(port))
                if command.startswith("surety serve"):
                    servers.append(serve(walk, command))
                    continue
                done = walk.run(command)
                step.status, step.out, step.err = done.returncode, done.stdout, done.stderr
                assert step.status == step.says_status, (step.command, step.status, step.out, step.err)
        yield walk
    finally:
        for server in servers:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(30)
            finally:
                kill_group(server.pid)


def serve(walk: Walk, command: str) -> subprocess.Popen[bytes]:
    with (walk.folder.parent / "serve.log").open("wb") as log:
        return subprocess.Popen(
            ["bash", "-c", f"exec env {command}"],
            cwd=walk.folder, env=walk.environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


# --- what is shown against what came ------------------------------------------------------------------------------


def differences(shown: Any, real: Any, where: str = "") -> list[str]:
    """Differences from what is shown. Shown objects may omit fields, lists may omit entries, texts may end in dots."""
    if isinstance(shown, dict) and isinstance(real, dict):
        lost = [f"{where}.{key} is not there" for key in shown if key not in real]
        return lost + [d for key in shown if key in real for d in differences(shown[key], real[key], f"{where}.{key}")]
    if isinstance(shown, list) and isinstance(real, list):
        left = iter(real)
        found = [any(not differences(entry, other) for other in left) for entry in shown]
        return [f"{where}[{i}] is not there" for i, ok in enumerate(found) if not ok]
    if isinstance(shown, str) and shown.endswith(DOTS):
        return [] if isinstance(real, str) and real else [f"{where}: {real!r}"]
    if isinstance(shown, int | float) and isinstance(real, int | float) and not isinstance(shown, bool):
        return [] if near(shown, real) else [f"{where}: {real} and not {shown}"]
    return [] if shown == real else [f"{where}: {real!r} and not {shown!r}"]


def near(shown: float, real: float) -> bool:
    """Counts are exact; other numbers may differ between library versions."""
    return shown == real if isinstance(shown, int) else abs(shown - real) <= 0.04


def line_differences(shown: list[str], real: list[str]) -> list[str]:
    """Lines that are missing or out of order; numbers with a decimal point are compared with a tolerance."""
    left = iter(real)
    return [line for line in shown if not any(alike(line, other) for other in left)]


def alike(shown: str, real: str) -> bool:
    if NUMBER.split(shown) != NUMBER.split(real):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(real), strict=True)
    return all(near(float(a) if "." in a else int(a), float(b) if "." in b else int(b)) for a, b in pairs)


def what_differs(step: Step) -> list[str]:
    notes = line_differences(step.notes, step.err.splitlines())
    if not step.shown.strip():
        return notes
    if step.shown.startswith("{"):
        shown = json.loads(re.sub(rf",\s*{DOTS}", "", step.shown))
        return notes + differences(shown, json.loads(step.out))
    return notes + line_differences(step.shown.splitlines(), step.out.splitlines())


def test_the_page_has_what_it_is_about() -> None:
    blocks = [(block["path"], block["kind"]) for block in FENCE.finditer(PAGE)]
    assert {("make_rows.py", "python"), ("nuclei.yaml", "yaml"), ("record.json", "json")} <= set(blocks)
    commands = " ".join(s.command for b in FENCE.finditer(PAGE) if b["kind"] == "console" for s in steps_of(b["text"]))
    road = ["surety init", "surety run", "validate", "surety serve", "/predict", "/labels", "import-model", "promote"]
    assert [commands.index(words) for words in road] == sorted(commands.index(words) for words in road)
    assert len(re.findall(r"^```", PAGE, re.MULTILINE)) == 2 * len(blocks)


def test_a_comparison_sees_a_difference() -> None:
    real = {"a": 1, "b": [{"rule": "x", "value": 0.5}, {"rule": "y", "value": 51.0}], "tag": "m:v1-0a"}
    assert differences({"b": [{"rule": "y", "value": 51}], "tag": "m:v1…"}, real) == []
    assert differences({"b": [{"rule": "x", "value": 0.6}]}, real) == [".b[0] is not there"]
    assert differences({"a": 2, "c": 3}, real) == [".c is not there", ".a: 1 and not 2"]
    assert line_differences(["| a | 0.98 | 51 |"], ["x", "| a | 0.9712 | 51 |"]) == []
    assert line_differences(["| a | 0.98 | 51 |"], ["| a | 0.9712 | 50 |"]) == ["| a | 0.98 | 51 |"]


def test_every_output_on_the_page_is_what_the_commands_say(walked: Walk) -> None:
    wrong = {step.command: (found, step.out, step.err) for step in walked.steps if (found := what_differs(step))}
    assert wrong == {}


def test_the_served_model_covers_the_test_patients_of_every_class(walked: Walk) -> None:
    rows = pd.read_csv(walked.folder / "breast_mass.csv")
    split = load_config(walked.folder / "breast-mass" / "model.yaml").split
    parts = split_of(rows["patient_id"].to_numpy(dtype=np.str_), split)
    test = rows[parts == "test"]
    records = test.drop(columns=["diagnosis"]).to_dict("records")
    answers = httpx.post(f"{walked.address}/predict_batch", json={"records": records}, timeout=60).json()["predictions"]
    labels = ["benign", "malignant"]
    calibration = rows["diagnosis"][parts == "calibration"].value_counts()
    for answer in answers:
        assert answer["prediction"] in labels
        assert set(answer["prediction_set"]) <= set(labels)
        assert (answer["lineage"]["feature_version"][:6], answer["fallback_used"]) == ("table_", False)
    for label in labels:
        held = [
            label in a["prediction_set"] for a, true in zip(answers, test["diagnosis"], strict=True) if true == label
        ]
        band = beta_binomial_band(int(calibration[label]), len(held), Decimal("0.9"), 1e-3)
        assert band.lower <= np.mean(held) <= band.upper, label


def test_the_told_label_is_that_of_the_answer(walked: Walk) -> None:
    request_id = json.loads(walked.step("cat answer.json").out)["request_id"]
    told = json.loads(
        walked.run(f"cd breast-mass && SURETY_MODEL_NAME=breast-mass surety labels show {request_id}").stdout
    )
    assert (told["label"], told["answer_known"]) == ("malignant", True)


def test_the_adopted_model_has_a_card_and_no_pickle(walked: Walk) -> None:
    card = walked.run("surety models card --model nuclei").stdout
    assert "`sklearn.pipeline.Pipeline`, trained elsewhere, adopted from `models:/nuclei_logit/1`" in card
    assert "**Passed**" in card
    tag = json.loads(walked.step("--trust-pickle").out)["tag"]
    name, _, version = tag.partition(":")
    stored = Path(walked.environment["BENTOML_HOME"]) / "models" / name / version
    files = {path.name for path in stored.rglob("*") if path.is_file()}
    assert "model.onnx" in files
    assert not {name for name in files if name.endswith((".pkl", ".skops", ".joblib"))}
