"""Diabetes 130-US hospitals: rows that a model has not seen, with its scores, and the orders in which rows may come."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import xgboost

from ml_core.features.columns import ColumnArrays
from ml_core.lab.config import ModelConfig, load_config
from ml_core.lab.data.frames import to_arrays
from ml_core.lab.data.raw_tables import columns_beside, read_source
from ml_core.lab.training.labelled_rows import split_of
from ml_core.serve.features.versions import get_feature_version
from tests.toy_scores import ScoredRows

__all__ = ["BATCH", "DATA", "NATURAL_ORDERS", "Encounters", "arrivals", "configured", "unseen_encounters"]

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "diabetes130.parquet"

BATCH = 50
NATURAL_ORDERS = {
    "random": None,
    "patients together": "patient_nbr",
    "specialty": "medical_specialty",
    "disposition": "discharge_disposition_id",
    "earlier stays": "number_inpatient",
    "encounter id": "encounter_id",
    "encounter id, times mixed": "encounter_id",
}
"""Orders of arrival, and the column that each goes by. Batches of 50 rows are alike in specialty, disposition or stays, or are
neighbours by encounter id."""


@dataclass(frozen=True)
class Encounters:
    """Encounters of calibration and test patients.

    Attributes
    ----------
    rows : scores, labels and patients
    frame : raw columns, with those that only groupings look at
    columns, matrix : the feature columns as a transform takes them, and transformed (n, d)
    """

    rows: ScoredRows
    frame: pd.DataFrame
    columns: ColumnArrays
    matrix: np.ndarray


def configured() -> ModelConfig:
    """The shipped configuration."""
    return load_config(ROOT / "configs" / "diabetes130.yaml")


@cache
def unseen_encounters() -> Encounters:
    """Scored by one model of the shipped configuration, which saw none of these patients."""
    config, version = configured(), get_feature_version("v2")
    frame = read_source(DATA, "diabetes130", "v2", columns_beside(config.conformal.groups, version.columns)).frame
    columns = to_arrays(frame, version)
    matrix = version.transform(columns)
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
    of_kept = {name: values[kept] for name, values in columns.items()}
    return Encounters(rows, frame[kept].reset_index(drop=True), of_kept, matrix[kept])


def arrivals(
    order: str, frame: pd.DataFrame, rows: np.ndarray, rng: np.random.Generator, batch: int = BATCH
) -> np.ndarray:
    """The numbers of these rows in one of the natural orders.

    Parameters
    ----------
    order : one of :data:`NATURAL_ORDERS`
    frame : columns of all rows
    batch : rows in a batch; batches come in random order, and so do the rows of one
    """
    column, shuffled = NATURAL_ORDERS[order], rng.permutation(rows)
    if column is None:
        return shuffled
    values = pd.factorize(frame[column].iloc[shuffled], sort=True)[0]
    if order == "encounter id":
        return shuffled[np.argsort(values)]
    if order == "patients together":
        return shuffled[np.lexsort((frame["encounter_id"].iloc[shuffled], rng.permutation(values.max() + 1)[values]))]
    alike = shuffled[np.argsort(values, kind="stable")]
    pieces = [alike[start : start + batch] for start in range(0, alike.size, batch)]
    return np.concatenate([pieces[n] for n in rng.permutation(len(pieces))])
