"""Tables to score, models of several kinds, and what the service says about the same records."""

from __future__ import annotations

import asyncio
import atexit
import csv
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost

from ml_core.base.errors import InvalidRecord
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.training.golden_draws import golden_records
from ml_core.lab.training.onnx_export import xgboost_to_onnx
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.answering.requests import PredictRequest
from ml_core.serve.model.bundle import CALIBRATION_FILE, FALLBACK_FILE, ONNX_FILE, pack_calibration, read_bundle
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.scorer import OnnxScorer, Scorer
from ml_core.serve.running.runner import ConformalRunner, GuardedRunner, model_breaker
from tests.homes import remade
from tests.serve.answering.stored import with_other_columns, with_other_labels
from tests.toy_models import NAME, passed_gate, patient_settings, toy_frame, toy_model, toy_rows

FEATURES = ("age", "glucose", "bmi", "bp_systolic")


@cache
def with_three_labels() -> Path:
    """A model that tells three labels apart."""
    rows = toy_rows()
    labels = np.digitize(np.nan_to_num(rows.matrix[:, 1], nan=120.0), [110.0, 150.0])
    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "nthread": 1, "max_depth": 2},
        xgboost.DMatrix(rows.matrix, labels), 5,
    )  # fmt: skip
    d = rows.matrix.shape[1]
    onnx = xgboost_to_onnx(booster, d)
    calibration = calibrate(OnnxScorer(onnx, d, 3).proba(rows.matrix), labels, 3)
    scorecard = {"center": [0.0] * d, "scale": [1.0] * d, "coefficients": [[0.0] * d] * 3, "intercept": [0.0] * 3}
    fallback = {"prior": {"home": 0.3, "nurse": 0.3, "ward": 0.4}, "scorecard": scorecard}
    root = Path(tempfile.mkdtemp(prefix="surety-toy-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    files = {
        ONNX_FILE: onnx,
        CALIBRATION_FILE: pack_calibration(calibration, calibration),
        FALLBACK_FILE: orjson.dumps(fallback),
    }
    remade(
        toy_model().folder, root / "bundle", files,
        classes=("home", "nurse", "ward"), calibration_id=calibration.calibration_id,
    )  # fmt: skip
    return root / "bundle"


FOLDERS = {
    "two labels": lambda: toy_model().folder,
    "labels in words": with_other_labels,
    "three labels": with_three_labels,
    "version 2": with_other_columns,
}


def loaded(kind: str = "two labels", scorer: Scorer | None = None) -> LoadedModel:
    """A model of that kind, as the loader gives it."""
    bundle = read_bundle(FOLDERS[kind]())
    tag = f"{NAME}:v1-{bundle.model_hash[:8]}"
    return LoadedModel(tag, "1", Predictor(bundle, scorer), passed_gate(bundle.model_hash))


def cohort_records(n: int) -> list[dict[str, Any]]:
    """The first encounters of the toy cohort, as callers would send them."""
    frame = toy_frame()[list(FEATURES)].head(n).astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


def drawn_records(model: LoadedModel, n: int) -> list[dict[str, Any]]:
    """Valid records of any feature version: lowest values, highest, all missing, then draws."""
    return golden_records(model.predictor.bundle.features.features, n, 5)


def written(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """The records as a table file."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(records)), path, row_group_size=70)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
    return path


def answers_of_service(
    model: LoadedModel, records: Sequence[Mapping[str, Any]], level: Any = None
) -> list[dict[str, Any]]:
    """What ``/predict`` says to each record, by the columns of a scored table."""
    settings = patient_settings()
    guard = GuardedRunner(ConformalRunner(model), model_breaker(NAME, settings), len(model.predictor.classes), settings)
    service = InferenceService(Live(LiveModel(model, guard)))

    async def all_of_them() -> list[dict[str, Any]]:
        return [await _answered(service, model, record, level) for record in records]

    return asyncio.run(all_of_them())


async def _answered(service: InferenceService, model: LoadedModel, record: Any, level: Any) -> dict[str, Any]:
    try:
        envelope = await service.predict(PredictRequest(dict(record), level))
    except InvalidRecord as error:
        return {"error": "; ".join(f"{f.field}: {f.problem}" for f in error.fields)}
    assert not envelope.fallback_used
    return columns_of(orjson.loads(orjson.dumps(envelope)), model.predictor.classes)


def columns_of(envelope: Mapping[str, Any], classes: Sequence[Any]) -> dict[str, Any]:
    """An envelope, as parsed from its JSON, by the columns of a scored table."""
    return {
        "prediction": envelope["prediction"],
        "probability": envelope["probability"],
        "confidence": envelope["confidence"],
        **{f"probability_{c}": envelope["probabilities"][str(c)] for c in classes},
        **{f"p_value_{c}": envelope["p_values"][str(c)] for c in classes},
        **{f"in_set_{c}": c in envelope["prediction_set"] for c in classes},
        "error": None,
        "confidence_level": envelope["confidence_level"],
        "model_version": envelope["lineage"]["model_version"],
        "model_hash": envelope["lineage"]["model_hash"],
    }


def scored_rows(out: Path) -> list[dict[str, Any]]:
    """The rows of a scored table, typed; of CSV by its own words."""
    if out.suffix == ".parquet":
        return pq.read_table(out).to_pylist()
    with out.open(encoding="utf-8", newline="") as file:
        return [{name: _typed(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


def _typed(name: str, text: str) -> Any:
    if text == "":
        return None
    if name.startswith("in_set_"):
        return {"true": True, "false": False}[text]
    if name in ("probability", "confidence", "confidence_level") or name.startswith(("probability_", "p_value_")):
        return float(text)
    if name == "row" or (name == "prediction" and text.isdigit()):
        return int(text)
    return text
