"""Browsers on pages of other origins: off by default, by name where it is on, and never a way around a key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings, load_settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http.api_keys import add_key
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.http.middleware import SuretyMiddleware
from tests.serve.http.apis import bentoml_app, http_api
from tests.toy_models import toy_live, toy_record

WARD = "https://ward.example.org"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    return add_key(_file(tmp_path_factory), "ward", ["predict"])


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, key: str) -> HttpApi:
    return http_api(Settings(api_keys_file=_file(tmp_path_factory)), InferenceService(toy_live()))


def _file(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp() / "cross_origin" / "keys.json"


def asked(api: HttpApi, method: str, path: str, origins: tuple[str, ...] = (WARD,), **options: Any) -> httpx.Response:
    app = SuretyMiddleware(bentoml_app, api=lambda: api, origins=origins)

    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://surety") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def test_a_preflight_is_answered_without_a_key(api: HttpApi) -> None:
    reply = asked(api, "OPTIONS", "/predict", headers=PREFLIGHT | {"origin": WARD})
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["access-control-allow-origin"] == WARD
    assert "authorization" in reply.headers["access-control-allow-headers"]
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in reply.headers


def test_the_call_after_it_needs_the_key_and_can_be_read(api: HttpApi, key: str) -> None:
    body = {"features": toy_record()}
    refused = asked(api, "POST", "/predict", headers={"origin": WARD}, json=body)
    answered = asked(api, "POST", "/predict", headers={"origin": WARD, "authorization": f"Bearer {key}"}, json=body)
    assert (refused.status_code, answered.status_code) == (401, 200)
    for reply in (refused, answered):
        assert reply.headers["access-control-allow-origin"] == WARD
        assert "x-request-id" in reply.headers["access-control-expose-headers"]
        assert reply.headers["vary"] == "origin"


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "http://ward.example.org", f"{WARD}.evil.example", "null", ""])  # fmt: skip
def test_other_origins_are_told_nothing(api: HttpApi, origin: str) -> None:
    for method, more in (("OPTIONS", PREFLIGHT), ("GET", {})):
        reply = asked(api, method, "/status", headers=more | {"origin": origin})
        assert reply.status_code == 401
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_a_star_lets_every_origin_call(api: HttpApi) -> None:
    reply = asked(api, "OPTIONS", "/predict", ("*",), headers=PREFLIGHT | {"origin": "https://anywhere.example"})
    assert reply.headers["access-control-allow-origin"] == "https://anywhere.example"


def test_it_is_off_by_default(api: HttpApi) -> None:
    assert Settings().allowed_origins == ()
    reply = asked(api, "OPTIONS", "/predict", (), headers=PREFLIGHT | {"origin": WARD})
    assert reply.status_code == 401
    assert not [name for name in reply.headers if name.startswith("access-control") or name == "vary"]


def test_options_that_is_no_preflight_is_a_request_like_others(api: HttpApi) -> None:
    assert asked(api, "OPTIONS", "/predict", headers={"origin": WARD}).status_code == 401
    assert asked(api, "OPTIONS", "/predict", headers=PREFLIGHT).status_code == 401


def test_setting_takes_origins_and_nothing_else() -> None:
    several = load_settings(cors_origins=f"{WARD},http://localhost:8080")
    assert several.allowed_origins == (WARD, "http://localhost:8080")
    for wrong in ("ward.example.org", f"{WARD}/", f"{WARD}/page", f"{WARD}, http://x", "https://*.example.org", "null"):
        with pytest.raises(ConfigError, match="SURETY_CORS_ORIGINS"):
            load_settings(cors_origins=wrong)
