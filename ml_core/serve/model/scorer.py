"""The two scorers of an artefact: (n, d) float32 in, (n, K) class probabilities float64 out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

# It tells its makers over the network that it runs, unless told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

from ml_core.base.arrays import FeatureMatrix, FloatArray, Probabilities
from ml_core.base.errors import ArtefactError, BadModelOutput

__all__ = [
    "PROBABILITY_TOLERANCE",
    "OnnxScorer",
    "Scorecard",
    "Scorer",
    "check_probabilities",
]

PROBABILITY_TOLERANCE = 1e-5
"""How far a row of probabilities may sum from one (float32 soft-max of many classes stays within 1e-6)."""


class Scorer(Protocol):
    """Whatever turns a matrix into class probabilities. Whoever calls it checks them: ``check_probabilities``."""

    def proba(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities, float64 ``(n, K)``, for float32 ``(n, d)``."""
        ...


class OnnxScorer:
    """The served model, on one ONNX Runtime thread: the same bits for a row alone and among others.

    Parameters
    ----------
    onnx : serialised classifier whose last output is ``(n, K)`` float probabilities
        One whose input has a single row is asked row by row: its operations round by where a row stands among others.
    n_features, n_classes : d and K, as the manifest names them

    Raises
    ------
    ArtefactError
        ONNX Runtime cannot load it, or its shape is another one.
    """

    def __init__(self, onnx: bytes, n_features: int, n_classes: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The arena keeps the largest batch ever seen; a service that takes bulk calls must give memory back.
        options.enable_cpu_mem_arena = False
        try:
            self._session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ArtefactError("model.onnx", "ONNX Runtime cannot load it") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].shape[-1] != n_features or inputs[0].type != "tensor(float)":
            raise ArtefactError("model.onnx", f"does not take {n_features} float features")
        if len(outputs) not in (1, 2):  # what converters of scikit-learn make gives labels first
            raise ArtefactError("model.onnx", "does not give labels and probabilities, or these alone")
        self._input = inputs[0].name
        self._outputs = [outputs[-1].name]
        self._by_row = inputs[0].shape[0] == 1
        self._n_classes = n_classes

    def proba(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities, float64 ``(n, K)``, rows in the order given.

        Raises
        ------
        BadModelOutput
            The output is no ``(n, K)`` table.
        """
        raw = self._by_rows(features) if self._by_row else self._run(features)
        if raw.shape != (len(features), self._n_classes):
            raise BadModelOutput(f"the model gave shape {raw.shape}, not {(len(features), self._n_classes)}")
        probabilities: Probabilities = raw.astype(np.float64)
        if self._n_classes == 2:
            # One number decides a binary row; its complement is taken in float64, so that scores of both labels
            # are functions of the same bits here, in calibration and offline.
            np.subtract(1.0, probabilities[:, 1], out=probabilities[:, 0])
        return probabilities

    def _run(self, features: FeatureMatrix) -> Any:
        return self._session.run(self._outputs, {self._input: features})[0]

    def _by_rows(self, features: FeatureMatrix) -> Any:
        rows = [self._run(features[row : row + 1]) for row in range(len(features))]
        return np.concatenate(rows) if rows else np.empty((0, self._n_classes))


class Scorecard:
    """A small logistic regression in numpy: what answers when the model cannot.

    Parameters
    ----------
    content : ``scorecard`` of ``fallback.json``: ``center`` and ``scale`` (d,), ``coefficients`` (K, d) and
        ``intercept`` (K,)
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        try:
            self._center = np.asarray(content["center"], dtype=np.float64)
            self._scale = np.asarray(content["scale"], dtype=np.float64)
            self._weights = np.asarray(content["coefficients"], dtype=np.float64)
            self._intercept = np.asarray(content["intercept"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError("fallback.json", "holds no scorecard") from error
        d, k = len(self._center), len(self._intercept)
        if self._scale.shape != (d,) or self._weights.shape != (k, d) or k < 2:
            raise ArtefactError("fallback.json", "its scorecard has arrays of different shapes")
        if not all(np.isfinite(a).all() for a in (self._center, self._scale, self._weights, self._intercept)):
            raise ArtefactError("fallback.json", "its scorecard has numbers that are not finite")

    def proba(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities, float64 ``(n, K)``; a missing value counts as the column's centre.

        Row i is computed with the same operations whatever the other rows are (no BLAS call, whose blocking
        depends on the number of rows).
        """
        centred = self._centred(features)
        margin = (centred[:, None, :] * self._weights[None, :, :]).sum(axis=2) + self._intercept
        margin -= margin.max(axis=1, keepdims=True)
        weights = np.exp(margin)
        probabilities: Probabilities = weights / weights.sum(axis=1, keepdims=True)
        return probabilities

    def shares(self, features: FeatureMatrix, label: int) -> FloatArray:
        """What each feature adds to the margin of a label, coefficient x (value - centre) / scale: (n, d).

        With two classes that is the log-odds of the second. A missing value adds nothing.
        """
        found: FloatArray = self._centred(features) * self._of(self._weights, label)
        return found

    def base(self, label: int) -> float:
        """The margin of a row whose features are all at their centre."""
        return float(self._of(self._intercept, label))

    def _of(self, of_labels: FloatArray, label: int) -> FloatArray:
        found: FloatArray = of_labels[1] - of_labels[0] if len(of_labels) == 2 else of_labels[label]
        return found

    def _centred(self, features: FeatureMatrix) -> FloatArray:
        found: FloatArray = np.where(np.isnan(features), 0.0, features.astype(np.float64) - self._center) / self._scale
        return found


def check_probabilities(probabilities: Probabilities) -> Probabilities:
    """The same probabilities, once every row is seen to be finite, not negative and to sum to one.

    A NaN or an infinity anywhere makes its row's sum fail, whatever the other numbers are.

    Raises
    ------
    BadModelOutput
        A row is something else.
    """
    off = np.abs(probabilities.sum(axis=1) - 1.0)
    if len(off) and not (probabilities.min() >= 0.0 and off.max() <= PROBABILITY_TOLERANCE):
        raise BadModelOutput("the model gave numbers that are no probabilities")
    return probabilities
