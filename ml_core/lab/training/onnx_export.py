"""Turns trained classifiers into ONNX bytes that depend on the model alone, and checks that nothing was lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ScorerDisagrees
from ml_core.lab.training.booster_trees import xgboost_trees
from ml_core.lab.training.classifier_graph import add_classifier
from ml_core.lab.training.given import Given
from ml_core.lab.training.onnx_graph import FEATURES, OnnxGraph, finished_model
from ml_core.lab.training.tree_export import trees_to_onnx
from ml_core.serve.model.scorer import OnnxScorer, check_probabilities
from ml_core.serve.model.trees import TreeForm

__all__ = [
    "SKLEARN_LIMIT",
    "TREE_LIMIT",
    "XGBOOST_LIMIT",
    "check_agrees",
    "sklearn_to_onnx",
    "xgboost_limit",
    "xgboost_to_onnx",
]

XGBOOST_LIMIT = 1e-6
"""Largest difference allowed: XGBoost sums its float32 leaves in float32, ONNX in float64."""

TREE_LIMIT = 1e-9
"""Largest difference allowed for trees whose library sums in 64 bits, as ONNX does."""

SKLEARN_LIMIT = 1e-5
"""Largest difference allowed: scikit-learn calculates in float32 where it is given float32, ONNX in float64."""


def xgboost_to_onnx(booster: Any, n_features: int) -> bytes:
    """ONNX of a booster that gives probabilities (``binary:logistic``, ``multi:softprob``).

    Parameters
    ----------
    booster : xgboost.Booster
        Cut to its best iteration.
    """
    return trees_to_onnx(xgboost_trees(booster), n_features)


def xgboost_limit(form: TreeForm) -> float:
    """Largest difference that XGBoost's 32-bit sums explain: it grows with trees and leaves."""
    return max(form.rounding, TREE_LIMIT)


def sklearn_to_onnx(model: Any, n_features: int) -> bytes:
    """ONNX of a fitted scikit-learn classifier that takes the d features and has ``predict_proba``.

    Raises
    ------
    ArtefactError
        There is no conversion for it.
    """
    graph = OnnxGraph()
    given = Given(FEATURES, tuple(f"f{i}" for i in range(n_features)), is_single=True)
    return finished_model(graph, add_classifier(graph, model, given), n_features, len(model.classes_))


def check_agrees(
    scorer: OnnxScorer, features: npt.NDArray[np.float32], expected: npt.NDArray[np.floating[Any]], limit: float
) -> float:
    """Largest difference between the converted model and the probabilities the original gives.

    Parameters
    ----------
    features : shape (n, d)
    expected : shape (n, K)

    Raises
    ------
    ScorerDisagrees
        It is more than ``limit``, or no number.
    """
    if not len(features):  # whose shape libraries do not agree about; who calibrates says what is missing
        return 0.0
    difference = float(np.abs(check_probabilities(scorer.proba(features)) - expected).max(initial=0.0))
    if not difference <= limit:
        raise ScorerDisagrees(difference, limit)
    return difference
