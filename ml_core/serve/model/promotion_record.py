"""What decides which model may answer: gate reports by model hash, and one promotion record per model name."""

from __future__ import annotations

from pydantic import Field

from ml_core.base.documents import Document
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home

__all__ = [
    "GateReport",
    "PromotionRecord",
    "RuleVerdict",
    "bento_tag",
    "gate_name",
    "plain_gate",
    "plain_promotion",
    "promotion_name",
]


class RuleVerdict(Document):
    """One rule of a gate: what was found, what was allowed, and whether it passed.

    Attributes
    ----------
    rule : its name, e.g. ``roc_auc`` or ``coverage_class_1``
    value, limit : in the unit of the rule; None where it has no number
    passed : False also where the value could not be had
    note : one sentence for people
    """

    rule: str
    value: float | None
    limit: float | None
    passed: bool
    note: str = ""


class GateReport(Document):
    """Verdict of the pre-deployment gate on one model hash."""

    model_name: str
    model_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    passed: bool
    rules: tuple[RuleVerdict, ...]
    judged_at: str
    judged_on: str = Field(description="Which rows it was judged on, e.g. 'table v2 version 0, test rows'.")

    @property
    def failed_rules(self) -> tuple[str, ...]:
        """Names of the rules that said no."""
        return tuple(r.rule for r in self.rules if not r.passed)


class PromotionRecord(Document):
    """The model that holds the place of the champion, and the gate it passed. The service serves what this names."""

    model_name: str
    model_version: str
    model_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    bento_tag: str
    run_id: str = ""
    promoted_at: str
    promoted_by: str = ""
    replaced_version: str | None = None
    gate: GateReport


def bento_tag(name: str, version: str, model_hash: str) -> str:
    """The one Bento tag of a registered version: ``name:v3-<hash8>``, lower case as Bento tags are."""
    return f"{name.lower()}:v{version}-{model_hash[:8]}"


def promotion_name(model_name: str) -> str:
    """Name of that model's promotion record in the home."""
    return f"promotions/{model_name}.json"


def gate_name(model_hash: str) -> str:
    """Name of the gate report of that hash in the home."""
    return f"gates/{model_hash}.json"


def plain_promotion(settings: Settings, model_name: str) -> PromotionRecord | None:
    """That model's promotion record as it lies in the home for people, not verified; None where there is none.

    Raises
    ------
    ArtefactError
        It is damaged.
    HomeUnreachable
        The home cannot be asked now.
    """
    return open_home(settings).documents.load(promotion_name(model_name), PromotionRecord)


def plain_gate(settings: Settings, model_hash: str) -> GateReport | None:
    """The gate report of that hash as it lies in the home for people, not verified; None where there is none.

    Raises
    ------
    ArtefactError, HomeUnreachable
        As :func:`plain_promotion`.
    """
    return open_home(settings).documents.load(gate_name(model_hash), GateReport)
