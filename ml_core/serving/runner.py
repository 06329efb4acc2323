"""The runner: the one place where a model's arithmetic runs, arrays in and arrays out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ml_core.models.loader import LoadedModel

__all__ = ["ConformalRunner", "FeatureMatrix", "Probabilities", "Runner"]

FeatureMatrix = npt.NDArray[np.float32]
Probabilities = npt.NDArray[np.float64]


class Runner(Protocol):
    """Turns features into class probabilities, wherever that happens."""

    def proba(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities float64 (n, K) for float32 (n, d)."""
        ...


class ConformalRunner:
    """Runs a loaded model inside this process.

    Parameters
    ----------
    model : verified, gated, and shown to reproduce its golden answers
    """

    def __init__(self, model: LoadedModel) -> None:
        self._scorer = model.predictor.scorer

    def proba(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities float64 (n, K).

        Raises
        ------
        BadModelOutput
            The model gave something else than probabilities.
        """
        return self._scorer.proba(features)
