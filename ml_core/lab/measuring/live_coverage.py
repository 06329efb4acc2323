"""Coverage of live prediction sets: a detector that is fed label by label, and bands for whole windows."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from math import fsum, isfinite, sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from ml_core.base.arrays import BoolArray, FloatArray, IntArray, Label
from ml_core.base.errors import DataError
from ml_core.lab.measuring.coverage_law import (
    Band,
    CoverageLaw,
    DesignEffects,
    band_of,
    effective_size,
    effects_of,
    holds_label,
    pooled_law,
)
from ml_core.serve.model.prediction_sets import Guarantee, misses_allowed

__all__ = [
    "BAND_TAIL",
    "BETS",
    "THRESHOLD",
    "CoverageBand",
    "DetectorState",
    "CoverageTarget",
    "class_indices",
    "coverage_bands",
    "group_ids",
    "highest_miss_rate",
    "misses_of",
    "sets_of",
    "update",
]

BETS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Stakes of the detector's bets: where 0.1 is promised, the quickest to find a rate of 0.12, 0.15, 0.19, 0.28 and 0.46.

The stake (p - mu0) / (mu0 (1 - mu0)) grows fastest at a miss rate p (Kelly 1956).
"""

THRESHOLD = 50_000.0
"""Mean number of labels to a false alarm, at least."""

BAND_TAIL = 0.01
"""Chance of a valid model to end below a band of :func:`coverage_bands`, and the same above."""

_BOLDEST = 0.9  # most that a bet may lose on one covered label; with all of it lost no later miss would count
_TAIL_SLOPE, _WIDEST_TAIL = 1 / 130, 0.32  # fitted by simulation, see highest_miss_rate


# --- the detector -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DetectorState:
    """All that the detector of one class of one model remembers. A new one starts for a new champion or a new alarm.

    ``DetectorState(**json.loads(json.dumps(asdict(state))))`` is the same to the bit.

    Attributes
    ----------
    mu0 : largest miss rate that is no cause for alarm, in (0, 1); see :func:`highest_miss_rate`
    threshold : > 1, evidence that raises the alarm: the smallest mean number of labels between false alarms
    evidence : per bet, >= 0; where it stood at the alarm once there was one
    labels, misses : matured labels seen, and those of them that were not in their set, also after the alarm
    alarm_at : number of the label that raised the alarm, 1 for the first; None without alarm
    """

    mu0: float
    threshold: float = THRESHOLD
    evidence: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    labels: int = 0
    misses: int = 0
    alarm_at: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.mu0 < 1.0:
            raise ValueError(f"miss rate {self.mu0}, expected one in (0, 1)")
        if not 1.0 < self.threshold < 1e300:  # the evidence must stay a finite number
            raise ValueError(f"threshold {self.threshold}, expected one above 1")
        if len(self.evidence) != len(BETS) or not all(isfinite(e) and e >= 0.0 for e in self.evidence):
            raise ValueError(f"evidence {self.evidence}, expected {len(BETS)} numbers of 0 or more")
        object.__setattr__(self, "evidence", tuple(self.evidence))  # JSON gives a list
        if not 0 <= self.misses <= self.labels:
            raise ValueError(f"{self.misses} misses of {self.labels} labels")
        if self.alarm_at is not None and not 1 <= self.alarm_at <= self.labels:
            raise ValueError(f"alarm at label {self.alarm_at} of {self.labels}")

    @property
    def is_alarmed(self) -> bool:
        """There was an alarm. It stays until a new detector starts."""
        return self.alarm_at is not None

    @property
    def total_evidence(self) -> float:
        """The sum over the bets, which is compared with the threshold."""
        return fsum(self.evidence)


def update(state: DetectorState, misses: Sequence[bool] | BoolArray) -> DetectorState:
    """The state after these labels. A stream may be fed in pieces of any size, with the same result to the bit.

    Each bet's evidence S becomes (S + 1/5) (1 + stake (miss - mu0)), miss being 1 or 0, and the sum over the bets
    raises the alarm at the threshold (an e-detector of Shiryaev-Roberts form). While the chance of a miss, given all
    labels before, is at most mu0, the sum minus the number of labels does not rise on average. So the mean number of
    labels to a false alarm is at least the threshold, and a false alarm within n labels has at most the chance
    n / threshold, whatever the order and however often somebody looks. A covered label never loses all: stakes are cut
    to 0.9 / mu0.

    This does not allow for repeated patients. With a design effect of 1.3, about 6 % of valid models instead of 5 %
    alarm within 3,000 labels if a patient's labels come far apart, but over 20 % if they follow one another. A table
    sorted by patient must be shuffled, or give one label per patient. Feed every label once, in order of arrival; do
    not feed corrections.

    Parameters
    ----------
    misses : shape (n,), True where the label was not in its set, in order of arrival

    Raises
    ------
    ValueError
        Flags that are not True or False.

    References
    ----------
    Shin, Ramdas & Rinaldo (2024), E-detectors: a nonparametric framework for sequential change detection, New England
    Journal of Statistics in Data Science 2(2), 229-260.

    Examples
    --------
    >>> state = update(DetectorState(0.1), [True] * 10)
    >>> state.alarm_at, state.misses
    (8, 10)
    """
    flags = _flags(misses)
    won, lost = _factors(state.mu0)
    evidence, alarm_at = state.evidence, state.alarm_at
    for number, missed in enumerate(flags, start=state.labels + 1):
        if alarm_at is not None:  # resting: left to grow, the evidence would leave the range of floats
            break
        evidence = _step(evidence, won if missed else lost)
        if fsum(evidence) >= state.threshold:
            alarm_at = number
    return replace(
        state,
        evidence=evidence,
        labels=state.labels + len(flags),
        misses=state.misses + sum(flags),
        alarm_at=alarm_at,
    )


def highest_miss_rate(
    n_calibration: int, level: Decimal, effect: float = 1.0, confidence: Decimal | None = None
) -> float:
    """The miss rate ``mu0`` up to which a detector should stay silent, for a class with that many calibration rows.

    A valid model's true miss rate is not alpha: it depends on the calibration rows, with law Beta(l, n + 1 - l) and
    l = floor((n + 1) alpha). This is the upper quantile of that law, never below alpha. The larger it is, the fewer
    valid models alarm that miss a little more than promised, and the later comes every alarm.

    The quantile's tail is sqrt(n) / 130, at most 0.32: fitted by simulation, so that at every size at most 1 valid
    model in 20 alarms within its first 3,000 labels at the default threshold, and delays are as short as that allows.
    A small n needs a small tail because the law is wide. At level 0.90, delays being the median number of labels from
    label 1,000 on, when the miss rate rises from 0.10:

    ====== ===== =============== ============= ============= =============
    n      mu0   alarms in 3,000 0.10 to 0.15  0.10 to 0.20  0.10 to 0.30
    ====== ===== =============== ============= ============= =============
    50     0.171 3.1 %           over 7,000    1,580         146
    100    0.144 3.5 %           over 7,000    490           96
    200    0.126 3.7 %           1,680         283           74
    500    0.112 4.1 %           752           196           60
    1,000  0.106 4.9 %           552           168           56
    1,500  0.104 4.9 %           493           159           53
    2,000  0.103 4.7 %           482           155           53
    5,000  0.102 3.7 %           453           151           52
    20,000 0.101 3.2 %           433           149           51
    ====== ===== =============== ============= ============= =============

    With few calibration rows a loss of coverage is found late: an unlucky calibration looks the same for long.

    Parameters
    ----------
    n_calibration : >= 0, calibration rows of the class; of all classes under a ``marginal`` guarantee
    level : the model's configured confidence level
    effect : design effect of the calibration rows, >= 1; n / effect takes the place of n
    confidence : of a calibration that has one; what is promised is then alpha, and seldom more is silent

    Returns
    -------
    float
        In (0, 1). Alpha itself where the rows are too few for the level: then every label is in every set.

    Examples
    --------
    >>> round(highest_miss_rate(500, Decimal("0.9")), 4)
    0.1124
    """
    alpha = float(1 - level)
    law = CoverageLaw.of(n_calibration, level, effect, confidence=confidence)
    weight = law.effective_rows + 1.0
    if law.promised >= 1.0:
        return alpha
    tail = min(_WIDEST_TAIL, sqrt(law.effective_rows) * _TAIL_SLOPE)
    return max(alpha, float(beta.isf(tail, weight * (1.0 - law.promised), weight * law.promised)))


def _flags(misses: Sequence[bool] | BoolArray) -> list[bool]:
    flags = np.asarray(misses)
    if flags.ndim != 1 or (flags.size and flags.dtype != np.bool_):
        raise ValueError(f"misses of shape {flags.shape} and type {flags.dtype}, expected one axis of True and False")
    listed: list[bool] = flags.tolist()
    return listed


def _factors(mu0: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Factors of each bet's evidence: for a miss, and for a covered label; all > 0."""
    stakes = [min(bet, _BOLDEST / mu0) for bet in BETS]
    return tuple(1.0 + s * (1.0 - mu0) for s in stakes), tuple(1.0 - s * mu0 for s in stakes)


def _step(evidence: tuple[float, ...], factors: tuple[float, ...]) -> tuple[float, float, float, float, float]:
    a, b, c, d, e = ((s + 1.0 / len(BETS)) * f for s, f in zip(evidence, factors, strict=True))
    return a, b, c, d, e


# --- stored answers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CoverageTarget:
    """The coverage target of a model's sets, from its lineage.

    Attributes
    ----------
    classes : labels in class order
    sizes : calibration rows behind each class (for ``marginal``: all of them, for each)
    level : the model's configured confidence level
    guarantee : ``class_conditional`` or ``marginal``
    effects : design effects of the calibration rows; None where every row was its own patient
    confidence : over calibrations, that the true coverage is at least ``level``; None for the mean over calibrations
    """

    classes: tuple[Label, ...]
    sizes: tuple[int, ...]
    level: Decimal
    guarantee: Guarantee = "class_conditional"
    effects: DesignEffects | None = None
    confidence: Decimal | None = None


def sets_of(
    p_values: npt.ArrayLike, sizes: Sequence[int], level: Decimal, confidence: Decimal | None = None
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

    Raises
    ------
    DataError
        Another number of columns than classes, or a value that is no p-value among that many rows: the answer is of
        another calibration (a fallback's, another version's).
    """
    array = np.asarray(p_values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != len(sizes):
        raise DataError("stored p-values", f"shape {array.shape}, expected one column for each of {len(sizes)} classes")
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
) -> BoolArray:
    """Whether each set misses its label, bool, shape (n,).

    Parameters
    ----------
    p_values, sizes, level, confidence : as in :func:`sets_of`
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
    sets = sets_of(p_values, sizes, level, confidence)
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
    target: CoverageTarget,
    groups: Iterable[Hashable] | None = None,
    tail: float = BAND_TAIL,
) -> tuple[CoverageBand, ...]:
    """Coverage of all rows of a window, then of each class, against the exact band of a valid model.

    The number covered follows a beta-binomial law, the chance of the calibration included; repeated patients widen it
    by the design effects of either side. All rows together follow the sum of their classes' laws, given the counts. A
    valid model ends outside one band with at most twice the tail. That holds for one look at one window: who looks at
    many windows will see some outside, so only the detector may raise an alarm.

    Parameters
    ----------
    covered : shape (n,), True where the row's set held its label
    class_index : shape (n,), the row's label as its position in class order
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
        patients = "" if ids is None else f" and {ids.size} patients"
        raise DataError("matured labels", f"{hits.size} flags for {index.size} labels{patients}")
    one = DesignEffects(1.0, (1.0,) * n_classes)
    calibration, window = target.effects or one, effects_of(hits, index, ids, n_classes)
    whole = target.guarantee == "marginal"
    laws = [
        CoverageLaw.of(n, target.level, calibration.marginal, confidence=target.confidence)
        for n in (target.sizes[:1] if whole else target.sizes)
    ]
    counts = [index.size] if whole else np.bincount(index, minlength=n_classes).tolist()
    bands = [_band(None, hits, *pooled_law(laws, counts, window.marginal), tail)]
    for k, label in enumerate(target.classes):
        own = hits[index == k]
        if whole:
            bands.append(_band(label, own, None, np.ones(1), tail))
            continue
        law = CoverageLaw.of(target.sizes[k], target.level, calibration.per_class[k], confidence=target.confidence)
        pmf = law.pmf(effective_size(own.size, window.per_class[k]))
        bands.append(_band(label, own, law.promised, pmf, tail))
    return tuple(bands)


def _band(label: Label | None, own: BoolArray, promised: float | None, pmf: FloatArray, tail: float) -> CoverageBand:
    n, covered = int(own.size), int(own.sum())
    observed = covered / n if n else None
    band = Band(1.0, 0.0, 1.0) if promised is None else band_of(promised, pmf, tail)
    inside = None if observed is None or promised is None else band.lower <= observed <= band.upper
    return CoverageBand(label, n, covered, observed, promised, band.lower, band.upper, inside)
