"""Trees of any library as one ONNX operator in 64 bits and the link behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.lab.training.onnx_graph import FEATURES, OnnxGraph, finished_model, softmax_rows
from ml_core.serve.model.trees import AT_MOST, BELOW, MEMBER, TreeForm

__all__ = ["add_margins", "add_trees", "trees_to_onnx"]

_SUM = 1


def trees_to_onnx(form: TreeForm, n_features: int, *, dtype: npt.DTypeLike = np.float32) -> bytes:
    """ONNX of these trees: ``features`` (n, d) in, class probabilities float64 (n, K) out.

    Values are compared as the library compares them: 32-bit values are exact in 64 bits, so thresholds stay as they
    are. Leaves are summed in 64 bits. A row gets the same bits alone and among others.

    Parameters
    ----------
    dtype : of the features, float32 or float64
    """
    graph = OnnxGraph()
    return finished_model(graph, add_trees(graph, form, FEATURES, n_features), n_features, form.n_classes, dtype=dtype)


def add_trees(graph: OnnxGraph, form: TreeForm, features: str, n_features: int) -> str:
    """Add the trees to a graph; the name of the class probabilities (n, K)."""
    sums = add_margins(graph, form, features, n_features)
    if form.n_classes == 2:
        other = graph.one("Sub", graph.constant(1.0) if form.link == "mean" else sums, sums)
        sums = graph.one("Concat", other, sums, axis=1)
    return sums if form.link == "mean" else softmax_rows(graph, sums, form.n_classes)


def add_margins(graph: OnnxGraph, form: TreeForm, features: str, n_features: int) -> str:
    """Add the trees without their link; the name of the sums (n, targets)."""
    compared = _compared(graph, form, features, n_features)
    sums = graph.one("TreeEnsemble", compared, domain="ai.onnx.ml", **_attributes(form))
    return graph.one("Add", sums, graph.constant(form.base))


def _compared(graph: OnnxGraph, form: TreeForm, features: str, n_features: int) -> str:
    """The features as 64-bit numbers, as the library looks at them."""
    from onnx import TensorProto

    x = graph.add("Cast", features, to=TensorProto.FLOAT)[0] if form.single else features
    (x,) = graph.add("Cast", x, to=TensorProto.DOUBLE)
    if not np.isnan(form.absent):
        (gone,) = graph.add("Equal", x, graph.constant(form.absent))
        (x,) = graph.add("Where", gone, graph.constant(np.nan), x)
    if form.tiny:
        (size,) = graph.add("Abs", x)
        (small,) = graph.add("LessOrEqual", size, graph.constant(form.tiny))
        zeros = np.where(_mask(form.zero_missing, n_features), np.nan, 0.0)
        (x,) = graph.add("Where", small, graph.constant(zeros), x)
    if len(form.categorical):
        (size,) = graph.add("Abs", x)
        (whole,) = graph.add("Floor", size)
        (sign,) = graph.add("Sign", x)
        (whole,) = graph.add("Mul", whole, sign)
        (x,) = graph.add("Where", graph.constant(_mask(form.categorical, n_features), np.bool_), whole, x)
    return x


def _mask(chosen: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.bool_]:
    return np.isin(np.arange(n), chosen)


def _attributes(form: TreeForm) -> dict[str, Any]:
    """Of the operator: inner nodes and leaves are numbered apart, and every tree has an inner node at its root."""
    from onnx import numpy_helper

    is_leaf = form.is_leaf
    bare = form.roots[is_leaf[form.roots]]  # trees that are a leaf alone get a node that leads to it either way
    inner, leaves = np.flatnonzero(~is_leaf), np.flatnonzero(is_leaf)
    place = np.empty(len(is_leaf), dtype=np.int64)  # of each node among those of its kind
    place[inner], place[leaves] = np.arange(len(inner)), np.arange(len(leaves))
    rule, split = form.rule[inner], form.threshold[inner]
    empty = (rule == MEMBER) & ~np.isin(inner, form.member_node)  # a set of nothing: no value is below -inf
    rule, split = np.where(empty, BELOW, rule), np.where(empty, -np.inf, split)
    yes, no = np.append(form.yes[inner], bare), np.append(form.no[inner], bare)
    n_bare = len(bare)
    roots = np.where(is_leaf[form.roots], 0, place[form.roots])
    roots[is_leaf[form.roots]] = len(inner) + np.arange(n_bare)
    of_leaf = np.searchsorted(form.roots, leaves, side="right") - 1
    found = {
        "nodes_featureids": np.append(form.feature[inner], np.zeros(n_bare, np.int64)),
        "nodes_missing_value_tracks_true": np.append(form.missing_yes[inner], np.zeros(n_bare, np.bool_)),
        "nodes_truenodeids": place[yes],
        "nodes_trueleafs": is_leaf[yes],
        "nodes_falsenodeids": place[no],
        "nodes_falseleafs": is_leaf[no],
        "tree_roots": roots,
        "leaf_targetids": form.targets[of_leaf],
    }
    tensors: dict[str, npt.NDArray[Any]] = {
        "nodes_modes": np.append(rule, np.full(n_bare, AT_MOST)).astype(np.uint8),
        "nodes_splits": np.append(split, np.zeros(n_bare)),
        "leaf_weights": form.value[leaves],
    }
    if len(form.member):
        ends = np.flatnonzero(np.diff(form.member_node)) + 1
        sets = np.split(form.member.astype(np.float64), ends)
        tensors["membership_values"] = np.concatenate([part for one in sets for part in (one, [np.nan])])
    return {
        **{name: values.astype(np.int64).tolist() for name, values in found.items()},
        **{name: numpy_helper.from_array(values, name) for name, values in tensors.items()},
        "n_targets": len(form.base),
        "aggregate_function": _SUM,
        "post_transform": 0,
    }
