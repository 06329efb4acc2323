"""The HTTP contract, through the middleware, with a real small model behind it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.http.middleware import SuretyMiddleware
from ml_core.serve.rollout.rollout_state import Flags
from tests.serve.http.apis import bentoml_app, http_api
from tests.toy_models import toy_live, toy_model, toy_record

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
SETTINGS = Settings(max_body_bytes=4_096, max_bulk_bytes=1_000_000, max_batch_rows=20, inline_rows=8)


def client_of(api: HttpApi) -> httpx.AsyncClient:
    middleware = SuretyMiddleware(bentoml_app, api=lambda: api)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=middleware), base_url="http://surety")


@pytest.fixture(scope="module")
def api() -> HttpApi:
    return http_api(SETTINGS, InferenceService(toy_live()))


def call(api: HttpApi, method: str, path: str, **options: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        async with client_of(api) as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """The error object, having checked that it is exactly that."""
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "fields"}
    return body["error"]


def test_answer_has_exactly_the_fields_of_the_contract(api: HttpApi) -> None:
    reply = call(api, "POST", "/predict", json={"features": toy_record(), "client_request_id": "visit-7"})
    body = reply.json()
    assert reply.status_code == 200
    assert list(body) == [
        "request_id", "prediction", "probability", "confidence", "probabilities", "prediction_set", "p_values",
        "confidence_level",
        "guarantee", "validity", "validity_reasons", "fallback_used", "fallback_reason", "error", "lineage",
        "client_request_id",
        "group", "explanation",
    ]  # fmt: skip
    assert list(body["lineage"]) == [
        "model_name", "model_version", "model_hash", "feature_version", "calibration_id", "input_hash", "slot", "bento",
        "served_by", "timestamp",
    ]  # fmt: skip
    assert UUID7.fullmatch(body["request_id"])
    assert reply.headers["x-request-id"] == body["request_id"]
    assert reply.headers["x-model-hash"] == body["lineage"]["model_hash"] == toy_model().model_hash
    assert reply.headers["x-model-version"] == body["lineage"]["model_version"]
    assert body["client_request_id"] == "visit-7"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["lineage"]["timestamp"])


def test_answer_says_unmonitored_while_no_monitor_watches(api: HttpApi) -> None:
    body = call(api, "POST", "/predict", json={"features": toy_record()}).json()
    assert (body["validity"], body["validity_reasons"]) == ("unmonitored", [])


def test_same_record_gives_the_same_answer_and_hash_however_it_is_written(api: HttpApi) -> None:
    first = call(api, "POST", "/predict", json={"features": toy_record(age=71)}).json()
    reordered = dict(reversed(toy_record(age=71.0).items()))
    second = call(api, "POST", "/predict", json={"features": reordered, "subject": "someone"}).json()
    for part in ("probability", "p_values", "prediction_set"):
        assert first[part] == second[part]
    assert first["lineage"]["input_hash"] == second["lineage"]["input_hash"]


def test_ids_never_reach_the_input_hash(api: HttpApi) -> None:
    bare = call(api, "POST", "/predict", json={"features": toy_record()}).json()
    named = call(api, "POST", "/predict", json={"features": toy_record(patient_id="P-1")}).json()
    assert bare["lineage"]["input_hash"] == named["lineage"]["input_hash"]


@pytest.mark.parametrize(("level", "wider"), [(0.5, False), (0.999, True)])
def test_set_grows_with_the_level_asked_for(api: HttpApi, level: float, wider: bool) -> None:
    usual = call(api, "POST", "/predict", json={"features": toy_record()}).json()
    other = call(api, "POST", "/predict", json={"features": toy_record(), "confidence_level": level}).json()
    assert other["confidence_level"] == level
    small, large = sorted((set(usual["prediction_set"]), set(other["prediction_set"])), key=len)
    assert small <= large
    if wider:
        assert set(usual["prediction_set"]) <= set(other["prediction_set"])


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1,", b"nonsense", b'{"features": NaN}', b'{"features": {"age": Infinity}}', b'{"features": {"age": 1e999}}', b"\xff\xfe", b"'a'",
     b'{"features": {"age": 1, "age": 2}}', b'{"features": {}, "features": {}}', b"[" * 3_000],
)  # fmt: skip
def test_body_that_is_no_strict_json_is_400(api: HttpApi, body: bytes) -> None:
    reply = call(api, "POST", "/predict", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert error_of(reply)["code"] == "invalid_json"


def test_colon_inside_a_text_is_no_duplicate_key(api: HttpApi) -> None:
    body = {"features": toy_record(encounter_date="2026-01-31T10:15:00Z"), "client_request_id": '":"'}
    assert call(api, "POST", "/predict", json=body).status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"age": 130}, "age"),
        ({"age": "71"}, "age"),
        ({"age": True}, "age"),
        ({"age": 45.7}, "age"),
        ({"age": None}, "age"),
        ({"glucose": 29.9}, "glucose"),
        ({"bmi": []}, "bmi"),
        ({"bp_systolic": 10**30}, "bp_systolic"),
        ({"surprise": 1}, "surprise"),
        ({"readmission_30d": 1}, "readmission_30d"),
    ],
)
def test_wrong_field_is_422_and_named(api: HttpApi, change: dict[str, Any], field: str) -> None:
    reply = call(api, "POST", "/predict", json={"features": toy_record(**change)})
    assert reply.status_code == 422
    error = error_of(reply)
    assert error["code"] == "invalid_record"
    assert [f["field"] for f in error["fields"]] == [field]


def test_problem_says_what_was_found_and_what_is_allowed(api: HttpApi) -> None:
    reply = call(api, "POST", "/predict", json={"features": toy_record(age=130)})
    assert error_of(reply)["fields"] == [
        {"field": "age", "problem": "130 is above the highest allowed value 120 years"}
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ({}, "features"),
        ({"features": {}, "x": 1}, "x"),
        ({"features": {}, "confidence_level": 0.4999}, "confidence_level"),
        ({"features": {}, "confidence_level": "0.9"}, "confidence_level"),
        ({"features": {}, "confidence_level": True}, "confidence_level"),
        ({"features": {}, "client_request_id": 7}, "client_request_id"),
        ({"features": {}, "client_request_id": ""}, "client_request_id"),
        ({"features": {}, "client_request_id": "a\nb"}, "client_request_id"),
        ({"features": {}, "subject": "x" * 201}, "subject"),
    ],
)
def test_wrong_request_is_422_and_names_the_field(api: HttpApi, body: Any, field: str) -> None:
    reply = call(api, "POST", "/predict", json=body)
    assert reply.status_code == 422
    error = error_of(reply)
    assert error["code"] == "invalid_request"
    assert error["fields"][0]["field"] == field


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/vnd.bentoml+pickle", ""]
)
def test_other_content_type_is_415(api: HttpApi, content_type: str) -> None:
    reply = call(api, "POST", "/predict", content=b"{}", headers={"content-type": content_type})
    assert reply.status_code == 415
    assert error_of(reply)["code"] == "unsupported_media_type"


def test_charset_beside_the_content_type_is_fine(api: HttpApi) -> None:
    content = json.dumps({"features": toy_record()}).encode()
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert call(api, "POST", "/predict", content=content, headers=headers).status_code == 200


def test_large_body_is_413_by_its_declared_length(api: HttpApi) -> None:
    reply = call(api, "POST", "/predict", content=b" " * 4_097, headers={"content-type": "application/json"})
    assert reply.status_code == 413
    assert error_of(reply)["code"] == "too_large"


def test_large_body_is_413_when_it_comes_in_chunks(api: HttpApi) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" " * 100

    reply = call(api, "POST", "/predict", content=chunks(), headers={"content-type": "application/json"})
    assert reply.status_code == 413


def test_body_in_chunks_is_put_together(api: HttpApi) -> None:
    whole = json.dumps({"features": toy_record()}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for i in range(0, len(whole), 7):
            yield whole[i : i + 7]

    reply = call(api, "POST", "/predict", content=chunks(), headers={"content-type": "application/json"})
    assert reply.status_code == 200


def test_unknown_route_is_404_and_other_method_405(api: HttpApi) -> None:
    missing = call(api, "GET", "/nothing")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    wrong = call(api, "GET", "/predict")
    assert (wrong.status_code, error_of(wrong)["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert call(api, "POST", "/health").headers["allow"] == "GET, HEAD"


def test_head_is_answered_as_get_without_its_body(api: HttpApi) -> None:
    for path in (path for path, methods in api.routes.items() if "GET" in methods):
        seen, whole = call(api, "HEAD", path), call(api, "GET", path)
        assert (seen.status_code, seen.content) == (whole.status_code, b""), path
        assert seen.headers["content-type"] == whole.headers["content-type"]
        if path not in ("/metrics", "/status"):  # which count on
            assert seen.headers["content-length"] == str(len(whole.content))
    assert call(api, "HEAD", "/predict").status_code == 405


@pytest.mark.parametrize("path", ["/health", "/surety/health", "/surety/", "/surety"])
def test_paths_are_understood_with_and_without_the_prefix_of_a_proxy(path: str) -> None:
    api = http_api(SETTINGS.model_copy(update={"root_path": "/surety"}), InferenceService(toy_live()))
    assert prefixed(api, path).status_code == 200


@pytest.mark.parametrize("path", ["/suretyx/health", "/surety/surety/health", "/surety/nothing", "/x/surety/health"])
def test_the_prefix_is_a_whole_step_and_taken_off_once(path: str) -> None:
    api = http_api(SETTINGS.model_copy(update={"root_path": "/surety"}), InferenceService(toy_live()))
    assert prefixed(api, path).status_code == 404


def test_document_names_the_prefix_as_its_server() -> None:
    api = http_api(SETTINGS.model_copy(update={"root_path": "/surety"}), InferenceService(toy_live()))
    assert prefixed(api, "/surety/docs.json").json()["servers"] == [{"url": "/surety"}]
    assert call(http_api(SETTINGS, InferenceService(None)), "GET", "/docs.json").json()["servers"] == [{"url": "/"}]


def prefixed(api: HttpApi, path: str) -> httpx.Response:
    app = SuretyMiddleware(bentoml_app, api=lambda: api, root_path="/surety")

    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://surety") as client:
            return await client.get(path)

    return asyncio.run(once())


def test_of_bentomls_own_routes_only_the_client_schema_reaches_bentoml(api: HttpApi) -> None:
    assert call(api, "GET", "/schema.json").text == "bentoml"
    for path in ("/static_content/swagger-ui.js", "/assets/index.js", "/main-ui.html"):
        assert (call(api, "GET", path).status_code, error_of(call(api, "GET", path))["code"]) == (404, "not_found")


class Broken:
    def proba(self, features: Any) -> Any:
        raise RuntimeError("secret path /srv/models")


class Odd:
    def proba(self, features: Any) -> Any:
        return np.full((len(features), 2), np.nan)


def test_connection_of_a_body_that_bentoml_never_reads_is_closed(api: HttpApi) -> None:
    assert call(api, "GET", "/metrics", content=b"x" * 10).headers["connection"] == "close"
    assert "connection" not in call(api, "GET", "/metrics").headers


def api_with(runner: Any, *fallback: str) -> HttpApi:
    flags = Flags(fallback=fallback)  # type: ignore[arg-type]
    return http_api(SETTINGS, InferenceService(toy_live(runner, flags=flags)))


@pytest.mark.parametrize(("runner", "reason"), [(Broken(), "model_error"), (Odd(), "bad_output")])
def test_failing_model_is_answered_with_every_label_and_says_so(runner: Any, reason: str) -> None:
    reply = call(api_with(runner, "scorecard", "prior"), "POST", "/predict", json={"features": toy_record()})
    body = reply.json()
    assert reply.status_code == 200
    assert (body["fallback_used"], body["fallback_reason"], body["lineage"]["slot"]) == (True, reason, "prior")
    assert reply.headers["x-fallback-reason"] == reason
    assert body["prediction_set"] == [0, 1]
    assert set(body["p_values"].values()) == {1.0}


@pytest.mark.parametrize(("runner", "code"), [(Broken(), "model_unavailable"), (Odd(), "bad_model_output")])
def test_failing_model_without_fallback_is_503_with_retry_after_and_tells_nothing(runner: Any, code: str) -> None:
    reply = call(api_with(runner), "POST", "/predict", json={"features": toy_record()})
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) > 0
    assert error_of(reply) == {"code": code, "message": "no model can answer for now", "fields": []}


def test_open_circuit_without_fallback_is_503_and_says_when_to_ask_again() -> None:
    api = api_with(Broken())
    for _ in range(5):
        call(api, "POST", "/predict", json={"features": toy_record()})
    reply = call(api, "POST", "/predict", json={"features": toy_record()})
    assert (reply.status_code, error_of(reply)["code"]) == (503, "circuit_open")
    assert 0 < int(reply.headers["retry-after"]) <= 67


def test_service_without_a_model_answers_503_everywhere_and_says_why_only_in_status() -> None:
    inference = InferenceService(None)
    inference.problem = "model.onnx: its sha256 is not the one in the manifest"
    api = http_api(SETTINGS, inference)
    for path, body in (("/predict", {"features": toy_record()}), ("/predict_batch", {"records": [toy_record()]})):
        reply = call(api, "POST", path, json=body)
        assert (reply.status_code, error_of(reply)["code"]) == (503, "model_not_loaded")
        assert "sha256" not in reply.text
    assert call(api, "GET", "/health").status_code == 503
    assert call(api, "GET", "/readyz").status_code == 503
    assert call(api, "GET", "/livez").status_code == 200
    status = call(api, "GET", "/status").json()
    assert (status["ready"], status["models"]) == (False, [])
    assert "sha256" in status["problem"]


def test_more_requests_than_may_be_in_work_are_429_at_once() -> None:
    api = http_api(SETTINGS.model_copy(update={"max_requests": 1}), InferenceService(toy_live()))
    with api.admission.request():
        reply = call(api, "POST", "/predict", json={"features": toy_record()})
    assert (reply.status_code, error_of(reply)["code"]) == (429, "overloaded")
    assert int(reply.headers["retry-after"]) > 0
    assert call(api, "POST", "/predict", json={"features": toy_record()}).status_code == 200


def test_body_that_comes_too_slowly_is_408() -> None:
    api = http_api(SETTINGS.model_copy(update={"body_timeout_s": 0.02}), InferenceService(toy_live()))

    async def never_ends() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    reply = call(api, "POST", "/predict", content=never_ends(), headers={"content-type": "application/json"})
    assert (reply.status_code, error_of(reply)["code"], reply.headers["connection"]) == (408, "body_timeout", "close")


def test_bodies_together_take_no_more_memory_than_they_may() -> None:
    api = http_api(SETTINGS.model_copy(update={"max_buffered_bytes": 1_024}), InferenceService(toy_live()))

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    reply = call(api, "POST", "/predict", content=chunks(), headers={"content-type": "application/json"})
    assert (reply.status_code, error_of(reply)["code"]) == (429, "overloaded")
    small = json.dumps({"features": toy_record()}).encode()
    assert call(api, "POST", "/predict", content=small, headers={"content-type": "application/json"}).status_code == 200


def test_fault_of_ours_is_500_and_tells_nothing(api: HttpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise KeyError("an internal name")

    monkeypatch.setattr("ml_core.serve.http.handlers.parse_predict", broken)
    reply = call(api, "POST", "/predict", json={"features": toy_record()})
    assert (reply.status_code, error_of(reply)["code"]) == (500, "internal")
    assert "internal name" not in reply.text


def test_status_names_the_model(api: HttpApi) -> None:
    model = call(api, "GET", "/status").json()["models"][0]
    assert model["model_hash"] == toy_model().model_hash
    assert model["slot"] == "champion"
    assert model["gate"]["passed"] is True
    assert sum(model["calibration_rows"].values()) > 0
