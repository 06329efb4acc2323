"""A small ONNX graph under construction, and the few steps that give a row the same bits alone and among others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FEATURES", "OnnxGraph", "finished_model", "softmax_rows"]

GRAPH = "surety"
FEATURES, PROBABILITIES = "features", "probabilities"
OPSETS = {"": 18, "ai.onnx.ml": 5}
"""Opset 18 takes axes as inputs; 5 of ``ai.onnx.ml`` has trees in 64 bits with sets of categories."""

_IR_VERSION = 10
_LANES = 8
"""Most 64-bit numbers that one instruction takes. A kernel treats the last few of an array in another way than the
rest, and the bits of ``Exp`` differ between the two; rows of a whole multiple are never split."""

_EXACT = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArrayFeatureExtractor", "Cast", "Ceil", "Clip", "Concat", "Div", "Equal", "Expand",
    "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "IsNaN", "Less", "LessOrEqual", "Max", "Min",
    "Mul", "Neg", "Not", "Or", "Pad", "ReduceMax", "Relu", "Reshape", "Shape", "Sign", "Slice", "Split", "Sqrt",
    "Squeeze", "Sub", "Sum", "TreeEnsemble", "Unsqueeze", "Where",
})  # fmt: skip
"""Operations that round each number by itself, whatever stands beside it. Matrix products and powers do not."""


class OnnxGraph:
    """A graph whose names follow from the order of its steps, so that equal models give equal bytes.

    Attributes
    ----------
    nodes, initializers : what was added so far
    by_row : whether an operation rounds by where a row stands, so that the model is asked row by row
    rounding : how far its probabilities may be from a library's that sums in 32 bits (``TreeForm.rounding``)
    thresholds : of trees that look at the model's own columns: number of the column, and what it is compared with
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.by_row = False
        self.rounding = 0.0
        self.thresholds: list[tuple[int, float]] = []

    def add(self, operator: str, *inputs: str, n_outputs: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        """Names of the outputs of a new operation."""
        from onnx import helper

        outputs = [f"t{len(self.nodes)}_{i}" for i in range(n_outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, domain=domain, **attributes))
        self.by_row |= operator not in _EXACT
        return outputs

    def one(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Name of the output of a new operation that has one."""
        return self.add(operator, *inputs, **attributes)[0]

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> str:
        """Name of a constant tensor."""
        from onnx import numpy_helper

        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def embed(self, model: Any, given: str, output: str) -> str:
        """Add what another model does on the way to one of its outputs; the name of that output here.

        Parameters
        ----------
        model : onnx.ModelProto with one input, which becomes ``given``
        """
        prefix = f"m{len(self.nodes)}_"
        names = {model.graph.input[0].name: given, "": ""}
        needed, kept = {output}, []
        for node in reversed(model.graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        for initializer in model.graph.initializer:
            if initializer.name in needed:
                self.initializers.append(type(initializer)())
                self.initializers[-1].CopyFrom(initializer)
                self.initializers[-1].name = prefix + initializer.name
        for node in reversed(kept):
            self.nodes.append(type(node)())
            self.nodes[-1].CopyFrom(node)
            self.nodes[-1].name = ""
            for field in (self.nodes[-1].input, self.nodes[-1].output):
                field[:] = [names.get(name, prefix + name) for name in field]
            self.by_row |= node.op_type not in _EXACT
        return names.get(output, prefix + output)


def softmax_rows(graph: OnnxGraph, margins: str, n_classes: int) -> str:
    """Soft-max of float64 margins (n, K), in operations whose bits do not depend on where a row stands."""
    axis = graph.constant([1], np.int64)
    (largest,) = graph.add("ReduceMax", margins, axis, keepdims=1)
    (below,) = graph.add("Sub", margins, largest)
    (whole,) = graph.add("Pad", below, graph.constant([0, 0, 0, -n_classes % _LANES], np.int64), graph.constant(0.0))
    by_row = graph.by_row
    powers = graph.one("Exp", whole)
    graph.by_row = by_row  # rows of whole lanes are safe
    start, end = graph.constant([0], np.int64), graph.constant([n_classes], np.int64)
    (powers,) = graph.add("Slice", powers, start, end, axis)
    parts = graph.add("Split", powers, n_outputs=n_classes, axis=1, num_outputs=n_classes)
    (total,) = graph.add("Sum", *parts)
    return graph.add("Div", powers, total)[0]


def finished_model(
    graph: OnnxGraph, probabilities: str, n_features: int, n_classes: int, *, dtype: npt.DTypeLike = np.float32
) -> bytes:
    """The finished model: ``features`` (n, d) in, ``probabilities`` (n, K) float64 out; n is 1 where it goes by row."""
    from onnx import TensorProto, helper

    graph.nodes.append(helper.make_node("Identity", [probabilities], [PROBABILITIES]))
    rows = 1 if graph.by_row else None
    taken = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    given = helper.make_tensor_value_info(FEATURES, taken, [rows, n_features])
    found = helper.make_tensor_value_info(PROBABILITIES, TensorProto.DOUBLE, [rows, n_classes])
    made = helper.make_graph(graph.nodes, GRAPH, [given], [found], graph.initializers)
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, producer_name=GRAPH)
    return bytes(model.SerializeToString(deterministic=True))
