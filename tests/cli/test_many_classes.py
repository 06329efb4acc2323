"""A model of four classes with awkward names through its life, command by command: nothing is a dead end."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from ml_core.base.settings import Settings
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.serve.answering.envelope import InferenceResponse
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.recording import Recorder
from ml_core.serve.answering.requests import BatchRequest
from ml_core.serve.answering.shadow import Shadow
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.writer import LogWriter
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout.processes import Identity
from ml_core.serve.worker.assembly import Assembler
from ml_core.serve.worker.rollout_follower import RolloutFollower
from tests.lab.report.outline import Outline
from tests.many_classes import AWKWARD, columns, configuration, table
from tests.own_versions import install
from tests.serve.answering.builders import until
from tests.toy_models import NAME


@pytest.fixture
def place(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home whose model of four classes is trained, gated, promoted and imported."""
    install(monkeypatch, tmp_path, "v901", columns())
    table(5_000, 1).to_csv(tmp_path / "rows.csv", index=False)
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(configuration()))
    assert run("features", "run", "--config", "m.yaml").code == 0
    trained = run("train", "--config", "m.yaml")
    assert (trained.code, trained.result["learner"]) == (0, "xgboost")
    assert {f"coverage_class_{label}" for label in AWKWARD} <= trained.result["metrics"].keys()
    judged = run("validate", "--config", "m.yaml")
    assert judged.code == 0
    rules = {rule["rule"] for rule in judged.result["rules"]}
    assert {f"rows_class_{label}" for label in AWKWARD} | {"brier_skill"} <= rules
    assert "brier" not in rules  # a limit for two classes means nothing for four
    assert run("promote", "--config", "m.yaml").code == 0
    assert run("import-model", "--model", NAME, "--into-home").code == 0
    return Settings(home=tmp_path / "home", model_name=NAME)


def answered(settings: Settings, records: Sequence[dict[str, Any]]) -> list[InferenceResponse]:
    """The answers of a worker that logs them."""
    service = InferenceService(None)
    identity = Identity("s", "api", 1, 1_001, "t")
    RolloutFollower(
        settings, Assembler(settings, ModelLoader(settings)), service, Shadow(), identity, {"api": 1}
    ).begin()
    writer = LogWriter(settings.log, records=LogRecords(settings))
    service._recorder = Recorder(writer, settings.log, Pseudonyms(settings.subject_key), keep_inputs=True)
    writer.start()
    found = asyncio.run(service.predict_batch(BatchRequest(list(records)))).predictions
    until(lambda: writer.counts.pending == 0)
    writer.close(5.0)
    answers = [answer for answer in found if isinstance(answer, InferenceResponse)]
    assert len(answers) == len(records)
    return answers


def test_it_goes_from_a_table_to_answers_outcomes_and_a_new_calibration(run, place, tmp_path, monkeypatch):
    metrics = run("models", "list").result[0]
    assert metrics["roc_auc"] > 0.9
    registry = ModelRegistry(place)
    assert {f"coverage_class_{label}" for label in AWKWARD} <= registry.metrics(
        registry.by_alias(NAME, "champion")
    ).keys()
    card = run("models", "card", "--model", NAME).out
    assert all(label.replace("|", "\\|") in card for label in AWKWARD)

    new = table(800, 2)
    records = json.loads(new.drop(columns="kind").to_json(orient="records"))
    answers = answered(place, records)
    assert {answer.probability for answer in answers} == {None}
    assert all(list(answer.probabilities) == list(AWKWARD) for answer in answers)
    assert all(abs(sum(answer.probabilities.values()) - 1.0) < 1e-5 for answer in answers)
    assert all(answer.confidence == answer.probabilities[str(answer.prediction)] for answer in answers)

    kinds = {"request_id": [answer.request_id for answer in answers], "label": new["kind"]}
    pd.DataFrame(kinds).to_csv(tmp_path / "labels.csv", index=False)
    assert run("labels", "import", "labels.csv").result["accepted"] == len(answers)
    assert run("monitor", "--once").code == 0
    covered = run("coverage", "check")
    assert covered.code == 0
    assert run("performance", "check").result["realised"]["auc"]["value"] > 0.9

    new.to_csv(tmp_path / "new.csv", index=False)
    assert run("score", "new.csv", "scored.csv").code == 0
    with (tmp_path / "scored.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, answer in zip(rows, answers, strict=True):
        assert {label: float(row[f"probability_{label}"]) for label in AWKWARD} == dict(answer.probabilities)
    assert run("replay", "--since", "2026-01-01", "--limit", "20").result["states"]["equal"] == 20
    audited = run("audit", answers[0].request_id).result
    assert audited["answer"]["probabilities"] == dict(answers[0].probabilities)

    assert run("threshold", "--sensitivity", "0.8", "--label", "<30").result["label"] == "<30"
    refused = run("threshold", "--sensitivity", "0.8")
    assert (refused.code, "--label" in refused.err) == (2, True)

    assert run("report").code == 0
    page = Outline((tmp_path / "report.html").read_text())
    assert page.problems == []
    assert all(label in page.text for label in AWKWARD)

    anew = run("recalibrate", "--config", "m.yaml")
    assert (anew.code, anew.result["outcome"]) == (0, "passed")
