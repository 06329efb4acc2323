"""Decision trees of any library in one form: flat arrays that say everything a score and its explanation need."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray, FloatArray, IntArray

__all__ = ["AT_MOST", "BELOW", "LEAF", "MEMBER", "Link", "Tree", "TreeForm", "bits_set", "tree_form"]

Link = Literal["logit", "mean"]
"""What the sums of a row become: ``logit``, class probabilities by soft-max (with two classes one margin beside 0);
``mean``, they are probabilities already (with two classes that of the second)."""

AT_MOST, BELOW, MEMBER, LEAF = 0, 1, 6, 255
"""Rules of nodes, by their numbers in ``ai.onnx.ml`` 5: value <= threshold, value < threshold, value in a set."""

_NO_NODE = -1
_SIGMAS, _LINK = 7, 8


@dataclass(frozen=True)
class Tree:
    """One tree of m nodes; node 0 is its root.

    Attributes
    ----------
    feature, threshold : (m,), which feature a node looks at and what it is compared with; of no meaning in leaves
    yes, no : (m,), the node that follows where the rule holds and where not; -1 in leaves
    missing_yes : (m,), whether a missing value goes where the rule holds
    value : (m,) or (m, K), what a leaf adds; of no meaning elsewhere
    cover : (m,), how much of the training rows (as its library weighs them) passed the node
    rule : (m,) or one for all, ``AT_MOST``, ``BELOW`` or ``MEMBER``
    members : of nodes with the rule ``MEMBER``, whole numbers from 0
    target : which sum the leaves add to, where ``value`` is (m,)
    """

    feature: npt.NDArray[Any]
    threshold: npt.NDArray[Any]
    yes: npt.NDArray[Any]
    no: npt.NDArray[Any]
    missing_yes: npt.NDArray[Any]
    value: npt.NDArray[Any]
    cover: npt.NDArray[Any]
    rule: npt.NDArray[Any] | int = AT_MOST
    members: Mapping[int, Sequence[int]] = field(default_factory=dict)
    target: int = 0


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
        """What ``to_bytes`` wrote."""
        with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
            scalars = ("n_classes", "link", "single", "tiny", "absent")
            return cls(**{f.name: stored[f.name].item() if f.name in scalars else stored[f.name] for f in fields(cls)})


def tree_form(
    trees: Iterable[Tree],
    *,
    n_classes: int,
    link: Link,
    single: bool,
    base: npt.ArrayLike = 0.0,
    tiny: float = 0.0,
    zero_missing: Sequence[int] = (),
    absent: float = float("nan"),
) -> TreeForm:
    """The trees as flat arrays; a tree whose leaves add to K sums becomes K trees (one with two classes).

    Parameters
    ----------
    base : one number, or one for each sum
    """
    n_targets = 1 if n_classes == 2 else n_classes
    flat = [part for tree in trees for part in _one_target(tree, n_targets)]
    starts = np.cumsum([0, *(len(tree.feature) for tree in flat)])[:-1].astype(np.int64)
    leaf = _joined([tree.yes == _NO_NODE for tree in flat], np.bool_)
    rule = _joined([np.broadcast_to(tree.rule, len(tree.feature)) for tree in flat], np.uint8)
    pairs = [
        (start + node, one)
        for start, tree in zip(starts.tolist(), flat, strict=True)
        for node, members in sorted(tree.members.items())
        for one in members
    ]
    member_node, member = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return TreeForm(
        roots=starts,
        targets=np.array([tree.target for tree in flat], dtype=np.int64),
        feature=np.where(leaf, 0, _joined([tree.feature for tree in flat], np.int64)),
        rule=np.where(leaf, LEAF, rule).astype(np.uint8),
        threshold=np.where(leaf | (rule == MEMBER), 0.0, _joined([tree.threshold for tree in flat], np.float64)),
        yes=_joined([_moved(tree.yes, at) for tree, at in zip(flat, starts, strict=True)], np.int64),
        no=_joined([_moved(tree.no, at) for tree, at in zip(flat, starts, strict=True)], np.int64),
        missing_yes=_joined([tree.missing_yes for tree in flat], np.bool_) & ~leaf,
        value=np.where(leaf, _joined([tree.value for tree in flat], np.float64), 0.0),
        cover=_joined([tree.cover for tree in flat], np.float64),
        member_node=member_node,
        member=member,
        base=np.zeros(n_targets) + np.asarray(base, dtype=np.float64),
        n_classes=n_classes,
        link=link,
        single=single,
        tiny=tiny,
        zero_missing=np.asarray(zero_missing, dtype=np.int64),
        absent=absent,
    )


def bits_set(words: npt.NDArray[Any]) -> list[int]:
    """Numbers of the bits that are set in 32-bit words, as LightGBM and scikit-learn store sets of categories."""
    return [int(i) for i in np.flatnonzero(np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little"))]


def _one_target(tree: Tree, n_targets: int) -> list[Tree]:
    if tree.value.ndim == 1:
        return [tree]
    kept = range(tree.value.shape[1])[-n_targets:]
    return [replace(tree, value=tree.value[:, column], target=k) for k, column in enumerate(kept)]


def _moved(child: npt.NDArray[Any], by: int) -> npt.NDArray[Any]:
    return np.where(child == _NO_NODE, _NO_NODE, child + by)


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: type) -> npt.NDArray[Any]:
    return np.concatenate([np.asarray(part, dtype=dtype) for part in parts]) if parts else np.zeros(0, dtype=dtype)
