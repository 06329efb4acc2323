"""What the monitor's ledger says of detectors, and of labels that have come or not.

Every function raises LogDamaged where the ledger cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from ml_core.base.clock import microseconds, moment_of
from ml_core.base.errors import LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.drift.sequential import DriftState
from ml_core.lab.measuring.coverage_detector import DetectorState
from ml_core.lab.report.collect_answers import files_of
from ml_core.lab.report.collect_period import Known, Period
from ml_core.lab.report.facts_drift import Detector, EvidencePoint
from ml_core.lab.report.facts_outcomes import (
    Labels,
    MissingOutcomes,
    OpenCoverage,
)
from ml_core.lab.report.gaps import Gaps
from ml_core.lab.report.status_words import ALL
from ml_core.lab.watching.alarms import DRIFT, held_alarms
from ml_core.lab.watching.due_outcomes import latest_outcomes, unverified_of
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.lab.watching.outcomes_by_group import returned_by_group
from ml_core.serve.home.table_stores import TableStore
from ml_core.serve.log.labels import LabelStore
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.manifest import Manifest

__all__ = [
    "detectors_of",
    "known_outcomes",
    "label_facts",
    "missing_outcomes",
    "thinned_trail",
]

MOST_POINTS = 400
"""Points of a trail; a picture cannot show more."""

# --- detectors ------------------------------------------------------------------------------------------------------


def detectors_of(tables: TableStore, model_hash: str, since: datetime) -> dict[str, Detector]:
    """The detectors of a model by name (``drift``, ``coverage:1``), each with its trail since then.

    Parameters
    ----------
    tables : the monitor's ledger; a monitor that never ran has no detectors
    """
    with Ledger.reading(tables) as ledger:
        if ledger is None:
            return {}
        kept = ledger.detectors(model_hash)
        held = held_alarms(ledger, model_hash)
        trails = {name: ledger.evidence(model_hash, name, microseconds(since)) for name in kept}
    return {
        name: _detector(name, state, None if name in held else alarm, trails[name])
        for name, (state, alarm) in kept.items()
    }


def thinned_trail(trail: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """At most about so many points of a trail, its peaks and its end among them.

    Examples
    --------
    >>> thinned_trail([(1, 0.0), (2, 7.0), (3, 1.0), (4, 2.0)], most=2)
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
    points = tuple(EvidencePoint(moment_of(us), value) for us, value in thinned_trail(trail))
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


# --- labels ----------------------------------------------------------------------------------------------------------


def known_outcomes(tables: TableStore, model_hash: str) -> Known | None:
    """Which answers of a model have a matured label; None without any."""
    with Ledger.reading(tables) as ledger:
        found = None if ledger is None else ledger.matured_between(model_hash)
    return None if found is None else Known(moment_of(found[0]), moment_of(found[1]), found[2])


def label_facts(
    tables: TableStore, log: PredictionLog, labels: LabelStore, period: Period, horizon_days: float, gaps: Gaps
) -> Labels:
    """How many answers have a matured label, wait for their horizon, or are past it, of any model.

    Answers with the same ``client_request_id`` are one prediction, and a label of any of them is its label.
    """
    ripe = period.now - period.horizon
    waiting, first = _given(log, ripe, period.now, gaps)
    next_at = None if first is None else first + period.horizon
    since, until, now = (microseconds(at) for at in (period.asked_outcomes, ripe, period.now))
    counted = ripe_counted = 0
    with Ledger.reading(tables) as ledger:
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
    with Ledger.reading(open_ledger_tables(settings, settings.model_name)) as ledger:
        if ledger is None:
            return None
        latest = latest_outcomes(ledger, model_hash, manifest, settings, now)
        unverified = unverified_of(ledger, model_hash)
        groups = returned_by_group(ledger, model_hash, manifest.groups, latest.hours)
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
    return MissingOutcomes(
        due=latest.due,
        missing=latest.missing,
        classes=classes,
        unverified=tuple(each.says for each in unverified),
        groups=tuple((each.cell.group, each.share) for each in groups),
    )


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
