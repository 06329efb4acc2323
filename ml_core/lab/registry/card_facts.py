"""The facts of a model card: what registration recorded, the verified artefact, and the gate's last word."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from ml_core.base.documents import Document
from ml_core.lab.config import CardConfig
from ml_core.lab.measuring.evaluation import GroupMetrics
from ml_core.lab.measuring.metric_ranges import MetricRange
from ml_core.serve.model.bundle import Bundle
from ml_core.serve.model.promotion_record import GateReport

__all__ = ["NOT_RECORDED", "CardRecord", "ModelCard"]

NOT_RECORDED = "not recorded"
"""What stands for a fact that nobody recorded; nothing is filled in for it."""


class CardRecord(Document):
    """The facts of the card that the artefact does not hold (``model_card.json`` of the run); counts, never a value.

    Attributes
    ----------
    model_hash : of the artefact it belongs to
    words : what the configuration says of the model
    origin : where the rows came from, for people
    patients : groups per part of the split; empty where they were not counted
    class_rows : rows per part of the split and label
    ranges : of the metrics on test rows; None where they were not computed
    by_group : metrics on the test rows of each group of patients; empty for a model without groups
    code : commit of the code that trained, and whether it was changed since; empty where git did not keep it
    """

    model_hash: str
    words: CardConfig = CardConfig()
    origin: str = ""
    patients: dict[str, int] = Field(default_factory=dict)
    class_rows: dict[str, dict[str, int]] = Field(default_factory=dict)
    ranges: tuple[MetricRange, ...] | None = None
    by_group: tuple[GroupMetrics, ...] = ()
    code: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """All facts of a card; None where a fact was not recorded, or cannot be trusted.

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
