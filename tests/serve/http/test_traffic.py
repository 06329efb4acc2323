"""Requests are counted by route and status, and no path of a caller's ever becomes a label."""

from __future__ import annotations

import re

import pytest

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http.handlers import HttpApi
from tests.serve.http.apis import http_api
from tests.serve.http.test_middleware import call
from tests.toy_models import toy_live, toy_record


@pytest.fixture(scope="module")
def api() -> HttpApi:
    return http_api(Settings(), InferenceService(toy_live()))


def counted(api: HttpApi, metric: str = "bentoml_service_request_total") -> dict[tuple[str, str], float]:
    text = call(api, "GET", "/metrics").text
    found = re.findall(
        rf'^{metric}{{endpoint="([^"]*)",(?:http_response_code="(\d+)",)?.*}} ([\d.e+-]+)$', text, re.MULTILINE
    )
    return {(endpoint, status): float(value) for endpoint, status, value in found if endpoint != "/metrics"}


def difference(api: HttpApi, before: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    after = counted(api)
    return {key: value - before.get(key, 0.0) for key, value in after.items() if value != before.get(key, 0.0)}


def test_answers_and_errors_are_counted_by_route_and_status(api: HttpApi) -> None:
    before = counted(api)
    for _ in range(3):
        call(api, "POST", "/predict", json={"features": toy_record()})
    call(api, "POST", "/predict", json={})
    call(api, "GET", "/health")
    call(api, "GET", "/")
    assert difference(api, before) == {
        ("/predict", "200"): 3.0, ("/predict", "422"): 1.0, ("/health", "200"): 1.0, ("/", "200"): 1.0,
    }  # fmt: skip


def test_paths_that_are_no_routes_share_one_label(api: HttpApi) -> None:
    before = counted(api)
    for i in range(50):
        call(api, "GET", f"/patient/MRN-{i}")
    assert difference(api, before) == {("other", "404"): 50.0}
    assert "MRN" not in call(api, "GET", "/metrics").text


def test_nothing_stays_in_progress(api: HttpApi) -> None:
    call(api, "POST", "/predict", json={"features": toy_record()})
    assert set(counted(api, "bentoml_service_request_in_progress").values()) == {0.0}
