"""What the document says is what the service does."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.http.middleware import BENTOML_PATHS, SuretyMiddleware
from ml_core.serve.http.replies import STATUS_OF_CODE
from tests.serve.http.apis import http_api
from tests.toy_models import toy_live, toy_record


@pytest.fixture(scope="module")
def api() -> HttpApi:
    return http_api(Settings(), InferenceService(toy_live()))


@pytest.fixture(scope="module")
def document(api: HttpApi) -> dict[str, Any]:
    return call(api, "GET", "/docs.json").json()


def call(api: HttpApi, method: str, path: str, **options: Any) -> httpx.Response:
    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("reached BentoML")

    async def once() -> httpx.Response:
        middleware = SuretyMiddleware(nothing, api=lambda: api)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=middleware), base_url="http://s") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def validator(document: dict[str, Any], name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})


def resolved(document: dict[str, Any], path: str, status: int) -> str:
    content = document["paths"][path]["post"]["responses"][str(status)]["content"]["application/json"]
    return content["schema"]["$ref"].rsplit("/", 1)[1]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/predict", {"features": toy_record()}, 200),
        ("/predict", {"features": toy_record(age=130)}, 422),
        ("/predict", {}, 422),
        ("/predict_batch", {"records": [toy_record(), {}]}, 200),
        ("/predict_batch", {"records": []}, 422),
    ],
)
def test_replies_are_as_the_document_says(
    api: HttpApi, document: dict[str, Any], path: str, body: Any, status: int
) -> None:
    reply = call(api, "POST", path, json=body)
    assert reply.status_code == status
    validator(document, resolved(document, path, status)).validate(reply.json())


def test_status_is_as_the_document_says(api: HttpApi, document: dict[str, Any]) -> None:
    validator(document, "Status").validate(call(api, "GET", "/status").json())


def test_examples_in_the_document_are_answered(api: HttpApi, document: dict[str, Any]) -> None:
    for path in ("/predict", "/predict_batch"):
        example = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert call(api, "POST", path, json=example).status_code == 200


def test_document_and_service_refuse_the_same_requests(api: HttpApi, document: dict[str, Any]) -> None:
    request = validator(document, "PredictRequest")
    good = {"features": toy_record(), "confidence_level": 0.9, "client_request_id": "x", "subject": "y"}
    assert request.is_valid(good)
    for field, value in (("confidence_level", 0.4), ("client_request_id", ""), ("more", 1), ("features", [])):
        bad = copy.deepcopy(good) | {field: value}
        assert not request.is_valid(bad)
        assert call(api, "POST", "/predict", json=bad).status_code == 422


def test_every_route_and_every_code_is_in_the_document(api: HttpApi, document: dict[str, Any]) -> None:
    answered = {*api.routes, *BENTOML_PATHS} - {"/", "/docs.json", "/schema.json"}
    assert set(document["paths"]) == answered
    assert document["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"] == sorted(
        STATUS_OF_CODE
    )
