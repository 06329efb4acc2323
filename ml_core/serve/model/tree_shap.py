"""Exact path-dependent TreeSHAP in numpy: what each feature adds to the sum of some trees, as the covers weigh it.

A leaf adds its value to the features on its way. The Shapley weights of a set of d features are an integral over [0, 1]
of a polynomial of degree d - 1, which Gauss-Legendre quadrature with d / 2 points gives exactly. What a leaf adds
depends only on which of its d conditions a row meets, so for short ways all 2^d cases are worked out once.

References
----------
Lundberg et al. (2020), From local explanations to global understanding with explainable AI for trees, Nature Machine
Intelligence 2, 56-67. Yang (2021), Fast TreeSHAP, arXiv:2109.09847. Owen (1972), Multilinear extensions of games,
Management Science 18(5), for the integral.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache
from math import cos, pi

import numpy as np

from ml_core.base.arrays import BoolArray, FeatureMatrix, FloatArray, IntArray
from ml_core.base.errors import ArtefactError
from ml_core.serve.model.leaf_paths import Conditions, LeafPaths, leaf_paths
from ml_core.serve.model.trees import TreeForm, sums_of_runs

__all__ = ["MOST_STEPS", "TreeShap"]

MOST_STEPS = 1_000_000
"""Most steps (leaves x features on their way) of all trees together: about 40 MB, and 10 ms of CPU a row."""

_CHUNK_STEPS = 16_384
_BLOCK_ROWS = 32
"""A chunk of steps times a block of rows stays in the processor's cache."""
_LONGEST_REMEMBERED = 8
_REMEMBERED_BYTES = 1 << 25
"""Leaves with ways up to that long have all their cases worked out, while these take no more memory."""


class TreeShap:
    """Explains the sum that belongs to one label.

    The bits of a row do not depend on the rows beside it.

    Parameters
    ----------
    form : the trees
    target : which of their sums
    lines : (d,), the line of the result that each feature is added to
    n_lines : how many lines there are

    Raises
    ------
    ArtefactError
        The trees are too many, do not say how many training rows passed them, or look at features that are not there.

    Attributes
    ----------
    base : the mean of the sum over the training rows
    """

    def __init__(self, form: TreeForm, target: int, lines: IntArray, n_lines: int) -> None:
        if len(form.feature) and form.feature.max() >= len(lines):
            raise ArtefactError("table of trees", f"looks at feature {form.feature.max()} of {len(lines)}")
        self._form, self._n_lines = form, n_lines
        chunks = [leaf_paths(form, trees) for trees in _chunks(form, target)]
        labels = len(form.base)
        if (steps := labels * sum(len(paths.share) for paths in chunks)) > MOST_STEPS:
            raise ArtefactError("table of trees", f"has {steps:,} steps to its leaves, more than {MOST_STEPS:,}")
        longest = _longest_remembered(chunks, _REMEMBERED_BYTES / labels)
        self.base = float(form.base[target]) + sum(paths.expected for paths in chunks)
        self._chunks = [_Chunk(paths, lines, longest) for paths in chunks]

    def shares(self, features: FeatureMatrix) -> FloatArray:
        """What the features of each line add to the sum of rows (n, d), beyond ``base``: (n, lines)."""
        found = np.zeros((self._n_lines, len(features)))
        for start in range(0, len(features), _BLOCK_ROWS):
            seen = self._form.seen(features[start : start + _BLOCK_ROWS])
            for chunk in self._chunks:
                chunk.add(self._form, seen, found[:, start : start + _BLOCK_ROWS])
        return np.ascontiguousarray(found.T)


def _chunks(form: TreeForm, target: int) -> Iterator[IntArray]:
    """The trees of a sum, by their numbers, in runs of about as many steps as fit into a cache."""
    trees = np.flatnonzero(form.targets == target)
    ends = np.append(form.roots[1:], len(form.feature))[trees]
    sizes = ends - form.roots[trees]
    if len(trees):
        # A tree of m nodes has m / 2 leaves, with ways of about log2(m) features.
        steps = np.cumsum(sizes / 2 * np.log2(np.maximum(sizes, 2)))
        yield from np.split(trees, np.flatnonzero(np.diff(steps // _CHUNK_STEPS)) + 1)


def _longest_remembered(chunks: Sequence[LeafPaths], room: float) -> int:
    """How long a way may be so that the cases of all ways up to that long fit into so many bytes."""
    counts = np.zeros(_LONGEST_REMEMBERED + 1)
    for paths in chunks:
        lengths = np.diff(paths.starts)
        counts += np.bincount(lengths[lengths <= _LONGEST_REMEMBERED], minlength=_LONGEST_REMEMBERED + 1)
    lengths = np.arange(_LONGEST_REMEMBERED + 1)
    fits = np.cumsum(counts * lengths * 2.0**lengths * 8) <= room
    return int(lengths[fits].max())


@dataclass(frozen=True, eq=False)
class _Remembered:
    """Leaves whose cases are all worked out.

    Attributes
    ----------
    conditions : for each place on a way, the conditions there of all leaves whose ways are that long, the longest first
    leaf, offset : (E,), of each step its leaf, and where its 2^d cases begin among ``cases``; by line of the result
    starts, lines : where the steps of a line begin, and which line that is
    """

    n_leaves: int
    conditions: list[IntArray]
    leaf: IntArray
    offset: IntArray
    cases: FloatArray
    starts: IntArray
    lines: IntArray

    def add(self, met: BoolArray, found: FloatArray) -> None:
        case = np.zeros((self.n_leaves, met.shape[1]), dtype=np.uint8)
        bits = met.view(np.uint8)
        for place, numbers in enumerate(self.conditions):
            case[: len(numbers)] |= bits[numbers] << place
        added = self.cases.take(case[self.leaf] + self.offset[:, None])
        found[self.lines] += sums_of_runs(added, self.starts)


@dataclass(frozen=True, eq=False)
class _WorkedOut:
    """Leaves with ways of d features whose shares are worked out for each row.

    Attributes
    ----------
    value : (L,)
    condition, share : (d, L)
    order : (d L,), the steps by line of the result
    starts, lines : as above
    """

    value: FloatArray
    condition: IntArray
    share: FloatArray
    order: IntArray
    starts: IntArray
    lines: IntArray

    def add(self, met: BoolArray, found: FloatArray) -> None:
        added = _shares(met[self.condition], self.share[:, :, None]) * self.value[:, None]
        found[self.lines] += sums_of_runs(added.reshape(-1, met.shape[1])[self.order], self.starts)


class _Chunk:
    def __init__(self, paths: LeafPaths, lines: IntArray, longest: int) -> None:
        self._conditions: Conditions = paths.conditions
        lengths = np.diff(paths.starts)
        lines_of = lines[paths.conditions.feature[paths.condition]] if len(paths.condition) else paths.condition
        of_length = {d: np.flatnonzero(lengths == d) for d in np.unique(lengths[lengths > 0])[::-1].tolist()}
        short = {d: leaves for d, leaves in of_length.items() if d <= longest}
        self._parts: list[_Remembered | _WorkedOut] = [
            _worked_out(paths, lines_of, leaves, d) for d, leaves in of_length.items() if d > longest
        ]
        if short:
            self._parts.append(_remembered(paths, lines_of, short))

    def add(self, form: TreeForm, seen: FloatArray, found: FloatArray) -> None:
        """Add what the leaves give to the rows: ``found`` is (lines, n)."""
        met = self._conditions.hold(form, seen)
        for part in self._parts:
            part.add(met, found)


def _steps_of(paths: LeafPaths, leaves: IntArray, d: int) -> IntArray:
    """Numbers of the steps of leaves with ways of d features, (d, L)."""
    return paths.starts[leaves][None, :] + np.arange(d)[:, None]


def _worked_out(paths: LeafPaths, lines_of: IntArray, leaves: IntArray, d: int) -> _WorkedOut:
    steps = _steps_of(paths, leaves, d)
    order, starts, lines = _by_line(lines_of[steps].ravel())
    return _WorkedOut(paths.value[leaves], paths.condition[steps], paths.share[steps], order, starts, lines)


def _remembered(paths: LeafPaths, lines_of: IntArray, of_length: dict[int, IntArray]) -> _Remembered:
    longest = max(of_length)
    conditions: list[list[IntArray]] = [[] for _ in range(longest)]
    leaf, offset, line, cases = [], [], [], []
    n_leaves = n_cases = 0
    for d, leaves in of_length.items():
        steps = _steps_of(paths, leaves, d)
        all_cases = (np.arange(2**d) >> np.arange(d)[:, None] & 1).astype(np.bool_)
        given = _shares(all_cases[:, None, :], paths.share[steps][:, :, None]) * paths.value[leaves][:, None]
        for place in range(d):
            conditions[place].append(paths.condition[steps[place]])
        leaf.append(np.broadcast_to(n_leaves + np.arange(len(leaves)), steps.shape).ravel())
        offset.append(n_cases + np.arange(steps.size) * 2**d)
        line.append(lines_of[steps].ravel())
        cases.append(given.ravel())
        n_leaves, n_cases = n_leaves + len(leaves), n_cases + given.size
    order, starts, lines = _by_line(np.concatenate(line))
    return _Remembered(
        n_leaves=n_leaves,
        conditions=[np.concatenate(parts) for parts in conditions],
        leaf=np.concatenate(leaf)[order],
        offset=np.concatenate(offset)[order],
        cases=np.concatenate(cases),
        starts=starts,
        lines=lines,
    )


def _by_line(line: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """The steps by line of the result, where each line's begin, and which line that is."""
    order = np.argsort(line, kind="stable")
    lines, starts = np.unique(line[order], return_index=True)
    return order, starts, lines


def _shares(met: BoolArray, share: FloatArray) -> FloatArray:
    """Shapley shares of d features, of a game that is worth 1 where a row is known to meet all conditions.

    Parameters
    ----------
    met : (d, L, n), which conditions the rows meet
    share : (d, L, 1), share of the training rows that meet a condition, which stands for a feature that is not known
    """
    d = len(met)
    found = np.zeros(met.shape[:1] + np.broadcast_shapes(met.shape[1:], share.shape[1:]))
    for point, weight in _legendre((d + 1) // 2):
        unknown = (1.0 - point) * share
        known = point + unknown
        product = np.where(met[0], known[0], unknown[0])
        for i in range(1, d):
            product *= np.where(met[i], known[i], unknown[i])
        product *= weight
        found += product * np.where(met, (1.0 - share) / known, -1.0 / (1.0 - point))
    return found


@cache
def _legendre(n: int) -> tuple[tuple[float, float], ...]:
    """Points and weights of Gauss-Legendre quadrature over [0, 1], the same bits on every machine.

    Newton's method in 40 digits, since the eigenvalues that numpy takes them from depend on its linear algebra.
    """
    found = []
    with localcontext() as context:
        context.prec = 40
        for k in range(n):
            x = Decimal(cos(pi * (k + 0.75) / (n + 0.5)))
            for _ in range(10):
                value, slope = _legendre_at(n, x)
                x -= value / slope
            _, slope = _legendre_at(n, x)
            found.append((float((1 + x) / 2), float(1 / ((1 - x * x) * slope * slope))))
    return tuple(found)


def _legendre_at(n: int, x: Decimal) -> tuple[Decimal, Decimal]:
    """The Legendre polynomial of degree n, and its derivative (Bonnet's recursion)."""
    before, value = Decimal(1), x
    for k in range(2, n + 1):
        before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
    return value, n * (x * value - before) / (x * x - 1)
