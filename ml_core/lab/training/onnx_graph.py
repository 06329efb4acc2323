"""A small ONNX graph under construction, and the few steps that give a row the same bits alone and among others."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["FEATURES", "GRAPH", "OPSETS", "GraphSteps", "OnnxGraph", "labelled_model", "softmax_rows"]

GRAPH = "surety"
FEATURES, PROBABILITIES = "features", "probabilities"
OPSETS = {"": 18, "ai.onnx.ml": 5}
"""Opset 18 takes axes as inputs; 5 of ``ai.onnx.ml`` has trees in 64 bits with sets of categories."""

_IR_VERSION = 10
_LANES = 8
"""Most 64-bit numbers that one instruction takes. A kernel treats the last few of an array in another way than the
rest, and the bits of ``Exp`` differ between the two; rows of a whole multiple are never split."""


class GraphSteps(Protocol):
    """Whatever takes operations of a graph; each gives the name of its result."""

    def add(self, operator: str, *inputs: str, n_outputs: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        """Names of the outputs of a new operation."""
        ...

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> str:
        """Name of a constant tensor."""
        ...


class OnnxGraph:
    """A graph whose names follow from the order of its steps, so that equal models give equal bytes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def add(self, operator: str, *inputs: str, n_outputs: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        """Names of the outputs of a new operation."""
        from onnx import helper

        outputs = [f"t{len(self.nodes)}_{i}" for i in range(n_outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, domain=domain, **attributes))
        return outputs

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> str:
        """Name of a constant tensor."""
        from onnx import numpy_helper

        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name


def softmax_rows(graph: GraphSteps, margins: str, n_classes: int) -> str:
    """Soft-max of float64 margins (n, K), in operations whose bits do not depend on where a row stands."""
    axis = graph.constant([1], np.int64)
    (largest,) = graph.add("ReduceMax", margins, axis, keepdims=1)
    (below,) = graph.add("Sub", margins, largest)
    (whole,) = graph.add("Pad", below, graph.constant([0, 0, 0, -n_classes % _LANES], np.int64), graph.constant(0.0))
    (powers,) = graph.add("Exp", whole)
    start, end = graph.constant([0], np.int64), graph.constant([n_classes], np.int64)
    (powers,) = graph.add("Slice", powers, start, end, axis)
    parts = graph.add("Split", powers, n_outputs=n_classes, axis=1, num_outputs=n_classes)
    (total,) = graph.add("Sum", *parts)
    return graph.add("Div", powers, total)[0]


def labelled_model(
    graph: OnnxGraph, probabilities: str, n_features: int, n_classes: int, *, dtype: npt.DTypeLike = np.float32
) -> bytes:
    """The finished model: ``features`` (n, d) in, ``probabilities`` (n, K) float64 out."""
    from onnx import helper

    graph.nodes.append(helper.make_node("Identity", [probabilities], [PROBABILITIES]))
    given = helper.make_tensor_value_info(
        FEATURES, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [None, n_features]
    )
    found = helper.make_tensor_value_info(
        PROBABILITIES, helper.np_dtype_to_tensor_dtype(np.dtype("f8")), [None, n_classes]
    )
    made = helper.make_graph(graph.nodes, GRAPH, [given], [found], graph.initializers)
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, producer_name=GRAPH)
    return bytes(model.SerializeToString(deterministic=True))
