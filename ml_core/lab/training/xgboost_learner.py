"""XGBoost: what it is given, and what comes out of it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import FloatArray
from ml_core.base.errors import ConfigError
from ml_core.lab.config import TrainingConfig
from ml_core.lab.training.booster_trees import xgboost_trees
from ml_core.lab.training.learning_task import LearningTask, TaskRows, TrainedScorer
from ml_core.lab.training.parameter_names import PARAMS, check_names, check_open, recorded, refused_by
from ml_core.lab.training.tree_export import trees_to_onnx
from ml_core.serve.model.bundle import TREES_FILE, XGBOOST_FILE

__all__ = ["booster_proba", "learner_params", "train_xgboost"]

_DEFAULTS: dict[str, Any] = {
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
    "nthread", "n_jobs", "tree_method", "device", "booster", "verbosity", "validate_parameters",
})  # fmt: skip
_NOT_IN_XGBOOST = str.maketrans("[]<", "()_")
"""Characters that XGBoost refuses in names of features, such as that of the level ``<30``."""
_UNUSED = re.compile(r"Parameters: \{(.*?)\} are not used", re.DOTALL)
_TRIAL_ROWS = 4


def train_xgboost(task: LearningTask) -> TrainedScorer:
    """A booster, cut to its best round."""
    import xgboost

    params = learner_params(task.asked, task.n_classes, task.seed, task.threads)
    names = [name.translate(_NOT_IN_XGBOOST) for name in task.feature_names]
    _check_used(params, names, task.n_classes)
    learn = _matrix(task.train, names, task.threads)
    watch = _matrix(task.validation, names, task.threads, ref=learn)
    task.note(f"training XGBoost on {len(task.train)} rows, watching {len(task.validation)}")
    try:
        booster = xgboost.train(
            {**params, "verbosity": 0},
            learn,
            task.asked.rounds,
            evals=[(watch, "validation")],
            early_stopping_rounds=task.asked.early_stopping_rounds,
            verbose_eval=False,
        )
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        raise refused_by(error) from error
    task.note(f"stopped after {booster.best_iteration + 1} rounds")
    booster = booster[: booster.best_iteration + 1]
    form = xgboost_trees(booster)
    found = {"rounds": task.asked.rounds, "trees_per_class": booster.num_boosted_rounds()}
    return TrainedScorer(
        name="XGBoost",
        estimator="",
        proba=lambda features: booster_proba(booster, features),
        onnx=trees_to_onnx(form, len(names)),
        limit=form.rounding,
        params={**recorded(params), **found},
        files={XGBOOST_FILE: bytes(booster.save_raw("ubj")), TREES_FILE: form.to_bytes()},
        libraries={"xgboost": str(xgboost.__version__)},
    )


def learner_params(asked: TrainingConfig, n_classes: int, seed: int, threads: int) -> dict[str, Any]:
    """What XGBoost is given: our defaults, the configured values, and what is not open to choice.

    Raises
    ------
    ConfigError
        A hyper-parameter is configured that is not open to choice.
    """
    check_open(asked.params, _OURS)
    binary = n_classes == 2
    fixed: dict[str, Any] = {
        "objective": "binary:logistic" if binary else "multi:softprob",
        "eval_metric": "logloss" if binary else "mlogloss",
        "tree_method": "hist",
        "nthread": threads,
        "seed": seed,
    }
    if not binary:
        fixed["num_class"] = n_classes
        if "scale_pos_weight" in asked.params:
            problem = f"is for two classes, and these rows have {n_classes}: use training.class_weight"
            raise ConfigError(f"{PARAMS}.scale_pos_weight", problem)
    chosen = {_SYNONYMS.get(name, name): value for name, value in asked.params.items()}
    return {**_DEFAULTS, **chosen, **fixed}


def booster_proba(booster: Any, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Class probabilities by XGBoost itself, float64 (n, K)."""
    raw = np.asarray(booster.inplace_predict(features), dtype=np.float64)
    return np.column_stack([1.0 - raw, raw]) if raw.ndim == 1 else raw


def _matrix(rows: TaskRows, names: list[str], threads: int, ref: Any = None) -> Any:
    import xgboost

    weights: FloatArray | None = rows.weights
    return xgboost.QuantileDMatrix(
        rows.matrix, rows.y_index, weight=weights, ref=ref, feature_names=names, nthread=threads
    )


def _check_used(params: Mapping[str, Any], names: list[str], n_classes: int) -> None:
    """Refuse names that XGBoost would pass over in silence, and values it refuses, before an hour of training.

    One round on a few made-up rows; XGBoost tells in a warning what it has not used.
    """
    import xgboost

    y = np.arange(_TRIAL_ROWS * n_classes) % n_classes
    x = np.add.outer(y, np.zeros(len(names))).astype(np.float32)
    data = xgboost.QuantileDMatrix(x, y, feature_names=names, nthread=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            trial = xgboost.train({**params, "nthread": 1, "verbosity": 1}, data, 1)
        except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
            raise refused_by(error) from error
    unused = [name for each in told for found in _UNUSED.findall(str(each.message)) for name in _names_in(found)]
    if unused:
        check_names(unused, _known_names(json.loads(trial.save_config())) - set(unused) | _SYNONYMS.keys(), "XGBoost")


def _names_in(listed: str) -> list[str]:
    return re.findall(r'"([^"]+)"', listed)


def _known_names(config: Any) -> set[str]:
    """Names of the parameters in a booster's configuration, and of its wrapper."""
    import xgboost

    found = set(xgboost.XGBClassifier().get_params())
    waiting = [config]
    while waiting:
        part = waiting.pop()
        for name, value in part.items() if isinstance(part, dict) else enumerate(part):
            if isinstance(value, dict | list):
                waiting.append(value)
            else:
                found.add(str(name))
    return found
