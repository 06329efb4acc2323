"""Conformal p-values, prediction sets at any level and the predicted label, from kept calibration scores.

Decisions are made on integer ranks with an exact decimal level, so no rounding can move a label in or out of a set.
The array path and the single-row path give bit-identical answers.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction
from functools import cached_property
from math import floor, log, log1p
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray, FloatArray, IntArray, Label, Probabilities
from ml_core.base.errors import BadModelOutput, FieldProblem, InvalidCalibration, InvalidRequest
from ml_core.serve.model.conformity_scores import checked_probabilities

__all__ = [
    "HIGHEST_LEVEL",
    "LOWEST_LEVEL",
    "ConformalCalibration",
    "Guarantee",
    "Predictions",
    "RowPrediction",
    "largest_p_value",
    "level_from_json",
    "misses_allowed",
]

Guarantee = Literal["class_conditional", "marginal"]

LOWEST_LEVEL = Decimal("0.5")
HIGHEST_LEVEL = Decimal("0.999")

MOST_CALIBRATION_ROWS = 2**26 - 1
"""Most calibration rows of one class for which comparing p-values as floats is exact.

Two different p-values a/b and c/d with b, d <= 2**26 differ by at least 1/(bd) >= 2**-52, while all reals that round to
one float64 in (0, 1] lie within 2**-53 of each other. So different p-values stay different floats, in the same order,
and equal ones become the same float (IEEE division rounds the exact quotient).
"""

_LEVELS_REMEMBERED = 256  # callers may ask for any level; what is remembered must stay bounded


class RowPrediction(NamedTuple):
    """What a model says of one row, as plain numbers.

    Attributes
    ----------
    proba : class probabilities
    p_values : one per class, in (0, 1]; large means "like the calibration rows of that class"
    members : positions of the labels in the prediction set, ascending; may be empty
    prediction : position of the label with the largest p-value
    """

    proba: Sequence[float]
    p_values: list[float]
    members: list[int]
    prediction: int


class Predictions(NamedTuple):
    """What a model says of n rows, as arrays; K classes.

    Attributes
    ----------
    proba : (n, K), class probabilities
    p_values : (n, K), conformal p-values in (0, 1]
    sets : (n, K), whether a label is in the row's prediction set
    predictions : (n,), position of the label with the largest p-value
    """

    proba: Probabilities
    p_values: FloatArray
    sets: BoolArray
    predictions: IntArray

    @classmethod
    def blank(cls, n: int, n_classes: int) -> Predictions:
        """Rows without an answer, to be filled: probabilities and p-values are NaN, sets are empty."""
        shape = (n, n_classes)
        return cls(np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, np.bool_), np.zeros(n, np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """The rows of all parts, one after another."""
        return parts[0] if len(parts) == 1 else cls(*map(np.concatenate, zip(*parts, strict=True)))

    def only(self, rows: BoolArray | slice) -> Predictions:
        """Some of the rows."""
        return Predictions(self.proba[rows], self.p_values[rows], self.sets[rows], self.predictions[rows])

    def put(self, rows: BoolArray | npt.NDArray[np.intp] | slice, other: Sequence[npt.ArrayLike]) -> None:
        """Replace some of the rows by those of others, or by their four parts, in their order."""
        for mine, theirs in zip(self, other, strict=True):
            mine[rows] = theirs

    def confidence(self) -> FloatArray:
        """Probability of the predicted label, (n,)."""
        found: FloatArray = self.proba[np.arange(len(self.predictions)), self.predictions]
        return found

    def labels(self, classes: Sequence[Label]) -> list[Label]:
        """The predicted labels."""
        return [classes[k] for k in self.predictions.tolist()]

    def rows(self) -> Iterator[RowPrediction]:
        """The same row by row, as plain numbers."""
        for proba, p_values, inside, prediction in zip(*(part.tolist() for part in self), strict=True):
            yield RowPrediction(proba, p_values, [k for k, member in enumerate(inside) if member], prediction)


def level_from_json(value: object) -> Decimal:
    """The confidence level written in a request, exactly: 0.9 becomes Decimal("0.9"), not 0.90000000000000002.

    Raises
    ------
    InvalidRequest
        Not a number, or outside [0.5, 0.999].

    Examples
    --------
    >>> level_from_json(0.95)
    Decimal('0.95')
    """
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise InvalidRequest([FieldProblem("confidence_level", "must be a number")])
    if not 0.0 < value < 1.0 or not LOWEST_LEVEL <= Decimal(repr(value)) <= HIGHEST_LEVEL:  # NaN fails the first
        raise InvalidRequest([FieldProblem("confidence_level", f"must lie between {LOWEST_LEVEL} and {HIGHEST_LEVEL}")])
    return Decimal(repr(value))


def misses_allowed(n: int, level: Decimal, confidence: Decimal | None = None) -> int:
    """Rank a label must exceed to enter the set: floor((n + 1) * alpha), in exact arithmetic.

    p > alpha with p = rank / (n + 1) is the same as rank > (n + 1) * alpha, and rank is a whole number.
    0 means that ``n`` rows are too few for the level: every label enters.

    With a ``confidence`` it is the largest rank m at which the coverage of this one calibration is at least the level
    with that probability over calibrations. That coverage follows Beta(n + 1 - m, m), and exceeds the level as often as
    m or more of n independent rows fall into a share of alpha. The sum of binomial chances is a float, and one within
    1e-9 of the border counts against the larger rank.

    References
    ----------
    Vovk (2012), Conditional validity of inductive conformal predictors, arXiv:1209.2673, proposition 2a.

    Examples
    --------
    >>> misses_allowed(9, Decimal("0.9")), misses_allowed(8, Decimal("0.9")), misses_allowed(99, Decimal("0.9"))
    (1, 0, 10)
    >>> misses_allowed(999, Decimal("0.9")), misses_allowed(999, Decimal("0.9"), Decimal("0.95"))
    (100, 84)
    """
    alpha = 1 - Fraction(level)
    misses = floor((n + 1) * alpha)
    if confidence is None or not misses:
        return misses
    j = np.arange(1, misses, dtype=np.float64)
    odds = np.log((n - j + 1.0) / j) + log(alpha / (1 - alpha))
    log_pmf = n * log1p(-float(alpha)) + np.concatenate([[0.0], np.cumsum(odds)])
    at_most = np.cumsum(np.exp(log_pmf))  # P(Binomial(n, alpha) <= 0 .. misses - 1)
    return int(np.searchsorted(at_most, float(1 - confidence) * (1.0 - 1e-9), side="right"))


@dataclass(frozen=True, eq=False)
class ConformalCalibration:
    """What is kept of the calibration set: its sorted scores, per class.

    With guarantee ``class_conditional``, rows of each class are covered with probability >= level while live rows of
    that class stay exchangeable with its calibration rows (Vovk 2012, arXiv:1209.2673), whatever the share of the
    classes. With ``marginal`` only rows as a whole are.

    Attributes
    ----------
    guarantee : ``class_conditional`` or ``marginal``
    scores : one float64 array per class, ascending, finite; for ``marginal`` the same pooled scores for every class
    confidence : chance over calibrations that the true coverage is at least the level; None promises the level in the
        mean over calibrations

    Raises
    ------
    InvalidCalibration
        Fewer than two classes, scores not ascending or not finite, too many rows, or ``marginal`` with unequal arrays.
    """

    guarantee: Guarantee
    scores: tuple[FloatArray, ...]
    confidence: Decimal | None = None

    def __post_init__(self) -> None:
        if self.guarantee not in ("class_conditional", "marginal"):
            raise InvalidCalibration(f"unknown guarantee {self.guarantee!r}")
        if len(self.scores) < 2:
            raise InvalidCalibration(f"{len(self.scores)} class(es), at least 2 are needed")
        kept = tuple(_frozen_scores(index, scores) for index, scores in enumerate(self.scores))
        if self.guarantee == "marginal" and any(not np.array_equal(kept[0], s) for s in kept[1:]):
            raise InvalidCalibration("a marginal calibration has one pooled array, the same for every class")
        object.__setattr__(self, "scores", kept)

    @property
    def n_classes(self) -> int:
        """Number K of classes."""
        return len(self.scores)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Calibration rows behind each class (for ``marginal``: all of them, for each)."""
        return tuple(int(s.size) for s in self.scores)

    @cached_property
    def calibration_id(self) -> str:
        """sha256 (hex) over the guarantee and the scores as little-endian float64: equal id, equal sets."""
        promise = self.guarantee if self.confidence is None else f"{self.guarantee} with {self.confidence.normalize()}"
        digest = hashlib.sha256(f"{promise}:{self.n_classes}".encode())
        for scores in self.scores:
            digest.update(scores.size.to_bytes(8, "little"))
            digest.update(scores.astype("<f8", copy=False).tobytes())
        return digest.hexdigest()

    @cached_property
    def _compact(self) -> tuple[tuple[array[float], int], ...]:
        """(scores, n + 1) per class for :func:`bisect.bisect_left`: plain floats come out, 8 bytes a score stay."""
        return tuple((array("d", s.tobytes()), int(s.size) + 1) for s in self.scores)

    @cached_property
    def _remembered(self) -> dict[Decimal, tuple[int, ...]]:
        return {}

    def _misses(self, level: Decimal) -> tuple[int, ...]:
        """:func:`misses_allowed` per class, remembered for levels asked before."""
        known = self._remembered.get(level)
        if known is None:
            known = tuple(misses_allowed(n, level, self.confidence) for n in self.sizes)
            if len(self._remembered) >= _LEVELS_REMEMBERED:
                self._remembered.clear()
            self._remembered[level] = known
        return known

    def inner_levels(self, level: Decimal) -> tuple[Decimal, ...]:
        """Per class the level whose plain rank is that of ``level`` with the confidence; ``level`` itself without one.

        It is the mean coverage 1 - m / (n + 1), rounded down to nine digits.
        """
        if self.confidence is None:
            return (level,) * self.n_classes
        pairs = zip(self.sizes, self._misses(level), strict=True)
        means = (Decimal(n + 1 - m) / (n + 1) for n, m in pairs)
        return tuple(mean.quantize(Decimal("1e-9"), rounding=ROUND_DOWN) for mean in means)

    def thresholds(self, level: Decimal) -> tuple[float, ...]:
        """Largest score with which a label enters the set, per class; infinity where the rows are too few.

        The ceil((n + 1)(1 - alpha))-th smallest calibration score. Never clamped to the largest score, which would
        under-cover.
        """
        pairs = zip(self.scores, self._misses(level), strict=True)
        return tuple(float(s[s.size - m]) if m else float("inf") for s, m in pairs)

    def ranks(self, proba: npt.ArrayLike) -> IntArray:
        """1 + number of calibration scores of the label's class that are as strange or stranger; shape (n, K).

        Parameters
        ----------
        proba : shape (n, K), in [0, 1]

        Raises
        ------
        BadModelOutput
            Wrong shape, or a value that is NaN or outside [0, 1].
        """
        scores = 1.0 - checked_probabilities(proba, self.n_classes)
        ranks = np.empty(scores.shape, dtype=np.int64)
        for k, calibration in enumerate(self.scores):
            ranks[:, k] = calibration.size + 1 - np.searchsorted(calibration, scores[:, k], side="left")
        return ranks

    def p_values(self, proba: npt.ArrayLike) -> FloatArray:
        """Unsmoothed conformal p-value of every label: rank / (n_k + 1), in (0, 1], shape (n, K)."""
        return self._p_values(self.ranks(proba))

    def sets(self, proba: npt.ArrayLike, level: Decimal) -> BoolArray:
        """Membership of every label in the prediction set (p > 1 - level), bool, shape (n, K)."""
        return self._sets(self.ranks(proba), level)

    def rows(self, proba: npt.ArrayLike, level: Decimal) -> Predictions:
        """p-values, sets and predictions of n rows in one pass; row i never depends on row j.

        Raises
        ------
        BadModelOutput
            As :meth:`ranks`.
        """
        array64 = np.asarray(proba, dtype=np.float64)
        ranks = self.ranks(array64)
        p_values = self._p_values(ranks)
        return Predictions(array64, p_values, self._sets(ranks, level), largest_p_value(p_values, array64))

    def row(self, proba: Sequence[float], level: Decimal) -> RowPrediction:
        """The answer for one row in plain Python, equal to the array path bit for bit.

        Parameters
        ----------
        proba : K floats in [0, 1], in class order

        Raises
        ------
        BadModelOutput
            Wrong length, or a value that is NaN or outside [0, 1].
        """
        if len(proba) != len(self._compact):
            raise BadModelOutput(f"{len(proba)} class probabilities, expected {len(self._compact)}")
        p_values: list[float] = []
        members: list[int] = []
        prediction, top, top_probability = 0, 0.0, 0.0
        misses = self._remembered.get(level) or self._misses(level)
        for k, (scores, n_plus_1) in enumerate(self._compact):
            p = float(proba[k])  # a float32 would make 1 - p a float32
            if not 0.0 <= p <= 1.0:
                raise BadModelOutput("a class probability is not a number in [0, 1]")
            rank = n_plus_1 - bisect_left(scores, 1.0 - p)
            p_value = rank / n_plus_1
            p_values.append(p_value)
            if rank > misses[k]:
                members.append(k)
            if p_value > top or (p_value == top and p > top_probability):
                prediction, top, top_probability = k, p_value, p
        return RowPrediction(proba, p_values, members, prediction)

    def _p_values(self, ranks: IntArray) -> FloatArray:
        return ranks / (np.array(self.sizes, dtype=np.float64) + 1.0)

    def _sets(self, ranks: IntArray, level: Decimal) -> BoolArray:
        return ranks > np.array(self._misses(level), dtype=np.int64)


def largest_p_value(p_values: FloatArray, proba: npt.ArrayLike) -> IntArray:
    """Of n rows the index of the label with the largest p-value, shape (n,): the prediction.

    Ties go to the larger probability, then to class order. Being the largest, it is in every set that is not empty.

    Parameters
    ----------
    p_values, proba : shape (n, K)
    """
    largest = p_values == p_values.max(axis=1, keepdims=True)
    winners: IntArray = np.where(largest, np.asarray(proba, dtype=np.float64), -1.0).argmax(axis=1)
    return winners


def _frozen_scores(index: int, scores: FloatArray) -> FloatArray:
    """A private read-only copy, or an error naming the class by its index."""
    kept = np.array(scores, dtype=np.float64, copy=True)
    if kept.ndim != 1 or kept.size > MOST_CALIBRATION_ROWS:
        raise InvalidCalibration(
            f"class {index}: scores have shape {kept.shape}; one axis, at most {MOST_CALIBRATION_ROWS} rows"
        )
    if not bool(np.isfinite(kept).all()) or bool((kept[1:] < kept[:-1]).any()):
        raise InvalidCalibration(f"class {index}: scores are not finite and ascending")
    kept.setflags(write=False)
    return kept
