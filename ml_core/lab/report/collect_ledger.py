"""What the monitor's ledger says: detectors, labels, coverage per class, performance over time.

Every function raises LogDamaged where the ledger cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ml_core.base.clock import microseconds, moment_of
from ml_core.base.errors import LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.drift.sequential import DriftState
from ml_core.lab.measuring.coverage_detector import DetectorState
from ml_core.lab.measuring.expected_performance import Expectation
from ml_core.lab.measuring.live_coverage import BAND_TAIL, CoverageBand, CoverageTarget
from ml_core.lab.measuring.performance import INTERVAL_LEVEL, MaturedPerformance, performance
from ml_core.lab.report.collect_answers import files_of
from ml_core.lab.report.collect_period import Known, Period, Stretch
from ml_core.lab.report.facts import (
    ClassCoverage,
    Coverage,
    CoverageBucket,
    Detector,
    EvidencePoint,
    ExpectedBucket,
    ExpectedHistory,
    ExpectedSeries,
    Labels,
    MissingOutcomes,
    OpenCoverage,
    PerformanceBucket,
    PerformanceHistory,
)
from ml_core.lab.report.gaps import Gaps
from ml_core.lab.report.status_words import ALL
from ml_core.lab.watching.alarms import DRIFT, held_alarms, target_of
from ml_core.lab.watching.due_outcomes import latest_outcomes, unverified_of
from ml_core.lab.watching.health_monitor import ledger_path
from ml_core.lab.watching.ledger import Ledger, MaturedRow
from ml_core.lab.watching.live_expectations import expected_between
from ml_core.lab.watching.live_performance import arrays_of
from ml_core.serve.log.labels import LabelStore
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.manifest import Manifest

__all__ = [
    "detectors_of",
    "expected_facts",
    "known_outcomes",
    "label_facts",
    "missing_outcomes",
    "outcome_facts",
    "thinned",
]

MOST_POINTS = 400
"""Points of a trail; a picture cannot show more."""

_Judged = Sequence[tuple[datetime, MaturedPerformance | None]]
"""When each bucket begins, and how the model did in it; None without any answer."""
_Realised = Mapping[datetime, float | None]
"""What outcomes have shown, by the begin of the bucket."""


# --- detectors ------------------------------------------------------------------------------------------------------


def detectors_of(path: Path, model_hash: str, since: datetime) -> dict[str, Detector]:
    """The detectors of a model by name (``drift``, ``coverage:1``), each with its trail since then.

    Parameters
    ----------
    path : the monitor's ledger; a monitor that never ran has no detectors
    """
    with Ledger.reading(path) as ledger:
        if ledger is None:
            return {}
        kept = ledger.detectors(model_hash)
        held = held_alarms(ledger, model_hash)
        trails = {name: ledger.evidence(model_hash, name, microseconds(since)) for name in kept}
    return {
        name: _detector(name, state, None if name in held else alarm, trails[name])
        for name, (state, alarm) in kept.items()
    }


def thinned(trail: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """At most about so many points of a trail, its peaks and its end among them.

    Examples
    --------
    >>> thinned([(1, 0.0), (2, 7.0), (3, 1.0), (4, 2.0)], most=2)
    [(2, 7.0), (4, 2.0)]
    """
    if len(trail) <= most:
        return list(trail)
    borders = [len(trail) * k // most for k in range(most + 1)]
    pieces = [trail[low:high] for low, high in pairwise(borders)]
    peaks = [max(piece, key=lambda point: point[1]) for piece in pieces]
    return peaks if peaks[-1] == trail[-1] else [*peaks, trail[-1]]


def _detector(name: str, state: Mapping[str, Any], alarm: str | None, trail: Sequence[tuple[int, float]]) -> Detector:
    alarm_at = None if alarm is None else datetime.fromisoformat(alarm)
    points = tuple(EvidencePoint(moment_of(us), value) for us, value in thinned(trail))
    if name == DRIFT:
        drift = DriftState(**state)
        windows = f"{drift.threshold:,.0f} windows of answers"
        within = f", if no more than {drift.block_rows:,} come together" if drift.block_rows else ""
        promise = f"On average at most one false alarm in {windows} while what is asked stays alike{within}."
        return Detector(drift.evidence, drift.threshold, drift.windows, promise, alarm_at, points)
    found = DetectorState(**state)
    whose = "outcomes" if name == "coverage:all" else "outcomes of this class"
    seldom = f"On average at most one false alarm in {found.threshold:,.0f} {whose}"
    promise = f"{seldom} while every block of {found.block} of them keeps the promise."
    return Detector(found.total_evidence, found.threshold, found.labels, promise, alarm_at, points)


# --- labels and what they show ---------------------------------------------------------------------------------------


def known_outcomes(path: Path, model_hash: str) -> Known | None:
    """Which answers of a model have a matured label; None without any."""
    with Ledger.reading(path) as ledger:
        found = None if ledger is None else ledger.matured_between(model_hash)
    return None if found is None else Known(moment_of(found[0]), moment_of(found[1]), found[2])


def label_facts(
    path: Path, log: PredictionLog, labels: LabelStore, period: Period, horizon_days: float, gaps: Gaps
) -> Labels:
    """How many answers have a matured label, wait for their horizon, or are past it, of any model.

    Answers with the same ``client_request_id`` are one prediction, and a label of any of them is its label.
    """
    ripe = period.now - period.horizon
    waiting, first = _given(log, ripe, period.now, gaps)
    next_at = None if first is None else first + period.horizon
    since, until, now = (microseconds(at) for at in (period.asked_outcomes, ripe, period.now))
    counted = ripe_counted = 0
    with Ledger.reading(path) as ledger:
        if ledger is not None:
            counted, ripe_counted = ledger.count_given(since, now), ledger.count_given(since, until)
    sent, missing = _sent_and_missing(log, labels, period.asked_outcomes, ripe, gaps)
    missing = 0 if ledger is None else missing  # while no monitor runs, nobody waits for outcomes
    return Labels(counted, waiting, missing, max(0, sent - ripe_counted), horizon_days, next_at)


def _sent_and_missing(
    log: PredictionLog, labels: LabelStore, since: datetime, until: datetime, gaps: Gaps
) -> tuple[int, int]:
    """How many predictions of that time have a label, counted or not, and how many have none."""
    every: set[object] = set()
    labelled: set[object] = set()
    for file in files_of(log, since, until):
        try:
            given = log.ids_given(file, since, until)
        except LogDamaged as error:
            gaps.add("coverage", error)
            continue
        have = labels.current([raw for raw, _ in given])
        every.update(client or raw for raw, client in given)
        labelled.update(client or raw for raw, client in given if raw in have)
    return len(labelled), len(every - labelled)


def missing_outcomes(settings: Settings, model_hash: str, manifest: Manifest, now: datetime) -> MissingOutcomes | None:
    """The latest due answers of a model, and what those without an outcome leave open; None where nothing is due."""
    with Ledger.reading(ledger_path(settings)) as ledger:
        if ledger is None:
            return None
        latest = latest_outcomes(ledger, model_hash, manifest, settings, now)
        unverified = unverified_of(ledger, model_hash)
    if not latest.due and not unverified:
        return None
    classes = tuple(
        OpenCoverage(
            label=ALL if each.label is None else str(each.label),
            observed=each.observed,
            lowest=None if each.bounds is None else each.bounds.lowest,
            highest=None if each.bounds is None else each.bounds.highest,
            weighted=None if each.weighted is None else each.weighted.estimate,
            weighted_from=None if each.weighted is None else each.weighted.lower,
            weighted_to=None if each.weighted is None else each.weighted.upper,
        )
        for each in latest.classes
    )
    return MissingOutcomes(latest.due, latest.missing, classes, tuple(each.says for each in unverified))


def outcome_facts(
    path: Path, model_hash: str, manifest: Manifest, period: Stretch, detectors: Mapping[str, Detector]
) -> tuple[Coverage | None, PerformanceHistory | None]:
    """Coverage and performance of a model's own answers by the day they were given; None while none counts."""
    with Ledger.reading(path) as ledger:
        promise = None if ledger is None else target_of(ledger, model_hash, manifest.calibration_id)
    if promise is None:
        return None, None
    judged = [
        (start, performance(arrays_of(rows), promise) if rows else None)
        for start, rows in _rows(path, model_hash, manifest.calibration_id, period)
    ]
    coverage = Coverage(
        level=float(promise.level),
        tail=BAND_TAIL,
        bucket_s=period.bucket.total_seconds(),
        classes=tuple(
            _class_coverage(label, place, promise, judged, detectors.get(f"coverage:{label}"))
            for label, place in _promised(promise)
        ),
    )
    return coverage, _performance(judged, manifest, period) if any(found for _, found in judged) else None


def expected_facts(
    path: Path,
    model_hash: str,
    manifest: Manifest,
    period: Stretch,
    coverage: Coverage | None,
    performance: PerformanceHistory | None,
) -> ExpectedHistory | None:
    """What the labels of a model's answers are expected to show, beside what they have shown; None without any."""
    with Ledger.reading(path) as ledger:
        found = [] if ledger is None else expected_between(ledger, model_hash, period.starts, period.bucket)
    if not any(found):
        return None
    labels = [str(label) for label in manifest.classes]
    past = () if performance is None else performance.buckets
    covered = {} if coverage is None else {c.label: {b.start: b.observed for b in c.buckets} for c in coverage.classes}

    def series(measure: str, label: str, each: list[Expectation | None], realised: _Realised) -> ExpectedSeries:
        return ExpectedSeries(
            measure, label, tuple(_expected_bucket(s, e, realised) for s, e in zip(period.starts, each, strict=True))
        )

    every = (
        series("auc", "", [f.auc if f else None for f in found], {b.start: b.auc for b in past}),
        series("brier", "", [f.brier if f else None for f in found], {b.start: b.brier for b in past}),
        *(
            series("coverage", label, [f.coverage[k] if f else None for f in found], covered.get(label, {}))
            for k, label in enumerate(labels)
        ),
    )
    known = tuple(one for one in every if any(b.expected is not None for b in one.buckets))
    return ExpectedHistory(period.bucket.total_seconds(), INTERVAL_LEVEL, known) if known else None


def _expected_bucket(start: datetime, found: Expectation | None, realised: _Realised) -> ExpectedBucket:
    if found is None:
        return ExpectedBucket(start, None, None, None, realised.get(start))
    return ExpectedBucket(start, found.value, found.lower, found.upper, realised.get(start))


def _given(log: PredictionLog, since: datetime, until: datetime, gaps: Gaps) -> tuple[int, datetime | None]:
    """How many answers were given, and when the first of them; files that cannot be read leave a gap."""
    total, times = 0, []
    for file in files_of(log, since, until):
        try:
            n, first = log.given(file, since, until)
        except LogDamaged as error:
            gaps.add("coverage", error)
            continue
        total += n
        times += [] if first is None else [first]
    return total, min(times, default=None)


def _rows(
    path: Path, model_hash: str, calibration_id: str, period: Stretch
) -> Iterator[tuple[datetime, Sequence[MaturedRow]]]:
    """The model's own rows bucket by bucket. Each is read by itself, so that the monitor need not wait for long."""
    for start in period.starts:
        since, until = microseconds(start), microseconds(min(start + period.bucket, period.until))
        with Ledger.reading(path) as ledger:
            rows = [] if ledger is None else ledger.matured(model_hash, since, until)
        yield start, [r for r in rows if r.own and r.calibration_id == calibration_id and r.missed is not None]


def _promised(promise: CoverageTarget) -> list[tuple[str, int]]:
    """Each class with a promise of its own, or all of them together, with the place of its band."""
    if promise.guarantee == "marginal":
        return [(ALL, 0)]
    return [(str(label), place) for place, label in enumerate(promise.classes, start=1)]


def _class_coverage(
    label: str, place: int, promise: CoverageTarget, judged: _Judged, detector: Detector | None
) -> ClassCoverage:
    bands = [(start, None if found is None else found.coverage[place]) for start, found in judged]
    rows = sum(band.n for _, band in bands if band is not None)
    covered = sum(band.covered for _, band in bands if band is not None)
    return ClassCoverage(
        label=label,
        promised=float(promise.level),
        rows=rows,
        observed=covered / rows if rows else None,
        buckets=tuple(_coverage_bucket(start, band) for start, band in bands) if rows else (),
        detector=detector,
    )


def _coverage_bucket(start: datetime, band: CoverageBand | None) -> CoverageBucket:
    if band is None or not band.n:
        return CoverageBucket(start, 0, None, None, None)
    return CoverageBucket(start, band.n, band.observed, band.lower, band.upper)


def _performance(judged: _Judged, manifest: Manifest, period: Stretch) -> PerformanceHistory:
    return PerformanceHistory(
        bucket_s=period.bucket.total_seconds(),
        interval_level=INTERVAL_LEVEL,
        buckets=tuple(_performance_bucket(start, found) for start, found in judged),
        trained_auc=manifest.metrics.get("roc_auc"),
        trained_brier=manifest.metrics.get("brier"),
    )


def _performance_bucket(start: datetime, found: MaturedPerformance | None) -> PerformanceBucket:
    if found is None:
        return PerformanceBucket(start, 0, 0)
    area = found.auc
    return PerformanceBucket(
        start=start,
        rows=found.n,
        positives=found.n_per_class[1],
        auc=None if area is None else area.value,
        auc_low=None if area is None else area.lower,
        auc_high=None if area is None else area.upper,
        brier=found.brier,
    )
