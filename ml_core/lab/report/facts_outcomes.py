"""Facts of a report on outcomes: labels, coverage, performance, and what is expected. Conventions as in ``facts``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ml_core.lab.measuring.performance import AucEstimate
from ml_core.lab.measuring.reliability import CalibrationEstimate, CurvePoint
from ml_core.lab.report.facts_drift import Detector

__all__ = [
    "ClassCoverage",
    "Coverage",
    "CoverageBucket",
    "ExpectedBucket",
    "ExpectedHistory",
    "ExpectedSeries",
    "GroupClass",
    "GroupOutcomes",
    "PatientGroups",
    "Labels",
    "MissingOutcomes",
    "OpenCoverage",
    "PerformanceBucket",
    "PerformanceHistory",
    "Reliability",
]


@dataclass(frozen=True, slots=True)
class Labels:
    """Outcomes sent in so far.

    Attributes
    ----------
    counted : predictions whose outcome is known and whose horizon has passed
    waiting : predictions whose horizon has not passed yet, whether an outcome came or not
    missing : predictions whose horizon has passed, and for which no outcome was sent in
    uncounted : predictions whose horizon has passed, and whose outcome was sent in but is not counted yet
    horizon_days : days after which an outcome counts
    next_at : when the next waiting prediction counts
    """

    counted: int = 0
    waiting: int = 0
    missing: int = 0
    uncounted: int = 0
    horizon_days: float | None = None
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OpenCoverage:
    """What due answers without an outcome leave open of the coverage of one class.

    Attributes
    ----------
    observed : coverage of the outcomes that have come; None without any
    lowest, highest : worst and best case of all due answers; None where none can be of the class
    weighted, weighted_from, weighted_to : estimate and 95 % interval if outcomes are missing at random given the set
        and the predicted class; None where it cannot be made
    """

    label: str
    observed: float | None
    lowest: float | None
    highest: float | None
    weighted: float | None
    weighted_from: float | None
    weighted_to: float | None


@dataclass(frozen=True, slots=True)
class MissingOutcomes:
    """The latest due answers of the champion, with and without an outcome.

    Attributes
    ----------
    due, missing : answers whose outcome should be known, and those of them for which none has come
    classes : what that leaves open of each class
    unverified : what the monitor has found unverified, in its words
    groups : by declared group, in words, the share of its due answers whose outcome has come; None with fewer than 10
    """

    due: int
    missing: int
    classes: tuple[OpenCoverage, ...]
    unverified: tuple[str, ...] = ()
    groups: tuple[tuple[str, float | None], ...] = ()


@dataclass(frozen=True, slots=True)
class CoverageBucket:
    """Coverage of one class among the predictions made in one bucket; without labelled rows the shares are None.

    Attributes
    ----------
    rows : with a known outcome of this class
    observed : share of them whose set held the outcome
    lower, upper : where a valid model's share lies
    """

    start: datetime
    rows: int
    observed: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True, slots=True)
class ClassCoverage:
    """Coverage of one class; ``rows`` and ``observed`` are of the whole period."""

    label: str
    promised: float
    rows: int
    observed: float | None
    buckets: tuple[CoverageBucket, ...]
    detector: Detector | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage per class; ``tail`` is the chance that a valid model's bucket lies below its band (the same above)."""

    level: float
    tail: float
    bucket_s: float
    classes: tuple[ClassCoverage, ...]


@dataclass(frozen=True, slots=True)
class PerformanceBucket:
    """How well the scores separate the classes, of predictions made in one bucket.

    Attributes
    ----------
    rows, positives : with a known outcome, and those of label 1 (or the class judged)
    auc, auc_low, auc_high : area under the ROC curve with its interval; None with too few of either outcome
    brier : mean squared error of the probabilities, lower is better
    """

    start: datetime
    rows: int
    positives: int
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    brier: float | None = None


@dataclass(frozen=True, slots=True)
class PerformanceHistory:
    """Performance on matured labels over time, beside that on the test rows of training."""

    bucket_s: float
    interval_level: float
    buckets: tuple[PerformanceBucket, ...]
    trained_auc: float | None = None
    trained_brier: float | None = None


@dataclass(frozen=True, slots=True)
class ExpectedBucket:
    """A number that the labels of one bucket's answers are expected to show, with what they have shown.

    Attributes
    ----------
    expected, low, high : the number and its interval; None with too few answers
    realised : what known outcomes show; None while they are not known, or too few
    """

    start: datetime
    expected: float | None
    low: float | None
    high: float | None
    realised: float | None


@dataclass(frozen=True, slots=True)
class ExpectedSeries:
    """One number over time.

    Attributes
    ----------
    measure : ``auc``, ``brier`` or ``coverage``
    label : the class it is about; "" where it is about all
    """

    measure: str
    label: str
    buckets: tuple[ExpectedBucket, ...]


@dataclass(frozen=True, slots=True)
class ExpectedHistory:
    """Performance that answers lead to expect before their labels come, beside what labels have shown."""

    bucket_s: float
    interval_level: float
    series: tuple[ExpectedSeries, ...]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether the probabilities of the latest outcomes of the period meant what they said; of two classes.

    Attributes
    ----------
    label : the class whose probability it is
    rows : outcomes
    slope, intercept : of the calibration, with their intervals; None where scores separate the classes or are all alike
    points : predicted and observed share in bins of rows, predictions ascending
    """

    label: str
    rows: int
    interval_level: float
    slope: CalibrationEstimate | None
    intercept: CalibrationEstimate | None
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True)
class GroupClass:
    """Coverage of one class in one group of patients; all but the label is None with fewer than 10 patients.

    Attributes
    ----------
    patients, rows : how many patients, and outcomes, there are
    promised : mean share that is promised to the class in this group; None where it is measured only
    lower, upper : where the share of a valid model lies; of a group that is measured only, what chance explains if the
        group is like the rows that calibrated it
    """

    label: str
    patients: int | None = None
    rows: int | None = None
    observed: float | None = None
    promised: float | None = None
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True)
class GroupOutcomes:
    """What outcomes show of one group of patients; a number that they cannot give, or that few share, is None.

    Attributes
    ----------
    grouping, cell : names
    is_promised : whether coverage is promised to this group; otherwise it is measured only
    classes : in class order
    slope, intercept, points : as in ``Reliability``
    """

    grouping: str
    cell: str
    is_promised: bool
    patients: int | None
    classes: tuple[GroupClass, ...]
    auc: AucEstimate | None = None
    brier: float | None = None
    mean_set_size: float | None = None
    singleton_share: float | None = None
    slope: CalibrationEstimate | None = None
    intercept: CalibrationEstimate | None = None
    points: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True, slots=True)
class PatientGroups:
    """The groups of patients that the champion declares, by the latest outcomes of the period.

    Attributes
    ----------
    level, tail : as in ``Coverage``
    rows : outcomes of answers whose group is known
    cells : of every declared grouping, in its order
    """

    level: float
    tail: float
    interval_level: float
    rows: int
    cells: tuple[GroupOutcomes, ...]
