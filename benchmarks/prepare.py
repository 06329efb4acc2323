"""Prepares what the figures are measured on: the hospital model in separate stores, its records, and the baselines."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks.servers import ROOT, home_in, surety
from ml_core.base.settings import Settings
from ml_core.lab.config import load_config
from ml_core.lab.training.labelled_rows import LabelledRows, rows_from_store

PLACE = ROOT / "build" / "bench"
CONFIG = ROOT / "configs" / "diabetes130.yaml"
N_RECORDS = 10_000
N_BULK = 100_000


@dataclass(frozen=True)
class Prepared:
    """Files and rows to measure with."""

    model: str
    other_version: str
    rows: LabelledRows
    bodies: Path
    plain: bytes
    coded: bytes
    naive: Path
    bare: tuple[Path, Path]
    stock_python: str
    environment: dict[str, str]


def prepare() -> Prepared:
    """Make what is missing; a second run makes nothing."""
    PLACE.mkdir(parents=True, exist_ok=True)
    config = load_config(CONFIG)
    if not (ROOT / config.data.source).exists():
        raise SystemExit(f"{config.data.source} is missing: run `surety data fetch` (or with --path FILE)")
    environment = home_in(PLACE, config.model)
    os.environ.update(environment)
    surety(None, "example", "--config", str(CONFIG))
    rows = rows_from_store(config, Settings(home=PLACE / "home"))
    return Prepared(
        model=config.model,
        other_version=_other_version(config.model),
        rows=rows,
        bodies=_bodies(rows),
        plain=_stream(rows, coded=False),
        coded=_stream(rows, coded=True),
        naive=_naive(rows),
        bare=_bare(rows),
        stock_python=_stock(),
        environment=environment,
    )


def _other_version(model: str) -> str:
    """Make a second version of the model, gated and imported, for shadow and canary."""
    folder = PLACE / "bentoml" / "models" / model
    if not list(folder.glob("v2-*")):
        other = yaml.safe_load(CONFIG.read_text())
        path = PLACE / "other.yaml"
        path.write_text(yaml.safe_dump({**other, "seed": other["seed"] + 1}))
        surety(None, "train", "--config", str(path))
        surety(None, "validate", "--model", model, "--config", str(path))
        surety(None, "import-model", "--model", model, "--version", "2")
    return "v2"


def _records(rows: LabelledRows) -> list[dict[str, Any]]:
    names = [column.name for column in rows.features.features]
    frame = rows.frame[names].astype(object)
    return list(frame.where(frame.notna(), None).to_dict("records"))


def _bodies(rows: LabelledRows) -> Path:
    """Write 10,000 different records of test patients, one body per line."""
    lines = dict.fromkeys(json.dumps({"features": record}) for record in _records(rows.part("test")))
    if len(lines) < N_RECORDS:
        raise SystemExit(f"only {len(lines)} different records")
    path = PLACE / "bodies.jsonl"
    path.write_text("\n".join(list(lines)[:N_RECORDS]))
    return path


def bulk_index(rows: LabelledRows) -> np.ndarray[Any, Any]:
    """Positions of 100,000 rows; some hundred rows appear twice at the end."""
    return np.arange(N_BULK) % len(rows)


def _stream(rows: LabelledRows, *, coded: bool) -> bytes:
    names = [column.name for column in rows.features.features]
    frame = rows.frame[names].iloc[bulk_index(rows)]
    if coded:
        texts = [n for n in names if frame[n].dtype.kind not in "iuf"]
        frame = frame.astype(dict.fromkeys(texts, "category"))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _bare(rows: LabelledRows) -> tuple[Path, Path]:
    """The served ONNX model, and feature rows for it."""
    from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL

    (bundle,) = (PLACE / "bentoml" / "models").glob(f"*/v1-*/{BUNDLE_IN_BENTO_MODEL}")
    path = PLACE / "rows.npy"
    np.save(path, rows.part("test").matrix[:N_RECORDS])
    return bundle / "model.onnx", path


def _naive(rows: LabelledRows) -> Path:
    """Write the same trees inside MAPIE, pickled, for the naive server."""
    path = PLACE / "naive.pkl"
    if not path.exists():
        import pandas as pd
        from mapie.classification import SplitConformalClassifier
        from xgboost import XGBClassifier

        from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL

        (bundle,) = (PLACE / "bentoml" / "models").glob(f"*/v1-*/{BUNDLE_IN_BENTO_MODEL}")
        names = list(rows.features.feature_names)
        part = rows.part("calibration")
        model = XGBClassifier(n_jobs=1)
        model.load_model(bundle / "model.ubj")
        model.get_booster().feature_names = names
        mapie = SplitConformalClassifier(model, confidence_level=0.9, prefit=True)
        mapie.conformalize(pd.DataFrame(part.matrix, columns=names), part.y_index)
        path.write_bytes(pickle.dumps((model, mapie)))
    return path


def _versions() -> Path:
    """The serving lock without hashes: pip accepts hashes only if every package has one."""
    lock = (ROOT / "requirements" / "serve.lock").read_text().splitlines()
    path = PLACE / "versions.txt"
    path.write_text("\n".join(line.removesuffix(" \\") for line in lock if line[:1].isalnum()))
    return path


def _stock() -> str:
    """A Python environment with BentoML as pip installs it and nothing else (no uvloop, no httptools)."""
    folder = PLACE / "stock"
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "bentoml"]
        subprocess.run([*install, "-c", str(_versions())], check=True)
    return python
