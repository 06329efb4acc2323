"""What the monitor publishes of a model in numbers: each function here gives some of its figures."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ml_core.base.clock import microseconds
from ml_core.lab.measuring.cell_measures import CellMeasures
from ml_core.lab.measuring.performance import MaturedPerformance, performance
from ml_core.lab.watching.alarms import coverage_lately, targets_of
from ml_core.lab.watching.due_outcomes import DueOutcomes
from ml_core.lab.watching.ledger import Ledger
from ml_core.lab.watching.live_expectations import expected_lately
from ml_core.lab.watching.matured_arrays import arrays_of, cells_of, judged_rows, row_targets
from ml_core.lab.watching.outcomes_by_group import returned_by_group
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.rollout.monitor_state import HealthFigure

__all__ = ["figures_of"]

_LATEST = 5_000
"""Matured answers behind the figures by group and the calibration slope."""
_EVERY_US = 60_000_000
"""These figures take half a second of a core, so they are made anew once a minute at most."""
_MEASURED = "measured:"


def figures_of(
    ledger: Ledger, manifest: Manifest, model_hash: str, outcomes: DueOutcomes, now: datetime
) -> tuple[HealthFigure, ...]:
    """Everything that the ledger can say of a live model in numbers; names are those of ``metrics.HEALTH``.

    Parameters
    ----------
    outcomes : of the latest due answers
    """
    return (
        *_live_coverage(ledger, manifest, model_hash),
        *_outcomes(outcomes),
        *_returned(ledger, manifest, model_hash, outcomes),
        *_expected(ledger, manifest, model_hash),
        *_measured(ledger, manifest, model_hash, now),
    )


def _live_coverage(ledger: Ledger, manifest: Manifest, model_hash: str) -> Iterator[HealthFigure]:
    """Coverage of the latest matured answers of each class."""
    for label in map(str, manifest.classes):
        misses, n = coverage_lately(ledger, model_hash, label)
        if n:
            yield HealthFigure(name="live_coverage", value=1.0 - misses / n, label=label)
            yield HealthFigure(name="live_coverage_answers", value=n, label=label)


def _outcomes(latest: DueOutcomes) -> Iterator[HealthFigure]:
    """How many of the latest due answers lack an outcome, and what that leaves open of each class's coverage."""
    if not latest.due:
        return
    yield HealthFigure(name="due_answers", value=latest.due)
    yield HealthFigure(name="missing_outcomes", value=latest.missing)
    for of_class in latest.classes[1:]:
        label, bounds, weighted = str(of_class.label), of_class.bounds, of_class.weighted
        if bounds is not None:
            yield HealthFigure(name="lowest_coverage", value=bounds.lowest, label=label)
            yield HealthFigure(name="highest_coverage", value=bounds.highest, label=label)
        if weighted is not None:
            yield HealthFigure(name="weighted_coverage", value=weighted.estimate, label=label)


def _returned(ledger: Ledger, manifest: Manifest, model_hash: str, latest: DueOutcomes) -> Iterator[HealthFigure]:
    """Of each group of patients, the share of the latest due answers with an outcome."""
    for found in returned_by_group(ledger, model_hash, manifest.groups, latest.hours):
        if found.share is not None:
            yield HealthFigure(name="group_returned", value=found.share, group=found.cell.group)


def _expected(ledger: Ledger, manifest: Manifest, model_hash: str) -> Iterator[HealthFigure]:
    """What the labels of the latest answers are expected to show, each number with its standard error."""
    lately = expected_lately(ledger, model_hash)
    if lately is None:
        return
    found = lately.found
    yield HealthFigure(name="expected_answers", value=found.answers)
    coverage = zip(map(str, manifest.classes), found.coverage, strict=True)
    for name, label, each in (
        ("expected_auc", "", found.auc),
        ("expected_brier", "", found.brier),
        *(("expected_coverage", label, each) for label, each in coverage),
    ):
        if each is not None:
            yield HealthFigure(name=name, value=each.value, label=label)
            yield HealthFigure(name=f"{name}_error", value=each.standard_error, label=label)


def _measured(ledger: Ledger, manifest: Manifest, model_hash: str, now: datetime) -> tuple[HealthFigure, ...]:
    """What the latest matured answers show by group, and of their calibration, as of the last time it was found out."""
    name, last, now_us = f"{_MEASURED}{model_hash}", ledger.last_matured(), microseconds(now)
    kept = ledger.fact(name)
    if kept is None or (kept["last"] != last and now_us - kept["at_us"] >= _EVERY_US):
        figures = [figure.model_dump() for figure in _latest(ledger, manifest, model_hash)]
        kept = {"last": last, "at_us": now_us, "figures": figures}
        ledger.remember(name, kept)
    return tuple(HealthFigure(**figure) for figure in kept["figures"])


def _latest(ledger: Ledger, manifest: Manifest, model_hash: str) -> Iterator[HealthFigure]:
    targets = targets_of(ledger, model_hash)
    rows = judged_rows(ledger.latest_judged(model_hash, _LATEST), targets)
    if not rows:
        return
    yield from _slope(performance(arrays_of(rows), row_targets(rows, targets)))
    for measured in cells_of(rows, targets, manifest.groups):
        yield from _cell(measured)
        if measured.performance is not None:
            yield from _slope(measured.performance, measured.cell.group)


def _cell(measured: CellMeasures) -> Iterator[HealthFigure]:
    """Coverage in a cell, of each class that enough patients share."""
    for of_class in measured.classes:
        band = of_class.band
        if band is not None and band.observed is not None:
            of = {"label": "" if of_class.label is None else str(of_class.label), "group": measured.cell.group}
            yield HealthFigure(name="group_coverage", value=band.observed, **of)
            yield HealthFigure(name="group_coverage_answers", value=band.n, **of)
            yield HealthFigure(name="group_coverage_lowest", value=band.lower, **of)


def _slope(found: MaturedPerformance, group: str = "") -> Iterator[HealthFigure]:
    slope = found.calibration_slope
    if slope is not None:
        yield HealthFigure(name="calibration_slope", value=slope.value, group=group)
        yield HealthFigure(name="calibration_slope_error", value=slope.standard_error, group=group)
