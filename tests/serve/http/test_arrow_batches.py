"""Arrow through the whole face: what is refused is one error object, what is answered is right, and it goes on."""

from __future__ import annotations

import io
import random
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http.handlers import HttpApi
from tests.security.arrow_streams import mutated, stream_of, valid_streams
from tests.serve.http.apis import http_api, post
from tests.toy_models import toy_live, toy_record

DAMAGED = Path(__file__).resolve().parents[2] / "security" / "arrow"


@pytest.fixture(scope="module")
def api() -> HttpApi:
    return http_api(Settings(max_bulk_rows=5_000, max_bulk_unpacked_bytes=1 << 20), InferenceService(toy_live()))


def posted(api: HttpApi, body: bytes) -> httpx.Response:
    return post(api, content=body, headers={"content-type": "application/vnd.apache.arrow.stream"})


def error(reply: httpx.Response, status: int, code: str) -> str:
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text
    assert set(reply.json()) == {"error"}
    return str(reply.json()["error"]["message"])


@pytest.mark.parametrize("name", ["crash-a", "crash-b", "memory-a"])
def test_streams_that_broke_other_readers_are_400(api: HttpApi, name: str) -> None:
    error(posted(api, (DAMAGED / f"{name}.arrows").read_bytes()), 400, "invalid_arrow")


@pytest.mark.parametrize("depth", [1, 48, 60])
def test_nested_lists_are_400(api: HttpApi, depth: int) -> None:
    kind: pa.DataType = pa.int64()
    for _ in range(depth):
        kind = pa.list_(kind)
    out = io.BytesIO()
    pa.ipc.new_stream(out, pa.schema([("age", kind)])).close()
    assert "column 'age' has a type that is not read; send" in error(posted(api, out.getvalue()), 400, "invalid_arrow")


def test_what_unpacks_to_too_much_is_413(api: HttpApi) -> None:
    body = stream_of([pa.record_batch({"age": np.zeros(200_000)})], compression="zstd")
    assert len(body) < 2_000
    assert "unpacks to more than 1048576 bytes; send" in error(posted(api, body), 413, "too_large")


def test_too_many_batches_are_413(api: HttpApi) -> None:
    row = pa.RecordBatch.from_pylist([toy_record()])
    assert posted(api, stream_of([row] * 50)).status_code == 200
    assert "send fewer" in error(posted(api, stream_of([row] * 1_025)), 413, "too_large")


def test_a_null_level_is_a_missing_value(api: HttpApi) -> None:
    rows = [toy_record(age=age) for age in (50, None, 50)]
    batch = pa.RecordBatch.from_pylist(rows)
    coded = batch["age"].dictionary_encode(null_encoding="encode")
    assert coded.null_count == 0
    reply = posted(api, stream_of([batch.set_column(batch.schema.names.index("age"), "age", coded)]))
    answers = pa.ipc.open_stream(reply.content).read_all().to_pylist()
    assert [row["error"] for row in answers] == [None, "age: must not be null", None]
    assert answers[1]["probability"] is None


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_compressed_or_not_the_answers_are_the_same(api: HttpApi, compression: str | None) -> None:
    rows = [toy_record(age=20 + i, glucose=80.0 + i) for i in range(60)]
    reply = posted(api, stream_of([pa.RecordBatch.from_pylist(rows)], compression=compression))
    found = pa.ipc.open_stream(reply.content).read_all()["probability"].to_pylist()
    for i in (0, 30, 59):
        alone = post(api, "/predict", json={"features": rows[i]}).json()
        assert found[i] == alone["probability"]


def test_damaged_streams_are_answered_or_refused_with_one_error_object(api: HttpApi) -> None:
    streams, dice = list(valid_streams().values()), random.Random(7)
    for _ in range(400):
        reply = posted(api, mutated(streams, dice))
        if reply.status_code == 200:
            pa.ipc.open_stream(reply.content).read_all().validate(full=True)
            continue
        assert reply.status_code in {400, 413, 422}, reply.text
        assert set(reply.json()) == {"error"}
    assert post(api, "/predict", json={"features": toy_record()}).status_code == 200
