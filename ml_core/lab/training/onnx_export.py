"""Turns trained classifiers into ONNX bytes that depend on the model alone, and checks that nothing was lost."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ArtefactError, ScorerDisagrees
from ml_core.lab.training.booster_trees import xgboost_trees
from ml_core.lab.training.tree_export import trees_to_onnx
from ml_core.lab.training.tree_form import TreeForm
from ml_core.serve.model.bundle import ONNX_FILE
from ml_core.serve.model.scorer import OnnxScorer, check_probabilities

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
"""Largest difference allowed: both sum float32 leaves, in another order."""

TREE_LIMIT = 1e-9
"""Largest difference allowed for trees whose library sums in 64 bits, as ONNX does."""

SKLEARN_LIMIT = 1e-5
"""Largest difference allowed: scikit-learn sums in float64, ONNX in float32."""

_OPSET = 15
_GRAPH = "surety"


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
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    inputs = [("features", FloatTensorType([None, n_features]))]
    try:
        logging.getLogger("skl2onnx").setLevel(logging.ERROR)
        converted = convert_sklearn(
            model, name=_GRAPH, initial_types=inputs, target_opset=_OPSET, options={id(model): {"zipmap": False}}
        )
    except Exception as error:  # the converters raise whatever the estimator makes them meet
        problem = f"{type(model).__name__} cannot be converted ({type(error).__name__})"
        raise ArtefactError(ONNX_FILE, problem) from error
    return _plain_bytes(converted)


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


def _plain_bytes(model: Any) -> bytes:
    """Serialised without what names the tool or the moment: equal models give equal bytes."""
    model.producer_name = _GRAPH
    model.producer_version = ""
    model.domain = ""
    model.doc_string = ""
    model.model_version = 0
    del model.metadata_props[:]
    model.graph.name = _GRAPH
    model.graph.doc_string = ""
    return bytes(model.SerializeToString(deterministic=True))
