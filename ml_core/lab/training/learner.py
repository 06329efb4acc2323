"""Trains XGBoost on the configured split, with early stopping, and makes the artefact of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ConfigError, DataError
from ml_core.base.near_names import meant
from ml_core.lab.config import ModelConfig
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.onnx_export import XGBOOST_LIMIT, check_agrees, xgboost_to_onnx
from ml_core.lab.training.packing import Note, PackedModel, ScorerCandidate, pack_model
from ml_core.serve.model.bundle import XGBOOST_FILE
from ml_core.serve.model.scorer import OnnxScorer

__all__ = ["booster_proba", "learner_params", "train_model"]

_DEFAULTS: dict[str, float | int | str] = {
    "learning_rate": 0.05,
    "max_depth": 4,
    "min_child_weight": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "reg_lambda": 1.0,
}
_SYNONYMS = {"eta": "learning_rate", "lambda": "reg_lambda", "alpha": "reg_alpha", "gamma": "min_split_loss"}
_OURS = frozenset({
    "objective", "num_class", "eval_metric", "seed", "random_state", "seed_per_iteration",
    "nthread", "n_jobs", "tree_method", "device", "booster", "verbosity",
})  # fmt: skip
_NATIVE = frozenset(
    {"max_cached_hist_node", "extmem_single_page", "refresh_leaf", "process_type", "updater", "min_split_loss"}
)
"""Parameters that XGBoost's wrapper for scikit-learn does not list."""
_OF_ITS_WRAPPER = frozenset({
    "n_estimators", "early_stopping_rounds", "callbacks", "missing", "importance_type", "validate_parameters",
    "enable_categorical", "feature_types", "feature_weights", "multi_strategy", "eval_metric",
})  # fmt: skip
_NOT_IN_XGBOOST = str.maketrans("[]<", "()_")
"""Characters that XGBoost refuses in names of features, such as that of the level ``<30``."""
_ROWS_PER_THREAD = 25_000
"""Threads follow from the rows, up to four, and never from the machine: the order of sums must not change with it."""


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
        The ONNX model differs from XGBoost by more than 1e-6 on the calibration rows.
    ConfigError
        A hyper-parameter is set that decides the guarantee or the reproducibility.
    """
    params = learner_params(config, len(rows.classes), len(rows.part("train")))
    booster = _fit(config, params, rows, note)
    d = len(rows.features.feature_names)
    onnx = xgboost_to_onnx(booster, d)
    calibration = rows.part("calibration")
    expected = booster_proba(booster, calibration.matrix)
    difference = check_agrees(OnnxScorer(onnx, d, len(rows.classes)), calibration.matrix, expected, XGBOOST_LIMIT)
    note(f"ONNX equals XGBoost within {difference:.1e} on {len(calibration)} calibration rows")
    candidate = ScorerCandidate(
        onnx=onnx,
        params={**params, "rounds": config.training.rounds, "trees_per_class": booster.num_boosted_rounds()},
        files={XGBOOST_FILE: bytes(booster.save_raw("ubj"))},
        libraries={"xgboost": _xgboost_version()},
    )
    return pack_model(config, rows, candidate, folder, note)


def learner_params(config: ModelConfig, n_classes: int, n_rows: int) -> dict[str, float | int | str]:
    """What XGBoost is given: our defaults, the configured values, and what is not open to choice.

    Raises
    ------
    ConfigError
        A hyper-parameter is configured that is not open to choice.
    """
    for name in config.training.params:
        if name in _OURS:
            raise ConfigError(f"training.params.{name}", "is set by surety and cannot be configured")
        if name not in (known := _known_params()):
            raise ConfigError(f"training.params.{name}", f"is no hyper-parameter of XGBoost; {meant(name, known)}")
    binary = n_classes == 2
    fixed: dict[str, float | int | str] = {
        "objective": "binary:logistic" if binary else "multi:softprob",
        "eval_metric": "logloss" if binary else "mlogloss",
        "tree_method": "hist",
        "nthread": min(1 + n_rows // _ROWS_PER_THREAD, 4),
        "seed": config.seed,
    }
    if not binary:
        fixed["num_class"] = n_classes
    chosen = {_SYNONYMS.get(name, name): value for name, value in config.training.params.items()}
    return {**_DEFAULTS, **chosen, **fixed}


def _known_params() -> frozenset[str]:
    """Hyper-parameters of XGBoost's trees, which itself passes over those that it does not know."""
    import xgboost

    return (frozenset(xgboost.XGBClassifier().get_params()) | _SYNONYMS.keys() | _NATIVE) - _OURS - _OF_ITS_WRAPPER


def booster_proba(booster: Any, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Class probabilities by XGBoost itself, float64 (n, K)."""
    raw = np.asarray(booster.inplace_predict(features), dtype=np.float64)
    return np.column_stack([1.0 - raw, raw]) if raw.ndim == 1 else raw


def _fit(config: ModelConfig, params: dict[str, float | int | str], rows: LabelledRows, note: Note) -> Any:
    """The booster, cut to its best round."""
    import xgboost

    train, validation = rows.part("train"), rows.part("validation")
    for part, name in ((train, "train"), (validation, "validation")):
        if len(set(part.y_index.tolist())) < len(rows.classes):
            raise DataError(rows.origin, f"its {name} {rows.subjects} lack a class: add rows")
    names = [name.translate(_NOT_IN_XGBOOST) for name in rows.features.feature_names]
    threads = params["nthread"]
    learn = xgboost.QuantileDMatrix(train.matrix, train.y_index, feature_names=names, nthread=threads)
    watch = xgboost.QuantileDMatrix(
        validation.matrix, validation.y_index, ref=learn, feature_names=names, nthread=threads
    )
    note(f"training on {len(train)} rows, watching {len(validation)}")
    try:
        booster = xgboost.train(
            {**params, "verbosity": 0},
            learn,
            config.training.rounds,
            evals=[(watch, "validation")],
            early_stopping_rounds=config.training.early_stopping_rounds,
            verbose_eval=False,
        )
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        raise ConfigError("training.params", str(error).strip().splitlines()[-1]) from error
    note(f"stopped after {booster.best_iteration + 1} rounds")
    return booster[: booster.best_iteration + 1]


def _xgboost_version() -> str:
    import xgboost

    return str(xgboost.__version__)
