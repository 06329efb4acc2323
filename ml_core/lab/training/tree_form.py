"""Decision trees of any library brought into one form: the flat arrays of ``ml_core.serve.model.trees``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.serve.model.trees import AT_MOST, LEAF, MEMBER, Link, TreeForm

__all__ = ["Tree", "bits_set", "tree_form"]

_NO_NODE = -1


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
