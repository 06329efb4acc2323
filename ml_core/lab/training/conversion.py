"""A fitted classifier as one graph over the features, and rows on which it must equal the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray, FeatureMatrix
from ml_core.base.errors import ArtefactError, ScorerDisagrees
from ml_core.features.columns import Column, ColumnArrays
from ml_core.lab.training.asked_columns import AskedColumns
from ml_core.lab.training.classifier_graph import add_classifier, inside
from ml_core.lab.training.golden_draws import MOMENTS
from ml_core.lab.training.onnx_export import TREE_LIMIT
from ml_core.lab.training.onnx_graph import OnnxGraph, finished_model
from ml_core.lab.training.tree_readers import trees_of
from ml_core.serve.model.scorer import OnnxScorer, check_probabilities
from ml_core.serve.model.trees import TreeForm

__all__ = ["Converted", "check_equals", "convert_classifier", "drawn_columns"]

Proba = Callable[[Any], npt.NDArray[Any]]
"""The original: class probabilities (n, K) of a DataFrame or matrix."""

_EXACT, _SINGLE = 1e-6, 1e-5
"""How far a graph in 64 bits may be from an original that calculates in 64 bits, and from one that is given 32."""

_MISSING_SHARE, _BORDER_SHARE, _UNBOUNDED = 0.15, 0.1, 1e6


@dataclass(frozen=True, eq=False)
class Converted:
    """A classifier that became a graph.

    Attributes
    ----------
    onnx : the graph, serialised
    limit : how far its probabilities may be from the original's
    thresholds : of trees that look at the model's own columns: number of the column and what it is compared with
    trees : the tree form, where the model is trees over features and nothing else
    """

    onnx: bytes
    limit: float
    thresholds: Sequence[tuple[int, float]]
    trees: TreeForm | None


def convert_classifier(
    model: Any, asked: AskedColumns, n_classes: int, order: Sequence[int] | None = None
) -> Converted:
    """The graph of a fitted classifier, from the features of its feature version to class probabilities.

    Parameters
    ----------
    order : where each class stands in the model's own order, where that is another one

    Raises
    ------
    ArtefactError
        It has no conversion; the message names the part that has none and what to do instead.
    """
    graph, swapped = OnnxGraph(), order is not None and list(order) != list(range(n_classes))
    try:
        proba = add_classifier(graph, model, asked.given(graph))
        if swapped:
            proba = graph.one("Gather", proba, graph.constant(order or (), np.int64), axis=1)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:  # of attributes that are not there
        problem = f"cannot be read as this edition of its library writes it ({type(error).__name__}): {error}"
        raise ArtefactError(type(model).__name__, problem[:300]) from error
    onnx = finished_model(graph, proba, len(asked.features.feature_names), n_classes)
    core = inside(model)
    is_bare = not (asked.is_raw or swapped or getattr(core, "_preprocessor", None) is not None)
    trees = trees_of(core) if is_bare else None
    if trees is not None:
        trees = trees.of_features([asked.features.feature_names.index(name) for name in asked.names])
    limit = TREE_LIMIT if trees is not None else _EXACT if asked.is_raw else _SINGLE
    return Converted(onnx, max(limit, graph.rounding), graph.thresholds, trees)


def check_equals(
    what: str,
    converted: Converted,
    asked: AskedColumns,
    proba: Proba,
    rows: Sequence[ColumnArrays],
    n_classes: int,
    *,
    n: int,
    seed: int,
) -> float:
    """Largest difference from the original on the rows and on ``n`` more that a request may hold.

    These are drawn from the column table: borders, missing values in every nullable column, every level, and numbers
    at thresholds of the trees and one 32-bit step beside them. Where the model takes features, such steps are made in
    the matrix.

    Parameters
    ----------
    rows : tables of raw columns, each (m,)

    Raises
    ------
    ArtefactError
        The original cannot score such a row, so that nobody could answer it.
    ScorerDisagrees
        The two differ by more than ``converted.limit``.
    """
    rng = np.random.default_rng(seed)
    features = asked.features
    scorer = OnnxScorer(converted.onnx, len(features.feature_names), n_classes)
    drawn = drawn_columns(features.features, n, rng)
    if asked.is_raw:
        _beside_thresholds(drawn, asked, converted.thresholds, rng)
    worst = 0.0
    for columns in (*rows, drawn):
        matrix = features.transform(columns)
        expected = _original(what, proba, asked.asked(columns), asked)
        worst = max(worst, _difference(scorer, matrix, expected))
    if not asked.is_raw and converted.thresholds:
        matrix = _stepped(features.transform(drawn), converted.thresholds, rng)
        worst = max(worst, _difference(scorer, matrix, _original(what, proba, asked.of_matrix(matrix), asked)))
    if not worst <= converted.limit:
        raise ScorerDisagrees(worst, converted.limit)
    return worst


def _difference(scorer: OnnxScorer, matrix: FeatureMatrix, expected: npt.NDArray[Any]) -> float:
    if not len(matrix):
        return 0.0
    return float(np.abs(check_probabilities(scorer.proba(matrix)) - expected).max())


def _original(what: str, proba: Proba, given: Any, asked: AskedColumns) -> npt.NDArray[np.float64]:
    try:
        return np.asarray(proba(given), dtype=np.float64)
    except Exception as error:  # libraries raise what they like, CatBoost and XGBoost errors of their own
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]
        kind = "raw columns" if asked.is_raw else "the matrix"
        problem = (
            f"cannot score every row that a request may hold ({kind} of {asked.features.name}; missing values are NaN)"
        )
        cure = "put an imputer or an encoder with handle_unknown into it, or forbid such values in the column table"
        raise ArtefactError(what, f"{problem}: {line}; {cure}") from error


def drawn_columns(columns: Sequence[Column], n: int, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """``n`` rows that the column table allows: within the bounds and at them, with every level, null where allowed."""
    return {column.name: _drawn(column, n, rng) for column in columns}


def _drawn(column: Column, n: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    gone: BoolArray = rng.random(n) < (_MISSING_SHARE if column.nullable else 0.0)
    if column.dtype in ("category", "bool"):
        return np.where(gone, -1, rng.integers(0, len(column.levels) or 2, n))
    if column.dtype == "text":
        texts = np.array(column.examples, dtype=object)[rng.integers(0, len(column.examples), n)]
        texts[gone] = None
        return texts
    low, high = _bounds(column)
    values = rng.uniform(low, high, n)
    at_border = rng.random(n) < _BORDER_SHARE
    values[at_border] = rng.choice([low, high, np.clip(0.0, low, high)], at_border.sum())
    if column.dtype in ("int", "datetime"):
        values = np.clip(np.round(values), np.ceil(low), np.floor(high))
    return np.where(gone, np.nan, values)


def _bounds(column: Column) -> tuple[float, float]:
    if column.dtype == "datetime":
        return MOMENTS
    low = -_UNBOUNDED if column.low is None else column.low
    return low, (max(_UNBOUNDED, low) if column.high is None else column.high)


def _beside_thresholds(
    drawn: dict[str, npt.NDArray[Any]],
    asked: AskedColumns,
    thresholds: Sequence[tuple[int, float]],
    rng: np.random.Generator,
) -> None:
    """Set numbers of half of the rows at thresholds of their column, and one 32-bit step beside them."""
    by_column: dict[int, list[float]] = {}
    for number, threshold in thresholds:
        by_column.setdefault(number, []).append(threshold)
    for at, known in sorted(by_column.items()):
        column = asked.columns[at]
        if column.dtype != "float":
            continue
        values, (low, high) = drawn[column.name], _bounds(column)
        chosen = np.flatnonzero((rng.random(len(values)) < 0.5) & ~np.isnan(values))
        values[chosen] = np.clip(_neighbours(np.array(known), len(chosen), rng), low, high)


def _stepped(matrix: FeatureMatrix, thresholds: Sequence[tuple[int, float]], rng: np.random.Generator) -> FeatureMatrix:
    """The same rows, two features of each at a threshold or a step beside it."""
    stepped = matrix.copy()
    rows = np.arange(len(stepped))
    features, known = np.array([f for f, _ in thresholds]), np.array([t for _, t in thresholds])
    for _ in range(2):
        at = rng.integers(0, len(known), len(rows))
        stepped[rows, features[at]] = _neighbours(known[at], len(rows), rng)
    return stepped


def _neighbours(known: npt.NDArray[np.float64], n: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    values = (known if len(known) == n else rng.choice(known, n)).astype(np.float32)
    steps = rng.integers(-1, 2, n).astype(np.float32)
    towards = np.where(steps > 0, 1, -1) * np.finfo(np.float32).max  # features are finite
    return np.where(steps == 0, values, np.nextafter(values, towards.astype(np.float32), dtype=np.float32))
