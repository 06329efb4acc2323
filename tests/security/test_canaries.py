"""What callers send turns up nowhere: unique texts in every field, header, query and path of every route.

They may be in the prediction log, whose business they are (and even there no subject and no patient's number is), and
nowhere else: not in what the server prints, not in its other files, not in metrics, not in error bodies.
"""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from ml_core.serve.http.api_keys import add_key
from ml_core.serve.rollout import changes
from tests.e2e.workplace import Workplace
from tests.faults.place import FaultPlace, until
from tests.security.figures import record
from tests.security.served import RECORD

pytestmark = pytest.mark.e2e

JSON = {"content-type": "application/json"}
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}
HEADERS = (
    "user-agent", "x-request-id", "cookie", "referer", "accept", "accept-language", "x-forwarded-for", "forwarded",
    "traceparent", "tracestate", "origin", "if-none-match", "content-encoding", "content-disposition", "x-patient",
    "bentoml-request-id", "x-bentoml-request-id", "authorization", "content-type", "host",
)  # fmt: skip
LOOKED_AT = ("/", "/health", "/livez", "/readyz", "/healthz", "/status", "/metrics", "/docs.json", "/schema.json")
POSTED_TO = ("/predict", "/predict_batch", "/labels")
FEATURES = (*RECORD, "patient_id", "encounter_date", "readmission_30d", "insurance")


class Marks:
    """Makes texts that occur nowhere else."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self) -> str:
        self.made.append(f"Anna-{len(self.made)}-{secrets.token_hex(6)}")
        return self.made[-1]


@dataclass(frozen=True)
class Sent:
    """One request."""

    method: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def wrong_bodies(mark: Marks) -> Iterator[tuple[str, bytes]]:
    """Each route with a mark in each place of its body, all of which are refused."""
    for name in FEATURES:
        if name != "patient_id":  # its own test: it is accepted, and hidden
            yield "/predict", body({"features": {**RECORD, name: mark()}})
        for on_error in ("row", "reject"):
            batch = {
                "records": [RECORD, {**RECORD, name: mark() if name != "patient_id" else [mark()]}],
                "on_error": on_error,
            }
            yield "/predict_batch", body(batch)
    yield "/predict", body({"features": {**RECORD, mark(): 1}})
    yield "/predict", body({"features": mark()})
    yield "/predict", body({"features": [mark()]})
    yield "/predict", body({"features": {**RECORD, "age": {mark(): mark()}}})
    for name in ("confidence_level", "unknown"):
        yield "/predict", body({"features": RECORD, name: mark()})
    for name in ("client_request_id", "subject"):
        yield "/predict", body({"features": RECORD, name: [mark()]})
        yield "/predict", body({"features": RECORD, name: mark() + "\n"})
        yield "/predict", body({"features": RECORD, name: mark() * 50})
    yield "/predict", body({mark(): RECORD})
    for name in ("records", "on_error", "confidence_level", "more"):
        yield "/predict_batch", body({"records": [RECORD], name: mark()})
    yield "/predict_batch", body({"records": [mark()]})
    for name in ("request_id", "label", "observed_at", "source"):
        good = {"request_id": "01936f0e-0000-7000-8000-000000000000", "label": 1}
        yield "/labels", body({"labels": [{**good, name: mark()}]})
    yield "/labels", body({"labels": mark()})
    yield "/labels", body({mark(): []})
    for path in POSTED_TO:
        yield path, mark().encode()
        yield path, f'{{"features": {{"age": {mark()}'.encode()
        yield path, f'{{"{mark()}": 1, "{mark()}": 2'.encode()
        yield path, f'{{"features": "{mark()}", "features": "{mark()}"}}'.encode()
        yield path, f'"{mark()}'.encode() + b"\xff"


def arrow(columns: dict[str, list[Any]], metadata: dict[str, str] | None = None) -> bytes:
    table = pa.table(columns).replace_schema_metadata(metadata)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def wrong_streams(mark: Marks) -> Iterator[bytes]:
    good = {name: [value] for name, value in RECORD.items()}
    for name in RECORD:
        yield arrow({**good, name: [mark()]})
    yield arrow({**good, mark(): ["x"]})
    yield arrow({**good, "insurance": [mark()]})
    yield arrow({**good, "age": [200]}, {mark(): mark()})
    yield mark().encode() * 20
    yield arrow(good)[:-40] + mark().encode()


def requests(mark: Marks) -> Iterator[Sent]:
    """Every request with a mark in it, none of which may bring the mark back."""
    for path, content in wrong_bodies(mark):
        yield Sent("POST", path, content, JSON)
    for content in wrong_streams(mark):
        yield Sent("POST", "/predict_batch?on_error=reject", content, ARROW)
        yield Sent("POST", "/predict_batch", content, ARROW)
    for path in (*LOOKED_AT, *POSTED_TO):
        method = "POST" if path in POSTED_TO else "GET"
        yield Sent(method, f"{path}?{mark()}={mark()}", b"{}", JSON)
        yield Sent("PUT", f"{path}?patient={mark()}", mark().encode(), JSON)
        for name in HEADERS:
            yield Sent(method, path, b"{}", {**JSON, name: mark()})
    for name in ("confidence_level", "on_error", "patient"):
        yield Sent("POST", f"/predict_batch?{name}={mark()}", arrow({k: [v] for k, v in RECORD.items()}), ARROW)
    for path in (
        f"/{mark()}",
        f"/predict/{mark()}",
        f"/static_content/{mark()}",
        f"/assets/{mark()}.js",
        f"/%2e%2e/{mark()}",
    ):
        for method in ("GET", "POST"):
            yield Sent(method, path)


@pytest.mark.parametrize("service", ["Surety", "SuretyIsolated"])
def test_what_callers_send_turns_up_nowhere(example: Workplace, tmp_path: Path, service: str) -> None:
    place = FaultPlace(example.folder, example.model).copy(tmp_path / "place")
    keys = tmp_path / "keys.json"
    shown = {"authorization": f"Bearer {add_key(keys, 'all', ['admin'])}"}
    mark = Marks()
    hidden, kept = [mark() for _ in range(6)], [mark() for _ in range(3)]
    replies: list[httpx.Response] = []
    with (
        place.served(f"service:{service}", ready=False, SURETY_API_KEYS_FILE=str(keys)) as served,
        httpx.Client(base_url=served.address, timeout=30) as client,
    ):
        until(lambda: client.get("/readyz").status_code == 200, 90, "the service is ready")
        for sent in requests(mark):
            headers = sent.headers if "authorization" in sent.headers else {**shown, **sent.headers}
            replies.append(client.request(sent.method, sent.path, content=sent.content, headers=headers))
            if sent.path in POSTED_TO:
                replies.append(client.request(sent.method, sent.path, content=sent.content, headers=sent.headers))

        def post(path: str, value: Any) -> httpx.Response:
            return client.post(path, json=value, headers=shown)

        # Accepted, and the person hidden.
        named = {"features": RECORD, "subject": hidden[0], "client_request_id": kept[0]}
        assert post("/predict", named).status_code == 200
        assert post("/predict", {"features": {**RECORD, "patient_id": hidden[1]}}).status_code == 200
        assert post("/predict_batch", {"records": [{**RECORD, "patient_id": hidden[2]}]}).status_code == 200
        stream = arrow({**{k: [v] for k, v in RECORD.items()}, "patient_id": [hidden[3]]})
        assert client.post("/predict_batch", content=stream, headers={**shown, **ARROW}).status_code == 200

        # The model itself fails, and says whose record it was; then nothing may answer in its place.
        says = mark()
        place.break_model({"do": "raise", "says": f"cannot score {says}"})
        asked = {"features": RECORD, "subject": hidden[4], "client_request_id": kept[1]}
        until(lambda: post("/predict", asked).json()["fallback_used"], 10, "the model has failed")
        place.obeyed(place.change(changes.flags({"fallback": []})))
        failed = post("/predict", {"features": RECORD, "subject": hidden[5], "client_request_id": kept[2]})
        assert failed.status_code == 503
        replies += [failed, client.get("/status", headers=shown)]
        metrics = client.get("/metrics", headers=shown).text

    assert len(mark.made) >= 30
    for made in mark.made:
        assert made not in metrics
    assert {r.status_code for r in replies} >= {200, 400, 401, 404, 405, 415, 422, 503}
    for reply in replies:  # also those that give an error for one row
        told = reply.text + str(reply.headers)
        assert not [m for m in mark.made if m in told], (reply.request.method, reply.request.url, told)
    stores = (place.home / "log", place.home / "labels")
    place.fault_file.unlink()  # it tells the model what to say
    hits = found_in([p for p in place.folder.rglob("*") if not any(s in p.parents for s in stores)], mark.made)
    assert hits == {}
    in_store = found_in([p for s in stores for p in s.rglob("*")], mark.made)
    assert set(in_store) <= set(kept)
    record(
        f"personal data: canaries ({service})",
        "texts that callers send turn up in no output, log line, file outside the store, metric or error body",
        {"texts": len(mark.made), "replies looked at": len(replies), "found": len(hits)},
    )


def found_in(paths: list[Path], marks: list[str]) -> dict[str, list[str]]:
    """Which marks are in which files, byte by byte."""
    hits: dict[str, list[str]] = {}
    for path in paths:
        if not path.is_file() or path.is_symlink():
            continue
        raw = path.read_bytes()
        for mark in marks:
            if mark.encode() in raw:
                hits.setdefault(mark, []).append(path.name)
    return hits
