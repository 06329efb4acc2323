"""Encounters of Diabetes 130-US hospitals that one model has not seen, with their columns, and shifts of who comes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import xgboost

from ml_core.lab.config import load_config
from ml_core.lab.data.frames import to_arrays
from ml_core.lab.data.raw_tables import read_source
from ml_core.lab.training.labelled_rows import split_of
from ml_core.serve.features.versions import get_feature_version
from tests.toy_scores import ScoredRows

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "diabetes130.parquet"


@dataclass(frozen=True)
class Encounters:
    """Encounters of calibration and test patients: scores, labels and patients, raw columns, and the matrix (n, d)."""

    rows: ScoredRows
    frame: pd.DataFrame
    matrix: np.ndarray


@cache
def unseen_encounters() -> Encounters:
    """Scored by a model of the shipped configuration, which saw none of these patients."""
    config = load_config(ROOT / "configs" / "diabetes130.yaml")
    version = get_feature_version("v2")
    frame = read_source(DATA, "diabetes130", "v2").frame
    matrix = version.transform(to_arrays(frame, version))
    y, patients = frame["readmission_30d"].to_numpy(dtype=np.int64), frame["patient_nbr"].to_numpy(dtype=np.int64)
    part = split_of(patients, config.split)
    train, validation, kept = part == "train", part == "validation", np.isin(part, ["calibration", "test"])
    params = {**config.training.params, "objective": "binary:logistic", "eval_metric": "logloss", "seed": config.seed}
    booster = xgboost.train(
        {**params, "nthread": 1},
        xgboost.QuantileDMatrix(matrix[train], y[train], nthread=1),
        num_boost_round=config.training.rounds,
        evals=[(xgboost.DMatrix(matrix[validation], y[validation]), "validation")],
        early_stopping_rounds=config.training.early_stopping_rounds,
        verbose_eval=False,
    )
    p1 = booster.inplace_predict(matrix[kept], iteration_range=(0, booster.best_iteration + 1)).astype(np.float64)
    rows = ScoredRows(np.column_stack([1.0 - p1, p1]), y[kept], patients[kept])
    return Encounters(rows, frame[kept].reset_index(drop=True), matrix[kept])
