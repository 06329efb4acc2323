"""Metrics by group of patients on the model card: which of them may be told, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ml_core.lab.measuring.evaluation import SHARED_BY, GroupMetrics

__all__ = ["group_tables", "shared_metrics"]

GroupTable = tuple[str, list[str], list[tuple[str, str, list[str]]]]
"""Name of a grouping, headings, and rows: cell, rows per class, and the metrics in the order of the headings."""


def shared_metrics(found: GroupMetrics) -> GroupMetrics:
    """The metrics that enough rows share: those of fewer would tell of single patients."""
    enough = {name for name, n in found.metrics.items() if name.startswith("n_class_") and n >= SHARED_BY}

    def is_shared(name: str) -> bool:
        whole, of_class, label = name.partition("_class_")
        return whole == "n" or (f"n_class_{label}" in enough if of_class else found.n >= SHARED_BY)

    return replace(found, metrics={name: value for name, value in found.metrics.items() if is_shared(name)})


def group_tables(by_group: Sequence[GroupMetrics], classes: Sequence[object], *, none: str) -> list[GroupTable]:
    """One table for each grouping; ``none`` stands for a metric that is not there."""
    labels = [str(label) for label in classes]
    names = [*(f"coverage_class_{label}" for label in labels), "mean_set_size", "singleton_share", "roc_auc"]
    headings = [
        *(f"coverage, {label}" for label in labels),
        "mean set size",
        "single label",
        "AUC",
        "calibration slope",
    ]
    tables: dict[str, list[tuple[str, str, list[str]]]] = {}
    for found in by_group:
        rows = ", ".join(f"{label}: {found.metrics.get(f'n_class_{label}', 0):,.0f}" for label in labels)
        values = [found.metrics.get(name) for name in (*names, "calibration_slope")]
        shown = [none if value is None else f"{value:.3f}" for value in values]
        tables.setdefault(found.grouping, []).append((found.cell, rows, shown))
    return [(grouping, headings, rows) for grouping, rows in tables.items()]
