"""What the monitor publishes of a model in numbers: each function here gives some of its figures."""

from __future__ import annotations

from collections.abc import Iterator

from ml_core.lab.watching.alarms import coverage_lately
from ml_core.lab.watching.due_outcomes import DueOutcomes
from ml_core.lab.watching.ledger import Ledger
from ml_core.lab.watching.live_expectations import expected_lately
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.rollout.monitor_state import HealthFigure

__all__ = ["figures_of"]


def figures_of(ledger: Ledger, manifest: Manifest, model_hash: str, outcomes: DueOutcomes) -> tuple[HealthFigure, ...]:
    """Everything that the ledger can say of a live model in numbers; names are those of ``metrics.HEALTH``.

    Parameters
    ----------
    outcomes : of the latest due answers
    """
    return (
        *_live_coverage(ledger, manifest, model_hash),
        *_outcomes(outcomes),
        *_expected(ledger, manifest, model_hash),
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
