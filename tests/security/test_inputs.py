"""What a live service does with numbers that are none, bodies that are too large or too deep, and plain noise."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.security.figures import record
from tests.security.served import RECORD, Watched, arrow_body

pytestmark = pytest.mark.e2e

JSON = {"content-type": "application/json"}
NUMBERS = [
    "NaN",
    "-NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "nan",
    "inf",
    "1e309",
    "0x10",
    "1_0",
    "01",
    "+1",
    ".5",
    "1.",
    "- 1",
]
HUGE = [str(10**20), str(-(10**30)), "1" * 500, "1" * 5_000, "1e308", "9223372036854775808"]


@pytest.fixture
def client(server: Watched) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=30) as client:
        yield client


def refused(reply: httpx.Response, *statuses: int) -> str:
    """The error's code of a reply that must be one of these refusals."""
    assert reply.status_code in statuses, (reply.status_code, reply.text[:300])
    code: str = reply.json()["error"]["code"]
    return code


def bodies(text: str) -> Iterator[tuple[str, str]]:
    """The text in the place of a number, on every route."""
    for field in RECORD:
        others = {k: v for k, v in RECORD.items() if k != field}
        features = json.dumps(others)[:-1] + f', "{field}": {text}}}'
        yield "/predict", f'{{"features": {features}}}'
        yield "/predict_batch", f'{{"records": [{features}], "on_error": "reject"}}'
    yield "/predict", f'{{"features": {json.dumps(RECORD)}, "confidence_level": {text}}}'
    yield "/predict_batch", f'{{"records": [{json.dumps(RECORD)}], "confidence_level": {text}}}'
    yield "/labels", f'{{"labels": [{{"request_id": "01936f0e-0000-7000-8000-000000000000", "label": {text}}}]}}'


def test_numbers_that_are_none_are_no_json_and_huge_ones_out_of_range(client: httpx.Client) -> None:
    tried = 0
    for texts, statuses in ((NUMBERS, (400,)), (HUGE, (400, 422))):
        for text in texts:
            for path, body in bodies(text):
                refused(client.post(path, content=body.encode(), headers=JSON), *statuses)
                tried += 1
    record(
        "numbers",
        "NaN, Infinity, 1e999, other spellings and huge integers are refused everywhere",
        {"tried": tried, "let in": 0},
    )


@pytest.mark.parametrize("path", ["/predict", "/predict_batch", "/labels"])
def test_a_key_sent_twice_is_refused_wherever_it_stands(client: httpx.Client, path: str) -> None:
    record_text = json.dumps(RECORD)
    inside = record_text[:-1] + ', "age": 20}'
    for body in (
        f'{{"features": {inside}}}', f'{{"records": [{record_text}, {inside}]}}', f'{{"features": {record_text}, "features": {record_text}}}',
        '{"labels": [{"label": 1, "label": 0}]}', '{"a": {"b": [{"c": 1, "c": 1}]}}',
    ):  # fmt: skip
        assert refused(client.post(path, content=body.encode(), headers=JSON), 400) == "invalid_json"


@pytest.mark.parametrize("path", ["/predict", "/predict_batch", "/labels"])
@pytest.mark.parametrize("depth", [10, 1_000, 30_000])
def test_deep_bodies_are_refused(client: httpx.Client, path: str, depth: int) -> None:
    for opened, closed in (("[", "]"), ('{"a":', "}")):
        body = opened * depth + "1" + closed * depth
        refused(client.post(path, content=body.encode(), headers=JSON), 400, 413, 422)
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/predict_batch", "/labels"])
@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_refused_whether_their_length_is_told_or_not(
    client: httpx.Client, path: str, chunked: bool
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    content: Any = chunks() if chunked else b" " * (40 * 65_536)
    try:
        reply = client.post(path, content=content, headers=JSON)
    except (httpx.WriteError, httpx.ReadError):
        return  # the connection was closed while the rest was being sent
    assert refused(reply, 413) == "too_large"


def test_rows_beyond_the_cap_are_refused(client: httpx.Client) -> None:
    small = {"age": 50}
    assert client.post("/predict_batch", json={"records": [small] * 1_000}).status_code == 200
    refused(client.post("/predict_batch", json={"records": [small] * 1_001}), 422)


# --- noise ---

METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
PATHS = [
    "/predict",
    "/predict_batch",
    "/labels",
    "/status",
    "/metrics",
    "/health",
    "/docs.json",
    "/schema.json",
    "/nothing",
    "/..%2f..%2fetc/passwd",
    "/static_content/../../x",
]
TYPES = [
    "application/json",
    "application/vnd.apache.arrow.stream",
    "text/plain",
    "application/vnd.bentoml+pickle",
    "multipart/form-data; boundary=x",
    "",
    "application/json; charset=utf-16",
]
TELLING = re.compile(
    rb"traceback|\.py\b|/usr/|/home/|/tmp/|/root/|site-packages|bentoml|uvicorn|starlette|python|numpy|onnx|pydantic|orjson|sqlite|\bfile \"|"
    rb"\d+\.\d+\.\d+|object at 0x|exception|errno", re.IGNORECASE
)  # fmt: skip


def noise(random_: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """A request that is nearly right, or not at all."""
    good = random_.choice(
        [
            json.dumps({"features": RECORD}).encode(),
            json.dumps({"records": [RECORD] * 3}).encode(),
            json.dumps({"labels": [{"request_id": "01936f0e-0000-7000-8000-000000000000", "label": 1}]}).encode(),
            arrow_body(3),
        ]
    )
    body = bytearray(good)
    for _ in range(random_.choice([0, 1, 1, 2, 8])):
        kind = random_.randrange(4)
        at = random_.randrange(max(len(body), 1))
        if kind == 0 and body:
            body[at] = random_.randrange(256)
        elif kind == 1:
            del body[at : at + random_.randrange(1, 40)]
        elif kind == 2:
            body[at:at] = random_.randbytes(random_.randrange(1, 20))
        else:
            body[at:at] = body[: random_.randrange(1, 200)]
    path = random_.choice(PATHS) + random_.choice(["", "", "?on_error=reject", "?confidence_level=2", "?x=%ff&y"])
    return (
        random_.choice([*METHODS, "POST", "POST", "POST"]),
        path,
        bytes(body),
        {"content-type": random_.choice(TYPES)},
    )


def fuzzed(client: httpx.Client, requests: int) -> dict[str, int]:
    random_ = random.Random(20261124)
    errors = server_errors = telling = 0
    for _ in range(requests):
        method, path, body, headers = noise(random_)
        reply = client.request(method, path, content=body, headers=headers)
        if reply.status_code < 400:
            continue
        errors += 1
        server_errors += reply.status_code >= 500
        said = reply.content + str({k: v for k, v in reply.headers.items() if k != "date"}).encode()
        found = TELLING.search(said)
        telling += found is not None
        assert found is None, (method, path, body[:200], reply.text)
    return {"requests": requests, "errors": errors, "5xx": server_errors, "that tell what runs here": telling}


def judge_noise(client: httpx.Client, server: Watched, requests: int) -> None:
    found = fuzzed(client, requests)
    assert found["5xx"] == 0
    assert found["errors"] > requests / 3
    assert client.get("/health").status_code == 200
    record(
        f"errors ({server.service}, {requests:,} requests)",
        "no traceback, path or version in any error, and no 5xx, for noise",
        found,
    )


def test_errors_tell_nothing_of_what_runs_here(client: httpx.Client, server: Watched) -> None:
    judge_noise(client, server, 1_000)


@pytest.mark.slow
def test_errors_tell_nothing_of_what_runs_here_for_long(client: httpx.Client, server: Watched) -> None:
    judge_noise(client, server, 10_000)
