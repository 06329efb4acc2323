"""Tests of two samples: the AUC of a new and an old model, and the losses of test and calibration rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata, t

from ml_core.base.arrays import BoolArray, FloatArray, IntArray
from ml_core.base.errors import CannotJudge
from ml_core.lab.measuring.coverage_law import Groups, row_groups
from ml_core.lab.measuring.evaluation import weight_below

__all__ = [
    "UNSEEN_TAIL",
    "AucDifference",
    "UnseenVerdict",
    "out_of_fold_losses",
    "paired_auc_difference",
    "unseen_rows_verdict",
]

UNSEEN_TAIL = 0.001
"""Chance that :func:`unseen_rows_verdict` accuses an honest split, at most."""

_DRAWS = 9_999
_WORTH_PERMUTING = 0.05
_ENOUGH = 30
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class AucDifference:
    """AUC of a new model minus that of an old one on the same rows.

    Attributes
    ----------
    difference : in [-1, 1]
    standard_error : clustered by group
    lower_bound_95 : lower end of the two-sided 95 % interval, so equal models end above zero in 2.5 % of comparisons
    """

    difference: float
    standard_error: float
    lower_bound_95: float


@dataclass(frozen=True, slots=True)
class UnseenVerdict:
    """Whether test rows fit suspiciously well.

    Attributes
    ----------
    difference : mean log loss of calibration rows minus that of test rows, in nats, after the reference's loss and then
        the pooled mean of its class are taken from every row; large is suspicious
    z : the same in units of its standard deviation under exchangeable groups
    p_value : chance of a difference as large if the groups of both splits are exchangeable
    tail : a p-value not above it accuses
    """

    difference: float
    z: float
    p_value: float
    tail: float


def paired_auc_difference(
    y: npt.ArrayLike,
    p_new: npt.ArrayLike,
    p_old: npt.ArrayLike,
    groups: Groups = None,
    weights: FloatArray | None = None,
) -> AucDifference:
    """AUC difference of two models on the same rows, with a standard error for repeated patients.

    DeLong's structural components, summed within groups as Obuchowski does; without groups it is DeLong's estimate.
    The interval uses Student's t with the number of groups of the rarer class less one as degrees of freedom.

    Parameters
    ----------
    y : shape (n,), 1 for the positive class, else 0
    p_new, p_old : shape (n,), probability of the positive class by either model
    groups : shape (n,), or None where every row is its own
    weights : shape (n,), how often each row is drawn from the population; None where all are alike. The error then is
        that of a ratio of weighted sums over groups (linearised)

    Raises
    ------
    CannotJudge
        Fewer than two groups with positive rows, or with negative rows.

    References
    ----------
    DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44:837; Obuchowski (1997), Biometrics 53:567.
    """
    positive = np.asarray(y, dtype=np.int64) == 1
    ids = row_groups(groups, positive.size)
    with_pos, with_neg = np.unique(ids[positive]).size, np.unique(ids[~positive]).size
    if min(with_pos, with_neg) < 2:
        raise CannotJudge("the AUC difference", f"{with_pos} groups with positive rows and {with_neg} with negative")
    components = _auc_components(np.asarray(p_new, dtype=np.float64), positive, weights)
    components -= _auc_components(np.asarray(p_old, dtype=np.float64), positive, weights)
    of_pos = None if weights is None else weights[positive]
    difference = float(np.average(components[positive], weights=of_pos))
    residuals = components - difference
    if weights is not None:  # in units of the class's mean weight, so that equal weights change nothing
        residuals *= weights / np.where(positive, weights[positive].mean(), weights[~positive].mean())
    error = sqrt(_clustered_variance(residuals, positive, ids, with_pos, with_neg))
    bound = difference - float(t.ppf(0.975, min(with_pos, with_neg) - 1)) * error
    return AucDifference(difference, error, bound)


def out_of_fold_losses(
    matrices: tuple[npt.ArrayLike, npt.ArrayLike],
    classes: tuple[npt.ArrayLike, npt.ArrayLike],
    groups: tuple[Groups, Groups] = (None, None),
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Out-of-fold log losses of a small logistic regression that is fitted on both splits together.

    Folds are drawn without regard to the split. So the losses tell :func:`unseen_rows_verdict` how hard a row is, and
    cannot favour a split.

    Parameters
    ----------
    matrices : (calibration, test), each shape (n, d), features; NaN where missing
    classes, groups : as in :func:`unseen_rows_verdict`
    seed : of the folds

    Returns
    -------
    tuple
        (calibration, test), each shape (n,), nats. Zeros where a fold leaves a single class to fit.
    """
    rows = np.concatenate([np.asarray(m, dtype=np.float64) for m in matrices])
    labels = np.concatenate([np.asarray(c, dtype=np.int64) for c in classes])
    n_calibration = np.asarray(classes[0]).size
    ids = _pooled_ids(groups, (n_calibration, labels.size - n_calibration))
    fold = np.random.default_rng(seed).integers(0, _FOLDS, size=int(ids.max()) + 1)[ids]
    losses = np.zeros(labels.size)
    for f in range(_FOLDS):
        fitted_on, scored = fold != f, fold == f
        if np.unique(labels[fitted_on]).size < 2:
            return np.zeros(n_calibration), np.zeros(labels.size - n_calibration)
        if scored.any():
            losses[scored] = _logistic_losses(rows[fitted_on], labels[fitted_on], rows[scored], labels[scored])
    return losses[:n_calibration], losses[n_calibration:]


def unseen_rows_verdict(
    losses: tuple[npt.ArrayLike, npt.ArrayLike],
    classes: tuple[npt.ArrayLike, npt.ArrayLike],
    groups: tuple[Groups, Groups] = (None, None),
    reference: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    seed: int = 0,
    tail: float = UNSEEN_TAIL,
) -> UnseenVerdict:
    """Whether the model fits the test rows better than the calibration rows, which it never saw.

    Both splits are drawn from the same patients by a hash, so patients may be exchanged between them: that gives the
    exact law of the difference (a permutation test over groups). Losses are compared within classes, so that a chance
    surplus of the easier class is no evidence. The losses of a reference that treats both splits alike are subtracted,
    so that differences in how hard the rows are do not count. On Diabetes 130-US a leak of 20,000 rows then shows at 12
    instead of 4 standard deviations, and one of 4,000 rows, hidden otherwise, at 6. Permutations are drawn only where
    the normal approximation is suspicious. A false accusation has at most the chance ``tail``, whatever the law of the
    losses.

    Parameters
    ----------
    losses : (calibration, test), each shape (n,), log losses in nats
    classes : (calibration, test), each shape (n,), class indices
    groups : (calibration, test), each shape (n,) or None where every row is its own; no group is in both
    reference : (calibration, test), each shape (n,), losses of :func:`out_of_fold_losses`, or of a model that saw rows
        of neither split; None takes none away
    seed : of the permutations

    Raises
    ------
    CannotJudge
        A split has no rows.

    References
    ----------
    Good (2005), Permutation, Parametric and Bootstrap Tests of Hypotheses, chapter 3.
    """
    parts = [np.asarray(x, dtype=np.float64) for x in losses]
    n, m = (x.size for x in parts)
    if not n or not m:
        raise CannotJudge("unseen rows", f"{n} calibration and {m} test rows")
    excess = np.concatenate(parts)
    if reference is not None:
        excess = excess - np.concatenate([np.asarray(x, dtype=np.float64) for x in reference])
    labels = np.concatenate([np.asarray(c, dtype=np.int64) for c in classes])
    excess = excess - (np.bincount(labels, weights=excess) / np.maximum(np.bincount(labels), 1))[labels]
    ids = [row_groups(group, size) for group, size in zip(groups, (n, m), strict=True)]
    sums = [_sums(e, i) for e, i in zip(np.split(excess, [n]), ids, strict=True)]
    found = float(sums[1].sum())
    z = -found / max(_permutation_spread(*sums), np.finfo(np.float64).tiny)
    p_value = float(norm.sf(z))
    if p_value < _WORTH_PERMUTING:
        p_value = _permutation_p_value(np.concatenate(sums), sums[1].size, found, seed)
    return UnseenVerdict(-found * (1 / n + 1 / m), z, p_value, tail)


def _pooled_ids(groups: tuple[Groups, Groups], sizes: tuple[int, int]) -> IntArray:
    """Number of each row's group, counting on from the first split to the second."""
    ids: list[IntArray] = []
    for group, size in zip(groups, sizes, strict=True):
        own = row_groups(group, size)
        ids.append(own + (int(ids[0].max()) + 1 if ids else 0))
    return np.concatenate(ids)


def _logistic_losses(
    fitted: FloatArray, fitted_labels: IntArray, scored: FloatArray, scored_labels: IntArray
) -> FloatArray:
    """Log losses on the scored rows of a logistic regression of the fitted ones; at most -log(1e-3) each."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=0.1, max_iter=500),
    ).fit(fitted, fitted_labels)
    proba = np.zeros((scored.shape[0], int(max(fitted_labels.max(), scored_labels.max())) + 1))
    proba[:, model.classes_] = model.predict_proba(scored)
    losses: FloatArray = -np.log(np.maximum(proba[np.arange(scored.shape[0]), scored_labels], 1e-3))
    return losses


def _sums(values: FloatArray, ids: IntArray) -> FloatArray:
    """Sum of the values of each group."""
    return np.bincount(ids, weights=values).astype(np.float64)


def _permutation_spread(calibration: FloatArray, test: FloatArray) -> float:
    """Standard deviation of the test split's sum when groups change places at random (all sums together are 0)."""
    n, m = calibration.size, test.size
    squares = float((calibration**2).sum() + (test**2).sum())
    return sqrt(n * m / ((n + m) * (n + m - 1)) * squares)


def _permutation_p_value(sums: FloatArray, n_test: int, found: float, seed: int) -> float:
    """Share of random divisions of the groups whose test sum is as small, the found one included.

    Ends early once enough were as small (Besag & Clifford 1991, Biometrika 78:301), which keeps the level.
    """
    rng = np.random.default_rng(seed)
    small = min(n_test, sums.size - n_test)  # the other side's sum is the negative
    sign = 1.0 if small == n_test else -1.0
    line = found + 1e-9 * float(np.abs(sums).mean())  # the order of summing must not decide a tie
    as_small = 0
    for draw in range(1, _DRAWS + 1):
        as_small += sign * float(sums[rng.permutation(sums.size)[:small]].sum()) <= line
        if as_small == _ENOUGH:
            return as_small / draw
    return (1 + as_small) / (1 + _DRAWS)


def _auc_components(scores: FloatArray, positive: BoolArray, weights: FloatArray | None = None) -> FloatArray:
    """DeLong's components in row order: for a positive row the share of negatives below it, and the other way round."""
    components = np.empty(scores.size)
    if weights is not None:
        below, above = (
            weight_below(side * scores, np.where(other, weights, 0.0)) / weights[other].sum()
            for side, other in ((1, ~positive), (-1, positive))
        )
        weighted: FloatArray = np.where(positive, below, above)
        return weighted
    overall = rankdata(scores)
    pos, neg = scores[positive], scores[~positive]
    components[positive] = (overall[positive] - rankdata(pos)) / neg.size
    components[~positive] = 1.0 - (overall[~positive] - rankdata(neg)) / pos.size
    return components


def _clustered_variance(
    residuals: FloatArray, positive: BoolArray, ids: IntArray, with_pos: int, with_neg: int
) -> float:
    """Obuchowski's variance of an AUC (or a difference of two) from its centred components."""
    n_groups = int(ids.max()) + 1
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    pos = np.bincount(ids[positive], weights=residuals[positive], minlength=n_groups)
    neg = np.bincount(ids[~positive], weights=residuals[~positive], minlength=n_groups)
    s10 = with_pos / ((with_pos - 1) * n_pos) * float((pos**2).sum())
    s01 = with_neg / ((with_neg - 1) * n_neg) * float((neg**2).sum())
    s11 = n_groups / (n_groups - 1) * float((pos * neg).sum())
    return max(s10 / n_pos + s01 / n_neg + 2.0 * s11 / (n_pos * n_neg), 0.0)
