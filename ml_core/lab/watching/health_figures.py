"""What the monitor publishes of a model in numbers: each function here gives some of its figures."""

from __future__ import annotations

from collections.abc import Iterator

from ml_core.lab.watching.alarms import coverage_lately
from ml_core.lab.watching.ledger import Ledger
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.rollout.monitor_state import HealthFigure

__all__ = ["figures_of"]


def figures_of(ledger: Ledger, manifest: Manifest, model_hash: str) -> tuple[HealthFigure, ...]:
    """Everything that the ledger can say of a live model in numbers; names are those of ``metrics.HEALTH``."""
    return (*_live_coverage(ledger, manifest, model_hash),)


def _live_coverage(ledger: Ledger, manifest: Manifest, model_hash: str) -> Iterator[HealthFigure]:
    """Coverage of the latest matured answers of each class."""
    for label in map(str, manifest.classes):
        misses, n = coverage_lately(ledger, model_hash, label)
        if n:
            yield HealthFigure(name="live_coverage", value=1.0 - misses / n, label=label)
            yield HealthFigure(name="live_coverage_answers", value=n, label=label)
