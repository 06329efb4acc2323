"""Who is let in where, through the middleware."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http.access import OPEN_TO_ALL, ROLE_OF_ROUTE, Access
from ml_core.serve.http.api_keys import ROLES, KeyRole, add_key, revoke_key
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.http.middleware import BENTOML_PATHS, SuretyMiddleware
from ml_core.serve.http.oip_paths import is_of_protocol
from ml_core.serve.http.replies import Refused
from tests.serve.http.apis import http_api
from tests.serve.http.test_middleware import call, error_of
from tests.toy_models import toy_live, toy_record

OPEN = ["/", "/livez", "/readyz", "/healthz", "/health", "/v2/health/live", "/v2/health/ready"]
ANSWERS = {"features": toy_record()}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[KeyRole, str]:
    return {role: add_key(_file(tmp_path_factory), role, [role]) for role in ROLES}


def _file(factory: pytest.TempPathFactory) -> Path:
    return factory.getbasetemp() / "access" / "keys.json"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, keys: dict[KeyRole, str]) -> HttpApi:
    home = tmp_path_factory.mktemp("home")
    settings = Settings(api_keys_file=_file(tmp_path_factory), home=home)
    return http_api(settings, InferenceService(toy_live()))


def shown(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def routes(api: HttpApi) -> list[str]:
    return sorted(
        {
            *api.routes,
            *BENTOML_PATHS,
            "/static_content/x.js",
            "/assets/x.js",
            "/nothing",
            "/%2Fpredict",  # //predict, where httpx would see a host
            "/predict/",
            "/PREDICT",
        }
    )


def test_a_route_is_open_only_if_it_is_listed(api: HttpApi) -> None:
    assert sorted(OPEN_TO_ALL) == sorted(OPEN)
    for path in routes(api):
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            reply = call(api, method, path)
            if path in OPEN:
                assert reply.status_code in (200, 405), path
            else:
                assert reply.status_code == 401, (method, path)
                assert reply.headers["www-authenticate"] == "Bearer"
                if method != "HEAD" and is_of_protocol(path):
                    assert reply.json() == {"error": "send a valid key: Authorization: Bearer <key>"}
                elif method != "HEAD":
                    assert error_of(reply)["code"] == "unauthorized"


def test_every_route_of_ours_has_a_role_or_is_for_any_key(api: HttpApi) -> None:
    """A new route stands in the table on purpose, or is as open as the OpenAPI document, never more."""
    assert set(api.routes) == OPEN_TO_ALL | set(ROLE_OF_ROUTE) | {"/docs.json"}


@pytest.mark.parametrize("role", ROLES)
def test_a_key_opens_what_its_role_says_and_nothing_else(api: HttpApi, keys: dict[KeyRole, str], role: KeyRole) -> None:
    for path, wanted in ROLE_OF_ROUTE.items():
        method = next(iter(api.routes[path]))
        reply = call(api, method, path, json={}, headers=shown(keys[role]))
        if role in (wanted, "admin"):
            assert reply.status_code in ((200, 404) if is_of_protocol(path) else (200, 422)), path
        else:
            assert reply.status_code == 403, path
            told = reply.json()["error"]
            assert told == f"this route asks for a key with the role {wanted}" or told["code"] == "forbidden", path


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("path", ["/", "/docs.json", "/schema.json"])
def test_any_key_may_read_the_pages(api: HttpApi, keys: dict[KeyRole, str], role: KeyRole, path: str) -> None:
    assert call(api, "GET", path, headers=shown(keys[role])).status_code == 200


def test_unknown_route_is_404_to_whoever_has_a_key(api: HttpApi, keys: dict[KeyRole, str]) -> None:
    assert call(api, "GET", "/nothing", headers=shown(keys["label"])).status_code == 404


@pytest.mark.parametrize(
    "header",
    [
        "{key}", "Basic {key}", "Bearer", "Bearer ", "Bearer{key}", "Bearer x{key}", "Bearer {key}x", "Bearer {key} {key}",
        "Token {key}", "Bearer {upper}", 'Bearer "{key}"',
    ],
)  # fmt: skip
def test_header_of_another_form_is_401(api: HttpApi, keys: dict[KeyRole, str], header: str) -> None:
    value = header.format(key=keys["admin"], upper=keys["admin"].upper())
    assert call(api, "POST", "/predict", json=ANSWERS, headers={"authorization": value}).status_code == 401


@pytest.mark.parametrize("header", ["Bearer {key}", "bearer {key}", "BEARER {key}", "Bearer  {key} "])
def test_scheme_is_read_whatever_its_case(api: HttpApi, keys: dict[KeyRole, str], header: str) -> None:
    reply = call(api, "POST", "/predict", json=ANSWERS, headers={"authorization": header.format(key=keys["predict"])})
    assert reply.status_code == 200


def test_two_authorization_headers_contradict_each_other(api: HttpApi, keys: dict[KeyRole, str]) -> None:
    both = [("authorization", f"Bearer {keys['predict']}"), ("authorization", "Bearer x")]
    assert call(api, "POST", "/predict", json=ANSWERS, headers=both).status_code == 401


@pytest.mark.parametrize("where", ["?key={key}", "?authorization=Bearer%20{key}", "?access_token={key}"])
def test_key_in_the_query_is_no_key(api: HttpApi, keys: dict[KeyRole, str], where: str) -> None:
    reply = call(api, "POST", "/predict" + where.format(key=keys["admin"]), json=ANSWERS)
    assert reply.status_code == 401
    assert keys["admin"] not in reply.text


def test_body_is_not_read_before_the_key(api: HttpApi) -> None:
    asked = asked_before_the_reply = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"{}", "more_body": False}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        nonlocal asked_before_the_reply
        if message["type"] == "http.response.start":
            asked_before_the_reply = asked
        sent.append(message)

    async def nothing(*_: Any) -> None:
        raise AssertionError("BentoML was asked")

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"content-length", b"2")]}
    asyncio.run(SuretyMiddleware(nothing, api=lambda: api)(scope, receive, send))
    assert (sent[0]["status"], asked_before_the_reply) == (401, 0)
    assert (b"connection", b"close") in sent[0]["headers"]


def test_websockets_are_closed(api: HttpApi) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def nothing(*_: Any) -> None:
        raise AssertionError("BentoML was asked")

    asyncio.run(SuretyMiddleware(nothing, api=lambda: api)({"type": "websocket", "path": "/predict"}, nothing, send))
    assert [m["type"] for m in sent] == ["websocket.close"]


def test_refused_callers_are_counted(api: HttpApi) -> None:
    def refused() -> float:
        lines = call(api, "GET", "/metrics", headers=shown(admin)).text.splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith('surety_refused_total{code="unauthorized"'))

    admin = add_key(api._settings.api_keys_file, "counting", ["admin"])  # type: ignore[arg-type]
    api.access._ring._looked_at = float("-inf")  # type: ignore[union-attr]
    before = refused()
    call(api, "POST", "/predict", json=ANSWERS)
    assert refused() == before + 1


def test_document_tells_callers_of_keys_only_where_they_need_one(api: HttpApi, keys: dict[KeyRole, str]) -> None:
    guarded = call(api, "GET", "/docs.json", headers=shown(keys["predict"])).json()
    free = call(http_api(Settings(), InferenceService(toy_live())), "GET", "/docs.json").json()
    assert "securitySchemes" not in free["components"]
    assert guarded["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, methods in guarded["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) is (path not in OPEN_TO_ALL)
            assert {"401", "403"} <= operation["responses"].keys() or path in OPEN_TO_ALL


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_key_with_a_rate_is_told_when_to_ask_again(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "keys.json"
    headers = [(b"authorization", b"Bearer " + add_key(file, "batch", ["predict"], per_second=10).encode())]
    access = Access(Settings(api_keys_file=file, workers=2), clock)  # five for this worker
    for _ in range(5):
        assert access.admit("/predict", headers) == "batch"
    with pytest.raises(Refused) as refused:
        access.admit("/predict", headers)
    assert (refused.value.code, refused.value.retry_after_s) == ("rate_limited", pytest.approx(0.2))
    clock.now += 0.2
    access.admit("/predict", headers)
    with pytest.raises(Refused):
        access.admit("/predict", headers)
    clock.now += 1_000.0
    for _ in range(5):
        access.admit("/predict", headers)
    with pytest.raises(Refused):
        access.admit("/predict", headers)


def test_slow_rate_lets_one_through_at_a_time(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "keys.json"
    headers = [(b"authorization", b"Bearer " + add_key(file, "slow", ["predict"], per_second=0.1).encode())]
    access = Access(Settings(api_keys_file=file), clock)
    access.admit("/predict", headers)
    clock.now += 9.9
    with pytest.raises(Refused):
        access.admit("/predict", headers)
    clock.now += 0.11
    access.admit("/predict", headers)


def test_revoked_key_stops_working_while_the_service_runs(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "keys.json"
    headers = [(b"authorization", b"Bearer " + add_key(file, "gone", ["predict"]).encode())]
    access = Access(Settings(api_keys_file=file), clock)
    access.admit("/predict", headers)
    revoke_key(file, "gone")
    clock.now += 1.0
    with pytest.raises(Refused, match="valid key"):
        access.admit("/predict", headers)


def test_status_says_whether_keys_are_asked_for(api: HttpApi, keys: dict[KeyRole, str]) -> None:
    access = call(api, "GET", "/status", headers=shown(keys["admin"])).json()["access"]
    assert access["guarded"] is True
    assert access["keys"] >= len(ROLES)
    assert access["problem"] is None


def test_replies_tell_nothing_of_what_runs_here(api: HttpApi, keys: dict[KeyRole, str]) -> None:
    async def chatty(scope: Any, receive: Any, send: Any) -> None:
        telling = [
            (b"Server", b"BentoML Service/Surety"),
            (b"x-bentoml-request-id", b"1"),
            (b"content-type", b"text/html"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": telling})
        await send({"type": "http.response.body", "body": b"page"})

    async def once(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=SuretyMiddleware(chatty, api=lambda: api))
        async with httpx.AsyncClient(transport=transport, base_url="http://surety") as client:
            return await client.get(path, headers=shown(keys["admin"]))

    for path in ("/", "/schema.json", "/status", "/nothing"):
        reply = asyncio.run(once(path))
        assert not [n for n in reply.headers if n == "server" or "bentoml" in n]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["content-type"]
