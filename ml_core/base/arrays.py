"""Names of the types that every room uses: arrays by what they hold, and the labels of a model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BoolArray", "FeatureMatrix", "FloatArray", "IntArray", "Label", "Probabilities"]

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

FeatureMatrix = npt.NDArray[np.float32]
"""What a model takes: shape (n, d), one row for each record."""
Probabilities = npt.NDArray[np.float64]
"""What a model gives: shape (n, K), one column for each class, in class order."""

Label = int | str
"""One of the classes of a model, as requests and answers write it."""
