"""A model card as people read it, and as programs do. Same facts, same text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from ml_core.lab.measuring.calibration import needed_rows
from ml_core.lab.measuring.metric_ranges import MetricRange
from ml_core.lab.registry.card_record import PARTS, ModelCard

__all__ = ["as_row", "card_text"]

NOT_RECORDED = "not recorded"
_TEMPLATE = "model_card.md.jinja"
_NONE = "\N{EN DASH}"


def card_text(card: ModelCard) -> str:
    """The card as Markdown."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),  # by the template's ending: Markdown has nothing to escape but its own signs
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"known": _known, "cell": _cell, "count": _count, "number": _number, "share": _share}
    return environment.get_template(_TEMPLATE).render(
        card=card,
        manifest=None if card.bundle is None else card.bundle.manifest,
        columns=() if card.bundle is None else card.bundle.features.columns,
        record=card.record,
        gate=card.gate,
        parts=_parts(card),
        measured=[(words, _value(card, key), _range_text(card, key), n) for key, words, n in _measured(card)],
        calibrated=_calibrated(card),
    )


def as_row(card: ModelCard) -> dict[str, Any]:
    """What the card is made of, as JSON-able values for programs."""
    return {
        "model": card.name,
        "version": card.version,
        "model_hash": card.model_hash,
        "manifest": None if card.bundle is None else card.bundle.manifest.model_dump(mode="json"),
        "calibration_rows": {label: rows for label, rows, _, _ in _calibrated(card)},
        "record": None if card.record is None else card.record.model_dump(mode="json"),
        "gate": None if card.gate is None else card.gate.model_dump(mode="json"),
    }


# --- tables of the page -------------------------------------------------------------------------------------------


def _parts(card: ModelCard) -> list[tuple[str, int | None, int | None, str]]:
    """(part, patients, rows, rows per class in words) of each part of the split that has rows."""
    if card.bundle is None:
        return []
    rows, record = card.bundle.manifest.training.rows, card.record
    found: list[tuple[str, int | None, int | None, str]] = []
    for part in [*(p for p in PARTS if p in rows), *(p for p in rows if p not in PARTS)]:
        classes = {} if record is None else record.class_rows.get(part, {})
        words = "; ".join(f"{label}: {n:,}" for label, n in classes.items())
        found.append((part, None if record is None else record.patients.get(part), rows[part], words))
    return found


def _measured(card: ModelCard) -> list[tuple[str, str, int | None]]:
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
        ("mean_set_size", "mean set size, all", n_test),
        *((f"mean_set_size_class_{label}", f"mean set size, {label}", n_of[label]) for label in classes),
        ("singleton_share", "share of sets with one label", n_test),
        ("empty_share", "share of empty sets", n_test),
    ]
    return found


def _rows_of(value: float | None) -> int | None:
    return None if value is None else int(value)


def _range(card: ModelCard, key: str) -> MetricRange | None:
    ranges = card.record.ranges if card.record is not None else None
    return next((r for r in ranges or () if r.metric == key), None)


def _value(card: ModelCard, key: str) -> float | None:
    """The metric in the manifest, which is hashed; one that only the record has, from there."""
    if card.bundle is not None and key in card.bundle.manifest.metrics:
        return card.bundle.manifest.metrics[key]
    found = _range(card, key)
    return None if found is None else found.value


def _range_text(card: ModelCard, key: str) -> str:
    """The range of a metric; a dash where one was looked for and the rows could not give it."""
    if card.record is None or card.record.ranges is None:
        return NOT_RECORDED
    found = _range(card, key)
    if found is None or found.lower is None or found.upper is None:
        return _NONE
    return f"{found.lower:.4f} to {found.upper:.4f}{' (band)' if found.kind == 'band' else ''}"


def _calibrated(card: ModelCard) -> list[tuple[str, int, int, float | None]]:
    """(class, calibration rows, fewest for the level, independent rows they are worth)."""
    if card.bundle is None:
        return []
    manifest, calibration = card.bundle.manifest, card.bundle.calibration
    marginal = calibration.guarantee == "marginal"
    labels = ["all classes"] if marginal else [str(label) for label in manifest.classes]
    keys = ["calibration_effect"] if marginal else [f"calibration_effect_class_{label}" for label in labels]
    needed = needed_rows(manifest.confidence_level)
    return [
        (label, n, needed, n / effect if (effect := manifest.metrics.get(key)) else None)
        for label, key, n in zip(labels, keys, calibration.sizes, strict=False)  # a marginal one has its size K times
    ]


def _known(value: Any) -> str:
    """What there is, as one paragraph or cell; else that it is not recorded."""
    text = "" if value is None else str(value).strip()
    return text or NOT_RECORDED


def _cell(value: Any) -> str:
    """The same, fit for a cell of a table."""
    return " ".join(_known(value).split()).replace("|", "\\|")


def _count(value: float | None) -> str:
    return NOT_RECORDED if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return NOT_RECORDED if value is None else f"{value:.4f}"


def _share(value: Any) -> str:
    return f"{100 * float(value):g} %"
