"""What turned out to be true, as a report tells it: labels counted, coverage per class and performance over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ml_core.base.clock import microseconds, moment_of
from ml_core.base.errors import LogDamaged
from ml_core.lab.measuring.live_coverage import BAND_TAIL, CoverageBand, CoverageTarget
from ml_core.lab.measuring.performance import INTERVAL_LEVEL, MaturedPerformance, performance
from ml_core.lab.report.collect_answers import files_of
from ml_core.lab.report.collect_gaps import Gaps
from ml_core.lab.report.collect_period import Known, Period, Stretch
from ml_core.lab.report.facts import (
    ClassCoverage,
    Coverage,
    CoverageBucket,
    Detector,
    Labels,
    Performance,
    PerformanceBucket,
)
from ml_core.lab.report.status_words import ALL
from ml_core.lab.watching.alarms import target_of
from ml_core.lab.watching.ledger import Ledger, MaturedRow
from ml_core.lab.watching.live_performance import arrays_of
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.manifest import Manifest

__all__ = ["known_outcomes", "label_facts", "outcome_facts"]


@dataclass(frozen=True, slots=True)
class _Judged:
    """One bucket: when it begins, and how the model did; None without any answer."""

    start: datetime
    found: MaturedPerformance | None


def known_outcomes(path: Path, model_hash: str) -> Known | None:
    """Which answers of a model have an outcome that counts; None without any.

    Raises
    ------
    LogDamaged
        The monitor's ledger cannot be read.
    """
    with Ledger.reading(path) as ledger:
        found = None if ledger is None else ledger.matured_between(model_hash)
    return None if found is None else Known(moment_of(found[0]), moment_of(found[1]), found[2])


def label_facts(path: Path, log: PredictionLog, period: Period, horizon_days: float, gaps: Gaps) -> Labels:
    """How many answers have an outcome that counts, wait for it, or never got one, whichever model gave them.

    Raises
    ------
    LogDamaged
        The monitor's ledger cannot be read.
    """
    ripe = period.now - period.horizon
    waiting, first = _given(log, ripe, period.now, gaps)
    next_at = None if first is None else first + period.horizon
    since, until, now = (microseconds(at) for at in (period.asked_outcomes, ripe, period.now))
    with Ledger.reading(path) as ledger:
        if ledger is None:  # nobody has looked yet whether outcomes came
            return Labels(waiting=waiting, horizon_days=horizon_days, next_at=next_at)
        counted, ripe_counted = ledger.count_given(since, now), ledger.count_given(since, until)
        due = ledger.count_due(now)
    old, _ = _given(log, period.asked_outcomes, ripe, gaps)
    return Labels(counted, waiting, max(0, old - ripe_counted - due), horizon_days, next_at)


def outcome_facts(
    path: Path, model_hash: str, manifest: Manifest, period: Stretch, detectors: Mapping[str, Detector]
) -> tuple[Coverage | None, Performance | None]:
    """Coverage and performance of a model's own answers by the day they were given; None while none counts.

    Raises
    ------
    LogDamaged
        The monitor's ledger cannot be read.
    """
    with Ledger.reading(path) as ledger:
        promise = None if ledger is None else target_of(ledger, model_hash, manifest.calibration_id)
    if promise is None:
        return None, None
    judged = [
        _Judged(start, performance(arrays_of(rows), promise) if rows else None)
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
    return coverage, _performance(judged, manifest, period) if any(one.found for one in judged) else None


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
    """What something is promised to, and its place among the bands: each class, or all of them together."""
    if promise.guarantee == "marginal":
        return [(ALL, 0)]
    return [(str(label), place) for place, label in enumerate(promise.classes, start=1)]


def _class_coverage(
    label: str, place: int, promise: CoverageTarget, judged: Sequence[_Judged], detector: Detector | None
) -> ClassCoverage:
    bands = [(one.start, None if one.found is None else one.found.coverage[place]) for one in judged]
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


def _performance(judged: Sequence[_Judged], manifest: Manifest, period: Stretch) -> Performance:
    return Performance(
        bucket_s=period.bucket.total_seconds(),
        interval_level=INTERVAL_LEVEL,
        buckets=tuple(_performance_bucket(one) for one in judged),
        trained_auc=manifest.metrics.get("roc_auc") if len(manifest.classes) == 2 else None,
        trained_brier=manifest.metrics.get("brier"),
    )


def _performance_bucket(judged: _Judged) -> PerformanceBucket:
    found = judged.found
    if found is None:
        return PerformanceBucket(judged.start, 0, 0)
    area = found.auc
    return PerformanceBucket(
        start=judged.start,
        rows=found.n,
        positives=found.n_per_class[1],
        auc=None if area is None else area.value,
        auc_low=None if area is None else area.lower,
        auc_high=None if area is None else area.upper,
        brier=found.brier,
    )
