"""Labelled rows that do not all count alike: weighed as patients come now, or by the weights of a survey.

A survey's weights are known, but not that of the one who is asked about. It is taken to be the largest of all, so the
sets are those of the known weight, or larger.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from ml_core.base.arrays import FloatArray, Label, Probabilities
from ml_core.lab.measuring.evaluation import Evaluation, evaluate
from ml_core.lab.measuring.weighted_coverage import WeightedRows, weighted_coverage
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.serve.model.groupings import GroupedRows
from ml_core.serve.model.prediction_sets import ConformalCalibration
from ml_core.serve.model.weighted_sets import DensityRatio, WeightedCalibration, effective_rows

__all__ = ["row_weights", "survey_calibration", "weighted_effects", "weighted_evaluation", "weighted_rows"]


def survey_calibration(plain: ConformalCalibration, rows: LabelledRows, proba: Probabilities) -> WeightedCalibration:
    """The scores of calibration rows with the weights of a survey, for people who may have the largest of them.

    Of the population that the weights stand for, each class is covered with probability >= level: a row's p-value grows
    with its own weight, and no row weighs more than the heaviest (Tibshirani et al. 2019, arXiv:1904.06019).

    Parameters
    ----------
    rows : with weights, as shares of the heaviest row's
    proba : shape (n, K), of these rows
    """
    d = len(rows.features.feature_names)
    everybody = {"center": np.zeros(d), "scale": np.ones(d), "coefficients": np.zeros(d), "intercept": np.zeros(1)}
    ratio = DensityRatio(everybody)  # one for each: the weight of the heaviest row
    return WeightedCalibration(plain, row_weights(ratio, rows, proba), ratio)


def _counted(ratio: DensityRatio, rows: LabelledRows) -> FloatArray:
    """How much each labelled row counts, shape (n,): by its survey's weight, else by the ratio."""
    return ratio.weights(rows.matrix) if rows.weights is None else rows.weights


def row_weights(ratio: DensityRatio, rows: LabelledRows, proba: Probabilities) -> tuple[FloatArray, ...]:
    """Weights of calibration rows, per class in the order of their scores: what ``calibrate`` sorts."""
    weights = _counted(ratio, rows)
    found = []
    for k in range(len(rows.classes)):
        own = rows.y_index == k
        found.append(weights[own][np.argsort(1.0 - proba[own, k], kind="stable")])
    return tuple(found)


def weighted_rows(
    calibration: WeightedCalibration, level: Decimal, rows: LabelledRows, proba: Probabilities
) -> WeightedRows:
    """Labelled rows with their weights, and with the sets that the calibration gives them."""
    sets = calibration.rows(proba, level, calibration.ratio.weights(rows.matrix)).sets
    return WeightedRows(sets, rows.y_index, _counted(calibration.ratio, rows), rows.groups)


def weighted_evaluation(
    calibration: WeightedCalibration,
    level: Decimal,
    rows: LabelledRows,
    proba: Probabilities,
    by: GroupedRows | None = None,
) -> Evaluation:
    """Metrics on test rows; coverage among patients of the mix that comes now, all others on the rows as they are.

    With the weights of a survey all metrics are of the population that they stand for.

    Parameters
    ----------
    by : the groups of patients of these rows, for a table by group
    """
    found = weighted_rows(calibration, level, rows, proba)
    plain: ConformalCalibration = calibration.plain
    about = (
        proba,
        rows.y_index,
        plain,
        level,
        rows.groups,
        rows.classes,
        None if rows.weights is None else rows.returning,
    )
    evaluation = evaluate(*about, sets=found.sets, by=by, weights=rows.weights)
    evaluation.metrics.update(weighted_coverage(found, rows.classes))
    return evaluation


def weighted_effects(rows: WeightedRows, classes: tuple[Label, ...]) -> dict[str, float]:
    """Design effects of the weighted calibration rows, as the monitor needs them."""
    found = {}
    for k, name in enumerate(("calibration_effect", *(f"calibration_effect_class_{label}" for label in classes)), -1):
        found[name] = effective_rows(rows.weights[rows.of_class(k)]) / max(rows.worth(k), 1e-9)
    return found
