"""How a live model has done on answers that matured: coverage against its band, and performance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from ml_core.base.clock import microseconds
from ml_core.base.errors import DataError
from ml_core.base.settings import Settings
from ml_core.lab.measuring.live_coverage import (
    CoverageBand,
    DetectorState,
    Promise,
    class_indices,
    coverage_bands,
    sets_of,
)
from ml_core.lab.measuring.performance import Matured, Performance, performance
from ml_core.lab.watching.alarms import alarms_of, coverage_detector
from ml_core.lab.watching.calibration_facts import promise_of
from ml_core.lab.watching.health_monitor import Watch, WatchedModel, ledger_path
from ml_core.lab.watching.ledger import Ledger, MaturedRow
from ml_core.serve.rollout.monitor_state import Alarm

__all__ = ["Realised", "bands_of", "matured_of", "performance_of", "realised"]


@dataclass(frozen=True, slots=True)
class Realised:
    """A live model's matured answers.

    Attributes
    ----------
    model : the model
    promise : of its sets; None while no answer has matured
    rows : its own answers (no fallback's), in the order they were given
    detectors : state by name, such as ``coverage:1``
    alarms : those that are on
    waiting, unknown : labels that do not count yet, and labels of answers that are not known
    """

    model: WatchedModel
    promise: Promise | None
    rows: tuple[MaturedRow, ...]
    detectors: dict[str, DetectorState]
    alarms: tuple[Alarm, ...]
    waiting: int
    unknown: int


def realised(settings: Settings, since: datetime | None = None, slot: str = "champion") -> Realised:
    """The model in that slot, and its answers since then that have matured.

    Raises
    ------
    DataError
        Nothing is live in that slot, or the monitor has never run.
    LogDamaged, ArtefactError
        Ledger or rollout cannot be read.
    """
    model = next((m for m in Watch(settings).live_models() if m.slot == slot), None)
    if model is None:
        raise DataError(f"the {slot}", f"no model of {settings.model_name} is live there: start the service first")
    since_us = 0 if since is None else microseconds(since)
    with Ledger.reading(ledger_path(settings)) as ledger:
        if ledger is None:
            raise DataError("the monitor", "has never run: start `surety monitor --every 1m`, or run it with --once")
        rows = tuple(
            row
            for row in ledger.matured(model.model_hash, since_us)
            if row.own and row.calibration_id == model.manifest.calibration_id and row.missed is not None
        )
        counts = ledger.count_waiting()
        detectors = {
            name: coverage_detector(state)
            for name, (state, _) in ledger.detectors(model.model_hash).items()
            if name.startswith("coverage:")
        }
        return Realised(
            model=model,
            promise=promise_of(ledger, model.model_hash, model.manifest.calibration_id),
            rows=rows,
            detectors=detectors,
            alarms=alarms_of(ledger, model.model_hash),
            waiting=counts["waiting"],
            unknown=counts["unknown"],
        )


def matured_of(rows: Sequence[MaturedRow]) -> Matured:
    """The rows as performance takes them; patients by their hidden names, answers without one each their own."""
    return Matured(
        proba=np.array([row.probabilities for row in rows], dtype=np.float64),
        p_values=np.array([row.p_values for row in rows], dtype=np.float64),
        labels=[row.label for row in rows],
        groups=[row.subject or row.request_id for row in rows],
    )


def bands_of(found: Realised) -> tuple[CoverageBand, ...]:
    """Coverage of all rows, then of each class, against the band of a valid model; empty without rows."""
    promise, rows = found.promise, found.rows
    if promise is None or not rows:
        return ()
    index = class_indices([row.label for row in rows], promise.classes)
    sets = sets_of([row.p_values for row in rows], promise.sizes, promise.level)
    covered = sets[np.arange(index.size), index]
    return coverage_bands(covered, index, promise, [row.subject or row.request_id for row in rows])


def performance_of(found: Realised) -> Performance | None:
    """Performance on all rows; None without any."""
    if found.promise is None or not found.rows:
        return None
    return performance(matured_of(found.rows), found.promise)
