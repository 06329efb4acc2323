# ruff: noqa: SLF001 - what a fitted model predicts with has no public name in scikit-learn
"""Reads the trees of scikit-learn: single trees, forests, gradient boosting and its histogram form."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ArtefactError
from ml_core.lab.training.tree_form import Tree, bits_set, tree_form
from ml_core.serve.model.trees import AT_MOST, MEMBER, TreeForm

__all__ = ["ada_boost_trees", "forest_trees", "gradient_boosting_trees", "hist_gradient_boosting_trees"]


def forest_trees(model: Any) -> TreeForm:
    """Trees of a decision tree, random forest or extra trees: the mean of their leaves' class shares."""
    single = [model] if hasattr(model, "tree_") else list(model.estimators_)
    if not isinstance(model.n_classes_, int | np.integer):
        raise ArtefactError(type(model).__name__, "predicts several labels at once: train one model for each")
    n_classes = max(int(model.n_classes_), 2)
    return tree_form(
        (_tree(one.tree_, _shares(one.tree_.value[:, 0, :]) / len(single)) for one in single),
        n_classes=n_classes,
        link="mean",
        single=True,
    )


def gradient_boosting_trees(model: Any) -> TreeForm:
    """Trees of a ``GradientBoostingClassifier``.

    Raises
    ------
    ArtefactError
        It starts from another model than the class shares.
    """
    start = model.init_
    if not (isinstance(start, str) or type(start).__name__ == "DummyClassifier"):
        raise ArtefactError(type(model).__name__, "starts from another model (init): train it without")
    scale = 2.0 if model.loss == "exponential" else 1.0
    base = model._raw_predict_init(np.zeros((1, model.n_features_in_), dtype=np.float32))[0]
    return tree_form(
        (
            _tree(one.tree_, one.tree_.value[:, 0, 0] * model.learning_rate * scale, target)
            for stage in model.estimators_
            for target, one in enumerate(stage)
        ),
        n_classes=max(len(model.classes_), 2),
        link="logit",
        single=True,
        base=base * scale,
    )


def ada_boost_trees(model: Any) -> TreeForm | None:
    """Trees of an ``AdaBoostClassifier``, each leaf with the vote of its tree; None where its members are no trees."""
    if not all(hasattr(one, "tree_") for one in model.estimators_):
        return None
    k = len(model.classes_)
    weights = model.estimator_weights_[: len(model.estimators_)] / model.estimator_weights_.sum()
    return tree_form(
        (
            _tree(one.tree_, _votes(one.tree_.value[:, 0, :].argmax(axis=1), weight, k))
            for one, weight in zip(model.estimators_, weights, strict=True)
        ),
        n_classes=k,
        link="logit",
        single=True,
    )


def _votes(chosen: npt.NDArray[Any], weight: float, k: int) -> npt.NDArray[Any]:
    if k == 2:
        return np.where(chosen == 1, 2.0, -2.0) * weight
    return np.where(chosen[:, None] == np.arange(k), 1.0, -1.0 / (k - 1)) * weight / (k - 1)


def hist_gradient_boosting_trees(model: Any) -> TreeForm:
    """Trees of a ``HistGradientBoostingClassifier``, over the matrix that its preprocessor makes."""
    known, of_feature = model._bin_mapper.make_known_categories_bitsets()
    return tree_form(
        (
            _histogram_tree(predictor, target, known, of_feature)
            for stage in model._predictors
            for target, predictor in enumerate(stage)
        ),
        n_classes=max(len(model.classes_), 2),
        link="logit",
        single=False,
        base=np.ravel(model._baseline_prediction),
    )


def _shares(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Class shares of every node; trees of older editions hold counts."""
    total = values.sum(axis=1, keepdims=True)
    return np.asarray(values / np.where(total == 0.0, 1.0, total))


def _tree(tree: Any, value: npt.NDArray[Any], target: int = 0) -> Tree:
    return Tree(
        feature=np.maximum(tree.feature, 0),
        threshold=tree.threshold,
        yes=tree.children_left,
        no=tree.children_right,
        missing_yes=tree.missing_go_to_left.astype(np.bool_),
        value=value,
        cover=tree.weighted_n_node_samples,
        target=target,
    )


def _histogram_tree(
    predictor: Any, target: int, known: npt.NDArray[np.uint32], of_feature: npt.NDArray[np.uint32]
) -> Tree:
    nodes = predictor.nodes
    leaf, by_set = nodes["is_leaf"] == 1, (nodes["is_categorical"] == 1) & (nodes["is_leaf"] == 0)
    left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
    missing_left = nodes["missing_go_to_left"] == 1
    members = {}
    for node in np.flatnonzero(by_set).tolist():
        goes_left = set(bits_set(predictor.raw_left_cat_bitsets[nodes[node]["bitset_idx"]]))
        if missing_left[node]:  # and with the missing ones all that were never seen: the others go right
            members[node] = sorted(set(bits_set(known[of_feature[nodes[node]["feature_idx"]]])) - goes_left)
        else:
            members[node] = sorted(goes_left)
    swapped = by_set & missing_left
    return Tree(
        feature=np.maximum(nodes["feature_idx"], 0),
        threshold=nodes["num_threshold"],
        yes=np.where(swapped, right, left),
        no=np.where(swapped, left, right),
        missing_yes=missing_left & ~by_set,
        value=nodes["value"],
        cover=nodes["count"].astype(np.float64),
        rule=np.where(by_set, MEMBER, AT_MOST),
        members=members,
        target=target,
    )
