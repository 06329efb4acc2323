"""Baseline: the least that can answer with the same model. ASGI, orjson and ONNX Runtime; no checks, sets or log.

It parses the body and scores a ready row of features, so that it pays for no feature pipeline either.

    BARE_MODEL=model.onnx BARE_ROWS=rows.npy uvicorn benchmarks.baselines.bare_app:app
"""

from __future__ import annotations

import os
from itertools import cycle
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson

options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.enable_cpu_mem_arena = False
session = ort.InferenceSession(os.environ["BARE_MODEL"], options, providers=["CPUExecutionProvider"])
source, target = session.get_inputs()[0].name, [session.get_outputs()[1].name]
rows = cycle(np.split(matrix := np.load(os.environ["BARE_ROWS"]), len(matrix)))


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    features = orjson.loads(body)["features"] if body else {}
    found = session.run(target, {source: next(rows)})[0][0]
    answer = orjson.dumps({"n": len(features), "probabilities": found.tolist()})
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": answer})
