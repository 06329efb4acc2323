"""Old answers of a real service are given again by the same model, after promotions, restarts and the loss of MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pyarrow as pa
import pytest

from tests.e2e.conftest import walk, written_config
from tests.e2e.workplace import Workplace

pytestmark = pytest.mark.e2e

RECORDS = [
    {
        "age": 20 + i % 80,
        "glucose": None if i % 7 == 0 else 80.0 + i,
        "bmi": 18.0 + i % 25,
        "bp_systolic": 95.0 + i % 90,
    }
    for i in range(120)
]


@dataclass
class Past:
    """A place whose champion has changed, with answers of the old champion and of the new one."""

    place: Workplace
    old: dict[str, Any]
    new: dict[str, Any]


def ask(address: str) -> list[dict[str, Any]]:
    """Send single requests, a batch and a bulk call; the answers that came as JSON."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(RECORDS)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with httpx.Client(base_url=address, timeout=60) as client:
        replies = [
            client.post("/predict", json={"features": record, "client_request_id": f"visit-{i}"})
            for i, record in enumerate(RECORDS[:20])
        ]
        batch = client.post("/predict_batch", json={"records": RECORDS, "confidence_level": 0.8})
        bulk = client.post(
            "/predict_batch",
            content=sink.getvalue().to_pybytes(),
            headers={"content-type": "application/vnd.apache.arrow.stream"},
        )
    assert {reply.status_code for reply in (*replies, batch, bulk)} == {200}
    rows = pa.ipc.open_stream(bulk.content).read_all().to_pylist()
    return [*(reply.json() for reply in replies), *batch.json()["predictions"], *rows]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    """A weak model answers, a better one is promoted and answers after a restart; then MLflow is gone."""
    place = Workplace(tmp_path_factory.mktemp("past"), "readmission_risk")
    place.surety("data", "make", "--out", "data/cohort.parquet", "--rows", "9000")
    weak = {"rounds": 1, "params": {"max_depth": 1, "learning_rate": 0.3}}
    walk(place, written_config(place, "readmission_v1.yaml", training=weak, gate={"min_roc_auc": 0.5}))
    with place.serving() as address:
        old = ask(address)
    walk(place, written_config(place, "readmission_v1.yaml"))
    with place.serving() as address:
        new = ask(address)
    home = place.folder / "home"
    for name in ("mlflow.db", "mlartifacts"):
        (home / name).rename(place.folder / name)
    return Past(place, {a["request_id"]: a for a in old}, {a["request_id"]: a for a in new})


def test_two_hundred_old_answers_are_equal(past: Past) -> None:
    ids = list(past.old)
    wanted = ids[:20] + ids[80:]  # the single ones, half of the batch, the whole bulk call
    told = past.place.surety("replay", *wanted)
    assert (told["replayed"], told["states"]["equal"], told["max_difference"]) == (200, 200, 0.0)
    (model,) = told["models"]
    assert model["version"] == "1"


def test_both_models_answer_for_themselves(past: Past) -> None:
    told = past.place.surety("replay", "--since", "1d")
    assert told["states"]["equal"] == told["replayed"] == len(past.old) + len(past.new) == 520
    assert {model["version"]: model["states"]["equal"] for model in told["models"]} == {"1": 260, "2": 260}


def test_audit_of_an_old_answer_knows_what_has_become_of_its_model(past: Past) -> None:
    request_id, answer = next(iter(past.old.items()))
    found = past.place.surety("audit", request_id)
    assert found["answer"]["prediction_set"] == answer["prediction_set"]
    assert found["answer"]["p_values"] == answer["p_values"]
    assert found["answer"]["probabilities"] == answer["probabilities"]
    assert found["answer"]["input_hash"] == answer["lineage"]["input_hash"]
    now = found["model_now"]
    assert (now["rollout"]["slot"], now["promotion"]["is_promoted"]) == ("previous", False)
    assert (now["stored"]["is_there"], now["gate"]["verdict"]) == (True, "passed")
    assert "there is no such file" in now["mlflow"]["problem"]
    assert {"gate.judged", "model.imported", "rollout.changed"} <= {entry["event"] for entry in now["journal"]}
    assert (found["log_entry"]["digest_holds"], found["log_entry"]["chain_holds"]) == (True, True)


def test_a_model_that_is_gone_from_every_store_is_told(past: Past) -> None:
    request_id, answer = next(iter(past.old.items()))
    tag = past.place.surety("audit", request_id)["model_now"]["stored"]["tag"]
    stored = past.place.folder / "bentoml" / "models" / tag.replace(":", "/")
    stored.rename(past.place.folder / "away")
    try:
        told = past.place.surety("replay", request_id, next(iter(past.new)), status=1)
    finally:
        (past.place.folder / "away").rename(stored)
    assert [one["state"] for one in told["answers"]] == ["model_missing", "equal"]
    assert answer["lineage"]["model_hash"][:12] in told["answers"][0]["note"]
