"""Classifiers in the manner of scikit-learn: three by name, any other by its import path."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from ml_core.base.arrays import FeatureMatrix
from ml_core.base.errors import ConfigError
from ml_core.lab.measuring.evaluation import log_losses
from ml_core.lab.training.learning_task import LearningTask, TaskRows, TrainedScorer
from ml_core.lab.training.onnx_export import SKLEARN_LIMIT, TREE_LIMIT, sklearn_to_onnx
from ml_core.lab.training.parameter_names import check_names, check_open, recorded, refused_by
from ml_core.lab.training.tree_export import trees_to_onnx
from ml_core.lab.training.tree_readers import trees_of
from ml_core.serve.model.bundle import LINEAR_FILE, TREES_FILE

__all__ = [
    "train_estimator",
    "train_forest",
    "train_hist_gradient_boosting",
    "train_logistic_regression",
]

_OURS = frozenset({
    "random_state", "n_jobs", "class_weight", "verbose", "early_stopping", "validation_fraction", "n_iter_no_change",
    "max_iter", "warm_start", "categorical_features", "scoring",
})  # fmt: skip
"""Of the learners by name. Of an import path only the first two."""
_OF_ANY = frozenset({"random_state", "n_jobs"})


def train_hist_gradient_boosting(task: LearningTask) -> TrainedScorer:
    """scikit-learn's histogram gradient boosting, with as many rounds as serve the validation rows best."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    usual = {"learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 20, "l2_regularization": 1.0}
    params = {**usual, **_checked(task, HistGradientBoostingClassifier, _OURS)}

    def fitted(rounds: int) -> Any:
        model = HistGradientBoostingClassifier(**params, max_iter=rounds, early_stopping=False, random_state=task.seed)
        return _fit(model, task.train)

    task.note(f"training gradient boosting of scikit-learn on {len(task.train)} rows, watching {len(task.validation)}")
    best = _best_round(fitted(task.asked.rounds), task.validation)
    task.note(f"round {best} is the best on the validation rows")
    found = {"rounds": task.asked.rounds, "trees_per_class": best}
    return _trained(task, fitted(best), {**recorded(params), **found})


def train_forest(task: LearningTask) -> TrainedScorer:
    """scikit-learn's random forest."""
    from sklearn.ensemble import RandomForestClassifier

    usual = {"n_estimators": 300, "min_samples_leaf": 5}
    params = {**usual, **_checked(task, RandomForestClassifier, _OURS)}
    task.note(f"training a random forest on {len(task.train)} rows")
    model = RandomForestClassifier(**params, random_state=task.seed, n_jobs=task.threads)
    return _trained(task, _fit(model, task.train), recorded(params))


def train_logistic_regression(task: LearningTask) -> TrainedScorer:
    """Logistic regression on standardised columns; a missing value counts as the column's mean."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    params = _checked(task, LogisticRegression, _OURS - {"max_iter"})
    task.note(f"training a logistic regression on {len(task.train)} rows")
    last = LogisticRegression(**{"max_iter": 1_000, **params}, random_state=task.seed)
    model = make_pipeline(SimpleImputer(strategy="mean", keep_empty_features=True), StandardScaler(), last)
    return _trained(task, _fit(model, task.train), recorded({"missing": "mean", **params}))


def train_estimator(task: LearningTask) -> TrainedScorer:
    """The classifier of an import path. One that takes no missing values gets the column's median for them.

    Raises
    ------
    ConfigError
        It cannot be imported, is no classifier with ``predict_proba``, or takes other parameters.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    kind = _imported(task.asked.learner)
    params = _checked(task, kind, _OF_ANY)
    names = inspect.signature(kind).parameters
    seeded = {"random_state": task.seed} if "random_state" in names else {}
    try:
        model: Any = kind(**params, **seeded)
    except (TypeError, ValueError) as error:
        raise refused_by(error) from error
    if not _takes_missing(model):
        model = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), model)
        params = {"missing": "median", **params}
    task.note(f"training {kind.__name__} on {len(task.train)} rows")
    return _trained(task, _fit(model, task.train), recorded(params))


def _imported(path: str) -> type:
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        problem = f"{module} cannot be imported ({error}): install it, or put its folder on PYTHONPATH"
        raise ConfigError("training.learner", problem) from error
    except AttributeError as error:
        raise ConfigError("training.learner", f"{module} has no {name}") from error
    if not (isinstance(found, type) and hasattr(found, "fit") and hasattr(found, "predict_proba")):
        raise ConfigError("training.learner", f"{path} is no classifier class with fit and predict_proba")
    return found


def _checked(task: LearningTask, kind: type, ours: frozenset[str]) -> dict[str, Any]:
    """The configured parameters, checked against the estimator's own signature."""
    check_open(task.asked.params, ours)
    signature = inspect.signature(kind).parameters.values()
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature):
        check_names(task.asked.params, {p.name for p in signature} - ours, kind.__name__)
    return dict(task.asked.params)


def _takes_missing(model: Any) -> bool:
    from sklearn.utils import get_tags

    try:
        return bool(get_tags(model).input_tags.allow_nan)
    except (AttributeError, TypeError):  # a class that is of no scikit-learn
        return False


def _fit(model: Any, rows: TaskRows) -> Any:
    """Fitted on the rows with their weights, by one thread of linear algebra."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the validation rows and the gate judge what came out
        try:
            return model.fit(_wide(rows.matrix), rows.y_index, **_weights_for(model, rows))
        except (ValueError, TypeError) as error:
            raise refused_by(error) from error


def _wide(matrix: FeatureMatrix) -> npt.NDArray[np.float64]:
    """In 64 bits: given 32, scikit-learn calculates in 32 and loses more than ONNX does at the borders of columns."""
    return matrix.astype(np.float64)


def _weights_for(model: Any, rows: TaskRows) -> Mapping[str, Any]:
    """The weights by the name under which the estimator, or the last step of a pipeline, takes them."""
    if rows.weights is None:
        return {}
    steps = getattr(model, "steps", None)
    last, prefix = (model, "") if steps is None else (steps[-1][1], f"{steps[-1][0]}__")
    if "sample_weight" not in inspect.signature(last.fit).parameters:
        problem = f"{type(last).__name__} takes no sample weights: leave out class_weight and the weight column"
        raise ConfigError("training.learner", problem)
    return {f"{prefix}sample_weight": rows.weights}


def _best_round(model: Any, rows: TaskRows) -> int:
    """How many rounds have the smallest log loss on these rows."""
    stages = model.staged_predict_proba(_wide(rows.matrix))
    losses = [np.average(log_losses(proba, rows.y_index), weights=rows.weights) for proba in stages]
    return 1 + int(np.argmin(losses))


def _trained(task: LearningTask, model: Any, params: Mapping[str, float | int | str]) -> TrainedScorer:
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    kind = type(last)
    if list(model.classes_) != list(range(task.n_classes)):
        raise ConfigError("training.learner", f"{kind.__name__} knows other classes than it was given")

    def proba(features: FeatureMatrix) -> npt.NDArray[np.float64]:
        return np.asarray(model.predict_proba(_wide(features)), dtype=np.float64)

    d, form = len(task.feature_names), trees_of(model)
    return TrainedScorer(
        name=kind.__name__,
        estimator=f"{kind.__module__}.{kind.__qualname__}",
        proba=proba,
        onnx=sklearn_to_onnx(model, d) if form is None else trees_to_onnx(form, d),
        limit=SKLEARN_LIMIT if form is None else TREE_LIMIT,
        params=params,
        files=_files(model) if form is None else {TREES_FILE: form.to_bytes()},
        libraries=_library_of(kind),
    )


def _files(model: Any) -> dict[str, bytes]:
    """``linear.json`` of a logistic regression on standardised columns whose missing values are their mean.

    It has the form of the scorecard (:class:`ml_core.serve.model.scorer.Scorecard`), and all digits.
    """
    kinds = [type(step).__name__ for _, step in getattr(model, "steps", ())]
    if kinds != ["SimpleImputer", "StandardScaler", "LogisticRegression"] or model.steps[0][1].strategy != "mean":
        return {}
    scaler, last = model.steps[1][1], model.steps[2][1]
    weights, intercept = np.asarray(last.coef_), np.ravel(last.intercept_)
    if len(weights) == 1:  # of two labels the first has no terms
        weights, intercept = np.vstack([np.zeros_like(weights), weights]), np.append(0.0, intercept)
    content = {"center": scaler.mean_, "scale": scaler.scale_, "coefficients": weights, "intercept": intercept}
    return {LINEAR_FILE: orjson.dumps({name: np.asarray(array).tolist() for name, array in content.items()})}


def _library_of(kind: type) -> dict[str, str]:
    """The distribution that holds the class, where it is another one than scikit-learn, which every artefact names."""
    top = kind.__module__.partition(".")[0]
    if top == "sklearn":
        return {}
    for distribution in packages_distributions().get(top, ()):
        try:
            return {distribution: version(distribution)}
        except PackageNotFoundError:
            continue
    return {top: str(getattr(importlib.import_module(top), "__version__", "unknown"))}
