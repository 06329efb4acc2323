"""Pictures of an evaluation: calibration curve, ROC, set sizes, coverage per class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ml_core.lab.training.packing import PackedModel

__all__ = ["close", "figures_of"]


def figures_of(model: PackedModel) -> Iterator[tuple[Any, str]]:
    """Each matplotlib figure with its name; the caller closes it."""
    yield _calibration_curve(model), "calibration_curve"
    yield _roc(model), "roc"
    yield _set_sizes(model), "set_sizes"
    yield _coverage(model), "coverage"


def close(figure: Any) -> None:
    """Free a figure."""
    figure.clear()


def _figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    """A figure outside pyplot's global state, so that no display is looked for."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _calibration_curve(model: PackedModel) -> Any:
    figure, axes = _figure("Calibration, test patients", "predicted probability", "observed share")
    curves = model.evaluation.calibration_curve
    top = max((max(p.predicted, p.observed) for points in curves.values() for p in points), default=1.0)
    axes.plot([0, top], [0, top], color="0.7", linewidth=1)
    for label, points in curves.items():
        axes.plot([p.predicted for p in points], [p.observed for p in points], marker="o", label=f"class {label}")
    axes.legend()
    return figure


def _roc(model: PackedModel) -> Any:
    figure, axes = _figure("ROC, test patients", "false positive rate", "true positive rate")
    classes = model.bundle.manifest.classes
    for k in range(1, 2) if len(classes) == 2 else range(len(classes)):
        happened = model.test_y_index == k
        order = np.argsort(-model.test_proba[:, k], kind="stable")
        hits, misses = np.cumsum(happened[order]), np.cumsum(~happened[order])
        axes.plot(misses / max(misses[-1], 1), hits / max(hits[-1], 1), label=f"class {classes[k]}")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.legend()
    return figure


def _set_sizes(model: PackedModel) -> Any:
    figure, axes = _figure("Prediction sets, test patients", "labels in the set", "share of rows")
    manifest = model.bundle.manifest
    sizes = model.bundle.calibration.sets(model.test_proba, manifest.confidence_level).sum(axis=1)
    for k, label in enumerate(manifest.classes):
        of_class = sizes[model.test_y_index == k]
        shares = np.bincount(of_class, minlength=len(manifest.classes) + 1) / max(of_class.size, 1)
        axes.bar(
            np.arange(shares.size) + 0.8 * k / len(manifest.classes),
            shares,
            0.8 / len(manifest.classes),
            label=f"class {label}",
        )
    axes.set_xticks(range(len(manifest.classes) + 1))
    axes.legend()
    return figure


def _coverage(model: PackedModel) -> Any:
    figure, axes = _figure("Coverage, test patients", "", "share of rows whose set holds their label")
    manifest, metrics = model.bundle.manifest, model.evaluation.metrics
    names = ["coverage", *(f"coverage_class_{label}" for label in manifest.classes)]
    axes.bar(["all", *(f"class {label}" for label in manifest.classes)], [metrics.get(name, 0.0) for name in names])
    axes.axhline(float(manifest.confidence_level), color="0.3", linewidth=1)
    axes.set_ylim(0, 1)
    return figure
