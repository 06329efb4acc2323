"""Fitted transformers of scikit-learn as graph operations in 64 bits; those that have none here go through skl2onnx."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ml_core.base.errors import ArtefactError
from ml_core.lab.training.given import DOUBLE, Given, looked_up, matrix_of
from ml_core.lab.training.onnx_graph import OnnxGraph

__all__ = ["add_transformer", "converted_by_skl2onnx", "kind_in"]

_OPSETS = {"": 18, "ai.onnx.ml": 3}
_KEEPS_ROWS = frozenset({"KernelPCA", "Nystroem", "KNNImputer", "Isomap"})


def add_transformer(graph: OnnxGraph, step: Any, given: Given) -> Given:
    """Add a fitted transformer; what it makes of the columns.

    A step that takes categories is asked for every value they may have, and becomes tables.

    Raises
    ------
    ArtefactError
        It has no conversion; the message says what to do instead.
    """
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return given
    composed = kind_in(_COMPOSED, step)
    if composed is not None:
        done: Given = composed(graph, step, given)
        return done
    if len(given.values) == given.width and given.frame is not None:
        return looked_up(graph, given, step.transform, type(step).__name__)
    given = matrix_of(graph, given)
    own = kind_in(_OWN, step)
    if own is not None:
        done = own(graph, step, given)
        return done  # noqa: RET504 - the table is untyped
    if type(step).__name__ in _KEEPS_ROWS:
        raise ArtefactError(type(step).__name__, "keeps rows it was trained on, and an artefact holds no training row")
    if hasattr(step, "get_support"):
        return given.only(graph, np.flatnonzero(step.get_support()).tolist())
    return _by_skl2onnx(graph, step, given)


def kind_in(table: Mapping[str, Any], model: Any) -> Any:
    """The entry for the name of the model's class or of the nearest of its parents; None where there is none."""
    return next((table[kind.__name__] for kind in type(model).__mro__ if kind.__name__ in table), None)


# --- steps made of steps --------------------------------------------------------------------------------------------


def _pipeline(graph: OnnxGraph, step: Any, given: Given) -> Given:
    if len(given.values) == given.width and given.frame is not None and hasattr(step, "transform"):
        return looked_up(graph, given, step.transform, type(step).__name__)
    for _, one in step.steps:
        if not hasattr(one, "fit_resample"):  # which changes training rows only
            given = add_transformer(graph, one, given)
    return given


def _column_transformer(graph: OnnxGraph, step: Any, given: Given) -> Given:
    made = []
    for name, one, chosen in step.transformers_:
        places = [] if callable(chosen) else given.places(chosen)
        if not places or (isinstance(one, str) and one == "drop"):
            continue
        part = given.only(graph, places)
        mixed = 0 < len(part.values) < part.width and kind_in(_COMPOSED, one) is None
        if mixed and not isinstance(one, str) and any(isinstance(v, str) for vs in part.values.values() for v in vs):
            problem = "takes numbers and categories together: give each kind a transformer of its own"
            raise ArtefactError(f"transformer {name}", problem)
        made.append(matrix_of(graph, add_transformer(graph, one, part)))
    return _beside(graph, made)


def _feature_union(graph: OnnxGraph, step: Any, given: Given) -> Given:
    weights = step.transformer_weights or {}
    if weights:
        raise ArtefactError("FeatureUnion", "has transformer_weights: scale in a step of its own")
    parts = [one for _, one in step.transformer_list if not (isinstance(one, str) and one == "drop")]
    return _beside(graph, [matrix_of(graph, add_transformer(graph, one, given)) for one in parts])


def _beside(graph: OnnxGraph, parts: list[Given]) -> Given:
    if not parts:
        raise ArtefactError("ColumnTransformer", "keeps no column")
    if not all(part.is_single for part in parts):
        parts = [part.in_64_bits(graph) for part in parts]
    return Given(
        x=graph.one("Concat", *(part.x for part in parts), axis=1),
        names=tuple(name for part in parts for name in part.names),
        roots=tuple(r for part in parts for r in (part.roots or (None,) * part.width)),
        is_single=parts[0].is_single,
    )


def _function(_: OnnxGraph, step: Any, given: Given) -> Given:
    name = getattr(getattr(step.func, "func", step.func), "__name__", "a function")
    if step.func is None or name == "check_array":  # as HistGradientBoosting has
        return given
    problem = f"calls the Python function {name}, which a graph cannot: compute it in the feature version instead"
    raise ArtefactError("FunctionTransformer", problem)


# --- steps of numbers -----------------------------------------------------------------------------------------------


def _standard(graph: OnnxGraph, step: Any, given: Given) -> Given:
    """Its constants are rounded to what it is given."""
    x = given.x
    for operator, values in (("Sub", step.mean_ if step.with_mean else None), ("Div", step.scale_)):
        if values is not None:
            x = graph.one(operator, x, graph.constant(values, given.dtype))
    return given.computed(x, given.width)


def _robust(graph: OnnxGraph, step: Any, given: Given) -> Given:
    center, scale = step.center_ if step.with_centering else None, step.scale_ if step.with_scaling else None
    return _in_place(graph, given, (("Sub", center), ("Div", scale)))


def _max_abs(graph: OnnxGraph, step: Any, given: Given) -> Given:
    return _clipped(graph, step, _in_place(graph, given, (("Div", step.scale_),)), (-1.0, 1.0))


def _min_max(graph: OnnxGraph, step: Any, given: Given) -> Given:
    return _clipped(
        graph, step, _in_place(graph, given, (("Mul", step.scale_), ("Add", step.min_))), step.feature_range
    )


def _in_place(graph: OnnxGraph, given: Given, steps: Sequence[tuple[str, Any]]) -> Given:
    """Each step with constants of 64 bits, and then rounded to what was given."""
    for operator, values in steps:
        if values is not None:
            wide = given.in_64_bits(graph)
            done = wide.computed(graph.one(operator, wide.x, graph.constant(values)), given.width)
            given = done.in_32_bits(graph) if given.is_single else done
    return given


def _clipped(graph: OnnxGraph, step: Any, given: Given, limits: tuple[float, float]) -> Given:
    if not getattr(step, "clip", False):
        return given
    low, high = (graph.constant(limit, given.dtype) for limit in limits)
    return given.computed(graph.one("Clip", given.x, low, high), given.width)


def _imputer(graph: OnnxGraph, step: Any, given: Given) -> Given:
    gone = _missing(graph, given, step.missing_values)
    fill = np.asarray(step.statistics_, dtype=np.float64)
    fill = fill.astype(getattr(step, "_fill_dtype", np.float64))  # of the rows it was fitted on
    filled = given.computed(graph.one("Where", gone, graph.constant(fill, given.dtype), given.x), given.width)
    if np.isnan(fill).any():  # columns without a value in training are left out
        filled = filled.only(graph, np.flatnonzero(~np.isnan(fill)).tolist())
    if not step.add_indicator:
        return filled
    return _beside(graph, [filled, _indicator(graph, step.indicator_, given)])


def _indicator(graph: OnnxGraph, step: Any, given: Given) -> Given:
    flags = _numbers(graph, given, _missing(graph, given, step.missing_values), given.width)
    return flags.only(graph, list(step.features_))


def _missing(graph: OnnxGraph, given: Given, value: Any) -> str:
    if value is None or np.isnan(value):
        return graph.one("IsNaN", given.x)
    return graph.one("Equal", given.x, graph.constant(value, given.dtype))


def _one_hot(graph: OnnxGraph, step: Any, given: Given) -> Given:
    if getattr(step, "_infrequent_enabled", False):
        raise ArtefactError("OneHotEncoder", "groups rare numbers: make the column a category in the column table")
    given = given.in_64_bits(graph)
    dropped = [None] * given.width if step.drop_idx_ is None else list(step.drop_idx_)
    parts = []
    for column, (categories, drop) in enumerate(zip(step.categories_, dropped, strict=True)):
        kept = [value for at, value in enumerate(categories) if at != drop]
        if kept:
            parts.append(_numbers(graph, given, _equal(graph, given.x, column, kept), len(kept)))
    return _beside(graph, parts)


def _ordinal(graph: OnnxGraph, step: Any, given: Given) -> Given:
    parts, given = [], given.in_64_bits(graph)
    unknown = step.unknown_value if step.handle_unknown == "use_encoded_value" else np.nan
    for column, categories in enumerate(step.categories_):
        hits = _equal(graph, given.x, column, list(categories))
        codes = [step.encoded_missing_value if _is_missing(v) else float(at) for at, v in enumerate(categories)]
        found = graph.one("Where", hits, graph.constant(codes), graph.constant(-np.inf))
        best = graph.one("ReduceMax", found, graph.constant([1], np.int64), keepdims=1)
        none = graph.one("Equal", best, graph.constant(-np.inf))
        if any(np.isnan(code) for code in codes):
            best = graph.one("Where", graph.one("IsNaN", _column(graph, given.x, column)), graph.constant(np.nan), best)
        parts.append(given.computed(graph.one("Where", none, graph.constant(unknown), best), 1))
    return _beside(graph, parts)


def _equal(graph: OnnxGraph, x: str, column: int, values: list[Any]) -> str:
    """(n, values), which of them each row has; a missing value is one, too."""
    at = _column(graph, x, column)
    numbers = [np.nan if _is_missing(value) else float(value) for value in values]
    same = graph.one("Equal", at, graph.constant([numbers]))
    if not any(np.isnan(numbers)):
        return same
    gone = graph.one("And", graph.one("IsNaN", at), graph.constant([np.isnan(numbers)], np.bool_))
    return graph.one("Or", same, gone)


def _is_missing(value: Any) -> bool:
    return value is None or bool(value != value)  # noqa: PLR0124 - only a missing value differs from itself


def _column(graph: OnnxGraph, x: str, column: int) -> str:
    return graph.one("Gather", x, graph.constant([column], np.int64), axis=1)


def _numbers(graph: OnnxGraph, given: Given, flags: str, width: int) -> Given:
    """Flags as 0 and 1, of the type that was given."""
    made = given.computed(graph.one("Cast", flags, to=DOUBLE), width)
    return replace(made, is_single=False).in_32_bits(graph) if given.is_single else made


def _polynomial(graph: OnnxGraph, step: Any, given: Given) -> Given:
    terms = [np.repeat(np.arange(given.width), powers) for powers in step.powers_]
    degree = max(1, *(len(term) for term in terms))
    ones = graph.one("Expand", graph.constant([[1.0]], given.dtype), _rows_by_one(graph, given))
    x = graph.one("Concat", given.x, ones, axis=1)
    product = ""
    for place in range(degree):
        at = [int(term[place]) if place < len(term) else given.width for term in terms]
        factor = graph.one("Gather", x, graph.constant(at, np.int64), axis=1)
        product = graph.one("Mul", product, factor) if product else factor
    return given.computed(product, len(terms))


def _rows_by_one(graph: OnnxGraph, given: Given) -> str:
    return graph.one("Shape", _column(graph, given.x, 0))


def _bins(graph: OnnxGraph, step: Any, given: Given) -> Given:
    parts, given = [], given.in_64_bits(graph)
    for column, edges in enumerate(step.bin_edges_):
        n_bins = len(edges) - 1
        low = graph.constant([[-np.inf, *edges[1:-1]]])
        high = graph.constant([[*edges[1:-1], np.inf]])
        at = _column(graph, given.x, column)
        inside = graph.one("And", graph.one("GreaterOrEqual", at, low), graph.one("Less", at, high))
        part = graph.one("Where", inside, graph.constant([np.arange(n_bins, dtype=np.float64)]), graph.constant(-1.0))
        if step.encode == "ordinal":
            axis = graph.constant([1], np.int64)
            parts.append(given.computed(graph.one("ReduceMax", part, axis, keepdims=1), 1))
        else:
            parts.append(_numbers(graph, given, inside, n_bins))
    return _beside(graph, parts)


def _components(graph: OnnxGraph, step: Any, given: Given) -> Given:
    given = given.in_64_bits(graph)
    x = given.x
    if getattr(step, "mean_", None) is not None:
        x = graph.one("Sub", x, graph.constant(step.mean_))
    weights = np.asarray(step.components_, dtype=np.float64).T
    if getattr(step, "whiten", False):
        weights = weights / np.sqrt(step.explained_variance_)
    return given.computed(graph.one("MatMul", x, graph.constant(weights)), weights.shape[1])


def converted_by_skl2onnx(model: Any, n_features: int, **options: Any) -> Any:
    """skl2onnx's conversion in 64 bits, an onnx.ModelProto.

    Raises
    ------
    ArtefactError
        It has none.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType

    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = convert_sklearn(
                model,
                initial_types=[("x", DoubleTensorType([None, n_features]))],
                target_opset=_OPSETS,
                options={id(model): options} if options else None,
            )
        except Exception as error:  # the converters raise whatever the estimator makes them meet
            name = type(model).__name__
            problem = (
                f"cannot be converted ({type(error).__name__}): skl2onnx has no way for it, and surety none of its own"
            )
            raise ArtefactError(name, f"{problem}; take a kind that docs/foreign-models.md lists") from error
    if any(node.op_type.startswith("TreeEnsemble") for node in found.graph.node):
        raise ArtefactError(type(model).__name__, "has trees in a place where they cannot be exact: use them alone")
    return found


def _by_skl2onnx(graph: OnnxGraph, step: Any, given: Given) -> Given:
    given = given.in_64_bits(graph)
    model = converted_by_skl2onnx(step, given.width)
    shape = model.graph.output[0].type.tensor_type.shape.dim
    x = graph.one("Cast", graph.embed(model, given.x, model.graph.output[0].name), to=DOUBLE)
    return given.computed(x, int(shape[1].dim_value) or int(step.n_features_in_))


_COMPOSED: Mapping[str, Callable[[OnnxGraph, Any, Given], Given]] = {
    "Pipeline": _pipeline,
    "ColumnTransformer": _column_transformer,
    "FeatureUnion": _feature_union,
    "FunctionTransformer": _function,
}
_OWN: Mapping[str, Callable[[OnnxGraph, Any, Given], Given]] = {
    "StandardScaler": _standard,
    "RobustScaler": _robust,
    "MaxAbsScaler": _max_abs,
    "MinMaxScaler": _min_max,
    "SimpleImputer": _imputer,
    "MissingIndicator": _indicator,
    "OneHotEncoder": _one_hot,
    "OrdinalEncoder": _ordinal,
    "PolynomialFeatures": _polynomial,
    "KBinsDiscretizer": _bins,
    "PCA": _components,
    "TruncatedSVD": _components,
}
