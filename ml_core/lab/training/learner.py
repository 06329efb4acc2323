"""Trains the configured learner on the configured split, and makes the artefact of what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, log10
from pathlib import Path

import numpy as np

from ml_core.base.errors import ArtefactError, BadModelOutput
from ml_core.lab.config import ModelConfig
from ml_core.lab.training.boosting_learners import train_catboost, train_lightgbm
from ml_core.lab.training.conversion import drawn_columns
from ml_core.lab.training.estimator_learners import (
    train_estimator,
    train_forest,
    train_hist_gradient_boosting,
    train_logistic_regression,
)
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.learning_task import LearningTask, TrainedScorer, learning_task
from ml_core.lab.training.onnx_export import check_agrees
from ml_core.lab.training.packing import Note, PackedModel, ScorerCandidate, pack_model
from ml_core.lab.training.parameter_names import recorded
from ml_core.lab.training.xgboost_learner import train_xgboost
from ml_core.serve.model.bundle import ONNX_FILE
from ml_core.serve.model.manifest import LearnerFacts
from ml_core.serve.model.scorer import OnnxScorer

__all__ = ["train_model"]

_LEARNERS: Mapping[str, Callable[[LearningTask], TrainedScorer]] = {
    "xgboost": train_xgboost,
    "lightgbm": train_lightgbm,
    "catboost": train_catboost,
    "hist_gradient_boosting": train_hist_gradient_boosting,
    "random_forest": train_forest,
    "logistic_regression": train_logistic_regression,
}

_NO_LESS = 1e-9  # differences below say nothing
_DRAWN_ROWS = 10_000
"""Made from the column table: borders, missing values in every nullable column, every level."""


def train_model(config: ModelConfig, rows: LabelledRows, folder: Path, note: Note) -> PackedModel:
    """Train, convert, calibrate, evaluate and pack.

    The same rows, configuration and library versions give the same ``model_hash``.

    Parameters
    ----------
    rows : all parts of the split
    folder : new or empty; becomes the artefact
    note : called with what is done, in words

    Raises
    ------
    ScorerDisagrees
        The ONNX model differs from what was trained by more than rounding explains, on the calibration rows or on rows
        drawn from the bounds of the columns.
    ArtefactError
        There is no ONNX form of it, or that gives no probabilities for a value that a request may hold.
    ConfigError
        A hyper-parameter is unknown, is refused by the learner, or decides the guarantee or the reproducibility; or the
        learner is not installed.
    DataError
        A part of the split lacks a class.
    """
    task = learning_task(config, rows, note)
    trained = _LEARNERS.get(config.training.learner, train_estimator)(task)
    compared = _compared(trained, rows, config.seed, note)
    chosen = config.training.class_weight
    candidate = ScorerCandidate(
        onnx=trained.onnx,
        params={**trained.params, **({} if chosen is None else recorded({"class_weight": chosen}))},
        files=trained.files,
        libraries=trained.libraries,
        learner=LearnerFacts(
            name=config.training.learner,
            estimator=trained.estimator,
            compared_rows=compared.rows,
            difference_below=compared.below,
        )
        if trained.estimator
        else None,
    )
    return pack_model(config, rows, candidate, folder, note)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A power of ten that no difference between the converted model and the trained one exceeded, on that many rows.

    No exact number: the last bits of a sum may differ between processors, and a model's hash must not.
    """

    rows: int
    below: float


def _compared(trained: TrainedScorer, rows: LabelledRows, seed: int, note: Note) -> _Comparison:
    features, calibration = rows.features, rows.part("calibration")
    scorer = OnnxScorer(trained.onnx, len(features.feature_names), len(rows.classes))
    drawn = features.transform(drawn_columns(features.features, _DRAWN_ROWS, np.random.default_rng(seed)))
    difference = 0.0
    for matrix in (calibration.matrix, drawn):
        try:
            difference = max(difference, check_agrees(scorer, matrix, trained.proba(matrix), trained.limit))
        except BadModelOutput as error:
            problem = f"{trained.name} as ONNX gives no probabilities for values that a request may hold: "
            problem += "narrow the bounds of its columns, or take another learner"
            raise ArtefactError(ONNX_FILE, problem) from error
    note(
        f"ONNX equals {trained.name} within {difference:.1e} on {len(calibration)} calibration rows and {_DRAWN_ROWS} "
        "drawn from the bounds of the columns"
    )
    return _Comparison(len(calibration), float(f"1e{ceil(log10(max(difference, _NO_LESS)))}"))
