"""What matured answers in the monitor's ledger show: coverage, performance, reliability, groups, what is expected.

Every function raises LogDamaged where the ledger cannot be read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ml_core.base.clock import microseconds
from ml_core.lab.measuring.cell_measures import CellMeasures, ClassInCell
from ml_core.lab.measuring.expected_performance import Expectation
from ml_core.lab.measuring.live_coverage import BAND_TAIL, CoverageBand, CoverageTarget
from ml_core.lab.measuring.performance import MaturedPerformance, performance
from ml_core.lab.measuring.reliability import INTERVAL_LEVEL
from ml_core.lab.report.collect_period import Stretch
from ml_core.lab.report.facts_drift import Detector
from ml_core.lab.report.facts_outcomes import (
    ClassCoverage,
    Coverage,
    CoverageBucket,
    ExpectedBucket,
    ExpectedHistory,
    ExpectedSeries,
    GroupClass,
    GroupOutcomes,
    PatientGroups,
    PerformanceBucket,
    PerformanceHistory,
    Reliability,
)
from ml_core.lab.report.status_words import ALL
from ml_core.lab.watching.alarms import targets_of
from ml_core.lab.watching.ledger import Ledger, MaturedRow
from ml_core.lab.watching.live_expectations import expected_between
from ml_core.lab.watching.matured_arrays import arrays_of, cells_of, judged_rows, row_targets
from ml_core.serve.home.table_stores import TableStore
from ml_core.serve.model.manifest import Manifest

__all__ = ["OutcomeFacts", "expected_facts", "outcome_facts"]

MOST_ROWS = 50_000
"""The latest answers of the period that are kept in memory, for what is not told bucket by bucket."""

_Judged = Sequence[tuple[datetime, MaturedPerformance | None]]
"""When each bucket begins, and how the model did in it; None without any answer."""
_Realised = Mapping[datetime, float | None]
"""What outcomes have shown, by the begin of the bucket."""


@dataclass(frozen=True, slots=True)
class OutcomeFacts:
    """The parts of a report that come from matured answers; each is None while nothing is known."""

    coverage: Coverage | None = None
    performance: PerformanceHistory | None = None
    reliability: Reliability | None = None
    groups: PatientGroups | None = None


def outcome_facts(
    tables: TableStore, model_hash: str, manifest: Manifest, period: Stretch, detectors: Mapping[str, Detector]
) -> OutcomeFacts:
    """What a model's own answers of a period show, by the day they were given or all together."""
    with Ledger.reading(tables) as ledger:
        targets = {} if ledger is None else targets_of(ledger, model_hash)
    if not targets:
        return OutcomeFacts()
    judged: list[tuple[datetime, MaturedPerformance | None]] = []
    latest: deque[MaturedRow] = deque(maxlen=MOST_ROWS)
    for start, rows in _rows(tables, model_hash, targets, period):
        judged.append((start, performance(arrays_of(rows), row_targets(rows, targets)) if rows else None))
        latest += rows
    coverage = Coverage(
        level=float(manifest.confidence_level),
        tail=BAND_TAIL,
        bucket_s=period.bucket.total_seconds(),
        classes=tuple(
            _class_coverage(label, place, manifest, judged, detectors.get(f"coverage:{label}"))
            for label, place in _promised(manifest)
        ),
    )
    if not latest:
        return OutcomeFacts(coverage)
    return OutcomeFacts(
        coverage=coverage,
        performance=_performance(judged, manifest, period),
        reliability=_reliability(latest, targets, manifest),
        groups=_groups(latest, targets, manifest),
    )


def expected_facts(
    tables: TableStore,
    model_hash: str,
    manifest: Manifest,
    period: Stretch,
    outcomes: OutcomeFacts,
) -> ExpectedHistory | None:
    """What the labels of a model's answers are expected to show, beside what they have shown; None without any."""
    with Ledger.reading(tables) as ledger:
        found = [] if ledger is None else expected_between(ledger, model_hash, period.starts, period.bucket)
    if not any(found):
        return None
    labels = [str(label) for label in manifest.classes]
    past = () if outcomes.performance is None else outcomes.performance.buckets
    classes = () if outcomes.coverage is None else outcomes.coverage.classes
    covered = {c.label: {b.start: b.observed for b in c.buckets} for c in classes}

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


def _rows(
    tables: TableStore, model_hash: str, targets: Mapping[str, CoverageTarget], period: Stretch
) -> Iterator[tuple[datetime, Sequence[MaturedRow]]]:
    """The model's own rows bucket by bucket. Each is read by itself, so that the monitor need not wait for long."""
    for start in period.starts:
        since, until = microseconds(start), microseconds(min(start + period.bucket, period.until))
        with Ledger.reading(tables) as ledger:
            rows = [] if ledger is None else ledger.matured(model_hash, since, until)
        yield start, judged_rows(rows, targets)


def _promised(manifest: Manifest) -> list[tuple[str, int]]:
    """Each class with a promise of its own, or all of them together, with the place of its band."""
    if manifest.guarantee == "marginal":
        return [(ALL, 0)]
    return [(str(label), place) for place, label in enumerate(manifest.classes, start=1)]


def _class_coverage(
    label: str, place: int, manifest: Manifest, judged: _Judged, detector: Detector | None
) -> ClassCoverage:
    bands = [(start, None if found is None else found.coverage[place]) for start, found in judged]
    rows = sum(band.n for _, band in bands if band is not None)
    covered = sum(band.covered for _, band in bands if band is not None)
    return ClassCoverage(
        label=label,
        promised=float(manifest.confidence_level),
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


def _reliability(
    rows: Sequence[MaturedRow], targets: Mapping[str, CoverageTarget], manifest: Manifest
) -> Reliability | None:
    """Whether probabilities meant what they said; None where there are too few outcomes, or more than two classes."""
    found = performance(arrays_of(rows), row_targets(rows, targets))
    if not found.reliability:
        return None
    return Reliability(
        label=str(manifest.classes[1]),
        rows=found.n,
        interval_level=INTERVAL_LEVEL,
        slope=found.calibration_slope,
        intercept=found.calibration_intercept,
        points=found.reliability,
    )


def _groups(
    rows: Sequence[MaturedRow], targets: Mapping[str, CoverageTarget], manifest: Manifest
) -> PatientGroups | None:
    """What the rows show of each group; None for a model without groups, or where no row has one."""
    found = cells_of(rows, targets, manifest.groups)
    if not found:
        return None
    return PatientGroups(
        level=float(manifest.confidence_level),
        tail=BAND_TAIL,
        interval_level=INTERVAL_LEVEL,
        rows=sum(row.groups is not None for row in rows),
        cells=tuple(map(_cell, found)),
    )


def _cell(measured: CellMeasures) -> GroupOutcomes:
    found = measured.performance
    return GroupOutcomes(
        grouping=measured.cell.grouping,
        cell=measured.cell.name,
        is_promised=measured.cell.is_promised,
        patients=measured.patients,
        classes=tuple(map(_class_in_cell, measured.classes)),
        auc=None if found is None else found.auc,
        brier=None if found is None else found.brier,
        mean_set_size=None if found is None else found.mean_set_size,
        singleton_share=None if found is None else found.singleton_share,
        slope=None if found is None else found.calibration_slope,
        intercept=None if found is None else found.calibration_intercept,
        points=() if found is None else found.reliability,
    )


def _class_in_cell(found: ClassInCell) -> GroupClass:
    label, band = ALL if found.label is None else str(found.label), found.band
    if band is None:
        return GroupClass(label)
    return GroupClass(label, found.patients, band.n, band.observed, band.promised, band.lower, band.upper)
