"""Other people's clients of the Open Inference Protocol, each in an environment of its own, against a listening service.

Their programs are those of docs/open-inference.md, whose examples run here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from tests.documents import ROOT, Block, blocks
from tests.e2e.test_readme import last_json, told, unlike
from tests.oracles import oracle
from tests.serve.http.apis import http_api, listening
from tests.toy_models import toy_live

PAGE = ROOT / "docs" / "open-inference.md"
ROWS = [
    {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148},
    {"age": 45, "glucose": None, "bmi": 22.0, "bp_systolic": 120},
]
"""The rows of the page's examples."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(http_api(Settings(), InferenceService(toy_live()))) as port:
        yield port


def block_with(words: str) -> Block:
    (found,) = [block for block in blocks(PAGE) if words in block.text]
    return found


def here(text: str, port: int) -> str:
    return text.replace("localhost:3000", f"127.0.0.1:{port}").replace("readmission_risk", "toy_risk")


def told_by(program: str, name: str) -> Any:
    """What a program of an environment writes as JSON, in its last line."""
    done = oracle("python", "-c", program, name=name)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def expected(port: int, **more: Any) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{port}/predict"
    return [httpx.post(url, json={"features": row, **more}).json() for row in ROWS]


def memberships(answers: list[dict[str, Any]]) -> list[list[bool]]:
    return [[label in answer["prediction_set"] for label in (0, 1)] for answer in answers]


def test_the_page_holds_these_examples_and_no_others() -> None:
    assert [block.kind for block in blocks(PAGE)] == ["sh", "json", "python", "python"]


def test_curl_gets_what_the_page_shows(port: int) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl, which the page types")
    typed = here(block_with("curl").text, port)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", typed], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shown, real = told(block_with('"model_name"')), last_json(done.stdout)
    outputs, came = shown.pop("outputs"), real.pop("outputs")
    assert unlike(shown, real) == []
    assert [{**one, "data": len(one["data"])} for one in outputs] == [{**one, "data": len(one["data"])} for one in came]
    assert came[2]["data"] == [is_in for row in memberships(expected(port)) for is_in in row]


TRITON_MORE = """
import json
head = result.get_response()
plain = client.infer("toy_risk", inputs, model_version="1", request_id="x",
                     outputs=[triton.InferRequestedOutput("prediction_set", binary_data=False)],
                     request_compression_algorithm="gzip")
try:
    client.infer("toy_risk", inputs[:1])
except triton.InferenceServerException as error:
    refused = [error.status(), error.message()]
print(json.dumps({
    "ready": [client.is_server_live(), client.is_server_ready(), client.is_model_ready("toy_risk"), client.is_model_ready("other")],
    "extensions": client.get_server_metadata()["extensions"],
    "inputs": [one["name"] for one in client.get_model_metadata("toy_risk")["inputs"]],
    "binary": all("binary_data_size" in one["parameters"] for one in head["outputs"]),
    "level": head["parameters"]["confidence_level"],
    "prediction": result.as_numpy("prediction").tolist(),
    "p_values": [[value.hex() for value in row] for row in result.as_numpy("p_values").tolist()],
    "sets": sets.tolist(),
    "hashes": [text.decode() for text in result.as_numpy("input_hash")],
    "plain": [plain.get_response()["id"], plain.as_numpy("prediction_set").tolist()],
    "refused": refused,
}))
"""


def test_tritons_client_reads_every_route_and_every_bit(port: int) -> None:
    found = told_by(here(block_with("tritonclient").text, port) + TRITON_MORE, "triton")
    answers = expected(port)
    assert found["ready"] == [True, True, True, False]
    assert (found["extensions"], found["inputs"]) == (["binary_tensor_data"], list(ROWS[0]))
    assert (found["binary"], found["level"]) == (True, "0.9")
    assert found["prediction"] == [answer["prediction"] for answer in answers]
    assert found["p_values"] == [[value.hex() for value in answer["p_values"].values()] for answer in answers]
    assert found["sets"] == memberships(answers)
    assert found["hashes"] == [answer["lineage"]["input_hash"] for answer in answers]
    assert found["plain"] == ["x", found["sets"]]
    assert found["refused"][0] == "400"
    assert found["refused"][1].startswith("inputs: lack glucose, bmi, bp_systolic; age came")


KSERVE_MORE = """
import json
async def more():
    client, base = InferenceRESTClient(RESTConfig(protocol="v2")), "http://localhost:3000"
    ready = [await client.is_server_live(base), await client.is_server_ready(base), await client.is_model_ready(base, "readmission_risk")]
    inputs = [InferInput("age", [2], "INT64"), *(InferInput(name, [2], "FP64") for name in ("glucose", "bmi", "bp_systolic"))]
    columns = [np.array([71, 45]), np.array([182.5, np.nan]), np.array([31.2, 22.0]), np.array([148.0, 120.0])]
    for one, values in zip(inputs, columns):
        one.set_data_from_numpy(values, binary_data=True)
    reply = await client.infer(base, InferRequest("readmission_risk", inputs, request_id="x"), model_name="readmission_risk")
    found = {one.name: one.as_numpy().tolist() for one in reply.outputs}
    return {"ready": ready, "id": reply.id, "level": reply.parameters["confidence_level"], **found}
print(json.dumps({"shown": sets.tolist(), **asyncio.run(more())}))
"""


@pytest.mark.slow
def test_kserves_client_reads_every_route_and_every_bit(port: int) -> None:
    found = told_by(here(block_with("kserve").text + KSERVE_MORE, port), "kserve")
    answers = expected(port)
    assert found["ready"] == [True, True, True]
    assert (found["id"], found["level"]) == ("x", "0.9")
    assert found["shown"] == found["prediction_set"] == memberships(answers)
    assert found["p_values"] == [list(answer["p_values"].values()) for answer in answers]
    assert found["input_hash"] == [answer["lineage"]["input_hash"] for answer in answers]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [[], ["--batch-size", "2"], ["--binary-data"]], ids=["one by one", "batched", "binary"]
)
def test_mlservers_infer_answers_every_line(port: int, tmp_path: Path, more: list[str]) -> None:
    lines = [
        {
            "id": f"line-{at}",
            "inputs": [
                {
                    "name": name,
                    "shape": [1, 1],
                    "datatype": "FP64",
                    "data": [value],
                    "parameters": {"content_type": "np"},
                }
                for name, value in {**row, "glucose": 182.5}.items()
            ],
        }
        for at, row in enumerate(ROWS)
    ]
    asked, given = tmp_path / "asked", tmp_path / "given"
    asked.write_text("\n".join(map(json.dumps, lines)))
    words = ["infer", "-u", f"127.0.0.1:{port}", "-m", "toy_risk", "-i", asked, "-o", given, "--workers", "1", *more]
    done = oracle("mlserver", *words, name="mlserver")
    assert done.returncode == 0, done.stderr
    replies = {reply["id"]: reply for reply in map(json.loads, given.read_text().splitlines())}
    url = f"http://127.0.0.1:{port}/predict"
    for at, row in enumerate(ROWS):
        alone = httpx.post(url, json={"features": {**row, "glucose": 182.5}}).json()
        outputs = {one["name"]: one["data"] for one in replies[f"line-{at}"]["outputs"]}
        assert outputs["p_values"] == list(alone["p_values"].values())
        assert outputs["input_hash"] == [alone["lineage"]["input_hash"]]
        assert replies[f"line-{at}"]["parameters"]["labels"] == "[0,1]"
