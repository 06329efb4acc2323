"""What a model is given inside a graph: columns of numbers, some of which are codes of a few known values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ArtefactError
from ml_core.lab.training.onnx_graph import OnnxGraph

__all__ = ["DOUBLE", "INT64", "Given", "looked_up", "matrix_of"]

FLOAT, INT64, DOUBLE = 1, 7, 11
"""Types of tensors by their numbers in ONNX."""

_MOST_PROBES = 64


@dataclass(frozen=True)
class Given:
    """c columns that a step of a model takes.

    Attributes
    ----------
    x : name of the tensor (n, c); NaN where a number is missing
    names : of the columns, as the model knows them
    values : of columns that hold codes: the raw value of each code; the last one, None, stands for a missing one
    frame : codes and numbers (m, c) to what the model's own step takes; None where all are numbers
    roots : number of each column among those of the whole model, None where it was computed
    is_single : whether the tensor is float32, not float64: scikit-learn calculates in what it is given
    """

    x: str
    names: tuple[str, ...]
    values: Mapping[int, Sequence[Any]] = field(default_factory=dict)
    frame: Callable[[npt.NDArray[Any]], Any] | None = None
    roots: tuple[int | None, ...] = ()
    is_single: bool = False

    @property
    def dtype(self) -> type:
        """Of the tensor."""
        return np.float32 if self.is_single else np.float64

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.names)

    def only(self, graph: OnnxGraph, chosen: Sequence[int]) -> Given:
        """Some of the columns, in that order."""
        if list(chosen) == list(range(self.width)):
            return self
        at, wide, frame = list(chosen), self.width, self.frame

        def narrowed(codes: npt.NDArray[Any]) -> Any:
            whole = np.zeros((len(codes), wide))
            whole[:, at] = codes
            return None if frame is None else frame(whole).iloc[:, at]

        return Given(
            x=graph.one("Gather", self.x, graph.constant(at, np.int64), axis=1),
            names=tuple(self.names[i] for i in at),
            values={place: self.values[i] for place, i in enumerate(at) if i in self.values},
            frame=None if frame is None else narrowed,
            roots=tuple(self.roots[i] for i in at) if self.roots else (),
            is_single=self.is_single,
        )

    def places(self, chosen: Any) -> list[int]:
        """Numbers of columns chosen by name, number, mask or slice, as scikit-learn takes them."""
        names = list(self.names)
        if isinstance(chosen, slice):
            first, last = (names.index(end) if isinstance(end, str) else end for end in (chosen.start, chosen.stop))
            last = last + 1 if isinstance(chosen.stop, str) else last
            return list(range(self.width))[first:last]
        asked: list[Any] = [chosen] if isinstance(chosen, str | int | np.integer) else list(chosen)
        if asked and all(isinstance(one, bool | np.bool_) for one in asked):
            return np.flatnonzero(asked).tolist()
        return [names.index(one) if isinstance(one, str) else range(self.width)[int(one)] for one in asked]

    def computed(self, x: str, width: int) -> Given:
        """What a step made of these columns: numbers."""
        return Given(x, tuple(f"x{i}" for i in range(width)), is_single=self.is_single)

    def in_64_bits(self, graph: OnnxGraph) -> Given:
        """The same numbers in 64 bits."""
        return replace(self, x=graph.one("Cast", self.x, to=DOUBLE), is_single=False) if self.is_single else self

    def in_32_bits(self, graph: OnnxGraph) -> Given:
        """The same numbers rounded to 32 bits."""
        return self if self.is_single else replace(self, x=graph.one("Cast", self.x, to=FLOAT), is_single=True)


def matrix_of(graph: OnnxGraph, given: Given) -> Given:
    """The columns as numbers: codes of numbers become these.

    Raises
    ------
    ArtefactError
        A column holds texts.
    """
    if not given.values:
        return given
    parts = []
    for column in range(given.width):
        x = graph.one("Gather", given.x, graph.constant([column], np.int64), axis=1)
        values = given.values.get(column)
        if values is not None:
            if any(isinstance(value, str) for value in values):
                problem = "holds texts, and the model has no step that encodes them"
                raise ArtefactError(f"column {given.names[column]}", problem)
            table = [np.nan if value is None else float(value) for value in values]
            x = graph.one("Gather", graph.constant(table), _whole(graph, x), axis=0)
        parts.append(x)
    return replace(given, x=graph.one("Concat", *parts, axis=1), values={}, frame=None)


def looked_up(graph: OnnxGraph, given: Given, made: Callable[[Any], Any], what: str) -> Given:
    """The output of a step over codes alone, as tables: one for each column, with a row for each of its values.

    Parameters
    ----------
    made : the step itself, from a frame to a matrix
    what : its name, for messages

    Raises
    ------
    ArtefactError
        The step cannot take a value that a request may hold, or an output depends on two columns at once.
    """
    sizes = [len(given.values[column]) for column in range(given.width)]
    codes = np.zeros((1 + sum(sizes), given.width), dtype=np.int64)
    starts = 1 + np.cumsum([0, *sizes[:-1]])
    for column, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        codes[start : start + size, column] = np.arange(size)
    out = _made(given, codes, made, what)
    owner = np.zeros(out.shape[1], dtype=np.int64)
    tables = []
    for column, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        rows = out[start : start + size]
        own = ~((rows == out[0]) | (np.isnan(rows) & np.isnan(out[0]))).all(axis=0)
        if (owner[own] > 0).any():
            raise ArtefactError(what, "mixes its columns: give each categorical column an encoder of its own")
        owner[own] = column
        tables.append(rows)
    rng = np.random.default_rng(0)
    tried = np.column_stack([rng.integers(0, size, _MOST_PROBES) for size in sizes])
    expected = np.empty((_MOST_PROBES, out.shape[1]))
    parts, order = [], []
    for column, table in enumerate(tables):
        mine = np.flatnonzero(owner == column)
        expected[:, mine] = table[tried[:, column]][:, mine]
        if mine.size:
            code = graph.one("Gather", given.x, graph.constant(column, np.int64), axis=1)
            parts.append(graph.one("Gather", graph.constant(table[:, mine]), _whole(graph, code), axis=0))
            order += mine.tolist()
    if not np.array_equal(_made(given, tried, made, what), expected, equal_nan=True):
        raise ArtefactError(what, "mixes its columns: give each categorical column an encoder of its own")
    x = graph.one("Concat", *parts, axis=1)
    back = np.argsort(order)
    return given.computed(graph.one("Gather", x, graph.constant(back, np.int64), axis=1), out.shape[1])


def _made(given: Given, codes: npt.NDArray[Any], made: Callable[[Any], Any], what: str) -> npt.NDArray[np.float64]:
    if given.frame is None:
        raise ArtefactError(what, "takes categories, and the features here are numbers")
    try:
        out = made(given.frame(codes))
        return np.asarray(out.toarray() if hasattr(out, "toarray") else out, dtype=np.float64)
    except (ValueError, TypeError) as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]
        problem = f"cannot take every value that a request may hold: {line}"
        raise ArtefactError(
            what, f"{problem}; let it ignore or impute what it never saw, or narrow the column table"
        ) from error


def _whole(graph: OnnxGraph, x: str) -> str:
    return graph.one("Cast", x, to=INT64)
