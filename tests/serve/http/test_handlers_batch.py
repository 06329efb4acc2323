"""Batches: as JSON and as Arrow, good rows and bad, on the loop and in the pool."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import httpx
import nanoarrow as na
import numpy as np
import pyarrow as pa
import pytest

from ml_core.base.errors import FieldProblem
from ml_core.base.settings import Settings
from ml_core.lab.data.frames import to_arrays
from ml_core.serve.answering.answers import Answers
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.requests import new_ids
from ml_core.serve.features.row_faults import RowProblems
from ml_core.serve.features.table import EncodedTable
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.http import arrow_batches as bulk
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.model.prediction_sets import Predictions
from tests.serve.answering.builders import live_model, live_of, other_toy
from tests.serve.http.apis import http_api, post
from tests.toy_models import loaded_toy, toy_frame, toy_live, toy_model, toy_record

ARROW = "application/vnd.apache.arrow.stream"
FEATURES = ["age", "glucose", "bmi", "bp_systolic"]


@pytest.fixture(scope="module")
def api() -> HttpApi:
    return http_api(Settings(max_batch_rows=50, inline_rows=8, max_bulk_rows=5_000), InferenceService(toy_live()))


def stream_of(table: pa.Table, rows_per_batch: int | None = None) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    return out.getvalue()


def post_arrow(api: HttpApi, table: pa.Table, query: str = "", rows_per_batch: int | None = None) -> httpx.Response:
    content = stream_of(table, rows_per_batch)
    return post(api, f"/predict_batch{query}", content=content, headers={"content-type": ARROW})


def read(reply: httpx.Response) -> pa.Table:
    assert reply.status_code == 200, reply.text
    return pa.ipc.open_stream(reply.content).read_all()


def records(n: int) -> list[dict[str, Any]]:
    return [toy_record(age=20 + i, glucose=80.0 + 3 * i) for i in range(n)]


@pytest.mark.parametrize("n", [1, 8, 9, 50])
def test_batch_answers_each_record_as_if_it_came_alone(api: HttpApi, n: int) -> None:
    together = post(api, json={"records": records(n)}).json()["predictions"]
    assert len({answer["request_id"] for answer in together}) == n
    for record, answer in zip(records(n), together, strict=True):
        alone = post(api, "/predict", json={"features": record}).json()
        for part in (
            "prediction",
            "probability",
            "confidence",
            "probabilities",
            "prediction_set",
            "p_values",
            "confidence_level",
        ):
            assert answer[part] == alone[part]
        assert answer["lineage"]["input_hash"] == alone["lineage"]["input_hash"]


def test_bad_row_fails_alone(api: HttpApi) -> None:
    sent = records(12)
    sent[3]["age"] = 130
    sent[7] = None  # type: ignore[call-overload]
    reply = post(api, json={"records": sent})
    answers = reply.json()["predictions"]
    assert reply.status_code == 200
    assert [i for i, a in enumerate(answers) if a["error"]] == [3, 7]
    assert set(answers[3]) == {"request_id", "error"}
    assert answers[3]["error"]["fields"][0]["field"] == "age"
    assert answers[4]["probability"] == post(api, "/predict", json={"features": sent[4]}).json()["probability"]


def test_bad_row_refuses_the_batch_when_told_to(api: HttpApi) -> None:
    sent = records(5)
    sent[3]["age"] = 130
    reply = post(api, json={"records": sent, "on_error": "reject"})
    assert reply.status_code == 422
    assert reply.json()["error"]["fields"][0]["field"] == "records[3].age"


def test_batch_of_bad_rows_only_is_answered(api: HttpApi) -> None:
    answers = post(api, json={"records": [{}, {}]}).json()["predictions"]
    assert all(a["error"]["code"] == "invalid_record" for a in answers)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"records": []}, "records"),
        ({"records": {}}, "records"),
        ({"records": [{}] * 51}, "records"),
        ({"records": [{}], "on_error": "ignore"}, "on_error"),
        ({"records": [{}], "confidence_level": 1}, "confidence_level"),
        ({}, "records"),
    ],
)
def test_wrong_batch_is_422(api: HttpApi, body: Any, field: str) -> None:
    reply = post(api, json=body)
    assert reply.status_code == 422
    assert reply.json()["error"]["fields"][0]["field"] == field


def cohort_table(n: int) -> pa.Table:
    return pa.Table.from_pandas(toy_frame()[FEATURES].head(n), preserve_index=False)


@pytest.mark.parametrize("rows_per_batch", [None, 700])
def test_arrow_answers_equal_offline_answers_bit_for_bit(api: HttpApi, rows_per_batch: int | None) -> None:
    answers = read(post_arrow(api, cohort_table(2_000), rows_per_batch=rows_per_batch))
    predictor = loaded_toy().predictor
    offline = predictor.predict(to_arrays(toy_frame().head(2_000), get_feature_version("v1")))
    assert np.array_equal(answers["probability"].to_numpy(), offline.proba[:, 1])
    for k in (0, 1):
        assert np.array_equal(answers[f"probability_{k}"].to_numpy(), offline.proba[:, k])
        assert np.array_equal(answers[f"p_value_{k}"].to_numpy(), offline.p_values[:, k])
        assert np.array_equal(answers[f"in_set_{k}"].to_numpy(zero_copy_only=False), offline.sets[:, k])
    assert np.array_equal(answers["prediction"].to_numpy(), offline.predictions)
    assert answers["error"].null_count == 2_000
    assert len(set(answers["request_id"].to_pylist())) == 2_000


def test_arrow_lineage_stands_in_the_schema(api: HttpApi) -> None:
    reply = post_arrow(api, cohort_table(3), "?confidence_level=0.8")
    metadata = {k.decode(): v.decode() for k, v in read(reply).schema.metadata.items()}
    assert metadata["lineage.model_hash"] == toy_model().model_hash
    assert metadata["confidence_level"] == "0.8"
    assert metadata["batch_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    "age",
    [
        pa.array([71, 71], pa.int8()),
        pa.array([71, 71], pa.uint64()),
        pa.array([71.0, 71.0], pa.float32()),
        pa.array([71, 71], pa.int64()).dictionary_encode(),
    ],
)
def test_arrow_numbers_of_any_width_are_read(api: HttpApi, age: pa.Array) -> None:
    table = pa.table({"age": age, "glucose": [182.5, None], "bmi": pa.nulls(2), "bp_systolic": [148, None]})
    answers = read(post_arrow(api, table)).to_pylist()
    alone = post(
        api, "/predict", json={"features": {"age": 71, "glucose": 182.5, "bmi": None, "bp_systolic": 148}}
    ).json()
    assert answers[0]["probability"] == alone["probability"]
    assert answers[1]["error"] is None


def test_arrow_bad_rows_are_null_with_the_reason(api: HttpApi) -> None:
    table = pa.table(
        {"age": [71, 130, None], "glucose": [100.0, 100.0, 100.0], "bmi": [20.0, 5.0, 20.0], "bp_systolic": [120.0] * 3}
    )
    answers = read(post_arrow(api, table)).to_pylist()
    assert answers[0]["error"] is None
    assert answers[0]["probability"] is not None
    assert answers[1]["probability"] is None
    assert answers[1]["prediction"] is None
    assert "age: 130 is above" in answers[1]["error"]
    assert "bmi: " in answers[1]["error"]
    assert answers[2]["error"].startswith("age: ")


def test_arrow_bad_rows_refuse_the_call_when_told_to(api: HttpApi) -> None:
    table = pa.table({"age": [71, 130], "glucose": [1e2] * 2, "bmi": [2e1] * 2, "bp_systolic": [1.2e2] * 2})
    reply = post_arrow(api, table, "?on_error=reject")
    assert reply.status_code == 422
    assert reply.json()["error"]["fields"][0]["field"] == "records[1].age"


def test_arrow_missing_and_unknown_columns_fail_every_row(api: HttpApi) -> None:
    missing = read(post_arrow(api, cohort_table(2).drop_columns(["age"]))).to_pylist()
    assert all("age: is missing" in row["error"] for row in missing)
    unknown = read(post_arrow(api, cohort_table(2).append_column("surprise", pa.array([1, 2])))).to_pylist()
    assert all(row["error"].startswith("surprise: ") for row in unknown)


def test_arrow_stream_without_rows_gives_a_stream_without_rows(api: HttpApi) -> None:
    assert read(post_arrow(api, cohort_table(0))).num_rows == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"garbage" * 50, stream_of(cohort_table(5))[:200], json.dumps({"records": []}).encode()],
)
def test_arrow_that_is_none_is_400(api: HttpApi, body: bytes) -> None:
    reply = post(api, content=body, headers={"content-type": ARROW})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_arrow")


def test_arrow_type_that_is_neither_number_nor_text_is_refused(api: HttpApi) -> None:
    table = cohort_table(2).set_column(0, "age", pa.array([[1], [2]]))
    assert post_arrow(api, table).status_code == 400


def test_arrow_with_too_many_rows_is_413(api: HttpApi) -> None:
    ages = pa.table({"age": np.full(5_001, 50)})
    assert post_arrow(api, ages).status_code == 413


@pytest.mark.parametrize(
    "query", ["?on_error=maybe", "?confidence_level=2", "?confidence_level=x", "?unknown=1", "?=%"]
)
def test_arrow_with_wrong_query_is_422(api: HttpApi, query: str) -> None:
    assert post_arrow(api, cohort_table(1), query).status_code == 422


@pytest.mark.parametrize("cut", range(0, 1_400, 37))
def test_damaged_arrow_never_breaks_the_worker(api: HttpApi, cut: int) -> None:
    body = bytearray(stream_of(cohort_table(20)))
    body[cut % len(body)] ^= 0xFF
    assert post(api, content=bytes(body), headers={"content-type": ARROW}).status_code in {200, 400, 413, 422}


def test_labels_that_are_texts_come_out_as_texts() -> None:
    proba = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    found = Predictions(proba, proba, proba > 0.4, np.array([0, 0, 1])).only(np.array([True, False, True]))
    table = EncodedTable(3, {}, {}, RowProblems(3, [], {1: (FieldProblem("age", "is missing"),)}), {})
    none = np.zeros(2, dtype=np.int8)
    schema = na.c_schema(na.Schema(na.Type.STRUCT, fields=bulk._fields(("no", "yes")), nullable=False))
    batch = bulk._record_batch(
        schema,
        ("no", "yes"),
        bulk._Part(table, new_ids(3), Answers(live_of(), "champion", {}, Decimal("0.9"), found, none, none, ())),
    )
    rows = pa.record_batch(batch).to_pylist()
    assert [row["prediction"] for row in rows] == ["no", None, "yes"]
    assert [row["error"] for row in rows] == [None, "age: is missing", None]
    assert rows[2]["in_set_yes"] is True
    assert [row["slot"] for row in rows] == ["champion", None, "champion"]
    assert [row["fallback_reason"] for row in rows] == [None] * 3


@pytest.mark.parametrize(
    ("body", "query", "level"),
    [({}, "", 0.9), ({}, "?confidence_level=0.8", 0.8), ({"confidence_level": 0.7}, "?confidence_level=0.8", 0.7)],
)
def test_a_json_batch_takes_from_the_query_what_its_body_does_not_say(api, body, query, level):
    reply = post(api, f"/predict_batch{query}", json={"records": [toy_record()], **body})
    assert reply.json()["predictions"][0]["confidence_level"] == level


@pytest.mark.parametrize(
    "query",
    ["?on_error=row&on_error=reject", "?confidence_level=0.8&confidence_level=0.8", "?on_error=null", "?level=0.9",
     "?confidence_level=0_8", "?confidence_level=%200.8x", "?confidence_level=NaN", "?confidence_level=1e999", "?confidence_level="],
)  # fmt: skip
def test_options_that_cannot_be_understood_are_refused(api, query):
    assert post(api, f"/predict_batch{query}", json={"records": [toy_record()]}).status_code == 422


@pytest.mark.parametrize("kind", ["json", "arrow"])
def test_a_batchs_headers_name_the_model_that_its_lineage_names(kind: str) -> None:
    challenger = live_model(model=other_toy())
    live = live_of(mode="canary", challenger=challenger, weight=1.0)
    canary = http_api(Settings(), InferenceService(live))
    if kind == "json":
        reply = post(canary, json={"records": [toy_record()]})
        lineage = reply.json()["predictions"][0]["lineage"]
        said = (lineage["model_version"], lineage["model_hash"])
    else:
        reply = post(canary, content=stream_of(cohort_table(20)), headers={"content-type": ARROW})
        metadata = pa.ipc.open_stream(reply.content).schema.metadata
        said = (metadata[b"lineage.model_version"].decode(), metadata[b"lineage.model_hash"].decode())
    assert (reply.headers["x-model-version"], reply.headers["x-model-hash"]) == said
    assert said == ("2", challenger.model_hash) != ("1", live.champion.model_hash)


def padded(api: HttpApi, size: int) -> int:
    """Status of one record in a body of that many bytes."""
    body = json.dumps({"features": toy_record()}).encode()
    return post(api, "/predict", content=body.ljust(size), headers={"content-type": "application/json"}).status_code


def test_a_record_may_be_as_large_as_its_model_has_columns() -> None:
    live = toy_live()
    api = http_api(Settings(max_body_bytes=200_000), InferenceService(live))
    assert [padded(api, size) for size in (65_536, 65_537)] == [200, 413]
    live.champion.record_bytes = 100_000  # as ten thousand columns give
    assert [padded(api, size) for size in (104_096, 104_097)] == [200, 413]
    live.champion.record_bytes = 1_000_000
    assert [padded(api, size) for size in (200_000, 200_001)] == [200, 413]


def test_records_of_a_model_fit_into_what_they_may_take() -> None:
    champion = toy_live().champion
    records = [golden["record"] for golden in champion.model.predictor.bundle.golden]
    assert max(len(json.dumps(record)) for record in records) <= champion.record_bytes < 1_000
