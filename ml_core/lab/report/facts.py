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

from ml_core.lab.report.facts_drift import Drift
from ml_core.lab.report.facts_outcomes import (
    Coverage,
    ExpectedHistory,
    Labels,
    MissingOutcomes,
    PatientGroups,
    PerformanceHistory,
    Reliability,
)
from ml_core.lab.report.facts_upkeep import Circuits, LogStore, Rollout, ShadowPair
from ml_core.lab.report.gaps import Gap
from ml_core.serve.model.promotion_record import RuleVerdict
from ml_core.serve.rollout.rollout_state import Mode, Slot

__all__ = [
    "AnswerBucket",
    "AnswerHistory",
    "GateVerdict",
    "Model",
    "Monitoring",
    "ReportFacts",
    "Serving",
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
    groups : None where the champion declares none
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
    reliability: Reliability | None = None
    groups: PatientGroups | None = None
    shadow: tuple[ShadowPair, ...] = ()
    circuits: Circuits = field(default_factory=Circuits)
    rollout: Rollout = field(default_factory=Rollout)
    store: LogStore | None = None
    gaps: tuple[Gap, ...] = ()
