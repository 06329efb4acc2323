"""What a foreign model asks for: the matrix of a feature version, or the raw columns that its own pipeline encodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.base.arrays import BoolArray, FloatArray
from ml_core.base.errors import ArtefactError
from ml_core.features.columns import Column, ColumnArrays
from ml_core.lab.training.given import DOUBLE, INT64, Given
from ml_core.lab.training.golden_draws import MOMENTS
from ml_core.lab.training.onnx_graph import FEATURES, OnnxGraph
from ml_core.serve.features.versions import FeatureVersion

__all__ = ["AskedColumns", "asked_columns"]

_PROBES = 7  # numbers between the bounds of a column
_SPAN = 1_000.0  # of a number whose table names no bound


@dataclass(frozen=True)
class AskedColumns:
    """The columns that a foreign model takes.

    Attributes
    ----------
    features : the feature version that its artefact will have
    names : of the columns, in the model's order
    is_raw : whether these are raw columns, not features
    with_names : whether it is asked with a DataFrame
    categories : raw columns that it takes with pandas' category dtype
    """

    features: FeatureVersion
    names: tuple[str, ...]
    is_raw: bool
    with_names: bool
    categories: frozenset[str] = frozenset()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The raw columns among them, in the model's order."""
        by_name = {column.name: column for column in self.features.features}
        return tuple(by_name[name] for name in self.names) if self.is_raw else ()

    def asked(self, columns: ColumnArrays) -> Any:
        """Rows as the original takes them: a DataFrame, or a matrix where it knows no names.

        Numbers are rounded to 32 bits, as the features are that the graph is given.
        """
        if self.is_raw:
            frame = raw_frame(self.columns, columns, self.categories)
            return frame if self.with_names else frame.to_numpy(dtype=np.float64)
        return self.of_matrix(self.features.transform(columns))

    def of_matrix(self, matrix: npt.NDArray[np.float32]) -> Any:
        """The same of rows of the feature version's matrix, where the model takes features."""
        order = [self.features.feature_names.index(name) for name in self.names]
        chosen = matrix[:, order]
        return pd.DataFrame(chosen, columns=list(self.names)) if self.with_names else chosen

    def given(self, graph: OnnxGraph) -> Given:
        """The columns inside a graph whose input are the features.

        Raises
        ------
        ArtefactError
            A raw column cannot be read back from the features.
        """
        if not self.is_raw:
            names = self.features.feature_names
            whole = Given(FEATURES, names, roots=tuple(range(len(names))), is_single=True)
            return whole.only(graph, [self.features.feature_names.index(name) for name in self.names])
        features, probed = graph.one("Cast", FEATURES, to=DOUBLE), _Probed.of(self.features)
        parts = [probed.add(graph, column, features) for column in self.columns]
        values = {at: (*c.levels, None) for at, c in enumerate(self.columns) if c.dtype == "category"}
        return Given(
            x=graph.one("Concat", *parts, axis=1),
            names=self.names,
            values=values,
            frame=self._frame_of_codes,
            roots=tuple(range(len(self.names))),
        )

    def _frame_of_codes(self, codes: npt.NDArray[Any]) -> pd.DataFrame:
        arrays = {}
        for at, column in enumerate(self.columns):
            of_column = codes[:, at]
            if column.dtype == "category":
                whole = of_column.astype(np.int64)
                arrays[column.name] = np.where(whole == len(column.levels), -1, whole)
            else:
                arrays[column.name] = of_column.astype(np.float64)
        return raw_frame(self.columns, arrays, self.categories)


def asked_columns(
    what: str, features: FeatureVersion, names: Sequence[str] | None, n: int, categories: Sequence[str] = ()
) -> AskedColumns:
    """Whether a model of these columns takes features or raw columns, and which.

    Parameters
    ----------
    what : the model, for messages
    names : as it knows them; None where it was trained on a matrix
    n : how many it takes

    Raises
    ------
    ArtefactError
        It takes columns that the feature version does not have.
    """
    raw = {column.name: column for column in features.features}
    if names is not None:
        encodes = bool(categories) or any(name in raw and raw[name].dtype == "category" for name in names)
        if set(names) <= raw.keys() and (encodes or not set(names) <= set(features.feature_names)):
            _check_readable(what, [raw[name] for name in names])
            return AskedColumns(features, tuple(names), True, True, frozenset(categories))
        if set(names) <= set(features.feature_names):
            return AskedColumns(features, tuple(names), False, True)
        other = [name for name in names if name not in raw and name not in features.feature_names]
        shown = ", ".join(other[:5]) + (", …" if len(other) > 5 else "")
        problem = f"takes {len(other) or n} column(s) that {features.name} has neither as features nor as raw columns"
        raise ArtefactError(what, f"{problem}: {shown}; name the columns alike in the column table")
    if n == len(features.feature_names):
        return AskedColumns(features, features.feature_names, False, False)
    if n == len(raw) and all(column.dtype in ("int", "float", "bool") for column in raw.values()):
        return AskedColumns(features, tuple(raw), True, False)
    problem = f"takes {n} features, {features.name} has {len(features.feature_names)} (and {len(raw)} raw columns)"
    raise ArtefactError(what, f"{problem}: train it on a DataFrame, so that it knows the names")


def _check_readable(what: str, columns: Sequence[Column]) -> None:
    for column in columns:
        if column.dtype in ("text", "datetime"):
            problem = f"takes {column.name}, a column of dtype {column.dtype} whose values nobody can list"
            raise ArtefactError(what, f"{problem}: make it a category with levels in the column table, or leave it out")


def raw_frame(columns: Sequence[Column], arrays: ColumnArrays, categories: frozenset[str]) -> pd.DataFrame:
    """Raw columns as pandas reads them from a file: texts ``str``, whole numbers ``int64`` where none is missing."""
    return pd.DataFrame(
        {column.name: _series(column, arrays[column.name], as_category=column.name in categories) for column in columns}
    )


def _series(column: Column, values: npt.NDArray[Any], *, as_category: bool) -> pd.Series[Any]:
    if column.dtype == "category":
        levels = [*column.levels, None]
        texts = isinstance(column.levels[0], str)
        if as_category:
            known: Any = pd.Index(column.levels)
            return pd.Series(pd.Categorical.from_codes(values.astype(np.int64), categories=known))
        raw = [levels[code] for code in values.tolist()]
        return pd.Series(raw, dtype="str") if texts else _whole_numbers(np.array(raw, dtype=np.float64))
    if column.dtype == "bool":
        flags = [None if np.isnan(v) or v < 0 else bool(v) for v in values]
        return pd.Series(flags, dtype=bool if None not in flags else object)
    return _whole_numbers(values) if column.dtype == "int" else pd.Series(values.astype(np.float32).astype(np.float64))


def _whole_numbers(values: FloatArray) -> pd.Series[Any]:
    return pd.Series(values if np.isnan(values).any() else values.astype(np.int64))


@dataclass(frozen=True)
class _Probed:
    """How the features answer to each raw column by itself.

    Attributes
    ----------
    made : for each raw column, the matrix of rows in which it takes its probes and all others stay
    probes : these values
    moved : for each raw column, (d,), which features follow it
    """

    features: FeatureVersion
    made: dict[str, npt.NDArray[np.float32]]
    probes: dict[str, npt.NDArray[Any]]
    moved: dict[str, BoolArray]

    @classmethod
    def of(cls, features: FeatureVersion) -> _Probed:
        probes = {column.name: _probes(column) for column in features.features}
        made, moved = {}, {}
        for column in features.features:
            n = len(probes[column.name])
            rows = {name: np.repeat(values[:1], n) for name, values in probes.items()}
            matrix = features.transform({**rows, column.name: probes[column.name]})
            made[column.name] = matrix
            moved[column.name] = ~((matrix == matrix[0]) | (np.isnan(matrix) & np.isnan(matrix[0]))).all(axis=0)
        return cls(features, made, probes, moved)

    def add(self, graph: OnnxGraph, column: Column, features: str) -> str:
        """The raw column (n, 1): a number, or the code of a category, where missing comes after the last level."""
        if column.dtype == "category":
            return self._code(graph, column, features)
        wanted = self.probes[column.name].astype(np.float32)
        if column.dtype == "bool":
            wanted[wanted < 0] = np.nan
        matrix = self.made[column.name]
        same = ((matrix == wanted[:, None]) | (np.isnan(matrix) & np.isnan(wanted)[:, None])).all(axis=0)
        if not same.any():
            raise self._unreadable(column)
        return graph.one("Gather", features, graph.constant([int(np.flatnonzero(same)[0])], np.int64), axis=1)

    def _code(self, graph: OnnxGraph, column: Column, features: str) -> str:
        others = np.sum([moved for name, moved in self.moved.items() if name != column.name], axis=0)
        own = np.flatnonzero(self.moved[column.name] & (others == 0))
        rows = self.made[column.name][:, own].astype(np.float64)
        codes = np.where(self.probes[column.name] < 0, len(column.levels), self.probes[column.name])
        weights = np.arange(1.0, len(own) + 1)
        sums = (np.nan_to_num(rows, nan=-1.0) * weights).sum(axis=1)
        low = sums.min(initial=0.0)
        if not len(own) or len(np.unique(sums)) < len(sums) or not (sums == np.round(sums)).all():
            raise self._unreadable(column)
        table = np.full(int(sums.max() - low) + 1, len(column.levels), dtype=np.float64)
        table[(sums - low).astype(np.int64)] = codes
        mine = graph.one("Gather", features, graph.constant(own, np.int64), axis=1)
        filled = graph.one("Where", graph.one("IsNaN", mine), graph.constant(-1.0), mine)
        weighed = graph.one("Mul", filled, graph.constant(weights))
        parts = graph.add("Split", weighed, n_outputs=len(own), axis=1, num_outputs=len(own))
        total = graph.one("Sub", graph.one("Sum", *parts), graph.constant(low))
        place = graph.one("Clip", total, graph.constant(0.0), graph.constant(float(len(table) - 1)))
        return graph.one("Gather", graph.constant(table), graph.one("Cast", place, to=INT64), axis=0)

    def _unreadable(self, column: Column) -> ArtefactError:
        problem = f"takes the raw column {column.name}, which the features of {self.features.name} do not hold as it is"
        return ArtefactError("foreign model", f"{problem}: use a column table with the standard transform")


def _probes(column: Column) -> npt.NDArray[Any]:
    if column.dtype == "category":
        return np.array([*range(len(column.levels)), *([-1] if column.nullable else [])], dtype=np.int64)
    if column.dtype == "text":
        return np.array([*column.examples, *([None] if column.nullable else [])], dtype=object)
    low = column.low if column.low is not None else (column.high or 0.0) - _SPAN
    high = column.high if column.high is not None else low + _SPAN
    if column.dtype == "bool":
        return np.array([0, 1, *([-1] if column.nullable else [])], dtype=np.int64)
    if column.dtype == "datetime":
        low, high = MOMENTS
    numbers = np.linspace(low, high, _PROBES)
    if column.dtype in ("int", "datetime"):
        numbers = np.unique(np.round(numbers))
    return np.array([*numbers, *([np.nan] if column.nullable else [])])
