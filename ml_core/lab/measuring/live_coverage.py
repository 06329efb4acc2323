"""Coverage of live prediction sets: what stored answers missed, and bands for whole windows."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray, FloatArray, IntArray, Label
from ml_core.base.errors import DataError
from ml_core.lab.measuring.coverage_law import (
    Band,
    CoverageLaw,
    DesignEffects,
    band_of,
    effects_of,
    holds_label,
    pooled_law,
)
from ml_core.serve.model.groupings import Promise
from ml_core.serve.model.prediction_sets import misses_allowed
from ml_core.serve.model.weighted_sets import sets_above

__all__ = [
    "BAND_TAIL",
    "CoverageBand",
    "CoverageTarget",
    "RowTargets",
    "class_indices",
    "coverage_bands",
    "group_ids",
    "misses_of",
    "sets_of",
]

BAND_TAIL = 0.01
"""Chance of a valid model to end below a band of :func:`coverage_bands`, and the same above."""


# --- stored answers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CoverageTarget:
    """The coverage target of a model's sets, from its lineage.

    Attributes
    ----------
    classes : labels in class order
    sizes : calibration rows behind each class (for ``marginal``: all of them, for each)
    level : the model's configured confidence level
    guarantee : what the sets promise
    effects : design effects of the calibration rows; None where every row was its own patient
    confidence : over calibrations, that the true coverage is at least ``level``; None for the mean over calibrations
    """

    classes: tuple[Label, ...]
    sizes: tuple[int, ...]
    level: Decimal
    guarantee: Promise = "class_conditional"
    effects: DesignEffects | None = None
    confidence: Decimal | None = None


@dataclass(frozen=True, eq=False)
class RowTargets:
    """The coverage targets of n rows: one of all, or one for each group of patients that is calibrated by itself.

    Attributes
    ----------
    targets : of one model, so of the same classes and level; at least one
    which : shape (n,), position of each row's target
    """

    targets: tuple[CoverageTarget, ...]
    which: IntArray

    @classmethod
    def of(cls, target: CoverageTarget, n: int) -> RowTargets:
        """One target of n rows."""
        return cls((target,), np.zeros(n, dtype=np.int64))

    @property
    def classes(self) -> tuple[Label, ...]:
        """Labels in class order."""
        return self.targets[0].classes

    @property
    def level(self) -> Decimal:
        """The model's configured confidence level."""
        return self.targets[0].level

    @property
    def guarantee(self) -> Promise:
        """What the sets of the first target promise; all are marginal, or none is."""
        return self.targets[0].guarantee

    def only(self, rows: BoolArray) -> RowTargets:
        """Of some of the rows."""
        return RowTargets(self.targets, self.which[rows])

    def sets(self, p_values: npt.ArrayLike) -> BoolArray:
        """Prediction sets at the configured level from stored p-values, shape (n, K), as :func:`sets_of`.

        Raises
        ------
        DataError
            As :func:`sets_of`, and another number of rows.
        """
        array = np.asarray(p_values, dtype=np.float64)
        if len(array) != self.which.size:
            raise DataError("stored p-values", f"{len(array)} rows for {self.which.size} coverage targets")
        found = np.zeros((len(array), len(self.classes)), dtype=np.bool_)
        for at in np.unique(self.which).tolist() or [0]:
            inside, t = self.which == at, self.targets[at]
            found[inside] = sets_of(array[inside], t.sizes, t.level, t.confidence, t.guarantee)
        return found


def sets_of(
    p_values: npt.ArrayLike,
    sizes: Sequence[int],
    level: Decimal,
    confidence: Decimal | None = None,
    guarantee: Promise = "class_conditional",
) -> BoolArray:
    """Prediction sets at a level from stored p-values, exactly as the calibration makes them; shape (n, K).

    A p-value is rank / (n_k + 1), so the rank is recovered exactly. p-values do not depend on the level that a caller
    asked for, so all answers are judged at the same level.

    Parameters
    ----------
    p_values : shape (n, K), in class order, as they were answered by one calibration
    sizes : calibration rows behind each class
    level : the model's configured confidence level
    confidence : of a calibration that has one
    guarantee : with ``weighted``, p-values are no ranks, and a label is in the set where its p-value is above alpha

    Raises
    ------
    DataError
        Another number of columns than classes, or a value that is no p-value among that many rows: the answer is of
        another calibration (a fallback's, another version's).
    """
    array = np.asarray(p_values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != len(sizes):
        raise DataError("stored p-values", f"shape {array.shape}, expected one column for each of {len(sizes)} classes")
    if guarantee == "weighted":
        if not ((array > 0.0) & (array <= 1.0)).all():
            raise DataError("stored p-values", "one is outside (0, 1]: take only answers of this calibration")
        return sets_above(array, level)
    n_plus_1 = np.array(sizes, dtype=np.float64) + 1.0
    ranks = np.rint(array * n_plus_1)
    strange = ~((ranks >= 1.0) & (ranks <= n_plus_1) & (ranks / n_plus_1 == array))
    if strange.any():
        row, k = np.argwhere(strange)[0]
        found = f"{float(array[row, k])!r} in row {row} is no rank among {sizes[k]} calibration rows of class {k}"
        raise DataError("stored p-values", f"{found}: take only answers of this calibration")
    sets: BoolArray = ranks > np.array([misses_allowed(n, level, confidence) for n in sizes], dtype=np.float64)
    return sets


def misses_of(
    p_values: npt.ArrayLike,
    labels: Sequence[Label] | npt.NDArray[np.generic],
    classes: Sequence[Label],
    sizes: Sequence[int],
    level: Decimal,
    confidence: Decimal | None = None,
    guarantee: Promise = "class_conditional",
) -> BoolArray:
    """Whether each set misses its label, bool, shape (n,).

    Parameters
    ----------
    p_values, sizes, level, confidence, guarantee : as in :func:`sets_of`
    labels : shape (n,), each one of ``classes``
    classes : labels in class order

    Raises
    ------
    DataError
        As :func:`sets_of` and :func:`class_indices`; another number of labels than rows.

    Examples
    --------
    >>> misses_of([[0.2, 0.7], [0.9, 0.1]], ["no", "yes"], ["no", "yes"], [9, 9], Decimal("0.9"))
    array([False,  True])
    """
    sets = sets_of(p_values, sizes, level, confidence, guarantee)
    index = class_indices(labels, classes)
    if index.size != sets.shape[0]:
        raise DataError("labels", f"{index.size} for {sets.shape[0]} answers")
    return ~holds_label(sets, index)


def class_indices(labels: Sequence[Label] | npt.NDArray[np.generic], classes: Sequence[Label]) -> IntArray:
    """Position of each label in class order, shape (n,).

    Raises
    ------
    DataError
        A label is none of the classes.
    """
    places = {label: k for k, label in enumerate(classes)}
    try:
        return np.array([places[label] for label in labels], dtype=np.int64)
    except KeyError as error:
        raise DataError("labels", f"{error.args[0]!r} is none of the classes {list(classes)!r}") from error


def group_ids(groups: Iterable[Hashable] | None) -> IntArray | None:
    """Number of each row's patient, shape (n,). A row without a patient (None) counts as a patient."""
    if groups is None:
        return None
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(object() if g is None else g, len(known)) for g in groups], dtype=np.int64)


# --- windows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CoverageBand:
    """Coverage in a window, of all rows or of one class, with the band of a valid model.

    Attributes
    ----------
    label : class label; None for all rows together
    n, covered : rows with a known label, and those of them whose set held it
    observed : covered / n; None without rows
    promised : mean share; None where nothing is promised (to one class under a ``marginal`` guarantee)
    lower, upper : shares a valid model seldom leaves; 0 and 1 where nothing is promised or there are no rows
    inside : ``observed`` lies within them; None where that says nothing
    """

    label: Label | None
    n: int
    covered: int
    observed: float | None
    promised: float | None
    lower: float
    upper: float
    inside: bool | None


def coverage_bands(
    covered: npt.ArrayLike,
    class_index: npt.ArrayLike,
    target: CoverageTarget | RowTargets,
    groups: Iterable[Hashable] | None = None,
    tail: float = BAND_TAIL,
) -> tuple[CoverageBand, ...]:
    """Coverage of all rows of a window, then of each class, against the exact band of a valid model.

    The number covered follows a beta-binomial law, the chance of the calibration included; repeated patients widen it
    by the design effects of either side. All rows together follow the sum of their classes' laws, given the counts, and
    a class that is calibrated by group the sum of its groups' laws. A valid model ends outside one band with at most
    twice the tail. That holds for one look at one window: who looks at many windows will see some outside, so only the
    detector may raise an alarm.

    Parameters
    ----------
    covered : shape (n,), True where the row's set held its label
    class_index : shape (n,), the row's label as its position in class order
    target : of all rows, or of each
    groups : shape (n,), patient of every row (None: its own); None where every row is its own
    tail : in (0, 0.5), chance beyond each limit

    Raises
    ------
    DataError
        Columns of different lengths.

    References
    ----------
    Vovk (2012), arXiv:1209.2673; Angelopoulos & Bates (2023), Foundations and Trends in ML 16(4), section 3.2.
    """
    hits, index = np.asarray(covered, dtype=np.bool_), np.asarray(class_index, dtype=np.int64)
    n_classes, ids = len(target.classes), group_ids(groups)
    if hits.shape != index.shape or (ids is not None and ids.shape != index.shape):
        patients = "" if ids is None else f" and {ids.size} subjects"
        raise DataError("matured labels", f"{hits.size} flags for {index.size} labels{patients}")
    of_rows = target if isinstance(target, RowTargets) else RowTargets.of(target, index.size)
    window, whole = effects_of(hits, index, ids, n_classes), target.guarantee == "marginal"
    laws = _laws(of_rows, index, [None] if whole else range(n_classes), None)
    bands = [_band(None, hits, *pooled_law(*laws, window.marginal), tail)]
    for k, label in enumerate(target.classes):
        own = hits[index == k]
        if whole:
            bands.append(_band(label, own, None, np.ones(1), tail))
        else:
            laws = _laws(of_rows, index, [k], k)
            bands.append(_band(label, own, *pooled_law(*laws, window.per_class[k]), tail))
    return tuple(bands)


def _laws(
    of_rows: RowTargets, index: IntArray, ks: Sequence[int | None], effect_of: int | None
) -> tuple[list[CoverageLaw], list[int]]:
    """The law of each of these classes (None: all together) by each target, and the rows of each.

    Parameters
    ----------
    effect_of : the class whose calibration rows have the design effect; None for all of them together
    """
    laws, counts = [], []
    for k in ks:
        for t, target in enumerate(of_rows.targets):
            effects = target.effects or DesignEffects(1.0, (1.0,) * len(target.classes))
            effect = effects.marginal if effect_of is None else effects.per_class[effect_of]
            laws.append(CoverageLaw.of(target.sizes[k or 0], target.level, effect, confidence=target.confidence))
            counts.append(int(((of_rows.which == t) & (True if k is None else index == k)).sum()))
    return laws, counts


def _band(label: Label | None, own: BoolArray, promised: float | None, pmf: FloatArray, tail: float) -> CoverageBand:
    n, covered = int(own.size), int(own.sum())
    observed = covered / n if n else None
    band = Band(1.0, 0.0, 1.0) if promised is None else band_of(promised, pmf, tail)
    inside = None if observed is None or promised is None else band.lower <= observed <= band.upper
    return CoverageBand(label, n, covered, observed, promised, band.lower, band.upper, inside)
