"""Who answers when the model does not: a scorecard with a calibration of its own, else every label at once."""

from __future__ import annotations

import logging
from decimal import Decimal

import numpy as np

from ml_core.base.arrays import FeatureMatrix
from ml_core.base.errors import ArtefactError
from ml_core.features.columns import ColumnArrays
from ml_core.serve.model.bundle import Bundle
from ml_core.serve.model.groupings import GroupedCalibration
from ml_core.serve.model.prediction_sets import ConformalCalibration, Predictions
from ml_core.serve.model.scorer import Scorecard
from ml_core.serve.model.weighted_sets import WeightedCalibration
from ml_core.serve.running.runner import checked

__all__ = ["FallbackStrategy"]

logger = logging.getLogger(__name__)


class FallbackStrategy:
    """The steps of a fallback chain that need no model.

    Parameters
    ----------
    scorecard : trained beside the model on the same rows; None where it must not answer
    calibration : made with the scorecard's own scores, so that its sets keep the promise by themselves
    prior : share of each class among the training rows, shape (K,)
    grouped : the scorecard's calibrations by group, where groups have a promise
    weighted : the scorecard's calibration with weighted rows, where they are
    """

    def __init__(
        self,
        scorecard: Scorecard | None,
        calibration: ConformalCalibration,
        prior: tuple[float, ...],
        grouped: GroupedCalibration | None = None,
        weighted: WeightedCalibration | None = None,
    ) -> None:
        self._scorecard = scorecard
        self._prior = prior
        self.calibration = calibration
        self.grouped = grouped
        self.weighted = weighted

    @property
    def calibration_id(self) -> str:
        """sha256 (hex) over all calibration scores of the scorecard."""
        return (self.weighted or self.grouped or self.calibration).calibration_id

    @classmethod
    def from_baseline(cls, bundle: Bundle, *, with_scorecard: bool = True) -> FallbackStrategy:
        """The chain that travels in an artefact.

        Raises
        ------
        ArtefactError
            ``fallback.json`` holds no scorecard or no prior.
        """
        try:
            shares = tuple(float(bundle.fallback["prior"][str(label)]) for label in bundle.manifest.classes)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError("fallback.json", "holds no prior for every class") from error
        scorecard = Scorecard(bundle.fallback.get("scorecard", {})) if with_scorecard else None
        return cls(scorecard, bundle.scorecard_calibration, shares, bundle.grouped_scorecard, bundle.weighted_scorecard)

    def by_scorecard(self, features: FeatureMatrix, level: Decimal, columns: ColumnArrays) -> Predictions | None:
        """Answers of the scorecard with sets of its own calibration; None where it gives none.

        Valid for rows that were turned to it before anything about them was known. A row that broke the model is not
        such a row: see :meth:`by_prior`.

        Parameters
        ----------
        features, columns : the same n rows, as the model's matrix and as raw columns, which tell their groups
        """
        if self._scorecard is None:
            return None
        try:
            scored = checked(self._scorecard.proba(features), len(features), len(self._prior))
        except Exception:  # numpy on odd values; the next step of the chain has none of this
            logger.exception("scorecard.failed", extra={"rows": len(features)})
            return None
        if scored.fault is not None:
            return None
        if self.weighted is not None:
            return self.weighted.rows(scored.proba, level, self.weighted.ratio.weights(features))
        if self.grouped is None:
            return self.calibration.rows(scored.proba, level)
        return self.grouped.rows(scored.proba, level, self.grouped.cells(columns))

    def by_prior(self, rows: int) -> Predictions:
        """Every label for every row, which covers whatever the row is; the probabilities are the class shares."""
        shape = (rows, len(self._prior))
        most = np.full(rows, int(np.argmax(self._prior)), dtype=np.int64)
        return Predictions(np.tile(self._prior, (rows, 1)), np.ones(shape), np.ones(shape, dtype=np.bool_), most)
