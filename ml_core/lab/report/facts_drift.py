"""Facts of a report on drift: detectors, and each feature beside its reference. Conventions as in ``facts``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

__all__ = [
    "Detector",
    "Drift",
    "EvidencePoint",
    "FeatureDrift",
    "LevelShares",
    "NumberShares",
    "ScoreShift",
    "Shares",
]


@dataclass(frozen=True, slots=True)
class EvidencePoint:
    """A detector's evidence at one moment."""

    at: datetime
    value: float


@dataclass(frozen=True, slots=True)
class Detector:
    """A sequential detector: evidence against "as promised" that may be looked at as often as one likes.

    Attributes
    ----------
    value : evidence now, >= 0; grows while what is promised is not kept
    threshold : the evidence that raises the alarm, > 0
    observations : what it has taken in since it began
    promise : the false-alarm rate in one plain sentence
    alarm_at : when the alarm that is on was raised; None while none is on
    trail : evidence over time, oldest first; may be thinned out
    """

    value: float
    threshold: float
    observations: int
    promise: str
    alarm_at: datetime | None = None
    trail: tuple[EvidencePoint, ...] = ()


@dataclass(frozen=True, slots=True)
class NumberShares:
    """Two histograms over the same B bins: rising finite edges in the feature's unit, and shares of the values present.

    The shares of either side add up to 1, or to less where values lie beyond the edges.
    """

    edges: tuple[float, ...]
    reference: tuple[float, ...]
    current: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LevelShares:
    """Shares of the levels of a category among the values present; a level one side has never seen has share 0."""

    levels: tuple[str, ...]
    reference: tuple[float, ...]
    current: tuple[float, ...]


Shares = NumberShares | LevelShares


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """One feature, reference against current rows.

    Attributes
    ----------
    state : the rule's name for what it found, e.g. ``drifted``, ``ok``, ``warned``, ``constant``, ``too_few``
    is_drifted : what counts towards retraining
    is_tested : False where the state is a reason for not having been judged
    is_warned : tested and not drifted, but ``notes`` say what the rule did not see or may be blinded by
    statistic_name, statistic, p_value : of the rule's test
    reference_mean, current_mean : in ``unit``; None for categories
    shift_sd : (current - reference mean) / reference sd
    reference_missing, current_missing : shares of rows without a value
    notes : what else was noticed, a plain phrase each
    """

    name: str
    state: str
    is_drifted: bool
    is_tested: bool = True
    is_warned: bool = False
    unit: str = ""
    statistic_name: str = ""
    statistic: float | None = None
    p_value: float | None = None
    reference_mean: float | None = None
    current_mean: float | None = None
    shift_sd: float | None = None
    reference_missing: float | None = None
    current_missing: float | None = None
    shares: Shares | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoreShift:
    """The model's score for one label, reference against current rows; read as a feature, never counted as one."""

    label: str
    shares: NumberShares
    statistic: float | None = None
    p_value: float | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """The last drift check.

    Attributes
    ----------
    rule : its name; ``rule_in_words`` says what makes a feature drift by it and how often that is a false alarm
    since, until : period of the current rows
    retrain_share : share of tested features from which retraining is advised
    retrain_advised : the check's verdict, taken as it is; ``reasons`` say why, where they are known
    scores : one per label shown
    detector : the sequential drift detector; the only part that raises an alarm
    """

    rule: str
    rule_in_words: str
    n_reference: int
    n_current: int
    since: datetime
    until: datetime
    features: tuple[FeatureDrift, ...]
    retrain_share: float
    retrain_advised: bool
    scores: tuple[ScoreShift, ...] = ()
    detector: Detector | None = None
    reasons: tuple[str, ...] = ()
