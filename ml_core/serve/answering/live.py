"""What is live in one worker: up to three models in their slots, swapped as one value between two requests."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from ml_core.base.arrays import BoolArray, FeatureMatrix, IntArray, Label, Probabilities
from ml_core.base.errors import NotLoaded
from ml_core.features.columns import Column, ColumnArrays, with_role
from ml_core.serve.answering.fallback import FallbackStrategy
from ml_core.serve.metrics import answer_counter
from ml_core.serve.model.explanations import Explanation
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.prediction_sets import ConformalCalibration, Predictions
from ml_core.serve.rollout.changes import Contract
from ml_core.serve.rollout.rollout_state import CircuitOrder, Flags, GuardLimits, Mode, Slot, takes_challenger
from ml_core.serve.running.runner import FallbackReason, GuardedCall, GuardedRunner, without_rows

__all__ = ["ORIGINS", "Live", "LiveModel", "Origin", "SlotCounts"]

logger = logging.getLogger(__name__)

Origin = Literal["champion", "challenger", "previous", "scorecard", "prior"]
ORIGINS: tuple[Origin, ...] = ("champion", "challenger", "previous", "scorecard", "prior")
"""Who can have given an answer: a model in a slot, or the baseline of the model that could not."""


class LiveModel:
    """A loaded model with everything an answer of it needs at hand.

    Parameters
    ----------
    model : verified and, unless it only runs in shadow, gated; or what is left of one that could not be loaded
    guard : calls it

    Attributes
    ----------
    order : what its circuit was told last
    calibration_ids : of all that an origin's answers are made with; a prior has none, and names the model's
    contract : what it asks callers for, and what it answers
    accepted : raw columns that a record may have: those of the feature version, and those that only tell its group
    record_bytes : what the JSON of a record of these columns may take, texts at some length
    groupings, grouped : the groups of patients it knows, and its calibrations by group; None without any
    weighted : its calibration with weighted rows; None where all count alike
    group : the column that says whom a record is about, None where there is none
    """

    def __init__(self, model: LoadedModel, guard: GuardedRunner) -> None:
        bundle = model.predictor.bundle
        self.model = model
        self.model_hash = model.model_hash
        self.guard = guard
        self.order = CircuitOrder()
        vouched = model.is_whole or (model.gate is not None and model.gate.passed)
        self.baseline = FallbackStrategy.from_baseline(bundle, with_scorecard=vouched)
        self.reader = model.predictor.reader
        self.transform = bundle.features.transform
        self.feature_version = bundle.features.name
        self.columns = bundle.features.columns
        self.contract = Contract.of(bundle.features, bundle.manifest.classes)
        self.accepted = (*self.columns, *bundle.beside)
        self.record_bytes = sum(map(_bytes_in_json, self.accepted))
        group = with_role(self.columns, "group")
        self.group = None if group is None else group.name
        self.calibration = bundle.calibration
        self.groupings, self.grouped, self.weighted = bundle.groupings, bundle.grouped, bundle.weighted
        self.level = model.predictor.level
        self.manifest = bundle.manifest
        self.classes: tuple[Label, ...] = model.predictor.classes
        self.keys = tuple(str(label) for label in model.predictor.classes)
        self.is_binary = len(self.classes) == 2
        own = self.manifest.calibration_id
        self.calibration_ids = {o: self.baseline.calibration_id if o == "scorecard" else own for o in ORIGINS}
        self._counters: dict[tuple[Origin, FallbackReason | None], Callable[[float], None]] = {}

    def sizes(self, origin: Origin, cell: int | None = None) -> tuple[int, ...]:
        """Calibration rows behind each class of an answer from there; of weighted ones, what they are worth."""
        weighted = self.baseline.weighted if origin == "scorecard" else self.weighted
        return self.behind(origin, cell).sizes if weighted is None else weighted.sizes

    def behind(self, origin: Origin, cell: int | None = None) -> ConformalCalibration:
        """The calibration behind an answer from there; a prior has none, and names the model's.

        Parameters
        ----------
        cell : the calibrated group of its row; None for that of all rows
        """
        of_scorecard = origin == "scorecard"
        grouped = self.baseline.grouped if of_scorecard else self.grouped
        if grouped is None or cell is None:
            return self.baseline.calibration if of_scorecard else self.calibration
        return grouped.calibrations[cell]

    def sets(
        self, proba: Probabilities, columns: ColumnArrays, level: Decimal, rows: BoolArray | slice = slice(None)
    ) -> Predictions:
        """Answers to n rows, or to those of them that are marked in ``rows``, by the model's own calibration.

        Parameters
        ----------
        proba : (n, K)
        columns : of the n rows, each (n,)
        """
        if self.weighted is not None:
            return self.weighted.rows(proba[rows], level, self.weighted.ratio.weights(self.transform(columns))[rows])
        if self.grouped is None:
            return self.calibration.rows(proba[rows], level)
        return self.grouped.rows(proba[rows], level, self.grouped.cells(columns)[rows])

    def explained(self, origin: Origin, features: FeatureMatrix, predictions: IntArray) -> list[Explanation]:
        """Why answers from there are what they are.

        Parameters
        ----------
        features, predictions : the n rows as this model's matrix, and the positions of the labels that were predicted
        """
        try:
            return self.model.predictor.explainer.explain(origin, features, predictions)
        except Exception:  # an answer is given whatever becomes of its explanation
            logger.exception("explanation.failed", extra={"model_hash": self.model_hash, "rows": len(features)})
            return [Explanation(reason="it could not be worked out here")] * len(features)

    def count(self, origin: Origin, reason: FallbackReason | None, n: int = 1) -> None:
        """Count ``n`` answers in the metrics."""
        counter = self._counters.get((origin, reason))
        if counter is None:
            counter = answer_counter(self.manifest.name, self.model.version, origin, reason or "")
            self._counters[origin, reason] = counter
        counter(n)


_BYTES_OF_A_VALUE = 40
"""A number, or a moment, with its separators; a text of more is passed where others are shorter."""


def _bytes_in_json(column: Column) -> int:
    longest = max((len(json.dumps(str(level))) for level in column.levels), default=0)
    return len(json.dumps(column.name)) + max(longest, _BYTES_OF_A_VALUE)


@dataclass(slots=True)
class SlotCounts:
    """What one slot has done since the stage began; written by the event loop alone."""

    answers: int = 0
    calls: int = 0
    failures: int = 0
    slow: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    set_sizes: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Live:
    """One moment of the rollout, with its models loaded.

    Attributes
    ----------
    champion, challenger, previous : the loaded models; None where a slot is empty
    generation, stage, mode, weight, flags, guards : of the rollout state
    counts : by slot
    missing : tag of the champion where it could not be loaded; then ``champion`` is the previous one (the same object
        as ``previous``), or what is left of the champion, and answers are flagged ``model_not_loaded``
    is_held : the champion answers the canary's share, since no monitor watches the canary
    """

    champion: LiveModel
    challenger: LiveModel | None = None
    previous: LiveModel | None = None
    generation: int = 0
    stage: int = 0
    mode: Mode = "off"
    weight: float = 0.0
    flags: Flags = field(default_factory=Flags)
    guards: GuardLimits | None = None
    counts: dict[Slot, SlotCounts] = field(default_factory=lambda: {"champion": SlotCounts()})
    missing: str = ""
    is_held: bool = False

    def route(self, subject: str | None, client_request_id: str | None) -> Slot:
        """The slot that answers a request."""
        if self.mode != "canary" or self.challenger is None or self.is_held:
            return "champion"
        chosen = takes_challenger(self.weight, self.challenger.model.tag, subject, client_request_id)
        return "challenger" if chosen else "champion"

    def versions(self) -> list[str]:
        """The versions that answer requests now: the champion's, and during a canary the challenger's."""
        slots = [slot for slot, _ in self.models() if self.share(slot) > 0.0]
        return list(dict.fromkeys(self.asked(slot).model.version for slot in ("champion", *slots)))

    def slot_of(self, version: str) -> Slot | None:
        """The slot in which that version answers requests now; None where it does not."""
        slots: tuple[Slot, ...] = ("champion", "challenger")
        found = (slot for slot in slots if slot == "champion" or self.share(slot) > 0.0)
        return next((slot for slot in found if self.asked(slot).model.version == version), None)

    def named(self, version: str) -> Slot:
        """The same.

        Raises
        ------
        NotLoaded
            That version does not answer now.
        """
        slot = self.slot_of(version)
        if slot is None:
            raise NotLoaded(f"version {version} does not answer any more; {', '.join(self.versions())} does")
        return slot

    def at(self, slot: Slot) -> LiveModel | None:
        """The model in that slot."""
        found: LiveModel | None = getattr(self, slot)
        return found

    def asked(self, slot: Slot) -> LiveModel:
        """The model that a request for that slot asks: the champion where the slot is empty."""
        found: LiveModel = getattr(self, slot) or self.champion
        return found

    def answering(self, slot: Slot, origin: Origin) -> LiveModel:
        """The model that an answer's lineage names: the one in that slot, or the one asked, whose baseline answered."""
        return self.asked(slot if origin in ("scorecard", "prior") else origin)  # type: ignore[arg-type]  # the others are slots

    def level(self, slot: Slot, wanted: Decimal | None) -> Decimal:
        """The confidence level of an answer: as the caller wants it, else as the rollout says, else the model's own."""
        return wanted or self.flags.confidence_level or self.asked(slot).level

    def count_call(self, slot: Slot, call: GuardedCall, rows: int) -> SlotCounts:
        """Count a call of that slot's model and the rows it was for; the counts, for what came of the rows."""
        counts = self.counts[slot]
        counts.answers += rows
        if call.called:
            counts.calls += 1
            counts.failures += call.reason is not None
            if self.guards is not None and without_rows(call.elapsed_ms, rows) > self.guards.slow_ms:
                counts.slow += 1
        return counts

    def count_unanswered(self, slot: Slot, call: GuardedCall, rows: int) -> None:
        """Count rows that nothing may answer: for the guards as bad as a fallback."""
        self.count_call(slot, call, rows).fallbacks[call.reason or "bad_output"] += rows

    def models(self) -> list[tuple[Slot, LiveModel]]:
        """The slots that hold a model."""
        pairs: list[tuple[Slot, LiveModel | None]] = [
            ("champion", self.champion),
            ("challenger", self.challenger),
            ("previous", self.previous),
        ]
        if self.champion is self.previous:
            del pairs[0]
        return [(slot, model) for slot, model in pairs if model is not None]

    def share(self, slot: Slot) -> float:
        """Share of the traffic that a slot answers."""
        if slot == "previous":
            return 0.0
        divided = self.mode == "canary" and self.challenger is not None and not self.is_held
        weight = self.weight if divided else 0.0
        return weight if slot == "challenger" else 1.0 - weight
