"""How a live model does on its matured answers: coverage against its band, and performance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from math import sqrt

from ml_core.base.clock import microseconds
from ml_core.base.errors import DataError
from ml_core.base.settings import Settings
from ml_core.lab.measuring.coverage_detector import DetectorState
from ml_core.lab.measuring.coverage_law import holds_label
from ml_core.lab.measuring.live_coverage import (
    CoverageBand,
    CoverageTarget,
    class_indices,
    coverage_bands,
)
from ml_core.lab.measuring.performance import MaturedPerformance, performance
from ml_core.lab.watching.alarms import alarms_of, targets_of
from ml_core.lab.watching.due_outcomes import DueOutcomes, due_outcomes, unverified_of
from ml_core.lab.watching.health_monitor import HealthMonitor, MonitoredModel
from ml_core.lab.watching.ledger import Ledger, MaturedRow, open_ledger_tables
from ml_core.lab.watching.live_expectations import ExpectedStretch, expected_lately
from ml_core.lab.watching.matured_arrays import arrays_of, judged_rows, row_targets
from ml_core.lab.watching.outcome_counts import HOUR_US
from ml_core.lab.watching.outcomes_by_group import DueInGroups, due_in_groups
from ml_core.serve.rollout.monitor_state import Alarm, Unverified

__all__ = [
    "MaturedAnswers",
    "bands_of",
    "expected_of",
    "fall_of_auc",
    "lost_skill",
    "matured_answers",
    "performance_of",
]

_LEAST_LOSS = 0.02
"""Fall of the area under the curve that is worth a new model."""
_LOSS_ERRORS = 2.58
"""Standard errors of the fall: chance alone exceeds it once in 200 checks."""


@dataclass(frozen=True, slots=True)
class MaturedAnswers:
    """The matured answers of a live model.

    Attributes
    ----------
    model : the model
    targets : coverage targets of its sets by calibration id, one for each calibrated group; empty before any answer
        has matured
    rows : answers of the model itself (of no fallback), in the order they were given
    detectors : states of the coverage detectors, by name, such as ``coverage:1``
    alarms : the alarms that are on
    outcomes : the answers of that time that are due, with and without an outcome; whole hours
    in_groups : those of them whose groups are known
    unverified : what missing outcomes left open at the monitor's last look
    waiting : labels whose horizon has not passed yet
    unknown : labels of answers that are not in the log
    """

    model: MonitoredModel
    targets: Mapping[str, CoverageTarget]
    rows: tuple[MaturedRow, ...]
    detectors: dict[str, DetectorState]
    alarms: tuple[Alarm, ...]
    outcomes: DueOutcomes
    in_groups: DueInGroups
    unverified: tuple[Unverified, ...]
    waiting: int
    unknown: int


def matured_answers(settings: Settings, since: datetime | None = None, slot: str = "champion") -> MaturedAnswers:
    """The matured answers, given since then, of the model in that slot.

    Raises
    ------
    DataError
        No model is in that slot, or the monitor has never run.
    LogDamaged, ArtefactError
        Ledger or rollout cannot be read.
    """
    model = next((m for m in HealthMonitor(settings).live_models() if m.slot == slot), None)
    if model is None:
        raise DataError(f"the {slot}", f"no model of {settings.model_name} is live there: start the service first")
    since_us = 0 if since is None else microseconds(since)
    with Ledger.reading(open_ledger_tables(settings, settings.model_name)) as ledger:
        if ledger is None:
            raise DataError("the monitor", "has never run: start `surety monitor --every 5s`, or run it with --once")
        targets = targets_of(ledger, model.model_hash)
        counts = ledger.count_waiting()
        detectors = {
            name: DetectorState(**state)
            for name, (state, _) in ledger.detectors(model.model_hash).items()
            if name.startswith("coverage:")
        }
        rows = judged_rows(ledger.matured(model.model_hash, since_us), targets)
        return MaturedAnswers(
            model=model,
            targets=targets,
            rows=rows,
            detectors=detectors,
            alarms=alarms_of(ledger, model.model_hash),
            outcomes=due_outcomes(ledger, model.model_hash, model.manifest, since_us // HOUR_US),
            in_groups=due_in_groups(ledger, model.model_hash, rows, since_us // HOUR_US),
            unverified=unverified_of(ledger, model.model_hash),
            waiting=counts["waiting"],
            unknown=counts["unknown"],
        )


def bands_of(found: MaturedAnswers) -> tuple[CoverageBand, ...]:
    """Coverage of all rows, then of each class, with the band of a valid model; empty without rows."""
    if not found.rows:
        return ()
    arrays, targets = arrays_of(found.rows), row_targets(found.rows, found.targets)
    index = class_indices(arrays.labels, targets.classes)
    return coverage_bands(holds_label(targets.sets(arrays.p_values), index), index, targets, arrays.groups)


def performance_of(found: MaturedAnswers) -> MaturedPerformance | None:
    """Performance on all rows; None without rows."""
    return performance(arrays_of(found.rows), row_targets(found.rows, found.targets)) if found.rows else None


def lost_skill(settings: Settings, rows: int) -> str | None:
    """In words, how far the area under the curve of the newest matured answers lies below that of training.

    None where it does not (by more than 0.02 and 2.58 standard errors), and where too little is known to say: no
    outcome has matured, or fewer than 20 patients of a class have.

    Parameters
    ----------
    rows : newest matured answers that are looked at

    Raises
    ------
    LogDamaged, ArtefactError
        Ledger or rollout cannot be read.
    """
    try:
        found = matured_answers(settings)
    except DataError:
        return None
    judged = performance_of(replace(found, rows=found.rows[-rows:]))
    manifest = found.model.manifest
    trained = manifest.metrics.get("roc_auc")
    if judged is None or trained is None:
        return None
    return fall_of_auc(judged, trained, manifest.training.rows.get("test", 0))


def fall_of_auc(judged: MaturedPerformance, trained: float, tested: int) -> str | None:
    """In words, that the area under the curve of these answers lies below that of training; None where it does not.

    It does from 0.02 and 2.58 standard errors on: chance alone exceeds these once in 200 looks.

    Parameters
    ----------
    trained, tested : area under the curve of the model's test rows, and their number
    """
    if judged.auc is None:
        return None
    # the test rows of training had an error too; it is taken to be like that of these rows, by their number
    error = judged.auc.standard_error * sqrt(1.0 + judged.n / max(tested, 1))
    if trained - judged.auc.value <= max(_LEAST_LOSS, _LOSS_ERRORS * error):
        return None
    return (
        f"skill was lost: area under the curve {judged.auc.value:.2f} on {judged.n} outcomes, {trained:.2f} in training"
    )


def expected_of(settings: Settings, model_hash: str, since: datetime | None = None) -> ExpectedStretch | None:
    """What the labels of a model's answers are expected to show; None where nothing is expected of it.

    Parameters
    ----------
    since : answers of that UTC day and later; None for those of the latest days that hold 1,000

    Raises
    ------
    LogDamaged
        The ledger cannot be read.
    """
    with Ledger.reading(open_ledger_tables(settings, settings.model_name)) as ledger:
        return None if ledger is None else expected_lately(ledger, model_hash, since)
