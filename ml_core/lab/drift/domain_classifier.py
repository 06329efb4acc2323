"""Domain classifier: can a model tell current rows from reference rows? Sees changes that no column shows alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xgboost as xgb
from scipy.stats import mannwhitneyu, norm

from ml_core.base.arrays import BoolArray, FloatArray, IntArray
from ml_core.base.errors import CannotJudge, DataError
from ml_core.features.columns import Column
from ml_core.lab.drift.drift_columns import MISSING, Feature, Table, features_in, numbers_in, positions_in
from ml_core.lab.measuring.comparison import paired_auc_difference

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
    patients: tuple[Sequence[Hashable], Sequence[Hashable]] | None = None,
) -> DomainReport:
    """Train on one half of both windows, rank the other half, and vice versa.

    Held-out rows of two windows of one law are exchangeable, so the Mann-Whitney test of their ranks is valid whatever
    the model is; twice the mean of two p-values is one, however they hang together.

    Where the patients are known, patients are halved and not rows: a model that has seen one stay of a patient knows
    his next one, and would find his side. The area under the curve is then tested with an error by patient.

    Parameters
    ----------
    reference, current, feature_cols, columns : as ``detect_drift`` takes them
    alpha : unitless, in (0, 1)
    most_rows : random rows of each side that are looked at
    seed : decides rows and halves
    patients : of whom each row of the reference and of the current window is (None: the row stands alone); without
        them every row is taken to be independent of every other

    Raises
    ------
    CannotJudge
        A side has fewer than 60 rows or patients, or there is no column to compare.
    DataError
        A column is missing on one side.

    References
    ----------
    Lopez-Paz & Oquab (2017), Revisiting classifier two-sample tests, ICLR; Vovk & Wang (2020), Combining p-values via
    averaging, Biometrika 107(4), 791-808; Obuchowski (1997), Nonparametric analysis of clustered ROC curve data,
    Biometrics 53(2), 567-578.
    """
    rng = np.random.default_rng(seed)
    names = [str(name) for name in reference] if feature_cols is None else list(feature_cols)
    features = [f for f in features_in(reference, names, columns) if f.kind != "unjudged"]
    if not features:
        raise CannotJudge("domain", "there is no column to compare")
    missing = [f.name for f in features if f.name not in current]
    if missing:
        raise DataError("current window", f"has no column {', '.join(missing)}")
    chosen = [_chosen(len(side[features[0].name]), most_rows, rng) for side in (reference, current)]
    x = np.concatenate([m[rows] for m, rows in zip(_matrices(features, reference, current), chosen, strict=True)])
    n = len(chosen[0])
    y = np.arange(len(x)) >= n
    if min(n, len(x) - n) < _FEWEST_ROWS:
        raise CannotJudge("domain", f"{n} and {len(x) - n} rows; {_FEWEST_ROWS} are needed on each side")
    who = (
        None
        if patients is None
        else _people([[side[i] for i in rows] for side, rows in zip(patients, chosen, strict=True)])
    )
    if who is None:
        half = np.concatenate([rng.permutation(n) % 2, rng.permutation(len(x) - n) % 2])
    else:
        half = (rng.permutation(int(who.max()) + 1) % 2)[who]
        fewest = min(np.unique(who[side]).size for side in (y, ~y))
        if fewest < _FEWEST_ROWS:
            raise CannotJudge("domain", f"{fewest} subjects on a side; {_FEWEST_ROWS} are needed on each")
    folds = [_fold(x, y, half == h, seed, who) for h in (0, 1)]
    auc, p_value = (float(np.mean([fold[k] for fold in folds])) for k in (0, 1))
    gain = np.sum([fold[2] for fold in folds], axis=0)
    first = np.argsort(-gain, kind="stable")[:_TOLD]
    telling = tuple((features[i].name, float(gain[i] / gain.sum())) for i in first if gain[i] > 0)
    p_value = min(1.0, 2.0 * p_value)
    return DomainReport(auc, p_value, p_value < alpha, n, len(x) - n, telling)


def _fold(
    x: Matrix, y: BoolArray, held_out: BoolArray, seed: int, who: IntArray | None
) -> tuple[float, float, FloatArray]:
    """AUC and one-sided p-value on the held-out rows, and each column's share of the gain."""
    params = {"max_depth": _DEPTH, "objective": "binary:logistic", "seed": seed, "nthread": 1}
    booster = xgb.train(params, xgb.DMatrix(x[~held_out], y[~held_out]), num_boost_round=_TREES)
    scores, labels = booster.predict(xgb.DMatrix(x[held_out])).astype(np.float64), y[held_out]
    auc, p_value = _told_apart(scores, labels, None if who is None else who[held_out])
    gain = booster.get_score(importance_type="total_gain")
    gains = np.array([gain.get(f"f{i}", 0.0) for i in range(x.shape[1])])
    return auc, p_value, gains


def _told_apart(scores: FloatArray, is_current: BoolArray, who: IntArray | None) -> tuple[float, float]:
    """AUC of the scores, and the p-value of "no better than chance"."""
    if who is not None:
        # compared with a constant score, whose area is one half without any error
        found = paired_auc_difference(is_current, scores, np.zeros(scores.size), who)
        auc, error = found.difference + 0.5, found.standard_error
        if error > 0.0:
            return auc, float(norm.sf(found.difference / error))
        if not found.difference:
            return auc, 1.0
        _, first = np.unique(who, return_index=True)  # completely apart, without a variance: patients are ranked
        scores, is_current = scores[first], is_current[first]
    current, reference = scores[is_current], scores[~is_current]
    test = mannwhitneyu(current, reference, alternative="greater", method="asymptotic")
    area = float(test.statistic) / (len(current) * len(reference))
    return area, float(test.pvalue)


def _people(sides: Sequence[Sequence[Hashable]]) -> IntArray:
    """Number of the patient of each row, of both sides: who stands on both has one number."""
    number: dict[Hashable, int] = {}
    rows = [row for side in sides for row in side]
    found = [number.setdefault((i,) if p is None else p, len(number)) for i, p in enumerate(rows)]
    return np.array(found, dtype=np.int64)


def _chosen(rows: int, most: int, rng: np.random.Generator) -> IntArray:
    return np.sort(rng.permutation(rows)[:most]).astype(np.int64)


def _matrices(features: Sequence[Feature], reference: Table, current: Table) -> list[Matrix]:
    """Both windows as matrices of the same columns."""
    pairs = [_encoded(f, reference[f.name], current[f.name]) for f in features]
    return [np.column_stack([pair[side] for pair in pairs]) for side in (0, 1)]


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
