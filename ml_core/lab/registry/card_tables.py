"""The tables of a model card, from its facts: parts of the split, metrics with their ranges, calibrated classes."""

from __future__ import annotations

from ml_core.lab.measuring.calibration import needed_rows
from ml_core.lab.measuring.metric_ranges import MetricRange
from ml_core.lab.registry.card_facts import NOT_RECORDED, ModelCard
from ml_core.lab.training.labelled_rows import PARTS
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.model.trees import TreeForm

__all__ = [
    "NO_FIGURE",
    "PARTS_SHOWN",
    "calibrated_classes",
    "card_parts",
    "explained_as",
    "kind_of_model",
    "measured_metrics",
    "metric_range",
    "metric_value",
    "over_calibrations",
    "range_text",
    "split_fact",
]

PARTS_SHOWN = (*PARTS, "left_out")
NO_FIGURE = "\N{EN DASH}"
"""Where one was looked for, and the rows could not give it."""


def explained_as(card: ModelCard) -> str:
    """What an explanation of an answer takes apart; empty for a model that cannot be explained."""
    if card.bundle is None or not (card.bundle.trees or card.bundle.linear):
        return ""
    if not card.bundle.trees:
        return "log-odds" if len(card.bundle.manifest.classes) == 2 else "score of the predicted label"
    form = TreeForm.from_bytes(card.bundle.trees)
    if form.link == "mean":
        return "probability of a label"
    return "log-odds" if form.n_classes == 2 else "score of the predicted label"


def over_calibrations(card: ModelCard) -> str:
    """Of how many calibrations the promise is true."""
    sure = None if card.bundle is None else card.bundle.manifest.training_conditional
    return "in the mean over calibrations" if sure is None else f"with confidence {sure} over calibrations"


def split_fact(card: ModelCard, name: str) -> str:
    """What the manifest says of a split in time; empty where it says nothing."""
    return "" if card.bundle is None else str(card.bundle.manifest.training.params.get(name, ""))


def card_parts(card: ModelCard) -> list[tuple[str, int | None, int | None, str]]:
    """(part, patients, rows, rows per class in words) of each part of the split that has rows."""
    if card.bundle is None:
        return []
    rows, record = card.bundle.manifest.training.rows, card.record
    found: list[tuple[str, int | None, int | None, str]] = []
    for part in [*(p for p in PARTS_SHOWN if p in rows), *(p for p in rows if p not in PARTS_SHOWN)]:
        classes = {} if record is None else record.class_rows.get(part, {})
        words = "; ".join(f"{label}: {n:,}" for label, n in classes.items())
        found.append((part, None if record is None else record.patients.get(part), rows[part], words))
    return found


def measured_metrics(card: ModelCard) -> list[tuple[str, str, int | None]]:
    """(metric, how people call it, test rows it was measured on), in the order of the page."""
    if card.bundle is None:
        return []
    manifest = card.bundle.manifest
    n_test, classes = manifest.training.rows.get("test"), manifest.classes
    n_of = {label: _rows_of(manifest.metrics.get(f"n_class_{label}")) for label in classes}
    found: list[tuple[str, str, int | None]] = [("roc_auc", "area under the ROC curve", n_test)]
    if len(classes) > 2:
        found += [(f"roc_auc_class_{label}", f"… of {label} against the rest", n_test) for label in classes]
    found += [
        ("brier", "Brier score", n_test),
        ("brier_skill", "Brier skill (gain over the base rate)", n_test),
        ("log_loss", "log loss, nats", n_test),
        ("coverage", "coverage, all", n_test),
        *((f"coverage_class_{label}", f"coverage, {label}", n_of[label]) for label in classes),
        *(
            (f"coverage_returning_class_{label}", f"coverage, {label}, subjects seen before", _rows_of(n))
            for label in classes
            if (n := manifest.metrics.get(f"n_returning_class_{label}")) is not None
        ),
        ("mean_set_size", "mean set size, all", n_test),
        *((f"mean_set_size_class_{label}", f"mean set size, {label}", n_of[label]) for label in classes),
        ("singleton_share", "share of sets with one label", n_test),
        ("empty_share", "share of empty sets", n_test),
    ]
    return found


def _rows_of(value: float | None) -> int | None:
    return None if value is None else int(value)


def metric_range(card: ModelCard, key: str) -> MetricRange | None:
    """The 95 % range of a metric; None where none was recorded."""
    ranges = card.record.ranges if card.record is not None else None
    return next((r for r in ranges or () if r.metric == key), None)


def metric_value(card: ModelCard, key: str) -> float | None:
    """The metric in the manifest, which is hashed; one that only the record has, from there."""
    if card.bundle is not None and key in card.bundle.manifest.metrics:
        return card.bundle.manifest.metrics[key]
    found = metric_range(card, key)
    return None if found is None else found.value


def range_text(card: ModelCard, key: str) -> str:
    """The range of a metric; a dash where one was looked for and the rows could not give it."""
    if card.record is None or card.record.ranges is None:
        return NOT_RECORDED
    found = metric_range(card, key)
    if found is None or found.lower is None or found.upper is None:
        return NO_FIGURE
    return f"{found.lower:.4f} to {found.upper:.4f}{' (band)' if found.kind == 'band' else ''}"


def calibrated_classes(card: ModelCard) -> list[tuple[str, int, int, float | None]]:
    """(class, calibration rows, fewest for the level, independent rows they are worth)."""
    if card.bundle is None:
        return []
    manifest, calibration = card.bundle.manifest, card.bundle.calibration
    marginal = calibration.guarantee == "marginal"
    labels = ["all classes"] if marginal else [str(label) for label in manifest.classes]
    keys = ["calibration_effect"] if marginal else [f"calibration_effect_class_{label}" for label in labels]
    needed = needed_rows(manifest.confidence_level, manifest.training_conditional)
    return [
        (label, n, needed, _worth(manifest, label, n) / effect if (effect := manifest.metrics.get(key)) else None)
        for label, key, n in zip(labels, keys, calibration.sizes, strict=False)  # a marginal one has its size K times
    ]


def _worth(manifest: Manifest, label: str, rows: int) -> float:
    """Equally weighted rows that the calibration rows of a class are worth."""
    return rows if manifest.weighting is None else manifest.weighting.effective_rows[label]


def kind_of_model(card: ModelCard) -> str:
    """What kind of model it is, and how its served form was compared with it; empty where that is not known."""
    if card.bundle is None:
        return ""
    manifest = card.bundle.manifest
    learner = manifest.training.learner
    if manifest.source is not None:
        origin = f"trained elsewhere, adopted from `{manifest.source.uri}`"
        return f"`{manifest.source.model_class}`, {origin}, served as ONNX"
    if learner is None:
        return "gradient-boosted trees (XGBoost), served as ONNX"
    compared = f"no more than {learner.difference_below} on {learner.compared_rows:,} rows"
    return f"{learner.name} (`{learner.estimator}`), served as ONNX; the two differed by {compared} when it was trained"
