"""The reference window: training rows described once per column, so that every check after it is cheap."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.base.arrays import FloatArray, IntArray
from ml_core.base.errors import ArtefactError, DataError
from ml_core.features.columns import Column, coded_levels
from ml_core.lab.drift.drift_columns import (
    MISSING,
    Feature,
    Table,
    features_in,
    levels_in,
    numbers_in,
    of_column,
    positions_in,
)
from ml_core.lab.drift.ks import resolution
from ml_core.lab.drift.two_sample import Moments, integral_of, moments_of_counts, spread_around

__all__ = ["CategoryReference", "NumberReference", "ReferenceColumn", "ReferenceWindow", "UnjudgedReference"]

FEW_VALUES = 10
"""A number column with at most so many distinct values is compared like a category by the rule ``extended``."""
FAR = 5.0
"""Spans of the middle 90 % beyond which a lonely value counts as far off. A lognormal law with sigma 1.5 has such
gaps between its largest values now and then; what doubles the standard deviation as well is then no part of the law."""


@dataclass(frozen=True)
class NumberReference:
    """One column of numbers.

    Attributes
    ----------
    points : float64, shape (K,), ascending, finite
        All ``count`` values, or fewer order statistics of them at evenly spaced ranks, the extremes among them.
    count : finite values; ``mean`` and ``sd`` (ddof 0) are theirs
    rows : rows described
    infinite, unreadable : values left out; the latter count as missing
    drawn_in : values in the tails were raised or lowered to the first and last point, so current ones must be too
    """

    points: FloatArray
    count: int
    mean: float
    sd: float
    rows: int
    infinite: int = 0
    unreadable: int = 0
    drawn_in: bool = False

    @classmethod
    def of(cls, values: Any) -> NumberReference:
        """The description of a whole column; 8 bytes a value are kept."""
        numbers = numbers_in(values)
        finite = numbers.cells[np.isfinite(numbers.cells)]
        with np.errstate(over="ignore", invalid="ignore"):  # values near the largest float have no finite square
            mean, sd = (float(finite.mean()), float(finite.std())) if finite.size else (np.nan, np.nan)
        rows, infinite = len(numbers.cells), int(np.isinf(numbers.cells).sum())
        return cls(np.sort(finite), finite.size, mean, sd, rows, infinite, numbers.unreadable)

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return self.rows - self.count - self.infinite

    @property
    def mean_and_sd(self) -> tuple[float, float]:
        """``mean`` and ``sd``."""
        return self.mean, self.sd

    @cached_property
    def ranks(self) -> IntArray | None:
        """Rank in [0, count) of each point; None where the points are all values."""
        if len(self.points) == self.count:
            return None
        return np.round(np.linspace(0, self.count - 1, len(self.points))).astype(np.int64)

    @cached_property
    def resolution(self) -> float:
        """How much larger than the distance from the points the true Kolmogorov-Smirnov distance may be."""
        return 0.0 if self.ranks is None else resolution(self.points, self.ranks, self.count)

    @cached_property
    def median(self) -> float:
        """Median of the points."""
        return float(np.median(self.points))

    @cached_property
    def spread(self) -> Moments:
        """Moments of the distances from the median, as of ``count`` values."""
        return spread_around(self.median, self.points).scaled_to(self.count)

    @cached_property
    def integral(self) -> FloatArray:
        """Prefix of the quantile function, for ``wasserstein``; shape (K + 1,)."""
        return integral_of(self.points, self.median)

    @cached_property
    def robust_scale(self) -> float:
        """IQR / 1.349 (the standard deviation of a normal law of that IQR), or ``sd`` where the IQR is 0."""
        low, high = np.quantile(self.points, [0.25, 0.75])
        return float(high - low) / 1.349 or self.sd

    @cached_property
    def core(self) -> float:
        """Span of the middle 90 % of the points, or of all but one on each side where that is 0."""
        edge = int(0.05 * (len(self.points) - 1))
        spans = (float(self.points[-1 - e] - self.points[e]) for e in (edge, 1) if 2 * e < len(self.points))
        return next((span for span in spans if span > 0.0), 0.0)

    @cached_property
    def has_sentinel(self) -> bool:
        """Whether a few far values at least double the standard deviation."""
        rest = float(self._without_far_values().std())
        return 0.0 < rest < np.inf and not self.sd < 2.0 * rest

    @cached_property
    def few_values(self) -> FloatArray | None:
        """The distinct values, ascending, if there are at most ``FEW_VALUES``; else None."""
        starts = self.starts
        return self.points[starts] if len(starts) <= FEW_VALUES else None

    @cached_property
    def few_counts(self) -> IntArray:
        """Rows of each of ``few_values``; of a grid, what lies between two points is halved."""
        if self.ranks is None:
            borders = self.starts
        else:
            inner = self.starts[1:]
            borders = np.append(0, (self.ranks[inner - 1] + 1 + self.ranks[inner]) // 2)
        return np.diff(np.append(borders, self.count))

    @cached_property
    def starts(self) -> IntArray:
        """Where in ``points`` each distinct value begins."""
        return np.append(0, np.flatnonzero(np.diff(self.points) > 0.0) + 1)

    def _without_far_values(self) -> FloatArray:
        points, edge = self.points, max(1, len(self.points) // 20)
        far = np.diff(points) > FAR * self.core if self.core else np.zeros(len(points) - 1, dtype=np.bool_)
        above, below = np.flatnonzero(far[-edge:]), np.flatnonzero(far[:edge])
        last = len(points) - edge + int(above[0]) if above.size else len(points)
        first = int(below[-1]) + 1 if below.size else 0
        return points[first:last]


@dataclass(frozen=True)
class CategoryReference:
    """One column of levels.

    Attributes
    ----------
    feature : how it is compared
    levels : the listed levels, by position; ``counts`` (L,) are their rows
    rest : rows with a level that is not listed; None where every level that occurred is
    rows : rows described
    """

    feature: Feature
    levels: tuple[object, ...]
    counts: IntArray
    rest: int | None
    rows: int
    resolution = 0.0  # of the distance between positions: counts lose nothing

    @classmethod
    def of(cls, feature: Feature, values: Any) -> CategoryReference:
        """The description of a whole column; what a table does not list is listed after it."""
        levels = levels_in(values) if feature.levels is None else feature.levels
        positions = positions_in(values, feature, _places(levels))
        if (positions == len(levels)).any():
            listed = set(levels)
            levels = (*levels, *(level for level in levels_in(values) if level not in listed))
            positions = positions_in(values, feature, _places(levels))
        counts = np.bincount(positions[positions != MISSING], minlength=len(levels))[: len(levels)]
        return cls(feature, levels, counts.astype(np.int64), None, len(positions))

    @property
    def count(self) -> int:
        """Rows with a value."""
        return int(self.counts.sum()) + (self.rest or 0)

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return self.rows - self.count

    @cached_property
    def place(self) -> Mapping[object, int]:
        """Position by level."""
        return _places(self.levels)

    @cached_property
    def mean_and_sd(self) -> tuple[float, float]:
        """Mean and standard deviation (ddof 0) of the positions; NaN where these have no meaning."""
        if self.feature.kind != "category":
            return np.nan, np.nan
        moments = moments_of_counts(self.counts)
        return moments.mean, moments.sd


@dataclass(frozen=True, slots=True)
class UnjudgedReference:
    """A column that no rule compares."""

    rows: int
    missing: int
    mean_and_sd = (np.nan, np.nan)
    resolution = 0.0

    @property
    def count(self) -> int:
        """Rows with a value."""
        return self.rows - self.missing


ReferenceColumn = NumberReference | CategoryReference | UnjudgedReference


@dataclass(frozen=True)
class ReferenceWindow:
    """The description of all columns, sorted once.

    Attributes
    ----------
    rows : rows described
    columns : description by name
    scores : distribution of P(label) by label, as text; empty where there is no model
    importance : share of the model's importance by column, in [0, 1]; empty where it is not known
    """

    rows: int
    columns: Mapping[str, ReferenceColumn]
    scores: Mapping[str, NumberReference] = field(default_factory=dict)
    importance: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, names: Sequence[str], columns: Sequence[Column] = ()) -> ReferenceWindow:
        """The window of a frame or of arrays; see ``features_in`` for what they hold.

        Raises
        ------
        DataError
            The table lacks a named column.
        """
        described = {f.name: _described(f, table[f.name]) for f in features_in(table, names, columns)}
        return cls(max((d.rows for d in described.values()), default=0), described)

    def only(self, names: Sequence[str]) -> ReferenceWindow:
        """The same with these columns alone, in this order.

        Raises
        ------
        DataError
            One is missing.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise DataError("reference", f"has no column {', '.join(missing)}")
        return ReferenceWindow(self.rows, {name: self.columns[name] for name in names}, self.scores, self.importance)

    @classmethod
    def read(cls, source: Path | bytes, columns: Sequence[Column]) -> ReferenceWindow:
        """The window in a model's ``reference.npz``, written by ``lab/training/training_reference.py``.

        Parameters
        ----------
        source : the file, or its content
        columns : the feature columns of the model's feature version

        Raises
        ------
        ArtefactError
            It is no such file, or lacks one of the columns.
        """
        name = "reference.npz" if isinstance(source, bytes) else source.name
        try:
            with np.load(io.BytesIO(source) if isinstance(source, bytes) else source, allow_pickle=False) as file:
                arrays = {part: file[part] for part in file.files}
            rows, scored = int(arrays["n_rows"][0]), int(arrays["n_scores"][0])
            described = {c.name: _published(c, arrays, rows) for c in columns}
        except KeyError as error:
            raise ArtefactError(name, f"has no {error.args[0]}: it is of another feature version") from error
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, IndexError, TypeError, AttributeError) as error:
            raise ArtefactError(name, "is no reference of a model") from error
        labels = [part.removeprefix("scores/") for part in arrays if part.startswith("scores/")]
        scores = {label: _published_scores(arrays[f"scores/{label}"], scored) for label in labels}
        shares = {c.name: float(arrays[f"importance/{c.name}"][0]) for c in columns if f"importance/{c.name}" in arrays}
        return cls(rows, described, scores, shares)


def _places(levels: Sequence[object]) -> dict[object, int]:
    return {level: position for position, level in enumerate(levels)}


def _described(feature: Feature, values: Any) -> ReferenceColumn:
    if feature.kind == "number":
        return NumberReference.of(values)
    if feature.kind == "unjudged":
        return UnjudgedReference(len(values), int(pd.isna(values).sum()))
    return CategoryReference.of(feature, values)


def _published(column: Column, arrays: Mapping[str, npt.NDArray[Any]], rows: int) -> ReferenceColumn:
    missing = round(float(arrays[f"missing_rate/{column.name}"][0]) * rows)
    if coded_levels(column):
        return _published_levels(column, arrays, rows)
    if column.dtype == "text":
        counts, rest = arrays[f"texts_count/{column.name}"], int(arrays[f"texts_other/{column.name}"][0])
        return CategoryReference(of_column(column), tuple(arrays[f"texts/{column.name}"].tolist()), counts, rest, rows)
    if column.dtype == "datetime":
        return UnjudgedReference(rows, missing)
    count, mean, sd = (arrays[f"{part}/{column.name}"][0] for part in ("count", "mean", "sd"))
    return NumberReference(arrays[f"values/{column.name}"], int(count), float(mean), float(sd), rows, drawn_in=True)


def _published_levels(column: Column, arrays: Mapping[str, npt.NDArray[Any]], rows: int) -> CategoryReference:
    """The levels that enough patients have; rare ones are counted together, on both sides of a comparison."""
    counts = arrays[f"levels/{column.name}"]
    other = arrays.get(f"levels_other/{column.name}")  # older artefacts count every level
    if other is None or not int(other[0]):
        return CategoryReference(of_column(column), tuple(coded_levels(column)), counts, None, rows)
    levels = tuple(level for level, count in zip(coded_levels(column), counts.tolist(), strict=True) if count)
    return CategoryReference(of_column(column), levels, counts[counts > 0], int(other[0]), rows)


def _published_scores(points: FloatArray, count: int) -> NumberReference:
    moments = Moments.of(points)
    return NumberReference(points, count, moments.mean, moments.sd, count, drawn_in=True)
