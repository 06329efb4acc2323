"""The rollout of one model name: champion, challenger, mode, flags, and which slot answers a request."""

from __future__ import annotations

import hashlib
import random
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from ml_core.base.documents import Document

__all__ = [
    "CircuitMode",
    "CircuitOrder",
    "FallbackStep",
    "Flags",
    "GuardLimits",
    "Mode",
    "RolloutState",
    "Slot",
    "bucket",
    "takes_challenger",
]

Slot = Literal["champion", "challenger", "previous"]
Mode = Literal["off", "shadow", "canary"]
FallbackStep = Literal["previous", "scorecard", "prior"]
CircuitMode = Literal["auto", "forced_open", "disabled", "metrics_only"]

FALLBACK_STEPS: tuple[FallbackStep, ...] = ("previous", "scorecard", "prior")


class Flags(Document):
    """Settings that are changed while the service runs, obeyed by every worker within a second."""

    confidence_level: Decimal | None = Field(
        None, ge=Decimal("0.5"), le=Decimal("0.999"), description="Level of requests that name none; null: the model's."
    )
    shadow: bool = Field(True, description="Whether shadow mode scores at all; false pauses it.")
    shadow_share: float = Field(1.0, ge=0, le=1, description="Share of requests that shadow mode scores.")
    fallback: tuple[FallbackStep, ...] = Field(
        FALLBACK_STEPS, description="Who answers when the model cannot, in this order; empty: 503 or 504 instead."
    )
    log_mode: Literal["standard", "strict"] = Field(
        "standard",
        description="standard: answers are stored before they are given, and given also where that fails; "
        "strict: stored on disk, or not given (503).",
    )
    despite_gate: tuple[str, ...] = Field(
        (), description="Tags of models that may answer although their newest gate verdict is no; for emergencies."
    )


class CircuitOrder(Document):
    """What an operator tells the circuits of one slot; ``resets`` counts how often they were told to start anew."""

    mode: CircuitMode = "auto"
    resets: int = Field(0, ge=0)


class GuardLimits(Document):
    """What a canary may not exceed.

    Attributes
    ----------
    false_alarm : probability that a canary within all limits is ever taken back, over all guards together
    minimum : answers of the challenger before any guard may trip
    error_share : largest share of calls in which the model failed
    fallback_share : largest share of answers that were a fallback's
    slow_ms, slow_share : largest share of model calls that took longer than ``slow_ms``
    set_size, classes : largest mean number of labels in a prediction set, and how many labels there are
    """

    false_alarm: float = Field(0.01, gt=0, lt=1)
    minimum: int = Field(100, ge=1)
    error_share: float = Field(0.02, gt=0, lt=1)
    fallback_share: float = Field(0.05, gt=0, lt=1)
    slow_ms: float = Field(100.0, gt=0)
    slow_share: float = Field(0.05, gt=0, lt=1)
    set_size: float = Field(gt=0)
    classes: int = Field(2, ge=2)


class RolloutState(Document):
    """The whole rollout of one model name at one moment; every worker obeys the newest generation.

    Attributes
    ----------
    generation : grows by one at every change
    stage : the generation at which traffic was last divided anew; counts that guards judge start there
    champion, challenger, previous : tags; ``previous`` stays loaded so that going back takes no loading
    hashes : the full model hash of each of these tags, which the loaded artefact must have; states of earlier versions
        have none until a server starts
    mode, weight : ``canary`` gives the challenger that share of the traffic, ``shadow`` none of the answers
    guards : limits of the running canary
    circuits : operators' orders for the circuits of a slot
    rollbacks : canaries that guards have taken back since the state was made, by the guard that tripped first
    promotion_seen : ``promoted_at`` of the promotion record when the champion was last set; a newer record is taken up
        when a server starts
    changed_at, changed_by, why : of the last change
    """

    model_name: str
    generation: int = Field(ge=1)
    stage: int = Field(ge=1)
    champion: str
    challenger: str | None = None
    previous: str | None = None
    hashes: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(default_factory=dict)
    mode: Mode = "off"
    weight: float = Field(0.0, ge=0, le=1)
    guards: GuardLimits | None = None
    flags: Flags = Flags()
    circuits: dict[Slot, CircuitOrder] = Field(default_factory=dict)
    rollbacks: dict[str, int] = Field(default_factory=dict)
    promotion_seen: str = ""
    changed_at: str
    changed_by: str
    why: str

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags in the slots: champion, challenger, previous."""
        return tuple(tag for tag in (self.champion, self.challenger, self.previous) if tag is not None)


def bucket(key: str, salt: str) -> float:
    """Where a key falls in [0, 1): always the same for one salt, uniform over keys, independent between salts.

    Examples
    --------
    >>> bucket("ward-3", "risk:v2-0a1b2c3d") == bucket("ward-3", "risk:v2-0a1b2c3d")
    True
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8, salt=hashlib.sha256(salt.encode()).digest()[:16]).digest()
    return int.from_bytes(digest, "big") / 2**64


def takes_challenger(weight: float, challenger: str, subject: str | None, client_request_id: str | None) -> bool:
    """Whether the challenger answers a request.

    A subject, else a ``client_request_id``, always gets the same answer, and keeps the challenger when the weight
    grows. Any other request is decided by chance.
    """
    key = subject if subject is not None else client_request_id
    return (random.random() if key is None else bucket(key, challenger)) < weight  # noqa: S311 - no secret
