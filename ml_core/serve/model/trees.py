"""Decision trees of any library as an artefact holds them: flat arrays that tell a score and its explanation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray, FeatureMatrix, FloatArray, IntArray, Probabilities
from ml_core.base.errors import ArtefactError

__all__ = ["AT_MOST", "BELOW", "LEAF", "MEMBER", "Link", "TreeForm", "sums_of_runs"]

Link = Literal["logit", "mean"]
"""What the sums of a row become: ``logit``, class probabilities by soft-max (with two classes one margin beside 0);
``mean``, they are probabilities already (with two classes that of the second)."""

AT_MOST, BELOW, MEMBER, LEAF = 0, 1, 6, 255
"""Rules of nodes, by their numbers in ``ai.onnx.ml`` 5: value <= threshold, value < threshold, value in a set."""
_BLOCK_ROWS = 512

_SIGMAS, _LINK = 7, 8


@dataclass(frozen=True, eq=False)
class TreeForm:
    """T trees with N nodes together, their sums and what these become.

    Attributes
    ----------
    roots, targets : (T,), first node of each tree, and which sum it adds to
    feature, rule, threshold, yes, no, missing_yes, value, cover : (N,), as in ``Tree``; children by their number among
        all N, and the rule of a leaf is ``LEAF``
    member_node, member : (M,), pairs that say which whole numbers are in the sets of ``MEMBER`` nodes
    base : (targets,), added to the sums
    n_classes : K; two classes have one target
    link : what the sums become
    single : whether the library rounds values to 32 bits before it compares them
    tiny : up to this size a number is zero to the library
    zero_missing : features whose zeros count as missing
    absent : a value that counts as missing in every feature, or NaN
    """

    roots: IntArray
    targets: IntArray
    feature: IntArray
    rule: npt.NDArray[np.uint8]
    threshold: FloatArray
    yes: IntArray
    no: IntArray
    missing_yes: BoolArray
    value: FloatArray
    cover: FloatArray
    member_node: IntArray
    member: IntArray
    base: FloatArray
    n_classes: int
    link: Link
    single: bool
    tiny: float
    zero_missing: IntArray
    absent: float

    @property
    def is_leaf(self) -> BoolArray:
        """(N,), which nodes are leaves."""
        leaves: BoolArray = self.rule == LEAF
        return leaves

    @property
    def categorical(self) -> IntArray:
        """Features that a node compares with a set; their values are whole numbers."""
        return np.unique(self.feature[self.rule == MEMBER])

    @property
    def rounding(self) -> float:
        """How far class probabilities may move where a library sums the leaves in 32 bits, not in 64.

        In float32 eps, of the sum for which it is most: ``T x largest leaf``; or, where leaves are small, what T
        roundings of half an eps of a sum come to at seven standard deviations (Higham & Mary 2019, SIAM J. Sci. Comput.
        41(5)). A sum moves its class's probability by its own size times the slope of the link, which is at most
        ``(1 + |base|) / 2`` together. The link itself, in 32 bits, adds eight.
        """
        size = np.where(self.is_leaf, np.abs(self.value), 0.0)
        largest, trees = np.zeros(len(self.base)), np.bincount(self.targets, minlength=len(self.base))
        np.maximum.at(largest, self.targets, np.maximum.reduceat(size, self.roots) if len(self.roots) else 0.0)
        by_chance = _SIGMAS / 2 * np.sqrt(trees) * (1 + np.abs(self.base)) / 2
        return float(np.finfo(np.float32).eps * (_LINK + np.maximum(trees * largest, by_chance).max()))

    def of_features(self, names: Sequence[int]) -> TreeForm:
        """The same trees where feature i is feature ``names[i]`` of a wider matrix."""
        at = np.asarray(names, dtype=np.int64)
        return replace(self, feature=at[self.feature], zero_missing=at[self.zero_missing])

    def to_bytes(self) -> bytes:
        """As ``trees.npz``: the arrays by their names here."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, raw: bytes) -> TreeForm:
        """What ``to_bytes`` wrote.

        Raises
        ------
        ArtefactError
            It is something else, or its nodes are no trees.
        """
        scalars = ("n_classes", "link", "single", "tiny", "absent")
        try:
            with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
                found = {f.name: stored[f.name].item() if f.name in scalars else stored[f.name] for f in fields(cls)}
            form = cls(**found)
            fault = form._fault()
        except (ValueError, KeyError, OSError, EOFError, IndexError, TypeError) as error:
            raise ArtefactError("table of trees", "cannot be read") from error
        if fault:
            raise ArtefactError("table of trees", fault)
        return form

    def _fault(self) -> str:
        """What makes a walk through the arrays impossible, "" where nothing does."""
        n = len(self.feature)
        nodes = (self.rule, self.threshold, self.yes, self.no, self.missing_yes, self.value, self.cover)
        if any(len(part) != n for part in nodes) or len(self.roots) != len(self.targets):
            return "has arrays of different lengths"
        inner = ~self.is_leaf
        children = np.concatenate([self.yes[inner], self.no[inner]])
        named = np.concatenate([children, self.roots, self.member_node])
        if ((named < 0) | (named >= n)).any() or len(np.unique(np.concatenate([children, self.roots]))) < len(
            children
        ) + len(self.roots):
            return "has nodes that are no trees"
        if ((self.targets < 0) | (self.targets >= len(self.base))).any() or (self.feature < 0).any():
            return "has trees of no class, or nodes of no feature"
        return ""

    def seen(self, features: FeatureMatrix) -> FloatArray:
        """The values of rows (n, d) as the nodes compare them, one line for each feature: (d, n), NaN where missing."""
        x = np.ascontiguousarray(features.T, dtype=np.float64)
        if not np.isnan(self.absent):
            x[x == self.absent] = np.nan
        if self.tiny:
            small = np.abs(x) <= self.tiny
            gone = np.isin(np.arange(len(x)), self.zero_missing)
            x[small] = np.broadcast_to(np.where(gone, np.nan, 0.0)[:, None], x.shape)[small]
        return x

    @cached_property
    def sets(self) -> tuple[IntArray, BoolArray]:
        """Of each node the line of its set, (N,), and the sets (M, C + 1): which whole numbers from 0 are in them.

        The last column stands for all other values, which are in none.
        """
        by_set = self.rule == MEMBER
        line = np.cumsum(by_set) - 1
        table = np.zeros((int(by_set.sum()), int(self.member.max(initial=-1)) + 2), dtype=np.bool_)
        table[line[self.member_node], self.member] = True
        return line, table

    def codes(self, values: FloatArray) -> IntArray:
        """The columns of ``sets`` that values stand for; they are cut to whole numbers first."""
        last = self.sets[1].shape[1] - 1
        whole = np.trunc(np.nan_to_num(values, nan=-1.0))
        return np.where((whole >= 0) & (whole < last), whole, last).astype(np.int64)

    def margins(self, features: FeatureMatrix) -> FloatArray:
        """Sums of the leaves that rows (n, d) fall into, with the base: (n, targets)."""
        found = np.empty((len(features), len(self.base)))
        for start in range(0, len(features), _BLOCK_ROWS):  # so that the places of a row in all trees stay few
            found[start : start + _BLOCK_ROWS] = self._margins(features[start : start + _BLOCK_ROWS])
        return found

    def _margins(self, features: FeatureMatrix) -> FloatArray:
        x, n = self.seen(features), len(features)
        at = np.repeat(self.roots[:, None], n, axis=1)
        rows = np.broadcast_to(np.arange(n), at.shape)
        while (inner := ~self.is_leaf[at]).any():
            node = at[inner]
            goes_yes = self._goes_yes(node, x[self.feature[node], rows[inner]])
            at[inner] = np.where(goes_yes, self.yes[node], self.no[node])
        sums = np.repeat(self.base[None, :], n, axis=0)
        for target in range(len(self.base)):
            leaves = at[self.targets == target]
            if len(leaves):
                sums[:, target] += sums_of_runs(self.value[leaves], np.zeros(1, dtype=np.int64))[0]
        return sums

    def _goes_yes(self, node: IntArray, values: FloatArray) -> BoolArray:
        rule, threshold = self.rule[node], self.threshold[node]
        holds = np.where(rule == BELOW, values < threshold, values <= threshold)
        by_set = rule == MEMBER
        if by_set.any():
            line, table = self.sets
            holds[by_set] = table[line[node[by_set]], self.codes(values[by_set])]
        found: BoolArray = np.where(np.isnan(values), self.missing_yes[node], holds)
        return found

    def probabilities(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities of rows (n, d): (n, K)."""
        sums = self.margins(features)
        if self.n_classes == 2:
            other = 1.0 - sums if self.link == "mean" else np.zeros_like(sums)
            sums = np.column_stack([other, sums])
        if self.link == "mean":
            return sums
        weights = np.exp(sums - sums.max(axis=1, keepdims=True))
        found: Probabilities = weights / weights.sum(axis=1, keepdims=True)
        return found


def sums_of_runs(lines: FloatArray, starts: IntArray) -> FloatArray:
    """Sums of runs of lines (m, n), each from its start to the next one: (runs, n).

    The bits of a column do not depend on how many columns stand beside it, which those of ``sum`` do.
    """
    found: FloatArray = np.add.reduceat(lines, starts, axis=0)
    return found
