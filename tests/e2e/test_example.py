"""The example from an empty home to answers, with real processes."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import bentoml
import httpx
import psutil
import pytest

from tests.e2e.conftest import written_config
from tests.e2e.workplace import ROOT, Workplace

pytestmark = pytest.mark.e2e

RECORD = {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148}
FORBIDDEN = {"mlflow", "mapie", "pandera", "pandas", "sklearn", "scipy", "xgboost", "pyarrow"}


def test_served_example_answers_bentomls_own_clients(example: Workplace) -> None:
    async def awaited(address: str) -> dict[str, Any]:
        async with bentoml.AsyncHTTPClient(address) as client:
            return await client.predict(features=RECORD)  # type: ignore[no-any-return]

    with example.serving() as address:
        with bentoml.SyncHTTPClient(address) as client:
            answer = client.predict(features=RECORD, client_request_id="visit-7")
            explained = client.predict(features=RECORD, explain=True)
            batch = client.predict_batch(records=[RECORD, {}], on_error="row", explain=True)
            with pytest.raises(bentoml.exceptions.UnprocessableEntity):
                client.predict(features={**RECORD, "age": 130})
        again = asyncio.run(awaited(address))
        document = httpx.get(f"{address}/docs.json").json()
    assert answer["probability"] == again["probability"] == batch["predictions"][0]["probability"]
    assert answer["client_request_id"] == "visit-7"
    why = explained["explanation"]
    assert answer["explanation"] is None
    assert why == batch["predictions"][0]["explanation"]
    added = sum(each["contribution"] for each in why["contributions"])
    assert why["base_value"] + added == pytest.approx(math.log(answer["probability"] / (1 - answer["probability"])))
    assert batch["predictions"][1]["error"]["code"] == "invalid_record"
    glucose = document["components"]["schemas"]["Record"]["properties"]["glucose"]
    assert (glucose["x-unit"], glucose["anyOf"][0]["minimum"], glucose["anyOf"][0]["maximum"]) == ("mg/dL", 30, 600)
    assert {"400", "413", "415", "422", "503"} <= set(document["paths"]["/predict"]["post"]["responses"])


def test_live_worker_never_imports_what_only_training_needs(example: Workplace, tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    table = pa.Table.from_pandas(pd.DataFrame([RECORD] * 200))
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    path = f"{ROOT / 'tests' / 'e2e' / 'probe'}:{ROOT}"
    with example.serving(PYTHONPATH=path, SURETY_TEST_MODULES=str(tmp_path)) as address:
        assert httpx.post(f"{address}/predict", json={"features": RECORD, "explain": True}).status_code == 200
        assert httpx.post(f"{address}/predict_batch", json={"records": [RECORD] * 100}).status_code == 200
        arrow = {"content-type": "application/vnd.apache.arrow.stream"}
        assert (
            httpx.post(f"{address}/predict_batch", content=sink.getvalue().to_pybytes(), headers=arrow).status_code
            == 200
        )
        for process in psutil.Process(example.server_pid).children(recursive=True):
            if "_bentoml_impl.worker.service" in process.cmdline():
                process.send_signal(signal.SIGUSR1)
        assert httpx.get(f"{address}/status").json()["ready"] is True  # the handler has run before this is answered
    written = [set(p.read_text().splitlines()) for p in tmp_path.glob("*.txt")]
    workers = [modules for modules in written if "ml_core.serve.answering.inference" in modules]
    assert workers, "no worker wrote down its modules"
    for modules in workers:
        assert {name.split(".")[0] for name in modules} & FORBIDDEN == set()


def test_pyfunc_in_a_bare_process_gives_the_services_answers(example: Workplace, tmp_path: Path) -> None:
    records = [{**RECORD, "age": 20 + i, "glucose": None if i % 5 == 0 else 90.0 + 2 * i} for i in range(60)]
    script = (
        "import json, sys, mlflow, pandas as pd\n"
        "frame = pd.DataFrame(json.loads(sys.argv[1]))\n"
        "model = mlflow.pyfunc.load_model('models:/readmission_risk@champion')\n"
        "print('ANSWER' + model.predict(frame).to_json(orient='records', double_precision=15))\n"
    )
    home = example.folder / "home"
    environment = example.environment(MLFLOW_TRACKING_URI=f"sqlite:///{home / 'mlflow.db'}", PYTHONPATH="")
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(records)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("ANSWER"))[6:])
    with example.serving() as address:
        served = httpx.post(f"{address}/predict_batch", json={"records": records}, timeout=30).json()["predictions"]
    for offline, online in zip(found, served, strict=True):
        assert offline["prediction_set"] == online["prediction_set"]
        assert offline["prediction"] == online["prediction"]


def test_worse_challenger_imported_last_never_answers(example: Workplace) -> None:
    champion = example.surety("models", "list")[0]["model_hash"]
    weak = written_config(example, "readmission_v1.yaml", training={"rounds": 2, "params": {"max_depth": 1}})
    trained = example.surety("train", "--config", str(weak))
    assert trained["model_hash"] != champion
    example.surety("promote", "--model", example.model, "--config", str(weak), status=3)
    example.surety("import-model", "--model", example.model, "--version", trained["version"])
    with example.serving() as address:
        assert httpx.post(f"{address}/predict", json={"features": RECORD}).headers["x-model-hash"] == champion
    example.bentoml("build", "-o", "tag", cwd=ROOT)
    with example.serving("surety:latest", cwd=example.run) as address:
        assert httpx.post(f"{address}/predict", json={"features": RECORD}).headers["x-model-hash"] == champion


def test_ungated_model_is_neither_served_nor_built(example: Workplace) -> None:
    weak = written_config(example, "readmission_v1.yaml", training={"rounds": 3, "params": {"max_depth": 1}})
    trained = example.surety("train", "--config", str(weak))
    tag = example.surety("import-model", "--model", example.model, "--version", trained["version"])["tag"]
    with example.serving(SURETY_MODEL=tag, ready=False) as address:
        status = answered(f"{address}/status").json()
        assert (status["ready"], status["models"]) == (False, [])
        assert "gate" in status["problem"]
        reply = httpx.post(f"{address}/predict", json={"features": RECORD})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_not_loaded")
        assert "retry-after" in reply.headers
        assert httpx.get(f"{address}/readyz").status_code == 503
        assert httpx.get(f"{address}/livez").status_code == 200
    built = subprocess.run(
        [sys.executable, "-m", "bentoml", "build"],
        cwd=ROOT, env=example.environment(SURETY_MODEL=tag), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert built.returncode != 0
    assert "gate" in built.stdout + built.stderr


def test_nothing_promoted_is_said_plainly(tmp_path: Path) -> None:
    place = Workplace(tmp_path, "readmission_risk")
    with place.serving(ready=False) as address:
        assert "has been promoted" in answered(f"{address}/status").json()["problem"]
        assert httpx.get(f"{address}/health").status_code == 503


def test_damaged_model_in_the_store_is_not_served(example: Workplace, tmp_path: Path) -> None:
    import shutil

    place = Workplace(tmp_path / "copy", example.model)
    for name in ("home", "bentoml"):
        shutil.rmtree(place.folder / name)
        shutil.copytree(example.folder / name, place.folder / name, symlinks=True)
    champion = next(m for m in example.surety("models", "list") if m["is_promoted"])
    folder = place.folder / "bentoml" / "models" / champion["bento_tag"].replace(":", "/")
    model = folder / "mlflow_model" / "artifacts" / "bundle" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    with place.serving() as address:
        status = answered(f"{address}/status").json()
        answer = httpx.post(f"{address}/predict", json={"features": RECORD}).json()
    assert (status["ready"], status["health"]) == (True, "degraded")
    assert status["problem"].startswith("model.onnx: ")
    assert (answer["fallback_reason"], answer["lineage"]["slot"]) == ("model_not_loaded", "scorecard")


def answered(url: str) -> httpx.Response:
    """The reply of a server that is starting. BentoML's socket queues callers, so one call with a long timeout is enough."""
    transport = httpx.HTTPTransport(retries=60)  # httpx waits longer between each
    with httpx.Client(transport=transport, timeout=60) as client:
        return client.get(url)


def test_call_inside_the_process_gives_the_answer_that_http_gives(example: Workplace) -> None:
    script = f"import json, service; print('ANSWER' + json.dumps(service.Surety().predict(features={RECORD!r})))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=example.run, env=example.environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    inside = json.loads(done.stdout.split("ANSWER")[1])
    with example.serving() as address:
        outside = httpx.post(f"{address}/predict", json={"features": RECORD}).json()
    for part in ("prediction", "probability", "p_values", "prediction_set"):
        assert inside[part] == outside[part]
    assert inside["lineage"]["input_hash"] == outside["lineage"]["input_hash"]
