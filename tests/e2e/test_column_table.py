"""A model of a column table that is data: made without any code, and rolled out to a service that never heard of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pytest

from ml_core.serve.features.versions import known_versions
from tests.e2e.conftest import walk
from tests.e2e.ward_table import MODEL, record_of, ward_rows, write_project
from tests.e2e.workplace import Workplace

pytestmark = pytest.mark.e2e

RECORDS = [record_of(row) for _, row in ward_rows(60, 9).iterrows()]


@dataclass
class Rolled:
    """A place whose service has taken a model of another table while it ran."""

    place: Workplace
    first: str
    second: str
    before: list[dict[str, Any]]
    after: list[dict[str, Any]]
    columns: dict[str, Any]
    refused: httpx.Response
    bulk: list[dict[str, Any]]


def post(client: httpx.Client) -> list[dict[str, Any]]:
    replies = [
        client.post("/predict", json={"features": record, "subject": f"s{i}"}) for i, record in enumerate(RECORDS)
    ]
    assert {reply.status_code for reply in replies} == {200}, replies[0].text
    return [reply.json() for reply in replies]


def arrow_rows(frame: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(
        frame.drop(columns=["outcome", "patient_id", "stay", "admitted"]), preserve_index=False
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def until_answered_by(client: httpx.Client, feature_version: str) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        reply = client.post("/predict", json={"features": RECORDS[0]}).json()
        if reply["lineage"]["feature_version"] == feature_version:
            return
    raise AssertionError(f"no answer by {feature_version}")


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> Rolled:
    """The first model answers; a second one, of a table with another transform, goes from shadow to full beside it."""
    place = Workplace(tmp_path_factory.mktemp("ward"), MODEL)
    data = place.run / "rows.parquet"
    ward_rows(6_000, 1).to_parquet(data)
    one = write_project(place.run / "one", data, triage="ordinal")
    two = write_project(place.run / "two", data, triage="one_hot")
    walk(place, one)
    first = place.surety("models", "list", "--model", MODEL)[0]["feature_version"]
    with place.serving() as address, httpx.Client(base_url=address, timeout=60) as client:
        before = post(client)
        place.in_turn(
            ["features", "run", "--config", str(two)],
            ["train", "--config", str(two)],
            ["validate", "--model", MODEL, "--config", str(two)],
            ["import-model", "--model", MODEL, "--version", "2"],
            ["rollout", "shadow", "v2"],
        )
        post(client)
        place.surety("rollout", "full", "v2")
        second = next(
            m["feature_version"] for m in place.surety("models", "list", "--model", MODEL) if m["version"] == "2"
        )
        until_answered_by(client, second)
        after = post(client)
        refused = client.post("/predict", json={"features": {**RECORDS[0], "urgent": 1, "seen_on": "yesterday"}})
        reply = client.post(
            "/predict_batch",
            content=arrow_rows(ward_rows(60, 9)),
            headers={"content-type": "application/vnd.apache.arrow.stream"},
        )
        assert reply.status_code == 200, reply.text
        many = arrow_rows(ward_rows(600, 12))
        arrow = {"content-type": "application/vnd.apache.arrow.stream"}
        assert client.post("/predict_batch", content=many, headers=arrow).status_code == 200
        bulk = pa.ipc.open_stream(reply.content).read_all().to_pylist()
        schemas = client.get("/docs.json").json()["components"]["schemas"]
        columns = next(schema for schema in schemas.values() if "lactate" in schema.get("properties", {}))
    return Rolled(place, first, second, before, after, columns, refused, bulk)


def test_the_tables_are_known_by_nothing_but_their_content(rolled: Rolled) -> None:
    assert rolled.first != rolled.second
    assert not {rolled.first, rolled.second} & set(known_versions())
    assert {a["lineage"]["feature_version"] for a in rolled.before} == {rolled.first}
    assert {a["lineage"]["feature_version"] for a in rolled.after} == {rolled.second}
    assert not any(a["fallback_used"] for a in (*rolled.before, *rolled.after))


def test_json_and_arrow_give_the_same_answers(rolled: Rolled) -> None:
    assert [row["probability"] for row in rolled.bulk] == [a["probability"] for a in rolled.after]


def test_openapi_has_the_columns_of_the_model(rolled: Rolled) -> None:
    properties = rolled.columns["properties"]
    assert properties["urgent"] == {"type": "boolean", "description": "Whether it was urgent."}
    assert properties["lactate"]["x-unit"] == "mmol/L"
    assert set(rolled.columns["required"]) == {"lactate", "triage", "urgent"}


def test_a_wrong_boolean_and_a_wrong_date_are_told_by_name(rolled: Rolled) -> None:
    assert rolled.refused.status_code == 422
    assert rolled.refused.json()["error"]["fields"] == [
        {"field": "urgent", "problem": "1 is not true or false"},
        {"field": "seen_on", "problem": "this text is no date or time like 2026-01-31 or 2026-01-31T10:15:30Z"},
    ]


def test_every_answer_is_replayed_bit_for_bit(rolled: Rolled) -> None:
    ids = [a["request_id"] for a in (*rolled.before, *rolled.after, *rolled.bulk)]
    told = rolled.place.surety("replay", *ids)
    assert (told["replayed"], told["states"]["equal"]) == (len(ids), len(ids))


def test_an_audit_explains_the_columns(rolled: Rolled) -> None:
    told = rolled.place.surety("audit", rolled.before[0]["request_id"])
    by_name = {row["column"]: row for row in told["input"]}
    assert by_name["lactate"]["unit"] == "mmol/L"
    assert by_name["urgent"]["value"] is RECORDS[0]["urgent"]
    assert by_name["urgent"]["meaning"] == "Whether it was urgent."


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_is_scored_as_the_service_answers(rolled: Rolled, suffix: str) -> None:
    rows, out = rolled.place.run / f"new.{suffix}", rolled.place.run / f"scored-{suffix}.parquet"
    frame = ward_rows(60, 9).drop(columns="outcome")
    frame.to_parquet(rows) if suffix == "parquet" else frame.to_csv(rows, index=False)
    rolled.place.surety("score", str(rows), str(out), "--tag", "v2")
    scored = pd.read_parquet(out)
    assert scored["probability"].tolist() == [a["probability"] for a in rolled.after]


def test_drift_report_and_monitor_know_the_columns(rolled: Rolled) -> None:
    place = rolled.place
    found = place.surety("drift", "check", "--model", MODEL, "--rows", "600")
    states = {feature["feature"]: feature["kind"] for feature in found["features"]}
    assert states == {
        "age": "number",
        "lactate": "number",
        "sex": "category",
        "triage": "category",
        "band": "category",
        "urgent": "category",
        "on_oxygen": "category",
        "seen_on": "unjudged",
        "note": "text",
    }
    place.surety("report", "--model", MODEL, "--out", "report.html", "--json", "report.json")
    assert rolled.second in (place.run / "report.json").read_text()
    place.surety("monitor", "--once")
