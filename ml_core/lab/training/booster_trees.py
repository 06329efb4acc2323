"""Reads the trees of XGBoost, LightGBM and CatBoost from what these libraries write themselves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ArtefactError
from ml_core.lab.training.tree_form import Tree, bits_set, tree_form
from ml_core.serve.model.trees import AT_MOST, BELOW, MEMBER, TreeForm

__all__ = ["catboost_trees", "lightgbm_trees", "xgboost_trees"]

_TINY = float(np.float32(1e-35))
"""LightGBM's ``kZeroThreshold``: its predictor drops smaller numbers from a row."""

_MISSING_NONE, _MISSING_ZERO = 0, 1
"""Kinds of missing values in LightGBM's ``decision_type``: none was seen, zeros are missing; 2: NaN is."""


def xgboost_trees(booster: Any, absent: float = float("nan")) -> TreeForm:
    """Trees of a booster (``gbtree``, ``dart``) that gives class probabilities.

    Parameters
    ----------
    booster : xgboost.Booster
        Cut to the rounds that predict.
    absent : what its wrapper takes for a missing value besides NaN

    Raises
    ------
    ArtefactError
        It has another objective, or no trees.
    """
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective, gbm = learner["objective"]["name"], learner["gradient_booster"]
    if objective not in ("binary:logistic", "multi:softprob", "multi:softmax"):
        raise ArtefactError(
            "XGBoost model", f"has the objective {objective}; binary:logistic or multi:softprob is needed"
        )
    if gbm["name"] not in ("gbtree", "dart"):
        raise ArtefactError("XGBoost model", f"has the booster {gbm['name']}, which grows no trees")
    weights = gbm.get("weight_drop")
    model = gbm["gbtree"]["model"] if gbm["name"] == "dart" else gbm["model"]
    n_classes = max(int(learner["learner_model_param"]["num_class"]), 2)
    stored = learner["learner_model_param"]["base_score"].strip("[]").split(",")
    base = np.array(stored, dtype=np.float32).astype(np.float64)
    if n_classes == 2:
        base = np.log(base) - np.log1p(-base)
    return tree_form(
        (
            _xgboost_tree(tree, target, 1.0 if weights is None else weights[number])
            for number, (tree, target) in enumerate(zip(model["trees"], model["tree_info"], strict=True))
        ),
        n_classes=n_classes,
        link="logit",
        single=True,
        base=base,
        absent=absent,
    )


def _xgboost_tree(tree: Mapping[str, Any], target: int, weight: float) -> Tree:
    left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
    leaf, outputs = left < 0, int(tree["tree_param"]["size_leaf_vector"])
    conditions = np.array(tree["split_conditions"], dtype=np.float32).astype(np.float64)
    value: npt.NDArray[Any] = conditions
    if outputs > 1:  # leaves of several outputs lie apart, and stand in the place of the right child
        value = np.array(tree["leaf_weights"], dtype=np.float32).reshape(-1, outputs)[np.where(leaf, right, 0)]
        right = np.where(leaf, -1, right)
    by_set, default_left = np.array(tree["split_type"]) == 1, np.array(tree["default_left"]) == 1
    members = {
        node: tree["categories"][start : start + size]
        for node, start, size in zip(
            tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
        )
    }
    return Tree(
        feature=np.array(tree["split_indices"]),
        threshold=conditions,
        yes=np.where(by_set, right, left),  # the categories of a set go right
        no=np.where(by_set, left, right),
        missing_yes=default_left != by_set,
        value=value * np.float32(weight),
        cover=np.array(tree["sum_hessian"]),
        rule=np.where(by_set, MEMBER, BELOW),
        members=members,
        target=target,
    )


def lightgbm_trees(booster: Any) -> TreeForm:
    """Trees of a ``lightgbm.Booster`` that gives class probabilities, up to its best iteration.

    Raises
    ------
    ArtefactError
        It has another objective, or linear leaves.
    """
    head, *rest = booster.model_to_string(num_iteration=booster.best_iteration or -1).split("\nTree=")
    about = dict(line.partition("=")[::2] for line in head.splitlines())
    kind, *settings = about.get("objective", "none").split()
    options = dict(setting.partition(":")[::2] for setting in settings)
    if kind not in ("binary", "multiclass"):
        raise ArtefactError("LightGBM model", f"has the objective {kind}; binary or multiclass is needed")
    n_classes = max(int(about["num_class"]), 2)
    parts = [_lightgbm_fields(text) for text in rest]
    if any(part.get("is_linear") == "1" for part in parts):
        raise ArtefactError("LightGBM model", "has linear models in its leaves: train it without linear_tree")
    per_round = int(about["num_tree_per_iteration"])
    scale = float(options.get("sigmoid", 1.0)) / (len(parts) // per_round if "average_output" in about else 1)
    zero_missing: set[int] = set()
    trees = [_lightgbm_tree(part, number % per_round, scale, zero_missing) for number, part in enumerate(parts)]
    return tree_form(
        trees, n_classes=n_classes, link="logit", single=False, tiny=_TINY, zero_missing=sorted(zero_missing)
    )


def _lightgbm_fields(text: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in text.split("\n\n", 1)[0].splitlines()[1:])


def _lightgbm_tree(part: Mapping[str, str], target: int, scale: float, zero_missing: set[int]) -> Tree:
    def numbers(name: str, dtype: npt.DTypeLike = np.int64) -> npt.NDArray[Any]:
        return np.array(part.get(name, "").split(), dtype=dtype)

    inner = int(part["num_leaves"]) - 1
    feature, kinds = numbers("split_feature"), numbers("decision_type")
    thresholds = numbers("threshold", np.float64)
    by_set, default_left, missing = (kinds & 1) == 1, (kinds & 2) != 0, (kinds >> 2) & 3
    zero_missing.update(feature[(missing == _MISSING_ZERO) & ~by_set].tolist())
    # Where no value was missing in training, a missing one counts as 0.
    missing_yes = np.where(missing == _MISSING_NONE, thresholds >= 0.0, default_left) & ~by_set
    bounds, words = numbers("cat_boundaries"), numbers("cat_threshold", np.uint32)
    members = {
        node: bits_set(words[bounds[at] : bounds[at + 1]])
        for node, at in zip(np.flatnonzero(by_set).tolist(), thresholds[by_set].astype(np.int64), strict=True)
    }

    def child(name: str) -> npt.NDArray[Any]:
        at = numbers(name)
        return np.append(np.where(at < 0, inner + ~at, at), np.full(inner + 1, -1))

    def padded(values: npt.NDArray[Any], *, front: bool = False) -> npt.NDArray[Any]:
        empty = np.zeros(inner if front else inner + 1, dtype=values.dtype)
        return np.concatenate([empty, values] if front else [values, empty])

    leaves = numbers("leaf_count", np.float64) if inner else np.zeros(1)
    return Tree(
        feature=padded(feature),
        threshold=padded(thresholds),
        yes=child("left_child"),
        no=child("right_child"),
        missing_yes=padded(missing_yes),
        value=padded(numbers("leaf_value", np.float64) * scale, front=True),
        cover=np.concatenate([numbers("internal_count", np.float64), leaves]),
        rule=padded(np.where(by_set, MEMBER, AT_MOST)),
        members=members,
        target=target,
    )


def catboost_trees(model: Any, frames: Mapping[int, Any] | None = None) -> TreeForm:
    """Trees of a ``catboost.CatBoostClassifier``.

    CatBoost looks up categories by hash and by statistics of their labels. Which categories pass a split is therefore
    read off the leaves that the model itself sends them to.

    Parameters
    ----------
    frames : for each categorical column, by its number, rows in which it takes all of its values and all else stays

    Raises
    ------
    ArtefactError
        It has another loss, text features, or splits of several categorical columns at once; or ``frames`` are missing.
    """
    with tempfile.TemporaryDirectory(prefix="surety-catboost-") as folder:
        file = Path(folder) / "model.json"
        model.save_model(str(file), format="json")
        stored = json.loads(file.read_bytes())
    info = stored["features_info"]
    loss = str(model.get_all_params()["loss_function"])
    if loss not in ("Logloss", "CrossEntropy", "MultiClass"):
        raise ArtefactError("CatBoost model", f"has the loss {loss}; Logloss or MultiClass is needed")
    if info.get("text_features") or info.get("embedding_features"):
        raise ArtefactError("CatBoost model", "has text or embedding features: leave them out")
    form = "oblivious_trees" if "oblivious_trees" in stored else "trees"
    categorical = [f["flat_feature_index"] for f in info.get("categorical_features", ())]
    if categorical and (frames is None or form == "trees"):
        problem = "has categorical features over features that are numbers, or grows node by node"
        raise ArtefactError("CatBoost model", f"{problem}: train symmetric trees on the raw columns")
    splits = _Splits(
        {f["feature_index"]: f for f in info.get("float_features", ())},
        categorical,
        {at: np.asarray(model.calc_leaf_indexes((frames or {})[at])) for at in categorical},
        [ctr["elements"] for ctr in info.get("ctrs", ()) for _ in ctr["borders"]],
        sum(len(f["borders"]) for f in info.get("float_features", ()))
        + sum(len(f.get("values", ())) for f in info.get("categorical_features", ())),
    )
    scale, bias = stored["scale_and_bias"]
    k = len(bias)
    read = _symmetric_tree if form == "oblivious_trees" else _grown_tree
    return tree_form(
        (read(tree, number, splits, k, scale) for number, tree in enumerate(stored[form])),
        n_classes=max(k, 2),
        link="logit",
        single=True,
        base=bias,
    )


@dataclass(frozen=True)
class _Splits:
    """Reads CatBoost's splits.

    Attributes
    ----------
    floats : features that are numbers, by their number among them
    categorical : columns of the others, in their order
    leaves : for each of these columns (values, T), the leaf of each tree that each of its values leads to
    statistics : of each border of a statistic of labels, the columns it is about
    first : ``split_index`` of the first of these borders
    """

    floats: Mapping[int, Mapping[str, Any]]
    categorical: Sequence[int]
    leaves: Mapping[int, npt.NDArray[Any]]
    statistics: Sequence[Sequence[Mapping[str, Any]]]
    first: int

    def number(self, split: Mapping[str, Any]) -> tuple[int, float, bool]:
        """Feature, border, and whether a missing value counts as at most the border: what the rule says."""
        of = self.floats[split["float_feature_index"]]
        missing_low = of["nan_value_treatment"] != "AsTrue"
        return int(of["flat_feature_index"]), float(np.float32(split["border"])), missing_low

    def category(self, split: Mapping[str, Any], tree: int, bit: int) -> tuple[int, list[int]]:
        """Column, and the codes whose bit of the leaf is 0."""
        is_one = split["split_type"] == "OneHotFeature"
        parts = (split,) if is_one else self.statistics[split["split_index"] - self.first]
        which = [part.get("cat_feature_index") for part in parts]
        if len(which) != 1 or which[0] is None:
            problem = "has splits of several columns at once: train it with max_ctr_complexity=1"
            raise ArtefactError("CatBoost model", problem)
        column = self.categorical[which[0]]
        passed = (self.leaves[column][:, tree] >> bit) & 1
        return column, np.flatnonzero(passed == 0).tolist()


def _symmetric_tree(tree: Mapping[str, Any], number: int, read: _Splits, k: int, scale: float) -> Tree:
    """A full binary tree: all nodes of a level ask the same, and the answer of split i is bit i of the leaf."""
    splits = tree.get("splits") or []
    depth, inner = len(splits), 2 ** len(splits) - 1
    feature, threshold = np.zeros(2 * inner + 1, np.int64), np.zeros(2 * inner + 1)
    missing_yes, rule = np.zeros(2 * inner + 1, np.bool_), np.full(2 * inner + 1, AT_MOST)
    members: dict[int, list[int]] = {}
    for level in range(depth):
        bit, nodes = depth - 1 - level, np.arange(2**level - 1, 2 ** (level + 1) - 1)
        if splits[bit]["split_type"] == "FloatFeature":
            feature[nodes], threshold[nodes], missing_yes[nodes] = read.number(splits[bit])
        else:
            feature[nodes], codes = read.category(splits[bit], number, bit)
            rule[nodes] = MEMBER
            members |= dict.fromkeys(nodes.tolist(), codes)
    children = np.append(2 * np.arange(inner) + 1, np.full(inner + 1, -1))
    values = np.array(tree["leaf_values"]).reshape(inner + 1, k) * scale
    weights = tree.get("leaf_weights") or [0.0] * (inner + 1)
    cover = np.append(np.zeros(inner), weights)
    for node in range(inner)[::-1]:
        cover[node] = cover[2 * node + 1] + cover[2 * node + 2]
    return Tree(
        feature=feature,
        threshold=threshold,
        yes=children,
        no=np.where(children < 0, -1, children + 1),
        missing_yes=missing_yes,
        value=np.vstack([np.zeros((inner, k)), values]) if k > 1 else np.append(np.zeros(inner), values),
        cover=cover,
        rule=rule,
        members=members,
    )


def _grown_tree(tree: Mapping[str, Any], _: int, read: _Splits, k: int, scale: float) -> Tree:
    """A tree that was grown node by node (``grow_policy`` Depthwise or Lossguide)."""
    nodes: list[Mapping[str, Any]] = [tree]
    yes, no = [], []
    for node in nodes:  # grows while it is read
        if "split" in node:
            yes.append(len(nodes))
            no.append(len(nodes) + 1)
            nodes += [node["left"], node["right"]]
        else:
            yes.append(-1)
            no.append(-1)
    splits = [read.number(node["split"]) if "split" in node else (0, 0.0, False) for node in nodes]
    values = np.array([np.broadcast_to(node.get("value", 0.0), k) for node in nodes]) * scale
    cover = np.array([float(node.get("weight", 0.0)) for node in nodes])
    for at in range(len(nodes))[::-1]:
        cover[at] += 0.0 if yes[at] < 0 else cover[yes[at]] + cover[no[at]]
    return Tree(
        feature=np.array([split[0] for split in splits]),
        threshold=np.array([split[1] for split in splits]),
        yes=np.array(yes),
        no=np.array(no),
        missing_yes=np.array([split[2] for split in splits]),
        value=values if k > 1 else values[:, 0],
        cover=cover,
    )
