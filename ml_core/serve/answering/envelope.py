"""The envelope: an answer with its prediction set, and the lineage that lets it be reproduced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ml_core.base.arrays import Label
from ml_core.serve.model.explanations import Explanation
from ml_core.serve.rollout.monitor_state import Validity

__all__ = ["BatchResponse", "InferenceLineage", "InferenceResponse", "Responder", "RowError"]


@dataclass(frozen=True, slots=True)
class Responder:
    """What answers here.

    Attributes
    ----------
    bento : tag of the bento this code runs in, None outside one
    served_by : names of ``home`` and ``machine``; one object for all answers. The home's is "" while it is not known
    """

    bento: str | None = None
    served_by: Mapping[str, str] = field(default_factory=lambda: {"home": "", "machine": ""})

    def of_home(self, home: str) -> Responder:
        """The same, with the home's name."""
        return replace(self, served_by={**self.served_by, "home": home})


# Not frozen: a frozen dataclass of this size takes 4 us longer to make, once per answer.
@dataclass(slots=True)
class InferenceLineage:
    """Where one answer came from.

    Attributes
    ----------
    model_name, model_version, model_hash : the registered version, and the sha256 of its manifest
    feature_version : edition of the features
    calibration_id : sha256 of the calibration scores behind the answer, which are those of its group where it has one
    input_hash : sha256 over the canonical JSON of the validated feature columns
    slot : which place the model held, e.g. ``champion``
    bento : tag of the bento that ran it, None outside a bento
    served_by : names of the home and of the machine that gave it
    timestamp : UTC, ISO 8601 with microseconds
    """

    model_name: str
    model_version: str
    model_hash: str
    feature_version: str
    calibration_id: str
    input_hash: str
    slot: str
    bento: str | None
    served_by: Mapping[str, str]
    timestamp: str


@dataclass(slots=True)
class InferenceResponse:
    """One answer.

    Attributes
    ----------
    prediction : the label with the largest p-value
    probability : P(label 1) of a binary model, None otherwise
    confidence : the probability of ``prediction``
    probabilities : the model's probability of every label, as its scorer gives them
    prediction_set : labels whose p-value exceeds 1 - ``confidence_level``, or more where a model promises the level
        with a confidence (``training_conditional``); may be empty
    p_values : conformal p-value of every label, in (0, 1]
    guarantee : what the set promises
    group : the group of patients in which it is promised, such as ``age=80 and above``; None for a model without groups
    explanation : what each raw column added, or why nobody says so; None where it was not asked for
    validity : ``valid``, ``suspect`` while an alarm is on, ``unverified`` while missing outcomes leave coverage open,
        ``unmonitored`` while no monitor watches the model
    """

    request_id: str
    prediction: Label
    probability: float | None
    confidence: float
    probabilities: Mapping[str, float]
    prediction_set: list[Label]
    p_values: Mapping[str, float]
    confidence_level: float
    guarantee: str
    validity: Validity
    validity_reasons: tuple[str, ...]
    fallback_used: bool
    fallback_reason: str | None
    error: None
    lineage: InferenceLineage
    client_request_id: str | None = None
    group: str | None = None
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class RowError:
    """In the place of an answer: why this row of a batch could not be read."""

    request_id: str
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BatchResponse:
    """Answers in the order of the records."""

    batch_id: str
    predictions: list[InferenceResponse | RowError]
