"""Domain classifier: can a model tell current rows from reference rows? Sees changes that no column shows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xgboost as xgb
from scipy.stats import mannwhitneyu

from ml_core.base.errors import CannotJudge, DataError
from ml_core.features.columns import Column
from ml_core.lab.drift.drift_columns import MISSING, Feature, Table, features_in, numbers_in, positions_in

__all__ = ["SAMPLE_ROWS", "DomainReport", "domain_classifier"]

SAMPLE_ROWS = 5_000
"""Rows of each side that are looked at; 500 find a correlation of 0.6 that has gone (see the statistical suite)."""
_FEWEST_ROWS = 60  # 30 in each half
_TREES, _DEPTH = 60, 4
_TOLD = 5

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DomainReport:
    """What the classifier found.

    Attributes
    ----------
    auc : area under the ROC curve on held-out rows, mean of both halves; 0.5 where the windows look alike
    p_value : of "the windows follow one law", in [0, 1]
    drifted : ``p_value`` is below alpha
    n_reference, n_current : rows looked at
    telling : up to five features that tell the windows apart, with their share of the gain; no proof by itself
    """

    auc: float
    p_value: float
    drifted: bool
    n_reference: int
    n_current: int
    telling: tuple[tuple[str, float], ...]


def domain_classifier(
    reference: Table,
    current: Table,
    feature_cols: Sequence[str] | None = None,
    columns: Sequence[Column] = (),
    *,
    alpha: float = 0.05,
    most_rows: int = SAMPLE_ROWS,
    seed: int = 0,
) -> DomainReport:
    """Train on one half of both windows, rank the other half, and vice versa.

    Held-out rows of two windows of one law are exchangeable, so the Mann-Whitney test of their ranks is valid whatever
    the model is; twice the mean of two p-values is one, however they hang together. Rows are taken to be independent:
    a patient who stands in both halves makes them look more alike.

    Parameters
    ----------
    reference, current, feature_cols, columns : as ``detect_drift`` takes them
    alpha : unitless, in (0, 1)
    most_rows : random rows of each side that are looked at
    seed : decides rows and halves

    Raises
    ------
    CannotJudge
        A side has fewer than 60 rows, or there is no column to compare.
    DataError
        A column is missing on one side.

    References
    ----------
    Lopez-Paz & Oquab (2017), Revisiting classifier two-sample tests, ICLR; Vovk & Wang (2020), Combining p-values via
    averaging, Biometrika 107(4), 791-808.
    """
    rng = np.random.default_rng(seed)
    names = [str(name) for name in reference] if feature_cols is None else list(feature_cols)
    features = [f for f in features_in(reference, names, columns) if f.kind != "unjudged"]
    if not features:
        raise CannotJudge("domain", "there is no column to compare")
    missing = [f.name for f in features if f.name not in current]
    if missing:
        raise DataError("current window", f"has no column {', '.join(missing)}")
    x = np.concatenate(_matrices(features, reference, current, most_rows, rng))
    n = min(len(reference[features[0].name]), most_rows)
    y = np.arange(len(x)) >= n
    if min(n, len(x) - n) < _FEWEST_ROWS:
        raise CannotJudge("domain", f"{n} and {len(x) - n} rows; {_FEWEST_ROWS} are needed on each side")
    half = np.concatenate([rng.permutation(n) % 2, rng.permutation(len(x) - n) % 2])
    folds = [_fold(x, y, half == h, seed) for h in (0, 1)]
    auc, p_value = (float(np.mean([fold[k] for fold in folds])) for k in (0, 1))
    gain = np.sum([fold[2] for fold in folds], axis=0)
    first = np.argsort(-gain, kind="stable")[:_TOLD]
    telling = tuple((features[i].name, float(gain[i] / gain.sum())) for i in first if gain[i] > 0)
    p_value = min(1.0, 2.0 * p_value)
    return DomainReport(auc, p_value, p_value < alpha, n, len(x) - n, telling)


def _fold(
    x: Matrix, y: npt.NDArray[np.bool_], held_out: npt.NDArray[np.bool_], seed: int
) -> tuple[float, float, npt.NDArray[np.float64]]:
    """AUC and one-sided p-value on the held-out rows, and each column's share of the gain."""
    params = {"max_depth": _DEPTH, "objective": "binary:logistic", "seed": seed, "nthread": 1}
    booster = xgb.train(params, xgb.DMatrix(x[~held_out], y[~held_out]), num_boost_round=_TREES)
    scores = booster.predict(xgb.DMatrix(x[held_out]))
    current, reference = scores[y[held_out]], scores[~y[held_out]]
    test = mannwhitneyu(current, reference, alternative="greater", method="asymptotic")
    gain = booster.get_score(importance_type="total_gain")
    gains = np.array([gain.get(f"f{i}", 0.0) for i in range(x.shape[1])])
    return float(test.statistic) / (len(current) * len(reference)), float(test.pvalue), gains


def _matrices(
    features: Sequence[Feature], reference: Table, current: Table, most_rows: int, rng: np.random.Generator
) -> list[Matrix]:
    """Both windows as matrices of the same columns, each cut down to random rows."""
    pairs = [_encoded(f, reference[f.name], current[f.name]) for f in features]
    sides = [np.column_stack([pair[side] for pair in pairs]) for side in (0, 1)]
    return [rows[np.sort(rng.permutation(len(rows))[:most_rows])] for rows in sides]


def _encoded(feature: Feature, reference: Any, current: Any) -> tuple[Matrix, Matrix]:
    """One column of both sides as numbers: NaN where missing, levels as their place among the levels of both sides."""
    if feature.kind == "number":
        both = (numbers_in(side).cells for side in (reference, current))
        before, after = (np.where(np.isfinite(cells), cells, np.nan) for cells in both)
    else:
        levels = feature.levels or _levels_of_both(reference, current)
        place = {level: position for position, level in enumerate(levels)}
        codes = (positions_in(side, feature, place) for side in (reference, current))
        before, after = (np.where(positions == MISSING, np.nan, positions) for positions in codes)
    return _as_float32(before), _as_float32(after)


def _as_float32(cells: npt.NDArray[Any]) -> Matrix:
    limit = float(np.finfo(np.float32).max)
    within: Matrix = np.clip(cells, -limit, limit).astype(np.float32)
    return within


def _levels_of_both(reference: Any, current: Any) -> list[object]:
    """Levels of both sides in order of their spelling. The order of appearance would reveal the side."""
    distinct = {level for side in (reference, current) for level in pd.Series(side).dropna().unique().tolist()}
    return sorted(distinct, key=str)
