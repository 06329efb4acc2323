"""The way to every leaf of a group of trees, one condition for each feature on it, however often it is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray, FloatArray, IntArray
from ml_core.base.errors import ArtefactError
from ml_core.serve.model.trees import AT_MOST, MEMBER, TreeForm

__all__ = ["Conditions", "LeafPaths", "leaf_paths"]

_DEEPEST = 4_096


@dataclass(frozen=True, eq=False)
class Conditions:
    """U different conditions, each on one feature.

    Attributes
    ----------
    feature : (U,)
    low, high : (U,), a value must be at least ``low`` and below ``high``
    missing : (U,), whether a missing value passes
    by_set : (S,), numbers of the conditions that also name a set
    sets : (S, C + 1), which whole numbers pass, as in ``TreeForm.sets``
    """

    feature: IntArray
    low: FloatArray
    high: FloatArray
    missing: BoolArray
    by_set: IntArray
    sets: BoolArray

    def hold(self, form: TreeForm, seen: FloatArray) -> BoolArray:
        """Which of them n rows meet, (U, n); ``seen`` is what ``TreeForm.seen`` gives."""
        values = seen[self.feature]
        met = values >= self.low[:, None]
        met &= values < self.high[:, None]
        if len(self.by_set):
            codes = form.codes(values[self.by_set])
            met[self.by_set] &= self.sets[np.arange(len(codes))[:, None], codes]
        gone = np.isnan(seen)
        if gone.any():
            met |= gone[self.feature] & self.missing[:, None]
        return met


@dataclass(frozen=True, eq=False)
class LeafPaths:
    """L leaves with E steps together: a step is a feature that the way to a leaf looks at.

    Attributes
    ----------
    value : (L,), what a leaf adds
    starts : (L + 1,), where the steps of each leaf begin
    condition : (E,), number of what a row must meet
    share : (E,), share of the training rows that meet it, of those that come to where it is asked
    conditions : what the numbers stand for
    """

    value: FloatArray
    starts: IntArray
    condition: IntArray
    share: FloatArray
    conditions: Conditions

    @property
    def expected(self) -> float:
        """Mean of the sum over the training rows, as the covers tell it."""
        always = self.starts[1:] == self.starts[:-1]  # trees that are a leaf alone
        shares = np.ones(len(self.value))
        shares[~always] = np.multiply.reduceat(self.share, self.starts[:-1][~always]) if len(self.share) else 1.0
        return float((self.value * shares).sum())


def leaf_paths(form: TreeForm, trees: IntArray) -> LeafPaths:
    """The ways to the leaves of some trees, given by their numbers.

    Where a way looks at a feature several times, the step holds all that a row must meet, and the product of the
    shares (Lundberg et al. 2020, Nature Machine Intelligence 2, algorithm 2).

    Raises
    ------
    ArtefactError
        No training row passed a tree, so that nothing is known of its shares.
    """
    up, is_yes, ratio = _above(form)
    leaves, nodes, yes, ratios = _steps(form, trees, up, is_yes, ratio)
    order = np.lexsort((form.feature[nodes[1]], nodes[0]))
    leaf, node, yes, ratios = nodes[0][order], nodes[1][order], yes[order], ratios[order]
    feature = form.feature[node]
    first = np.flatnonzero(_new(leaf) | _new(feature))
    low, high = _bounds(form, node, yes)
    if len(first):
        low, high = np.maximum.reduceat(low, first), np.minimum.reduceat(high, first)
        missing = np.logical_and.reduceat(form.missing_yes[node] == yes, first)
        share = np.multiply.reduceat(ratios, first)
    else:
        missing, share = np.zeros(0, dtype=np.bool_), np.zeros(0)
    by_set, sets = _sets(form, node, yes, first)
    condition, conditions = _distinct(feature[first], low, high, missing, by_set, sets)
    steps = np.bincount(leaf[first], minlength=len(leaves))
    return LeafPaths(form.value[leaves], np.cumsum(np.append(0, steps)), condition, share, conditions)


def _above(form: TreeForm) -> tuple[IntArray, BoolArray, FloatArray]:
    """Of every node the one above, whether it is where that one's rule holds, and its share of that one's cover."""
    inner = np.flatnonzero(~form.is_leaf)
    up, is_yes = np.full(len(form.feature), -1), np.zeros(len(form.feature), dtype=np.bool_)
    up[form.yes[inner]] = up[form.no[inner]] = inner
    is_yes[form.yes[inner]] = True
    above = np.where(up >= 0, form.cover[up], 0.0)
    ratio = np.divide(form.cover, above, out=np.zeros(len(up)), where=above > 0.0)
    return up, is_yes, ratio


def _steps(
    form: TreeForm, trees: IntArray, up: IntArray, is_yes: BoolArray, ratio: FloatArray
) -> tuple[IntArray, tuple[IntArray, IntArray], BoolArray, FloatArray]:
    """The leaves, and every edge above them: (leaf, node), whether its rule holds on the way, share of the node."""
    roots = form.roots[trees]
    if not (form.cover[roots] > 0.0).all():
        raise ArtefactError("table of trees", "does not say how many training rows passed each node")
    in_trees = np.zeros(len(up), dtype=np.bool_)
    in_trees[roots] = True
    layer = roots
    leaves = [roots[form.is_leaf[roots]]]
    for _ in range(_DEEPEST):
        inner = layer[~form.is_leaf[layer]]
        if not len(inner):
            break
        layer = np.concatenate([form.yes[inner], form.no[inner]])
        leaves.append(layer[form.is_leaf[layer]])
    else:
        raise ArtefactError("table of trees", f"has a tree that is deeper than {_DEEPEST} nodes")
    found = np.sort(np.concatenate(leaves))
    at, number = found, np.arange(len(found))
    parts = []
    while len(at := at[above := up[at] >= 0]):
        number = number[above]
        parts.append((number, up[at], is_yes[at], ratio[at]))
        at = up[at]
    if not parts:
        nothing = np.zeros(0, dtype=np.int64)
        return found, (nothing, nothing), np.zeros(0, dtype=np.bool_), np.zeros(0)
    numbers, nodes, yes, ratios = (np.concatenate(part) for part in zip(*parts, strict=True))
    return found, (numbers, nodes), yes, ratios


def _bounds(form: TreeForm, node: IntArray, yes: BoolArray) -> tuple[FloatArray, FloatArray]:
    """What a value must be at least, and below what; a set gives no bounds."""
    rule, threshold = form.rule[node], form.threshold[node]
    border = np.where(rule == AT_MOST, np.nextafter(threshold, np.inf), threshold)
    is_set = rule == MEMBER
    return np.where(yes | is_set, -np.inf, border), np.where(~yes | is_set, np.inf, border)


def _sets(form: TreeForm, node: IntArray, yes: BoolArray, first: IntArray) -> tuple[IntArray, BoolArray]:
    """Of every step the line of its set or -1, and the sets, each once."""
    line, table = form.sets
    by_set = np.full(len(first), -1)
    if not len(table):
        return by_set, np.zeros((0, table.shape[1]), dtype=np.bool_)
    edges = np.flatnonzero(form.rule[node] == MEMBER)
    if not len(edges):
        return by_set, np.zeros((0, table.shape[1]), dtype=np.bool_)
    step = np.searchsorted(first, edges, side="right") - 1
    passes = table[line[node[edges]]] == yes[edges][:, None]
    starts = np.flatnonzero(_new(step))
    together = np.logical_and.reduceat(passes, starts, axis=0)
    sets, by_set[step[starts]] = np.unique(together, axis=0, return_inverse=True)
    return by_set, sets


def _distinct(
    feature: IntArray, low: FloatArray, high: FloatArray, missing: BoolArray, by_set: IntArray, sets: BoolArray
) -> tuple[IntArray, Conditions]:
    """Number of each step's condition, and the conditions, each once."""
    keys = (by_set, missing, high, low, feature)
    order = np.lexsort(keys)
    new = np.logical_or.reduce([_new(key[order]) for key in keys])
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.cumsum(new) - 1
    kept = order[new]
    named = np.flatnonzero(by_set[kept] >= 0)
    return number, Conditions(feature[kept], low[kept], high[kept], missing[kept], named, sets[by_set[kept][named]])


def _new(values: npt.NDArray[Any]) -> BoolArray:
    """Where a value differs from the one before it; the first does."""
    found = np.ones(len(values), dtype=np.bool_)
    found[1:] = values[1:] != values[:-1]
    return found
