"""Conformity scores from class probabilities: how unusual a label would be for a row. Larger is stranger."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import FloatArray, IntArray
from ml_core.base.errors import BadModelOutput

__all__ = ["FloatArray", "IntArray", "checked_probabilities", "lac_scores", "true_label_scores"]


def checked_probabilities(proba: npt.ArrayLike, n_classes: int | None = None) -> FloatArray:
    """The probabilities as float64, shape (n, K), or an error if they cannot be probabilities.

    The cast comes before any arithmetic: 1 - p in float32 and 1 - p in float64 differ by up to 3e-8, and a row tied
    with a calibration score would then fall on the wrong side of it.

    Parameters
    ----------
    proba : shape (n, K), unitless, each in [0, 1]
        One column per class, in class order. Rows need not sum to one exactly.
    n_classes : the K expected; None takes what comes

    Raises
    ------
    BadModelOutput
        Wrong shape, or a value that is NaN or outside [0, 1].
    """
    array = np.asarray(proba, dtype=np.float64)
    if array.ndim != 2 or (n_classes is not None and array.shape[1] != n_classes):
        expected = "(n, classes)" if n_classes is None else f"(n, {n_classes})"
        raise BadModelOutput(f"class probabilities have shape {array.shape}, expected {expected}")
    if not bool(((array >= 0.0) & (array <= 1.0)).all()):  # NaN fails both comparisons
        raise BadModelOutput("a class probability is not a number in [0, 1]")
    return array


def lac_scores(proba: npt.ArrayLike) -> FloatArray:
    """Score 1 - p of every label for every row, float64, shape (n, K), in [0, 1].

    "Least ambiguous classifier" score of Sadinle, Lei and Wasserman (2019), JASA 114(525).

    Raises
    ------
    BadModelOutput
        As :func:`checked_probabilities`.
    """
    return 1.0 - checked_probabilities(proba)


def true_label_scores(proba: npt.ArrayLike, y_index: npt.ArrayLike) -> FloatArray:
    """Score of each row's own label, shape (n,).

    Parameters
    ----------
    proba : shape (n, K), in [0, 1]
    y_index : shape (n,), position of the true label in class order

    Raises
    ------
    BadModelOutput
        As :func:`checked_probabilities`.
    """
    picked = np.take_along_axis(lac_scores(proba), np.asarray(y_index, dtype=np.int64)[:, None], axis=1)
    return np.ascontiguousarray(picked[:, 0])
