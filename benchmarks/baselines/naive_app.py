"""Baseline: what many teams would write first. FastAPI, a one-row DataFrame, MAPIE, a hash of the frame.

NAIVE_MODEL=model.pkl uvicorn benchmarks.baselines.naive_app:app
"""

from __future__ import annotations

import hashlib
import os
import pickle
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel

from ml_core.lab.data.frames import to_arrays
from ml_core.serve.features.versions import get_feature_version

app = FastAPI()
model, mapie = pickle.loads(Path(os.environ["NAIVE_MODEL"]).read_bytes())
version = get_feature_version("v2")


class Request(BaseModel):
    features: dict[str, Any]


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/predict")
def predict(request: Request) -> dict[str, Any]:
    raw = pd.DataFrame([request.features])
    frame = pd.DataFrame(version.transform(to_arrays(raw, version)), columns=list(version.feature_names))
    labels, sets = mapie.predict_set(frame)
    proba = model.predict_proba(frame)[0]
    return {
        "request_id": str(uuid.uuid4()),
        "prediction": int(labels[0]),
        "probability": float(proba[1]),
        "prediction_set": [k for k in (0, 1) if sets[0, k, 0]],
        "input_hash": hashlib.sha256(pd.util.hash_pandas_object(raw).values.tobytes()).hexdigest(),
        "timestamp": datetime.now(UTC).isoformat(),
    }
