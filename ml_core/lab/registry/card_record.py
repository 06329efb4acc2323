"""What a model card is made of, and the part of it that is known only while a model's rows are at hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from ml_core.base.documents import Document
from ml_core.lab.config import CardConfig
from ml_core.lab.measuring.coverage_law import DesignEffects
from ml_core.lab.measuring.metric_ranges import MetricRange, metric_ranges
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.model.bundle import Bundle
from ml_core.serve.model.promotion_record import GateReport

__all__ = ["PARTS", "CardRecord", "ModelCard", "card_record"]

PARTS = ("train", "validation", "calibration", "test", "left_out")
"""Parts of a split, in the order of the card."""


class CardRecord(Document):
    """What the card tells and the artefact does not hold (``model_card.json`` of the run); counts, never a value.

    Attributes
    ----------
    model_hash : of the artefact it belongs to
    words : what the configuration says of the model
    origin : where the rows came from, for people
    patients : groups per part of the split; empty where nobody counted
    class_rows : rows per part of the split and label
    ranges : of the metrics on test rows; None where nobody computed them
    code : commit of the code that trained, and whether it was changed since; empty where git did not keep it
    """

    model_hash: str
    words: CardConfig = CardConfig()
    origin: str = ""
    patients: dict[str, int] = Field(default_factory=dict)
    class_rows: dict[str, dict[str, int]] = Field(default_factory=dict)
    ranges: tuple[MetricRange, ...] | None = None
    code: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """Everything a card is made of; None is what nobody recorded or nobody can trust.

    Attributes
    ----------
    name, version, model_hash : as registered
    bundle : the verified artefact
    record : what registration recorded
    gate : the last verdict
    """

    name: str
    version: str
    model_hash: str
    bundle: Bundle | None
    record: CardRecord | None
    gate: GateReport | None


def card_record(model: PackedModel, words: CardConfig, rows: LabelledRows, code: str = "") -> CardRecord:
    """What is known of a model only while its rows are at hand.

    Parameters
    ----------
    rows : all parts of the split, as it was packed with
    """
    manifest = model.bundle.manifest
    names = [part for part in PARTS if part in rows.counts]
    of_part = {part: rows.part(part) for part in names}
    effects = DesignEffects(
        manifest.metrics["calibration_effect"],
        tuple(manifest.metrics[f"calibration_effect_class_{label}"] for label in manifest.classes),
    )
    return CardRecord(
        model_hash=model.model_hash,
        words=words,
        origin=rows.origin,
        patients={part: int(np.unique(chosen.groups).size) for part, chosen in of_part.items()},
        class_rows={part: _class_rows(chosen) for part, chosen in of_part.items()},
        ranges=metric_ranges(
            model.test_proba,
            model.test_y_index,
            model.test_groups,
            model.bundle.calibration,
            manifest.confidence_level,
            manifest.classes,
            effects,
        ),
        code=code,
    )


def _class_rows(rows: LabelledRows) -> dict[str, int]:
    counts = np.bincount(rows.y_index, minlength=len(rows.classes))
    return {str(label): int(n) for label, n in zip(rows.classes, counts, strict=True)}
