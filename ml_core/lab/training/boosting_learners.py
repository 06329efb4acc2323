"""LightGBM and CatBoost: what they are given, and what comes out of them."""

from __future__ import annotations

import importlib
import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import FeatureMatrix
from ml_core.base.errors import ConfigError
from ml_core.lab.training.booster_trees import catboost_trees, lightgbm_trees
from ml_core.lab.training.learning_task import LearningTask, TaskRows, TrainedScorer
from ml_core.lab.training.onnx_export import TREE_LIMIT
from ml_core.lab.training.parameter_names import PARAMS, check_names, check_open, recorded, refused_by
from ml_core.lab.training.tree_export import trees_to_onnx
from ml_core.serve.model.bundle import CATBOOST_FILE, LIGHTGBM_FILE, TREES_FILE

__all__ = ["catboost_proba", "lightgbm_proba", "read_catboost", "read_lightgbm", "train_catboost", "train_lightgbm"]

EXTRA = "surety-bundle[learners]"

_LIGHTGBM_DEFAULTS: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 20,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.8,
    "lambda_l2": 1.0,
}
_LIGHTGBM_OURS = frozenset({
    "objective", "num_class", "metric", "seed", "data_random_seed", "bagging_seed", "feature_fraction_seed",
    "extra_seed", "objective_seed", "drop_seed", "num_threads", "deterministic", "force_row_wise", "force_col_wise",
    "device_type", "verbosity", "num_iterations", "early_stopping_round", "boosting", "linear_tree", "task", "data",
    "valid", "input_model", "output_model", "categorical_feature", "tree_learner",
})  # fmt: skip
_CATBOOST_DEFAULTS: dict[str, Any] = {"learning_rate": 0.05, "depth": 5}
_CATBOOST_OURS = frozenset({
    "loss_function", "objective", "eval_metric", "random_seed", "random_state", "thread_count", "task_type", "devices",
    "verbose", "verbose_eval", "silent", "logging_level", "iterations", "num_boost_round", "n_estimators", "num_trees",
    "od_type", "od_wait", "od_pval", "early_stopping_rounds", "use_best_model", "allow_writing_files", "train_dir",
    "cat_features", "text_features", "embedding_features", "class_weights", "auto_class_weights", "name", "metadata",
    "classes_count", "class_names", "custom_loss", "custom_metric", "snapshot_file", "save_snapshot", "callback",
})  # fmt: skip
_CATBOOST_KEPT = ("features_info", "oblivious_trees", "trees", "scale_and_bias")
_CATBOOST_INFO_KEPT = ("class_params", "params")
"""What of CatBoost's JSON says how it predicts; the rest holds the time, an id, and how training went."""


def train_lightgbm(task: LearningTask) -> TrainedScorer:
    """A booster, cut to its best round."""
    lightgbm = _library("lightgbm")
    params = _lightgbm_params(lightgbm, task)
    names = list(task.feature_names)
    fixed = {"feature_pre_filter": False, "verbosity": -1}

    def data(rows: TaskRows, reference: Any = None) -> Any:
        # by position: LightGBM refuses some characters in names of features
        return lightgbm.Dataset(
            rows.matrix, rows.y_index, weight=rows.weights, reference=reference, params={**params, **fixed}
        )

    learn = data(task.train)
    task.note(f"training LightGBM on {len(task.train)} rows, watching {len(task.validation)}")
    try:
        booster = lightgbm.train(
            {**params, "verbosity": -1},
            learn,
            task.asked.rounds,
            valid_sets=[data(task.validation, learn)],
            callbacks=[lightgbm.early_stopping(task.asked.early_stopping_rounds, verbose=False)],
        )
    except (lightgbm.basic.LightGBMError, ValueError, TypeError) as error:
        raise refused_by(error) from error
    task.note(f"stopped after {booster.best_iteration} rounds")
    text = booster.model_to_string(num_iteration=booster.best_iteration)
    best = read_lightgbm(text.encode())
    form = lightgbm_trees(best)
    return TrainedScorer(
        name="LightGBM",
        estimator="lightgbm.basic.Booster",
        proba=lambda features: lightgbm_proba(best, features),
        onnx=trees_to_onnx(form, len(names)),
        limit=TREE_LIMIT,
        params={**recorded(params), "rounds": task.asked.rounds, "trees_per_class": best.current_iteration()},
        files={LIGHTGBM_FILE: text.encode(), TREES_FILE: form.to_bytes()},
        libraries={"lightgbm": str(lightgbm.__version__)},
    )


def lightgbm_proba(booster: Any, features: FeatureMatrix) -> npt.NDArray[np.float64]:
    """Class probabilities by LightGBM itself, float64 (n, K)."""
    raw = np.asarray(booster.predict(features, num_threads=1), dtype=np.float64)
    return np.column_stack([1.0 - raw, raw]) if raw.ndim == 1 else raw


def read_lightgbm(raw: bytes) -> Any:
    """The booster in the bytes of ``model.lgb.txt``; ConfigError where LightGBM is not installed."""
    return _library("lightgbm").Booster(model_str=raw.decode())


def train_catboost(task: LearningTask) -> TrainedScorer:
    """A classifier, cut to its best round."""
    catboost = _library("catboost")
    params = _catboost_params(catboost, task)
    names = list(task.feature_names)
    learn, watch = (
        catboost.Pool(rows.matrix, rows.y_index, weight=rows.weights, thread_count=task.threads)
        for rows in (task.train, task.validation)
    )
    task.note(f"training CatBoost on {len(task.train)} rows, watching {len(task.validation)}")
    try:
        model = catboost.CatBoostClassifier(**params, iterations=task.asked.rounds, allow_writing_files=False)
        model.fit(
            learn, eval_set=watch, early_stopping_rounds=task.asked.early_stopping_rounds, use_best_model=True,
            verbose=False,
        )  # fmt: skip
    except (catboost.CatBoostError, ValueError, TypeError) as error:
        raise refused_by(error) from error
    task.note(f"stopped after {model.tree_count_} rounds")
    raw = _catboost_json(model)
    kept = read_catboost(raw)
    form = catboost_trees(kept)
    found = {"rounds": task.asked.rounds, "trees_per_class": int(kept.tree_count_)}
    return TrainedScorer(
        name="CatBoost",
        estimator="catboost.core.CatBoostClassifier",
        proba=lambda features: catboost_proba(kept, features, task.n_classes),
        onnx=trees_to_onnx(form, len(names)),
        limit=TREE_LIMIT,
        params={**recorded(params), **found},
        files={CATBOOST_FILE: raw, TREES_FILE: form.to_bytes()},
        libraries={"catboost": str(catboost.__version__)},
    )


def catboost_proba(model: Any, features: FeatureMatrix, n_classes: int) -> npt.NDArray[np.float64]:
    """Class probabilities by CatBoost itself, float64 (n, K)."""
    margins = np.asarray(model.predict(features, prediction_type="RawFormulaVal", thread_count=1), dtype=np.float64)
    if n_classes == 2:
        margins = np.column_stack([np.zeros(len(features)), margins.reshape(len(features))])
    margins -= margins.max(axis=1, keepdims=True)
    found = np.exp(margins)
    found /= found.sum(axis=1, keepdims=True)
    return found


def read_catboost(raw: bytes) -> Any:
    """The model in the bytes of ``model.cbm.json``; ConfigError where CatBoost is not installed."""
    catboost = _library("catboost")
    with tempfile.TemporaryDirectory(prefix="surety-catboost-") as place:
        path = Path(place) / CATBOOST_FILE
        path.write_bytes(raw)
        return catboost.CatBoostClassifier().load_model(str(path), format="json")


def _catboost_json(model: Any) -> bytes:
    """Its trees as JSON, without time, place and id: equal models give equal bytes."""
    with tempfile.TemporaryDirectory(prefix="surety-catboost-") as place:
        path = Path(place) / CATBOOST_FILE
        model.save_model(str(path), format="json")
        content = json.loads(path.read_bytes())
    kept = {name: content[name] for name in _CATBOOST_KEPT if name in content}
    info = {name: content["model_info"][name] for name in _CATBOOST_INFO_KEPT}
    kept["model_info"] = {**info, "output_options": "{}"}  # which CatBoost looks for when it reads the parameters
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


def _lightgbm_params(lightgbm: Any, task: LearningTask) -> dict[str, Any]:
    aliases = lightgbm.basic._ConfigAliases._get_all_param_aliases()  # noqa: SLF001 - it tells its names nowhere else
    main_name = {alias: name for name, others in aliases.items() for alias in (name, *others)}
    check_names(task.asked.params, main_name.keys(), "LightGBM")
    chosen = {main_name[name]: value for name, value in task.asked.params.items()}
    check_open(chosen, _LIGHTGBM_OURS)
    binary = task.n_classes == 2
    if not binary and chosen.keys() & {"scale_pos_weight", "is_unbalance"}:
        raise ConfigError(f"{PARAMS}.scale_pos_weight", "is for two classes: use training.class_weight")
    fixed = {
        "objective": "binary" if binary else "multiclass",
        "metric": "binary_logloss" if binary else "multi_logloss",
        "num_threads": task.threads,
        "deterministic": True,
        "force_row_wise": True,
        "seed": task.seed,
    }
    return {**_LIGHTGBM_DEFAULTS, **chosen, **fixed, **({} if binary else {"num_class": task.n_classes})}


def _catboost_params(catboost: Any, task: LearningTask) -> dict[str, Any]:
    known = inspect.signature(catboost.CatBoostClassifier.__init__).parameters.keys() - {"self", "kwargs"}
    check_open(task.asked.params, _CATBOOST_OURS)
    check_names(task.asked.params, known - _CATBOOST_OURS, "CatBoost")
    if task.n_classes > 2 and "scale_pos_weight" in task.asked.params:
        raise ConfigError(f"{PARAMS}.scale_pos_weight", "is for two classes: use training.class_weight")
    fixed = {
        "loss_function": "Logloss" if task.n_classes == 2 else "MultiClass",
        "thread_count": task.threads,
        "random_seed": task.seed,
    }
    return {**_CATBOOST_DEFAULTS, **task.asked.params, **fixed}


def _library(name: str) -> Any:
    """The library; where it is not installed, an error that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError("training.learner", f"{name} is not installed: pip install '{EXTRA}'") from error
