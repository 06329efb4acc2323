"""The ratio of two densities of the features, by a logistic regression that tells calibration rows from live rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ml_core.base.arrays import FeatureMatrix
from ml_core.base.errors import CannotJudge
from ml_core.serve.model.weighted_sets import WIDEST

__all__ = ["fit_density_ratio"]

_STRENGTH = 0.1  # inverse of the penalty: few live rows against many features
_DIGITS = 10  # significant ones: the last bits of a solver differ between processors, and mean nothing
_FEWEST_ROWS = 500


def fit_density_ratio(calibration: FeatureMatrix, live: FeatureMatrix) -> dict[str, Any]:
    """``center``, ``scale``, ``coefficients`` (d,) and ``intercept`` for ``weighted_sets.DensityRatio``.

    The odds that a row is a live one, divided by the share of live rows, are the ratio of the densities (Bickel,
    Brückner and Scheffer 2009, JMLR 10:2137). Linear in the standardised features, so it describes a change of means
    and shares, and not one of spread or of how features go together.

    Parameters
    ----------
    calibration : shape (n, d), NaN where missing
    live : shape (m, d), of records whose outcome need not be known

    Raises
    ------
    CannotJudge
        Fewer than 500 rows on a side.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

    if min(len(calibration), len(live)) < _FEWEST_ROWS:
        found = f"{len(calibration)} calibration rows and {len(live)} live rows"
        raise CannotJudge("the shift of rows", f"{found}; {_FEWEST_ROWS} of each are needed")
    wide = calibration.astype(np.float64)
    present = ~np.isnan(wide)
    count = np.maximum(present.sum(axis=0), 1)
    center = np.where(present, wide, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(present, (wide - center) ** 2, 0.0).sum(axis=0) / count)
    scale = np.where(spread > 0.0, spread, 1.0)
    both = np.concatenate([wide, live.astype(np.float64)])
    standardised = np.clip(np.where(np.isnan(both), 0.0, both - center) / scale, -WIDEST, WIDEST)
    is_live = np.arange(len(both)) >= len(wide)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not have converged to the last digit
        model = LogisticRegression(C=_STRENGTH, max_iter=300).fit(standardised, is_live)
    intercept = float(model.intercept_[0]) - float(np.log(len(live) / len(calibration)))
    return {
        "center": _rounded(center),
        "scale": _rounded(scale),
        "coefficients": _rounded(model.coef_[0]),
        "intercept": float(f"{intercept:.{_DIGITS}g}"),
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]
