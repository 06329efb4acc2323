"""A body is JSON, or Arrow for batches: everything else is refused unread, and nothing fetches what a body names."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.security.figures import record
from tests.security.served import RECORD, Watched, bomb

pytestmark = pytest.mark.e2e

ARROW = "application/vnd.apache.arrow.stream"
POSTS = ("/predict", "/predict_batch", "/labels")
PICKLE = "application/vnd.bentoml+pickle"
REFUSED: tuple[str | None, ...] = (
    PICKLE,
    PICKLE.upper(),
    "Application/Vnd.BentoML+Pickle",
    f"{PICKLE}; charset=utf-8",
    f"{PICKLE};q=1;application/json",
    f"{PICKLE}, application/json",
    f"application/json, {PICKLE}",
    "application/jsonx",
    "application/json+pickle",
    "text/json",
    "application/octet-stream",
    "application/x-pickle",
    "application/python-pickle",
    "application/vnd.bentoml+stream",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=" + "-" * 200,
    "application/x-www-form-urlencoded",
    "text/plain",
    "image/png",
    "*/*",
    "",
    None,
)
TRICKS: tuple[dict[str, str], ...] = (
    {},
    {"args-number": "2", "batch-size": "1"},
    {"payload-container": "DefaultContainer", "payload-meta": "{}", "batch-size": "1"},
    {"payload-container": "NdarrayContainer", "payload-meta": '{"format": "pickle5", "pickle_bytes_str": "gAROLg=="}'},
    {"bentoml-payload-meta": "{}", "x-http-method-override": "PUT"},
)
"""Headers by which BentoML's runner was once made to unpickle (CVE-2024-9070, CVE-2025-32375)."""
FETCHED = {"binary", "base64", "byte", "uri", "url", "file", "image", "audio", "video", "path", "tensor", "dataframe"}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A file that a body makes when it is unpickled."""
    return tmp_path / "unpickled"


def formed(packed: bytes) -> dict[str, bytes]:
    """The pickle by itself, as a form's file, and in a JSON text."""
    form = b'--x\r\nContent-Disposition: form-data; name="features"; filename="a"\r\nContent-Type: ' + PICKLE.encode()
    return {
        "bare": packed,
        "in a form": form + b"\r\n\r\n" + packed + b"\r\n--x--\r\n",
        "in a text": json.dumps({"features": packed.decode("latin-1")}).encode(),
    }


def test_every_body_of_another_type_is_refused_and_not_unpickled(server: Watched, trace: Path) -> None:
    bodies = formed(bomb(trace))
    before = len(server.look_ups())
    sent = 0
    with httpx.Client(base_url=server.address, timeout=30) as client:
        for path, kind, (form, body), trick in itertools.product(POSTS, REFUSED, bodies.items(), TRICKS):
            headers = {**trick, **({} if kind is None else {"content-type": kind})}
            reply = client.post(path, content=body, headers=headers)
            sent += 1
            assert reply.status_code == 415, (path, kind, form, trick, reply.status_code)
            assert reply.json()["error"]["code"] == "unsupported_media_type"
    assert not trace.exists()
    assert len(server.look_ups()) == before
    record(
        f"bodies of another type, service:{server.service}",
        "415 on every route that takes a body, and not unpickled",
        {"routes": len(POSTS), "types": len(REFUSED), "requests": sent, "refused": sent, "unpickled": 0},
    )


@pytest.mark.parametrize("kind", ["application/json", "APPLICATION/JSON; charset=utf-8", ARROW])
def test_pickle_under_an_accepted_type_is_refused_as_none_of_it(server: Watched, trace: Path, kind: str) -> None:
    packed = bomb(trace)
    for path in POSTS:
        reply = httpx.post(server.address + path, content=packed, headers={"content-type": kind})
        assert reply.json()["error"]["code"] in {"invalid_json", "invalid_arrow", "unsupported_media_type"}
    assert not trace.exists()


@pytest.mark.parametrize("kinds", [("application/json", PICKLE), (PICKLE, "application/json")])
def test_two_types_at_once_do_not_unpickle(server: Watched, trace: Path, kinds: tuple[str, str]) -> None:
    packed = bomb(trace)
    headers = [("content-type", kind) for kind in kinds]
    for path in POSTS:
        assert httpx.post(server.address + path, content=packed, headers=headers).status_code in {400, 415}
    assert not trace.exists()


def test_pickle_to_any_other_address_is_not_read(server: Watched, trace: Path) -> None:
    """Every path of both documents with every method, the runner's own route, and BentoML's pages."""
    packed = bomb(trace)
    before = len(server.look_ups())
    with httpx.Client(base_url=server.address, timeout=30) as client:
        document, schema = client.get("/docs.json").json(), client.get("/schema.json").json()
        paths = {
            *document["paths"],
            *(route["route"] for route in schema["routes"]),
            "/score",
            "/schema.json",
            "/metrics",
        }
        paths |= {"/", "/docs.json", "/readyz", "/livez", "/healthz", "/__is_ready__", "/static_content/x", "//predict"}
        for path, method in itertools.product(sorted(paths), ("POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS")):
            reply = client.request(method, path, content=packed, headers={"content-type": PICKLE})
            assert reply.status_code < 500, (method, path, reply.status_code)
            if method in {"POST", "PUT", "PATCH", "DELETE"}:
                assert reply.status_code in {404, 405, 415}, (method, path, reply.status_code)
    assert set(POSTS) <= paths
    assert not trace.exists()
    assert len(server.look_ups()) == before


# --- nothing is fetched -------------------------------------------------------------------------------------------


def nodes(document: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON document."""
    if isinstance(document, dict):
        yield document
    for child in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from nodes(child)


def test_no_route_takes_a_file_an_image_or_an_address(server: Watched) -> None:
    document = httpx.get(f"{server.address}/docs.json").json()
    schema = httpx.get(f"{server.address}/schema.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    bodies = {k: v for o in operations for k, v in o.get("requestBody", {}).get("content", {}).items()}
    assert bodies.pop(ARROW)["schema"] == {"type": "string", "format": "binary"}  # the whole body: a stream of rows
    assert bodies.keys() == {"application/json"}
    inputs = [bodies, *(o.get("parameters", []) for o in operations)]
    inputs += [document["components"]["schemas"], *(route["input"] for route in schema["routes"])]
    found = list(nodes(inputs))
    assert len(found) > 20
    for node in found:
        assert str(node.get("format", "")).lower() not in FETCHED, node
        assert node.get("type") not in ("file", "tensor", "dataframe"), node
        assert "contentMediaType" not in node, node
    record(
        f"inputs that would be fetched, service:{server.service}",
        "no route takes a file, an image or an address",
        {"routes": len(operations), "inputs looked at": len(found), "fetched": 0},
    )


def test_address_in_a_body_is_not_visited(server: Watched) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        with httpx.Client(base_url=server.address, timeout=30) as client:
            for text in (address, {"url": address}, {"$ref": address}, {"__bentoml_file__": address}):
                for body in (
                    {"features": text},
                    {"features": {**RECORD, "age": text}},
                    {"features": RECORD, "subject": text},
                ):
                    client.post("/predict", json=body)
                client.post("/predict_batch", json={"records": [text, {"age": text}]})
                client.post("/labels", json={"labels": [{"request_id": text, "label": text}]})
            for path in POSTS:
                client.post(path, content=address, headers={"content-type": "text/uri-list"})
                client.post(path, params={"url": address}, json={"features": RECORD})
        with pytest.raises(TimeoutError):
            listener.accept()
