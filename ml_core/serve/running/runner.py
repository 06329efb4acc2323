"""Runs a model on arrays: probabilities of every row it can score, and how it failed on the others."""

from __future__ import annotations

import logging
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ml_core.base.arrays import FeatureMatrix, Probabilities
from ml_core.base.errors import BadModelOutput, ModelUnavailable
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.scorer import PROBABILITY_TOLERANCE

__all__ = ["ConformalRunner", "RowFault", "Runner", "Scored", "checked", "score_rows"]

logger = logging.getLogger(__name__)

RowFault = Literal["model_error", "bad_output"]

_HOPELESS_CALLS, _MOST_CALLS = 32, 4_096
"""Failing calls after which a batch is given up: where none succeeded (the model is broken, not a row), and in all."""


class Runner(Protocol):
    """Turns features into class probabilities."""

    def proba(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities float64 (n, K) for float32 (n, d)."""
        ...


class ConformalRunner:
    """Runs a loaded model inside this process.

    Parameters
    ----------
    model : verified, gated, and shown to reproduce its golden answers
    """

    is_quick = True
    """A row takes microseconds, so the model may run on the event loop."""

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


class Scored(NamedTuple):
    """Result of a model for n rows.

    Attributes
    ----------
    proba : float64 (n, K); NaN in the rows it failed on
    fault : how it failed on those rows, None where it failed on none
    """

    proba: Probabilities
    fault: RowFault | None


def score_rows(runner: Runner, features: FeatureMatrix, n_classes: int) -> Scored:
    """Probabilities of every row that the model can score, also where other rows make it fail.

    A batch that fails is halved until the rows that break it are alone. A row's numbers do not depend on the other
    rows, so a half gives the same numbers as the whole batch.

    Raises
    ------
    ModelUnavailable
        The runner cannot be reached; no row is at fault.
    """
    try:
        scored = checked(runner.proba(features), len(features), n_classes)
        if scored.fault is None or len(features) == 1:
            return scored
        fault: RowFault = "bad_output"
    except BadModelOutput:
        fault = "bad_output"
    except ModelUnavailable:
        raise
    except Exception:  # whatever a model raises; its rows get another answer
        logger.exception("model.failed", extra={"rows": len(features)})
        fault = "model_error"
    found = np.full((len(features), n_classes), np.nan)
    if len(features) > 1:
        _score_halves(runner, features, found)
    return Scored(found, fault)


def checked(proba: Probabilities, rows: int, n_classes: int) -> Scored:
    """The probabilities; NaN in rows that are not in [0, 1] or do not sum to one; all NaN where the shape is wrong."""
    if proba.shape != (rows, n_classes):
        return Scored(np.full((rows, n_classes), np.nan), "bad_output")
    if rows == 1:  # plain Python costs a tenth of numpy's reductions here
        (row,) = proba.tolist()
        fine = min(row) >= 0.0 and max(row) <= 1.0 and abs(sum(row) - 1.0) <= PROBABILITY_TOLERANCE
        return Scored(proba, None) if fine else Scored(np.full((1, n_classes), np.nan), "bad_output")
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinities fail the sum
        inside = (proba.min(axis=1) >= 0.0) & (proba.max(axis=1) <= 1.0)
        good = inside & (np.abs(proba.sum(axis=1) - 1.0) <= PROBABILITY_TOLERANCE)
    if good.all():
        return Scored(proba, None)
    return Scored(np.where(good[:, None], proba, np.nan), "bad_output")


def _score_halves(runner: Runner, features: FeatureMatrix, found: Probabilities) -> None:
    """Fill in the rows that can be scored, by halving the parts that fail."""
    middle = len(features) // 2
    left = [(middle, len(features)), (0, middle)]
    failing, most = 1, _HOPELESS_CALLS
    while left and failing < most:
        start, end = left.pop()
        try:
            scored = checked(runner.proba(features[start:end]), end - start, found.shape[1])
            if scored.fault is None:
                found[start:end] = scored.proba
                most = _MOST_CALLS
                continue
        except Exception as error:  # noqa: BLE001 - the first one was logged; here it only says where to cut
            logger.debug("model.failed_again", extra={"rows": end - start, "exception": type(error).__name__})
        failing += 1
        if end - start > 1:
            middle = (start + end) // 2
            left += [(middle, end), (start, middle)]
