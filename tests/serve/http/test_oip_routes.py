"""The Open Inference Protocol through the middleware: the answers of /predict, as tensors; odd requests refused."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator, Draft202012Validator

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.running.runner import ConformalRunner, GuardedRunner, model_breaker
from tests.serve.answering.builders import live_model, live_of, other_toy
from tests.serve.http.apis import http_api, post
from tests.serve.http.oip_bodies import FORMS, ODD, binary_body, json_body
from tests.serve.http.test_openapi import call
from tests.toy_models import loaded_grouped, loaded_toy, patient_settings, toy_frame, toy_live, toy_record

INFER = "/v2/models/toy_risk/infer"
SETTINGS = Settings(max_batch_rows=50, inline_rows=8, max_body_bytes=200_000)
SPEC = yaml.safe_load((Path(__file__).parent / "specs" / "open_inference_rest.yaml").read_text())


@pytest.fixture(scope="module")
def api() -> HttpApi:
    return http_api(SETTINGS, InferenceService(toy_live()))


def records(n: int) -> list[dict[str, Any]]:
    columns = toy_frame()[["age", "glucose", "bmi", "bp_systolic"]].head(n)
    return [{k: None if math.isnan(v) else v for k, v in row.items()} for row in columns.to_dict("records")]


def tensors(reply: httpx.Response) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of a reply by a reader of our own: JSON, and bytes by the protocol's table of datatypes."""
    assert reply.status_code == 200, reply.text
    length = int(reply.headers.get("inference-header-content-length", len(reply.content)))
    rest, found = reply.content[length:], {}
    for one in json.loads(reply.content[:length])["outputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        values = one.get("data")
        if size is not None:
            piece, rest = rest[:size], rest[size:]
            values = _texts(piece) if one["datatype"] == "BYTES" else np.frombuffer(piece, FORMS[one["datatype"]])
        found[one["name"]] = np.array(values).reshape(one["shape"])
    assert rest == b""
    return found


def _texts(piece: bytes) -> list[str]:
    found = []
    while piece:
        length = int.from_bytes(piece[:4], "little")
        found.append(piece[4 : 4 + length].decode())
        piece = piece[4 + length :]
    return found


def conforms(schema: str, body: Any) -> None:
    """The protocol's own document takes a body."""
    Draft4Validator({"$ref": f"#/components/schemas/{schema}", "components": SPEC["components"]}).validate(body)


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 8, 9, 50])
@pytest.mark.parametrize("binary", [False, True])
def test_answers_are_those_of_predict_bit_for_bit(api: HttpApi, n: int, binary: bool) -> None:
    body = json_body(records(n), parameters={"confidence_level": 0.8, "binary_data_output": binary})
    if binary:
        content, headers = binary_body(body)
        found = tensors(post(api, INFER, content=content, headers=headers))
    else:
        found = tensors(post(api, INFER, json=body))
    for row, record in enumerate(records(n)):
        alone = post(api, "/predict", json={"features": record, "confidence_level": 0.8}).json()
        assert found["prediction"][row] == alone["prediction"]
        assert found["probability"][row] == alone["probability"]
        assert found["p_values"][row].tolist() == list(alone["p_values"].values())
        assert [label for label in (0, 1) if found["prediction_set"][row, label]] == alone["prediction_set"]
        assert found["validity"][row] == alone["validity"]
        assert found["fallback_reason"][row] == ""
        assert found["input_hash"][row] == alone["lineage"]["input_hash"]
    assert len(set(found["request_id"].tolist())) == n


def test_parameters_say_what_all_rows_share(api: HttpApi) -> None:
    reply = post(api, INFER, json=json_body(records(3), id="visit-7")).json()
    alone = post(api, "/predict", json={"features": records(1)[0]}).json()
    told, lineage = reply["parameters"], alone["lineage"]
    assert (reply["id"], reply["model_name"], reply["model_version"]) == ("visit-7", "toy_risk", "1")
    assert told["confidence_level"] == "0.9"
    assert told["guarantee"] == alone["guarantee"]
    for name in ("model_hash", "feature_version", "calibration_id", "slot"):
        assert told[name] == lineage[name]
    assert json.loads(told["labels"]) == [0, 1]
    assert told["fallback_used"] is False


def test_a_reply_without_an_id_has_that_of_its_batch(api: HttpApi) -> None:
    reply = post(api, INFER, json=json_body(records(2)))
    assert reply.json()["id"] == reply.headers["x-request-id"]


def test_requested_outputs_alone_come_in_their_order_and_form(api: HttpApi) -> None:
    wanted = [{"name": "slot"}, {"name": "p_values", "parameters": {"binary_data": True}}]
    reply = post(api, INFER, json=json_body(records(2), outputs=wanted))
    assert list(tensors(reply)) == ["slot", "p_values"]
    head = json.loads(reply.content[: int(reply.headers["inference-header-content-length"])])
    assert ["data" in one for one in head["outputs"]] == [True, False]
    assert "slot" not in head["parameters"]


def test_what_differs_between_rows_is_an_output_and_no_parameter() -> None:
    model = loaded_grouped()
    guard = GuardedRunner(ConformalRunner(model), model_breaker("toy_risk", patient_settings()), 2, patient_settings())
    api = http_api(SETTINGS, InferenceService(Live(LiveModel(model, guard))))
    sexes = ["female", "male", None]
    rows = [{**toy_record(), "sex": sex} for sex in sexes]
    body = json_body(rows)
    body["inputs"][-1]["datatype"] = "BYTES"
    reply = post(api, INFER, json=body)
    alone = [post(api, "/predict", json={"features": row}).json() for row in rows]
    found = tensors(reply)
    assert found["group"].tolist() == [one["group"] or "" for one in alone]
    assert found["calibration_id"].tolist() == [one["lineage"]["calibration_id"] for one in alone]
    assert {"group", "calibration_id"}.isdisjoint(reply.json()["parameters"])
    content, headers = binary_body(body)
    assert (
        tensors(post(api, INFER, content=content, headers=headers))["p_values"].tolist() == found["p_values"].tolist()
    )


def test_a_named_version_is_answered_by_that_version_during_a_canary() -> None:
    challenger = live_model(model=other_toy())
    live = live_of(live_model(model=loaded_toy()), challenger=challenger, mode="canary", weight=0.2)
    api = http_api(SETTINGS, InferenceService(live))
    both = [live.champion.model.version, challenger.model.version]
    assert call(api, "GET", "/v2/models/toy_risk").json()["versions"] == both
    for version in both:
        for _ in range(10):
            reply = post(api, f"/v2/models/toy_risk/versions/{version}/infer", json=json_body(records(2))).json()
            assert reply["model_version"] == version
    assert call(api, "GET", "/v2/models/toy_risk/versions/77/ready").status_code == 404


def test_a_missing_value_is_null_in_json_and_nan_in_bytes(api: HttpApi) -> None:
    rows = [toy_record(glucose=None), toy_record(glucose=100.0)]
    content, headers = binary_body(json_body(rows))
    found = [
        tensors(post(api, INFER, json=json_body(rows))),
        tensors(post(api, INFER, content=content, headers=headers)),
    ]
    alone = post(api, "/predict", json={"features": rows[0]}).json()["lineage"]["input_hash"]
    assert [one["input_hash"][0] for one in found] == [alone, alone]


@pytest.mark.parametrize("shape", ["flat", "column", "nested"])
def test_one_value_a_row_may_come_as_n_or_as_n_by_1(api: HttpApi, shape: str) -> None:
    body = json_body(records(3))
    for one in body["inputs"] if shape != "flat" else ():
        one["shape"] = [3, 1]
        one["data"] = [[value] for value in one["data"]] if shape == "nested" else one["data"]
    plain = tensors(post(api, INFER, json=json_body(records(3))))
    assert tensors(post(api, INFER, json=body))["input_hash"].tolist() == plain["input_hash"].tolist()


def test_a_body_may_be_packed(api: HttpApi) -> None:
    content, headers = binary_body(json_body(records(2)))
    packed = post(api, INFER, content=gzip.compress(content), headers={**headers, "content-encoding": "gzip"})
    assert tensors(packed)["prediction"].shape == (2,)


# --- the protocol's document, and ours ----------------------------------------------------------------------------


def test_replies_are_as_the_protocol_says(api: HttpApi) -> None:
    conforms("inference_request", json_body([toy_record()]))
    conforms("inference_response", post(api, INFER, json=json_body(records(3))).json())
    conforms("metadata_server_response", call(api, "GET", "/v2/").json())
    conforms("metadata_model_response", call(api, "GET", "/v2/models/toy_risk").json())
    conforms("inference_error_response", post(api, INFER, json={}).json())
    conforms("metadata_model_error_response", call(api, "GET", "/v2/models/other").json())


@pytest.mark.parametrize("path", sorted(SPEC["paths"]))
def test_every_route_of_the_protocol_is_there(api: HttpApi, path: str) -> None:
    filled = path.replace("${MODEL_NAME}", "toy_risk").replace("${MODEL_VERSION}", "1")
    for method in SPEC["paths"][path].keys() & {"get", "post"}:
        assert call(api, method.upper(), filled, json=json_body(records(1))).status_code == 200


def test_replies_are_as_our_document_says(api: HttpApi) -> None:
    document = call(api, "GET", "/docs.json").json()
    for path, methods in document["paths"].items():
        if not path.startswith("/v2"):
            continue
        ((method, operation),) = methods.items()
        filled = path.replace("{model}", "toy_risk").replace("{version}", "1")
        example = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        reply = call(api, method.upper(), filled, json=example)
        assert reply.status_code == 200, path
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(reply.json())


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_body_is_400_and_the_page_shows_what_it_gets(api: HttpApi, odd: str) -> None:
    reply = post(api, INFER, json=ODD[odd])
    page = (Path(__file__).parents[3] / "docs" / "open-inference.md").read_text()
    assert reply.status_code == 400
    assert list(reply.json()) == ["error"]
    assert f"| {odd} | {reply.json()['error']} |" in page


SOUND, SOUND_HEADERS = binary_body(json_body([toy_record()] * 2))
_HEAD = int(SOUND_HEADERS["inference-header-content-length"])


@pytest.mark.parametrize(
    "length", ["", "-1", "1e2", "0x10", " ", "0", "1", str(_HEAD - 1), str(_HEAD + 1), "9" * 12, "9" * 40]
)
def test_an_odd_length_of_the_head_is_400(api: HttpApi, length: str) -> None:
    reply = post(api, INFER, content=SOUND, headers={"inference-header-content-length": length})
    assert (reply.status_code, list(reply.json())) == (400, ["error"])


def test_two_lengths_of_the_head_are_400(api: HttpApi) -> None:
    twice = [("inference-header-content-length", str(_HEAD))] * 2
    assert post(api, INFER, content=SOUND, headers=twice).status_code == 400


@given(st.integers(0, len(SOUND) - 1))
def test_a_truncated_body_is_400(cut: int) -> None:
    assert post(_API, INFER, content=SOUND[:cut], headers=SOUND_HEADERS).status_code == 400


@given(st.integers(0, len(SOUND) - 1), st.integers(0, 255))
def test_a_body_with_another_byte_is_answered_or_400(at: int, byte: int) -> None:
    odd = SOUND[:at] + bytes([byte]) + SOUND[at + 1 :]
    assert post(_API, INFER, content=odd, headers=SOUND_HEADERS).status_code in (200, 400)


_API = http_api(SETTINGS, InferenceService(toy_live()))

SCRAPS = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 60) | st.floats() | st.sampled_from(["age", "FP64", "np", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "binary_data_size"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(SCRAPS)
def test_any_json_is_answered_or_400(scrap: Any) -> None:
    assert post(_API, INFER, content=json.dumps(scrap).encode()).status_code in (200, 400)


def test_more_rows_than_a_batch_may_have_are_400(api: HttpApi) -> None:
    reply = post(api, INFER, json=json_body([toy_record()] * 51))
    assert (reply.status_code, reply.json()["error"]) == (
        400, "age: shape has 51 rows, and a request has 1 to 50: split it",
    )  # fmt: skip


def test_deep_and_wide_nesting_is_refused_before_it_is_parsed(api: HttpApi) -> None:
    body = b'{"inputs":[' + b"[]," * 60_000 + b"[]]}"
    assert "more lists" in post(api, INFER, content=body).json()["error"]


def test_a_body_beyond_the_limit_is_413(api: HttpApi) -> None:
    assert post(api, INFER, content=b" " * 200_001).status_code == 413


@pytest.mark.parametrize(
    ("content_type", "origin", "status"),
    [
        (None, None, 200),
        ("application/json", None, 200),
        ("application/json", "https://ward.example.org", 200),
        ("application/octet-stream", "https://ward.example.org", 200),
        ("text/plain", None, 415),
        ("application/x-www-form-urlencoded", None, 415),
        (None, "https://ward.example.org", 415),  # a page may send a body without a type anywhere, unasked
    ],
)
def test_a_body_has_a_type_that_pages_may_not_send_unasked(
    api: HttpApi, content_type: str | None, origin: str | None, status: int
) -> None:
    given_headers = {"content-type": content_type, "origin": origin}
    headers = {name: value for name, value in given_headers.items() if value is not None}
    assert post(api, INFER, content=SOUND, headers={**SOUND_HEADERS, **headers}).status_code == status


def test_octets_without_the_length_of_their_head_are_400(api: HttpApi) -> None:
    reply = post(api, INFER, content=SOUND, headers={"content-type": "application/octet-stream"})
    assert (reply.status_code, "is missing" in reply.json()["error"]) == (400, True)


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/toy_risk/versions/7/infer", "/v2/nothing"])
def test_what_is_not_here_is_404(api: HttpApi, path: str) -> None:
    reply = post(api, path, json=json_body(records(1)))
    assert reply.status_code == 404
    conforms("inference_error_response", reply.json())


def test_while_no_model_is_live_it_is_alive_and_not_ready() -> None:
    api = http_api(Settings(model_name="toy_risk"), InferenceService(None))
    found = {path: call(api, "GET", f"/v2/{path}") for path in ("health/live", "health/ready", "models/toy_risk/ready")}
    assert [reply.status_code for reply in found.values()] == [200, 503, 503]
    assert found["models/toy_risk/ready"].json() == {"name": "toy_risk", "ready": False}
    assert post(api, INFER, json=json_body(records(1))).status_code == 503


def test_paths_are_counted_by_their_route_and_never_by_what_a_caller_wrote(api: HttpApi) -> None:
    call(api, "GET", "/v2/models/patient-MRN-7")
    scraped = call(api, "GET", "/metrics").text
    assert "MRN" not in scraped
    assert 'endpoint="/v2/models/{model}"' in scraped


@pytest.mark.parametrize("more", [b"\0", b"\0" * 8])
def test_bytes_that_belong_to_no_input_are_400(api: HttpApi, more: bytes) -> None:
    reply = post(api, INFER, content=SOUND + more, headers=SOUND_HEADERS)
    told = f"inputs: name 64 bytes of binary data, and {64 + len(more)} follow the JSON"
    assert (reply.status_code, reply.json()["error"]) == (400, told)


@pytest.mark.parametrize(
    ("route", "more", "status"),
    [
        (INFER, {"model_name": "toy_risk", "model_version": "1"}, 200),
        (INFER, {"model_name": None, "model_version": None}, 200),
        (INFER, {"model_name": "other"}, 400),
        (INFER, {"model_version": "7"}, 400),
        (INFER, {"model_version": 1}, 400),
        ("/v2/models/toy_risk/versions/1/infer", {"model_version": "1"}, 200),
        ("/v2/models/toy_risk/versions/1/infer", {"model_version": "2"}, 400),
    ],
)
def test_model_and_version_of_the_body_are_those_of_the_path(
    api: HttpApi, route: str, more: dict[str, Any], status: int
) -> None:
    assert post(api, route, json=json_body(records(1), **more)).status_code == status


def test_infinity_is_no_value(api: HttpApi) -> None:
    content, headers = binary_body(json_body([toy_record(glucose=math.inf)]))
    reply = post(api, INFER, content=content, headers=headers)
    assert (reply.status_code, reply.json()["error"].startswith("records[0].glucose: ")) == (400, True)
