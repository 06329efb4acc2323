"""Fitted classifiers as graphs in 64 bits: trees, linear models, and models made of models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ml_core.base.errors import ArtefactError
from ml_core.lab.training.booster_trees import catboost_trees
from ml_core.lab.training.given import DOUBLE, INT64, Given, matrix_of
from ml_core.lab.training.onnx_graph import OnnxGraph, softmax_rows
from ml_core.lab.training.transformer_graph import add_transformer, converted_by_skl2onnx, kind_in
from ml_core.lab.training.tree_export import add_margins, add_trees
from ml_core.lab.training.tree_readers import sums_in_32_bits, trees_of
from ml_core.serve.model.trees import MEMBER, TreeForm

__all__ = ["add_classifier", "inside"]

_KEEPS_ROWS = frozenset({
    "KNeighborsClassifier", "RadiusNeighborsClassifier", "GaussianProcessClassifier", "SVC", "NuSVC",
    "LabelPropagation", "LabelSpreading",
})  # fmt: skip
_WRAPS = ("best_estimator_", "estimator_", "estimator")
_WRAPPERS = frozenset({
    "GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV", "FixedThresholdClassifier",
    "TunedThresholdClassifierCV", "FrozenEstimator", "SelfTrainingClassifier",
})  # fmt: skip


def inside(model: Any) -> Any:
    """What answers inside wrappers that only choose, freeze or cut: a search, a threshold, a frozen model."""
    while type(model).__name__ in _WRAPPERS:
        model = next(getattr(model, name) for name in _WRAPS if hasattr(model, name))
    return model


def add_classifier(graph: OnnxGraph, model: Any, given: Given) -> str:
    """Add a fitted classifier; the name of its class probabilities (n, K).

    Raises
    ------
    ArtefactError
        It has no conversion; the message says what to do instead.
    """
    model = inside(model)
    name = type(model).__name__
    composed = kind_in(_COMPOSED, model)
    if composed is not None:
        return str(composed(graph, model, given))
    form = catboost_trees(model, _by_value(given)) if given.values and name == "CatBoostClassifier" else trees_of(model)
    if form is not None:
        return _trees(graph, model, form, given)
    if name in _KEEPS_ROWS:
        problem = "keeps rows it was trained on, and an artefact holds no training row"
        raise ArtefactError(name, f"{problem}: train trees, a linear model or a small network instead")
    given = matrix_of(graph, given).in_64_bits(graph)
    own = kind_in(_OWN, model)
    if own is not None:
        return str(own(graph, model, given))
    found = converted_by_skl2onnx(model, given.width, zipmap=False)
    return graph.one("Cast", graph.embed(found, given.x, found.graph.output[1].name), to=DOUBLE)


_LEAST = 1e-12  # scikit-learn adds it before it takes a logarithm
_STEEPEST = 1e-3
"""More than this is never laid to rounding, however steep what follows is."""


def _trees(graph: OnnxGraph, model: Any, form: TreeForm, given: Given) -> str:
    prepared = _prepared(graph, model, given)
    graph.rounding += form.rounding if sums_in_32_bits(model) else 0.0
    roots = prepared.roots or (None,) * prepared.width
    compared = (form.rule < MEMBER) & np.isfinite(form.threshold)
    for feature, threshold in zip(form.feature[compared].tolist(), form.threshold[compared].tolist(), strict=True):
        root = roots[feature]
        if root is not None:
            graph.thresholds.append((root, threshold))
    return add_trees(graph, form, prepared.x, prepared.width)


def _by_value(given: Given) -> dict[int, Any]:
    """For each column of codes, rows in which it takes all of its values but the missing one, and all else stays."""
    frames = {}
    for column, values in given.values.items():
        codes = np.zeros((len(values) - 1, given.width))
        codes[:, column] = np.arange(len(values) - 1)
        frames[column] = None if given.frame is None else given.frame(codes)
    return frames


def _prepared(graph: OnnxGraph, model: Any, given: Given) -> Given:
    """The columns as the library's trees look at them: its own codes for categories."""
    if type(model).__name__ == "CatBoostClassifier" and given.values:
        codes = {given.names.index(name): given.values[given.names.index(name)] for name in _catboost_categories(model)}
        return _coded(graph, given, codes, "CatBoost model", "refuse")
    own = getattr(model, "_preprocessor", None)
    if own is not None:  # HistGradientBoosting encodes its categories, and puts them in front
        return add_transformer(graph, own, given)
    encoded = kind_in(_CODES, model)
    return matrix_of(graph, given if encoded is None else encoded(graph, model, given))


def _coded(graph: OnnxGraph, given: Given, known: Mapping[int, Sequence[Any]], what: str, unseen: str) -> Given:
    """Columns of categories as the positions that a library gave their values; NaN for a missing one."""
    parts = []
    for column in range(given.width):
        part = given.only(graph, [column])
        if column in known and not part.values:
            raise ArtefactError(what, f"takes {given.names[column]} as a category, and it is a number here")
        if column in known:
            codes = {value: float(at) for at, value in enumerate(known[column]) if value is not None}
            gone = [value for value in part.values[0] if value is not None and value not in codes]
            if gone and unseen == "refuse":
                problem = f"never saw {len(gone)} of the levels of {given.names[column]}, and cannot score them"
                raise ArtefactError(what, f"{problem}: narrow the column table, or train it with all of them")
            table = [np.nan if value is None else codes.get(value, np.nan) for value in part.values[0]]
            code = graph.one("Cast", part.x, to=INT64)
            part = part.computed(graph.one("Gather", graph.constant(table), code, axis=0), 1)
        parts.append(matrix_of(graph, part))
    return Given(
        x=graph.one("Concat", *(part.x for part in parts), axis=1),
        names=given.names,
        roots=tuple(r for part in parts for r in (part.roots or (None,))),
    )


def _xgboost_codes(graph: OnnxGraph, model: Any, given: Given) -> Given:
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    kinds = booster.feature_types or []
    categorical = [at for at, kind in enumerate(kinds) if kind == "c"]
    if not categorical or not given.values:
        return given
    stored = booster.get_categories(export_to_arrow=True).to_arrow()
    known = {at: stored[at][1].to_pylist() for at in categorical if stored[at][1] is not None}
    if len(known) < len(categorical):
        problem = "does not say which categories its codes stand for: train it with XGBoost 3.1 or newer on a DataFrame"
        raise ArtefactError("XGBoost model", problem)
    return _coded(graph, given, known, "XGBoost model", "refuse")


def _catboost_categories(model: Any) -> list[str]:
    return [model.feature_names_[at] for at in model.get_cat_feature_indices()]


def _lightgbm_codes(graph: OnnxGraph, model: Any, given: Given) -> Given:
    booster = model.booster_ if hasattr(model, "booster_") else model
    stored = booster.pandas_categorical or []
    if not stored:
        return given
    line = next(x for x in booster.model_to_string().splitlines() if x.startswith("[categorical_feature: "))
    columns = sorted(int(x) for x in line[len("[categorical_feature: ") : -1].split(",") if x)
    return _coded(graph, given, dict(zip(columns, stored, strict=True)), "LightGBM model", "missing")


_CODES: Mapping[str, Callable[[OnnxGraph, Any, Given], Given]] = {
    "XGBClassifier": _xgboost_codes,
    "LGBMClassifier": _lightgbm_codes,
    "Booster": lambda graph, model, given: (
        _xgboost_codes if type(model).__module__.startswith("xgboost") else _lightgbm_codes
    )(graph, model, given),
}


# --- linear models --------------------------------------------------------------------------------------------------


def _margins(graph: OnnxGraph, model: Any, given: Given) -> str:
    """Coef x + intercept, (n, 1) or (n, K)."""
    product = graph.one("MatMul", given.x, graph.constant(np.asarray(model.coef_, dtype=np.float64).T))
    return graph.one("Add", product, graph.constant(np.ravel(model.intercept_)))


def _linear(graph: OnnxGraph, model: Any, given: Given) -> str:
    return _of_margins(graph, _margins(graph, model, given), len(model.classes_))


def _of_margins(graph: OnnxGraph, margins: str, n_classes: int) -> str:
    if n_classes == 2:
        zero = graph.one("Sub", margins, margins)
        margins = graph.one("Concat", zero, margins, axis=1)
    return softmax_rows(graph, margins, n_classes)


def _sigmoid(graph: OnnxGraph, margins: str) -> str:
    """Of a column (n, 1)."""
    both = _of_margins(graph, margins, 2)
    return graph.one("Gather", both, graph.constant([1], np.int64), axis=1)


def _xgboost_linear(graph: OnnxGraph, model: Any, given: Given) -> str:
    """A booster of the kind ``gblinear``: a missing value adds nothing."""
    import json

    booster = model.get_booster() if hasattr(model, "get_booster") else model
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    n_classes = max(int(learner["learner_model_param"]["num_class"]), 2)
    n_sums = 1 if n_classes == 2 else n_classes
    weights = np.array(learner["gradient_booster"]["model"]["weights"], dtype=np.float64).reshape(-1, n_sums)
    base = np.array(learner["learner_model_param"]["base_score"].strip("[]").split(","), dtype=np.float64)
    if n_classes == 2:
        base = np.log(base) - np.log1p(-base)
    x = graph.one("Where", graph.one("IsNaN", given.x), graph.constant(0.0), given.x)
    margins = graph.one("MatMul", x, graph.constant(weights[:-1]))
    graph.rounding += 1e-5
    return _of_margins(graph, graph.one("Add", margins, graph.constant(weights[-1] + base)), n_classes)


# --- models made of models ------------------------------------------------------------------------------------------


def _pipeline(graph: OnnxGraph, model: Any, given: Given) -> str:
    for _, step in model.steps[:-1]:
        if not hasattr(step, "fit_resample"):  # which changes training rows only
            given = add_transformer(graph, step, given)
    return add_classifier(graph, model.steps[-1][1], given)


def _mean(graph: OnnxGraph, added: Iterable[str], weights: Sequence[float] | None = None) -> str:
    """Mean of parts, each of which is added when it is asked for; it rounds like the worst of them."""
    parts, before, worst = [], graph.rounding, 0.0
    for part in added:
        parts.append(part)
        worst, graph.rounding = max(worst, graph.rounding - before), before
    graph.rounding += worst
    shares = np.ones(len(parts)) if weights is None else np.asarray(weights, dtype=np.float64)
    scaled = [
        graph.one("Mul", part, graph.constant(share)) for part, share in zip(parts, shares / shares.sum(), strict=True)
    ]
    return graph.one("Sum", *scaled)


def _voting(graph: OnnxGraph, model: Any, given: Given) -> str:
    if model.voting != "soft":
        raise ArtefactError("VotingClassifier", "counts votes and has no probabilities: train it with voting='soft'")
    weights = model._weights_not_none  # noqa: SLF001 - those of the estimators that were not dropped
    return _mean(graph, (add_classifier(graph, one, given) for one in model.estimators_), weights)


def _bagging(graph: OnnxGraph, model: Any, given: Given) -> str:
    if any(len(one.classes_) != len(model.classes_) or not hasattr(one, "predict_proba") for one in model.estimators_):
        raise ArtefactError("BaggingClassifier", "has members that lack a class or have no probabilities")
    members = zip(model.estimators_, model.estimators_features_, strict=True)
    return _mean(graph, (add_classifier(graph, one, given.only(graph, list(features))) for one, features in members))


def _stacking(graph: OnnxGraph, model: Any, given: Given) -> str:
    parts, wide = [], replace(given, is_single=False)
    for one, method in zip(model.estimators_, model.stack_method_, strict=True):
        if method == "predict_proba":
            proba, k = add_classifier(graph, one, given), len(one.classes_)
            kept = [1] if k == 2 else list(range(k))
            part = graph.one("Gather", proba, graph.constant(kept, np.int64), axis=1) if k == 2 else proba
            parts.append(wide.computed(part, len(kept)))
        elif method == "decision_function":
            x, width = _decision(graph, one, given)
            parts.append(wide.computed(x, width))
        else:
            raise ArtefactError("StackingClassifier", f"stacks {method}: train it with stack_method='predict_proba'")
    if model.passthrough:
        parts.append(matrix_of(graph, given).in_64_bits(graph))
    x = graph.one("Concat", *(part.x for part in parts), axis=1)
    return add_classifier(graph, model.final_estimator_, wide.computed(x, sum(part.width for part in parts)))


def _decision(graph: OnnxGraph, model: Any, given: Given) -> tuple[str, int]:
    """``decision_function`` (n, 1) or (n, K), and its width."""
    model = inside(model)
    if kind_in({"Pipeline": True}, model):
        for _, step in model.steps[:-1]:
            given = add_transformer(graph, step, given)
        return _decision(graph, model.steps[-1][1], given)
    form = trees_of(model)
    if form is not None and form.link == "logit":
        prepared = _prepared(graph, model, given)
        return add_margins(graph, form, prepared.x, prepared.width), len(form.base)
    if hasattr(model, "coef_") and hasattr(model, "intercept_") and not hasattr(model, "support_vectors_"):
        width = 1 if len(model.classes_) == 2 else len(model.classes_)
        return _margins(graph, model, matrix_of(graph, given).in_64_bits(graph)), width
    name = type(model).__name__
    raise ArtefactError(name, "has a decision_function without conversion: wrap a linear model or trees instead")


def _calibrated(graph: OnnxGraph, model: Any, given: Given) -> str:
    return _mean(graph, (_one_calibrated(graph, one, given) for one in model.calibrated_classifiers_))


def _one_calibrated(graph: OnnxGraph, model: Any, given: Given) -> str:
    estimator, k, before = inside(model.estimator), len(model.classes), graph.rounding
    by_decision = hasattr(model.estimator, "decision_function")
    if by_decision:
        raw, width = _decision(graph, estimator, given)
    else:
        raw, width = add_classifier(graph, estimator, given), k
        if k == 2:
            raw, width = graph.one("Gather", raw, graph.constant([1], np.int64), axis=1), 1
    if model.method == "temperature":
        return _tempered(graph, model.calibrators[0], raw, k, is_logit=by_decision)
    graph.rounding = before + _steepened(graph.rounding - before, model.calibrators)
    columns = [graph.one("Gather", raw, graph.constant([at], np.int64), axis=1) for at in range(width)]
    read = _by_sigmoid if model.method == "sigmoid" else _by_isotonic
    found = [read(graph, one, x) for one, x in zip(model.calibrators, columns, strict=True)]
    if k == 2:
        return graph.one("Concat", graph.one("Sub", graph.constant(1.0), found[0]), found[0], axis=1)
    total = graph.one("Sum", *found)
    none = graph.one("Equal", total, graph.constant(0.0))
    together = graph.one("Concat", *found, axis=1)
    share = graph.one("Div", together, graph.one("Where", none, graph.constant(1.0), total))
    return graph.one("Where", none, graph.constant(1.0 / k), share)


def _steepened(rounding: float, calibrators: Sequence[Any]) -> float:
    """What a difference may become behind calibrators that are steep somewhere, as isotonic ones are at their steps."""
    slopes = [1.0]
    for one in calibrators:
        if hasattr(one, "a_"):
            slopes.append(abs(one.a_) / 4)
        elif len(one.X_thresholds_) > 1:
            slopes.append(float((np.diff(one.y_thresholds_) / np.diff(one.X_thresholds_)).max()))
    return min(rounding * max(slopes), max(rounding, _STEEPEST))


def _by_sigmoid(graph: OnnxGraph, calibrator: Any, x: str) -> str:
    scaled = graph.one("Mul", x, graph.constant(-calibrator.a_))
    return _sigmoid(graph, graph.one("Sub", scaled, graph.constant(calibrator.b_)))


def _by_isotonic(graph: OnnxGraph, calibrator: Any, x: str) -> str:
    """Between two thresholds on a line, outside the value of the last one."""
    at = np.asarray(calibrator.X_thresholds_, dtype=np.float64)
    y = np.asarray(calibrator.y_thresholds_, dtype=np.float64)
    if len(at) == 1:
        return graph.one("Add", graph.one("Sub", x, x), graph.constant(y[0]))
    x = graph.one("Clip", x, graph.constant(at[0]), graph.constant(at[-1]))
    past = graph.one("Less", graph.constant([at[1:-1]]), x) if len(at) > 2 else ""
    place = graph.one("Sub", graph.one("Cast", x, to=INT64), graph.one("Cast", x, to=INT64))
    if past:
        axis = graph.constant([1], np.int64)
        steps = np.arange(1, len(at) - 1)
        place = graph.one("Where", past, graph.constant([steps], np.int64), graph.constant(0, np.int64))
        place = graph.one("ReduceMax", place, axis, keepdims=1)
    slopes = np.diff(y) / np.diff(at)
    slope, left, low = (graph.one("Gather", graph.constant(v), place, axis=0) for v in (slopes, at[:-1], y[:-1]))
    rise = graph.one("Mul", graph.one("Sub", x, left), slope)
    return graph.one("Add", rise, low)


def _tempered(graph: OnnxGraph, calibrator: Any, raw: str, k: int, *, is_logit: bool) -> str:
    """Soft-max of (-x, x) with two classes, of margins, or of logarithms of probabilities; each times beta."""
    if not is_logit:
        if k == 2:
            raw = graph.one("Concat", graph.one("Sub", graph.constant(1.0), raw), raw, axis=1)
        raw = graph.one("Log", graph.one("Add", raw, graph.constant(_LEAST)))
    elif k == 2:
        raw = graph.one("Concat", graph.one("Neg", raw), raw, axis=1)
    return softmax_rows(graph, graph.one("Mul", raw, graph.constant(calibrator.beta_)), k)


_COMPOSED: Mapping[str, Callable[[OnnxGraph, Any, Given], str]] = {
    "Pipeline": _pipeline,
    "VotingClassifier": _voting,
    "BaggingClassifier": _bagging,
    "StackingClassifier": _stacking,
    "CalibratedClassifierCV": _calibrated,
}
_OWN: Mapping[str, Callable[[OnnxGraph, Any, Given], str]] = {
    "LinearDiscriminantAnalysis": _linear,
    "XGBClassifier": _xgboost_linear,
    "Booster": _xgboost_linear,
}
