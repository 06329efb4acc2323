"""The facts of a report: one frozen dataclass per section, filled by the collect modules, read by page and JSON.

Throughout: moments are aware UTC datetimes. Shares, scores and coverages are unitless, in [0, 1]. A number that is not
known is None, never NaN. Labels are text, as in JSON keys. A section that is None or empty has no facts yet, and the
page says why. Histories hold every bucket of the period, oldest first, empty ones too, so that a gap is seen. A bucket
begins at ``start``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ml_core.lab.report.gaps import Gap
from ml_core.serve.model.promotion_record import RuleVerdict
from ml_core.serve.rollout.rollout_state import Mode, Slot

__all__ = [
    "AnswerBucket",
    "AnswerHistory",
    "CircuitNow",
    "CircuitTransition",
    "Circuits",
    "ClassCoverage",
    "Coverage",
    "CoverageBucket",
    "Detector",
    "Drift",
    "EvidencePoint",
    "ExpectedBucket",
    "ExpectedHistory",
    "ExpectedSeries",
    "FeatureDrift",
    "GateVerdict",
    "JournalEntry",
    "Labels",
    "LevelShares",
    "LogStore",
    "MissingOutcomes",
    "Model",
    "Monitoring",
    "NumberShares",
    "OpenCoverage",
    "PerformanceBucket",
    "PerformanceHistory",
    "ReportFacts",
    "Rollout",
    "ScoreShift",
    "Serving",
    "ShadowPair",
    "Shares",
    "StoredFile",
]


@dataclass(frozen=True, slots=True)
class Serving:
    """The running service, if there is one.

    Attributes
    ----------
    workers : processes that answer and have reported lately
    lost : processes that stopped reporting without taking leave
    mode : ``off`` (the champion answers alone), ``shadow`` or ``canary``
    weight : share of the traffic a canary answers
    problems : what single workers say they cannot do, in their words
    """

    workers: int
    lost: int = 0
    mode: Mode = "off"
    weight: float = 0.0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The verdict of the pre-deployment gate on a model, and on which rows it was reached."""

    passed: bool
    judged_at: datetime
    judged_on: str
    rules: tuple[RuleVerdict, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """One loaded or promoted model and where it came from.

    Attributes
    ----------
    model_hash : 64 hex digits
    trained_at : None where only the registry would know and it was not asked
    trained_on : in words, e.g. ``table v2 version 3``
    rows : rows per part of the split (train, validation, calibration, test)
    gate : None where no verdict on this hash is found
    confidence_level : the configured one
    guarantee : ``class_conditional`` or ``marginal``
    calibration_rows : calibration rows per label
    metrics : of the test rows at training time, by the names training gives them (``roc_auc``, ``brier``, ``coverage``,
        ``coverage_class_<label>``, ...)
    lineage : anything else that names what made it, as text by name (run id, seed, module hash, library versions, ...)
    """

    slot: Slot
    name: str
    version: str
    model_hash: str
    feature_version: str
    confidence_level: float
    guarantee: str
    calibration_id: str
    calibration_rows: Mapping[str, int]
    bento_tag: str = ""
    trained_at: datetime | None = None
    trained_on: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    gate: GateVerdict | None = None
    promoted_at: datetime | None = None
    promoted_by: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Monitoring:
    """When the monitor last looked at this model (None: never), and after how long answers count as unmonitored."""

    last_look_at: datetime | None
    stale_after_s: float


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


@dataclass(frozen=True, slots=True)
class AnswerBucket:
    """Answers of one bucket, and how many of them a fallback gave.

    Attributes
    ----------
    quantiles : of the scores, at ``AnswerHistory.quantiles``; None without scores
    set_sizes : answers with 0, 1, ..., K labels in their set
    """

    start: datetime
    answers: int
    fallbacks: int = 0
    quantiles: tuple[float, ...] | None = None
    set_sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerHistory:
    """Scores, sets and fallbacks over time.

    Attributes
    ----------
    score_of : whose score, e.g. ``P(1)``
    quantiles : rising levels in [0, 1], an odd number with the median in the middle, e.g. 0.05, 0.25, 0.5, 0.75, 0.95
    fallback_reasons : answers of the period by reason code
    """

    score_of: str
    quantiles: tuple[float, ...]
    buckets: tuple[AnswerBucket, ...]
    fallback_reasons: Mapping[str, int] = field(default_factory=dict)


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
    """

    due: int
    missing: int
    classes: tuple[OpenCoverage, ...]
    unverified: tuple[str, ...] = ()


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
class ShadowPair:
    """A challenger scored beside the champion, unseen.

    Attributes
    ----------
    champion, challenger : tags
    scored, dropped, failed : requests scored, left out because the queue was full, given up because scoring failed
    agreed, same_set : scored ones with the same prediction, and with the same set
    mean_difference, max_difference : of the probabilities of the champion's prediction, absolute
    edges, counts : histogram of the challenger's minus the champion's probability of that label: B + 1 rising edges in
        [-1, 1], B counts
    """

    champion: str
    challenger: str
    scored: int
    agreed: int
    same_set: int
    dropped: int = 0
    failed: int = 0
    mean_difference: float | None = None
    max_difference: float | None = None
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CircuitNow:
    """The circuit of one slot in one worker, now.

    Attributes
    ----------
    worker : e.g. ``api 1``
    state : ``closed`` (calls pass), ``open`` (calls are refused) or ``half_open`` (a few probes decide)
    mode : ``auto`` unless an operator has ordered otherwise
    reason : why it last opened; None if it never has
    error_rate : share of failed calls in the window; None with too few calls
    p95_ms : milliseconds, of the calls in the window; None with too few
    opened : how often it has opened
    """

    worker: str
    slot: str
    state: str
    mode: str = "auto"
    reason: str | None = None
    calls_in_window: int = 0
    error_rate: float | None = None
    p95_ms: float | None = None
    opened: int = 0


@dataclass(frozen=True, slots=True)
class CircuitTransition:
    """A change of a circuit; ``times`` of them where only their number is known, and then ``at`` may be None."""

    worker: str
    slot: str
    before: str
    after: str
    reason: str
    at: datetime | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class Circuits:
    """All circuits now, and their changes, newest first."""

    now: tuple[CircuitNow, ...] = ()
    transitions: tuple[CircuitTransition, ...] = ()


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One decision: when, which, by whom, on what, and why."""

    at: datetime | None
    event: str
    by: str
    what: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The journal, newest first, and the flags that differ from their defaults, as text by name."""

    journal: tuple[JournalEntry, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of the prediction log.

    Attributes
    ----------
    state : e.g. ``live``, ``closed``, ``sealed``
    size : bytes
    chain : whether its hash chain held when it was last verified, as it is now; None if it never was
    """

    name: str
    state: str
    rows: int
    size: int
    chain: bool | None = None


@dataclass(frozen=True, slots=True)
class LogStore:
    """The prediction log.

    Attributes
    ----------
    rows : predictions stored
    lost : predictions answered but not stored, exactly counted
    mode : how sure it is, e.g. ``standard``
    verified_at : when all chains were verified; None where they were not, for this report
    broken : names of files whose chain did not hold
    files : newest first
    """

    rows: int
    lost: int
    mode: str
    verified_at: datetime | None = None
    broken: tuple[str, ...] = ()
    files: tuple[StoredFile, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """All facts of a report on one model name.

    Attributes
    ----------
    written_at : the only "now" of the report
    since, until : period of the answers; histories of labels are of answers given a horizon earlier
    bucket_s : seconds per bucket of the answer history; coverage and performance name their own
    label_words : what a label means, e.g. ``{"1": "readmitted within 30 days"}``
    serving : None where no process has ever reported
    missing : None where nothing is due
    shadow : one per pair of models, newest first
    gaps : what could not be read; a part with a gap may be empty, or lack some of what it should hold
    """

    model_name: str
    written_at: datetime
    since: datetime
    until: datetime
    bucket_s: float
    label_words: Mapping[str, str] = field(default_factory=dict)
    serving: Serving | None = None
    models: tuple[Model, ...] = ()
    monitoring: Monitoring | None = None
    drift: Drift | None = None
    answers: AnswerHistory | None = None
    labels: Labels = field(default_factory=Labels)
    coverage: Coverage | None = None
    missing: MissingOutcomes | None = None
    performance: PerformanceHistory | None = None
    expected: ExpectedHistory | None = None
    shadow: tuple[ShadowPair, ...] = ()
    circuits: Circuits = field(default_factory=Circuits)
    rollout: Rollout = field(default_factory=Rollout)
    store: LogStore | None = None
    gaps: tuple[Gap, ...] = ()
