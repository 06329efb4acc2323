"""The monitor's detectors as a report tells them: evidence now and over time, and how rarely each is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ml_core.base.clock import microseconds, moment_of
from ml_core.lab.drift.sequential import DriftState
from ml_core.lab.measuring.live_coverage import DetectorState
from ml_core.lab.report.facts import Detector, EvidencePoint
from ml_core.lab.watching.alarms import DRIFT
from ml_core.lab.watching.ledger import Ledger

__all__ = ["detectors_of", "thinned"]

MOST_POINTS = 400
"""Points of a trail; more could not be told apart in a picture."""


def detectors_of(path: Path, model_hash: str, since: datetime) -> dict[str, Detector]:
    """The detectors of a model by name (``drift``, ``coverage:1``), each with its trail since then.

    Parameters
    ----------
    path : the monitor's ledger; a monitor that never ran has no detectors

    Raises
    ------
    LogDamaged
        It cannot be read.
    """
    with Ledger.reading(path) as ledger:
        if ledger is None:
            return {}
        kept = ledger.detectors(model_hash)
        trails = {name: ledger.evidence(model_hash, name, microseconds(since)) for name in kept}
    return {name: _detector(name, state, alarm, trails[name]) for name, (state, alarm) in kept.items()}


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
        promise = f"On average at most one false alarm in {windows} while what is asked stays alike."
        return Detector(drift.evidence, drift.threshold, drift.windows, promise, alarm_at, points)
    found = DetectorState(**state)
    whose = "outcomes" if name == "coverage:all" else "outcomes of this class"
    promise = f"On average at most one false alarm in {found.threshold:,.0f} {whose} while the promise is kept."
    return Detector(found.total_evidence, found.threshold, found.labels, promise, alarm_at, points)
