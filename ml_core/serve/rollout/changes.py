"""The changes a rollout can take, each from one state to the next, and what refuses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from ml_core.base.arrays import Label
from ml_core.base.errors import ConfigError, RolloutRefused
from ml_core.features.columns import Column
from ml_core.serve.features.versions import FeatureVersion
from ml_core.serve.rollout.rollout_state import CircuitMode, CircuitOrder, Flags, GuardLimits, RolloutState, Slot

__all__ = [
    "Change",
    "Contract",
    "canary",
    "check_same_contract",
    "circuit",
    "flags",
    "full",
    "pinned",
    "promoted",
    "rollback",
    "shadow",
]

_MOST_NAMED = 5

Change = Callable[[RolloutState], RolloutState]
"""From a state to the next; the store adds generation, time and author."""


def shadow(challenger: str, model_hash: str = "") -> Change:
    """Score every request with the challenger as well, after the reply."""

    def change(state: RolloutState) -> RolloutState:
        return _divided(state, challenger, model_hash, mode="shadow", weight=0.0, guards=None)

    return change


def canary(challenger: str, weight: float, guards: GuardLimits | None, model_hash: str = "") -> Change:
    """Let the challenger answer that share of the requests while the guards watch it; None: nobody watches it."""

    def change(state: RolloutState) -> RolloutState:
        if not 0.0 < weight < 1.0:
            raise RolloutRefused("canary", f"a weight of {weight:g} is not between 0 and 1: use `full` for all of it")
        return _divided(state, challenger, model_hash, mode="canary", weight=weight, guards=guards)

    return change


def full(challenger: str, promotion_seen: str = "", model_hash: str = "") -> Change:
    """Make the challenger the champion in one step; the old one stays loaded, ready to come back."""

    def change(state: RolloutState) -> RolloutState:
        if challenger == state.champion:
            raise RolloutRefused("full", f"{challenger} is the champion already")
        settled = _settled(state, promotion_seen)
        update = {"champion": challenger, "previous": state.champion, **_pinned(state, challenger, model_hash)}
        return settled.model_copy(update=update)

    return change


def rollback(guard: str = "") -> Change:
    """Take the challenger out, or, where there is none, put the previous champion back.

    Parameters
    ----------
    guard : which guard wants it; "" where a person does
    """

    def change(state: RolloutState) -> RolloutState:
        counts = {**state.rollbacks, guard: state.rollbacks.get(guard, 0) + 1} if guard else state.rollbacks
        counted = state.model_copy(update={"rollbacks": counts})
        if state.mode != "off":
            return _settled(counted, state.promotion_seen)
        if state.previous is None:
            raise RolloutRefused("rollback", "there is no challenger to take out and no previous champion to put back")
        back = {"champion": state.previous, "previous": state.champion}
        return _settled(counted, state.promotion_seen).model_copy(update=back)

    return change


def promoted(tag: str, promotion_seen: str, model_hash: str = "") -> Change:
    """Take up a newer promotion record: what it names is the champion, nothing is tried out beside it."""

    def change(state: RolloutState) -> RolloutState:
        settled = _settled(state, promotion_seen).model_copy(update=_pinned(state, tag, model_hash))
        if tag == state.champion:
            return settled
        return settled.model_copy(update={"champion": tag, "previous": state.champion})

    return change


def pinned(hashes: Mapping[str, str]) -> Change:
    """Write down the full hashes of tags in the slots; what is live stays as it is."""

    def change(state: RolloutState) -> RolloutState:
        return state.model_copy(update={"hashes": {**state.hashes, **hashes}})

    return change


def flags(values: Mapping[str, Any]) -> Change:
    """Set flags by name.

    Raises
    ------
    ConfigError
        An unknown flag, or a value it cannot have; the message names it.
    """

    def change(state: RolloutState) -> RolloutState:
        for name in sorted(values.keys() - Flags.model_fields.keys()):
            raise ConfigError(f"flag {name}", f"is not known; there are {', '.join(Flags.model_fields)}")
        try:
            found = Flags.model_validate({**state.flags.model_dump(), **values})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ConfigError(f"flag {'.'.join(map(str, first['loc'][:1]))}", first["msg"]) from error
        if len(set(found.fallback)) != len(found.fallback):
            raise ConfigError("flag fallback", "names a step twice")
        return state.model_copy(update={"flags": found})

    return change


def circuit(slot: Slot, mode: CircuitMode, *, reset: bool = False) -> Change:
    """Tell the circuits of a slot how to behave, or to start anew."""

    def change(state: RolloutState) -> RolloutState:
        if getattr(state, slot) is None:
            raise RolloutRefused("breaker", f"there is no {slot}")
        before = state.circuits.get(slot, CircuitOrder())
        order = CircuitOrder(mode=mode, resets=before.resets + int(reset))
        return state.model_copy(update={"circuits": {**state.circuits, slot: order}})

    return change


@dataclass(frozen=True, slots=True)
class Contract:
    """What a model has to do with its callers: what it asks, and what it answers.

    How the model makes its matrix of the columns is none of their business, and neither are the sentences about them.

    Attributes
    ----------
    columns : raw columns, as a record may have them
    classes : labels, in order
    """

    columns: tuple[Column, ...]
    classes: tuple[Label, ...]

    @classmethod
    def of(cls, features: FeatureVersion, classes: Sequence[Label]) -> Contract:
        """The contract of a model with that feature version and these labels."""
        silent: dict[str, Any] = {"doc": "", "examples": (), "transform": None, "missing_flag": False}
        asked = (replace(column, **silent) for column in features.columns if column.role != "label")
        return cls(tuple(asked), tuple(classes))


def check_same_contract(tag: str, model: Contract, champion: Contract) -> None:
    """Check that the model of that tag takes the champion's requests and answers with the champion's labels.

    Raises
    ------
    RolloutRefused
        It needs other raw columns or has other classes, and must be served by itself.
    """
    if model.columns != champion.columns:
        names = sorted({c.name for c in {*model.columns} ^ {*champion.columns}})
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        which = f"{', '.join(names[:_MOST_NAMED])}{more}" if names else "their order"
        raise RolloutRefused(tag, f"needs other raw columns than the champion ({which}): serve it by itself")
    if model.classes != champion.classes:
        raise RolloutRefused(tag, "answers in other labels than the champion: serve it by itself")


def _pinned(state: RolloutState, tag: str, model_hash: str) -> dict[str, dict[str, str]]:
    """The update that writes down the full hash of a tag, where it is known."""
    return {"hashes": {**state.hashes, tag: model_hash}} if model_hash else {}


def _divided(state: RolloutState, challenger: str, model_hash: str, **traffic: Any) -> RolloutState:
    if challenger == state.champion:
        raise RolloutRefused(challenger, "is the champion already: there is nothing to compare")
    pin = _pinned(state, challenger, model_hash)
    return state.model_copy(update={"challenger": challenger, "stage": state.generation + 1, **traffic, **pin})


def _settled(state: RolloutState, promotion_seen: str) -> RolloutState:
    """The state in which only the champion answers; orders for circuits end with the canary or shadow."""
    rest: dict[str, Any] = {
        "challenger": None,
        "mode": "off",
        "weight": 0.0,
        "guards": None,
        "circuits": {},
        "stage": state.generation + 1,
        "promotion_seen": promotion_seen or state.promotion_seen,
    }
    return state.model_copy(update=rest)
