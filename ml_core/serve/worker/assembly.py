"""Loads the models that a rollout state names into their slots; where that fails, the models loaded before stay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from ml_core.base.errors import ModelUnavailable, SuretyError
from ml_core.base.settings import Settings
from ml_core.serve.answering.live import Live, LiveModel, SlotCounts
from ml_core.serve.model.bundle import Bundle
from ml_core.serve.model.loader import LoadedModel, ModelLoader
from ml_core.serve.model.predictor import check_golden
from ml_core.serve.model.scorer import Scorer
from ml_core.serve.rollout.changes import check_same_contract
from ml_core.serve.rollout.rollout_state import CircuitOrder, RolloutState, Slot
from ml_core.serve.running.circuit_breaker import CircuitBreaker
from ml_core.serve.running.runner import AsyncRunner, ConformalRunner, GuardedRunner, Runner, model_breaker

__all__ = ["Assembler", "start_anew"]

logger = logging.getLogger(__name__)

_RunnerOf = Callable[[LoadedModel], "Runner | AsyncRunner"]
_SPEED_ROWS = 8


class Assembler:
    """Loads what a rollout state names; what is loaded already is used again.

    Parameters
    ----------
    settings : circuit, deadline and pool of every model
    loader : finds, verifies and checks models
    runner_of : where a model's arithmetic runs; in this process unless told otherwise
    scorer_of : gives the scorer that the golden records are checked with where it does not run in this process
    """

    def __init__(
        self,
        settings: Settings,
        loader: ModelLoader,
        runner_of: _RunnerOf = ConformalRunner,
        scorer_of: Callable[[Bundle], Scorer] | None = None,
    ) -> None:
        self._settings = settings
        self._loader = loader
        self._runner_of = runner_of
        self._scorer_of = scorer_of

    def assemble(self, state: RolloutState | None, old: Live | None) -> tuple[Live | None, str]:
        """The models of that state in their slots, and why one of them is missing ("" where none is).

        Where the champion cannot be loaded, everything stays as it was; a worker that has no champion yet answers with
        the previous one, or with what is left of the champion. Where the challenger cannot be loaded, the champion
        answers alone. A previous champion that cannot be loaded is left out.
        """
        tag, missing = "", ""
        try:
            tag = self._champion_tag(state)
            champion = self._model(tag, state, old, gated=True)
        except SuretyError as error:
            logger.exception("model.not_loaded", extra={"code": error.code, "reason": str(error)})
            missing = str(error)
            if old is not None and not old.missing:
                return (old if state is None else _kept(state, old)), missing
            found = self._stand_in(state, tag, old)
            if found is None:
                return None, missing
            champion = found
        if state is None:
            return Live(champion, missing=tag if missing else ""), missing
        challenger, problem = self._challenger(state, champion, old)
        is_previous = champion.model.tag == state.previous
        live = Live(
            champion=champion,
            challenger=challenger,
            previous=champion if is_previous else self._previous(state, champion, challenger, old),
            generation=state.generation,
            stage=state.stage,
            mode=state.mode if challenger is not None else "off",
            weight=state.weight,
            flags=state.flags,
            guards=state.guards,
            counts=_counts(state, old),
            missing=tag if missing else "",
        )
        _obey(state, live)
        return live, missing or problem

    def finish(self, live: Live) -> None:
        """Let models whose runner could not be reached answer, once they reproduce their golden records."""
        for _, model in live.models():
            if model.guard.unavailable == "model_not_loaded" and model.model.is_whole:
                try:
                    check_golden(model.model.predictor)
                except ModelUnavailable:
                    continue
                except SuretyError as error:
                    logger.error("model.not_loaded", extra={"code": error.code, "reason": str(error)})  # noqa: TRY400 - one line
                    continue
                model.guard.unavailable = None
                logger.info("model.loaded", extra=_facts(model))

    def _champion_tag(self, state: RolloutState | None) -> str:
        """``SURETY_MODEL`` comes before the rollout, which comes before the promotion it began with."""
        if self._settings.model or state is None:
            return self._loader.served_tag()
        return state.champion

    def _stand_in(self, state: RolloutState | None, tag: str, old: Live | None) -> LiveModel | None:
        """Who answers for a champion that cannot be loaded: the previous one, else what is left of the champion."""
        taken = {tag} if state is None or state.mode == "off" else {tag, state.challenger}
        if state is not None and state.previous is not None and state.previous not in taken:
            try:
                return self._model(state.previous, state, old, gated=True)
            except SuretyError as error:
                logger.warning("previous.not_loaded", extra={"code": error.code, "reason": str(error)})
        if old is not None and old.champion.model.tag == tag:
            return old.champion
        try:
            model_hash = "" if state is None else state.hashes.get(tag, "")
            model = self._live_model(self._loader.baseline(tag, model_hash))
        except SuretyError as error:
            logger.warning("baseline.not_loaded", extra={"code": error.code, "reason": str(error)})
            return None
        model.guard.unavailable = "model_not_loaded"
        return model

    def _challenger(self, state: RolloutState, champion: LiveModel, old: Live | None) -> tuple[LiveModel | None, str]:
        if state.challenger is None or state.mode == "off":
            return None, ""
        try:
            model = self._model(state.challenger, state, old, gated=state.mode == "canary")
            check_same_contract(model.model.tag, model.contract, champion.contract)
        except SuretyError as error:
            logger.exception("challenger.not_loaded", extra={"code": error.code, "reason": str(error)})
            return None, str(error)
        return model, ""

    def _previous(
        self, state: RolloutState, champion: LiveModel, challenger: LiveModel | None, old: Live | None
    ) -> LiveModel | None:
        """The previous champion; None where it is the challenger, since a model holds one slot at a time."""
        taken = {model.model.tag for model in (champion, challenger) if model is not None}
        if state.previous is None or state.previous in taken:
            return None
        try:
            model = self._model(state.previous, state, old, gated=True)
            check_same_contract(model.model.tag, model.contract, champion.contract)
        except SuretyError as error:
            logger.warning("previous.not_loaded", extra={"code": error.code, "reason": str(error)})
            return None
        return model

    def _model(self, tag: str, state: RolloutState | None, old: Live | None, *, gated: bool) -> LiveModel:
        """The model under that tag: the loaded one, or a new one that has reproduced its golden answers."""
        model_hash = "" if state is None else state.hashes.get(tag, "")
        despite_no = state is not None and tag in state.flags.despite_gate
        for _, known in old.models() if old is not None else ():
            is_it = known.model.tag == tag and model_hash in ("", known.model.model_hash) and known.model.is_whole
            if is_it and (not gated or _may_answer(known.model, despite_no)):
                return known
        loaded = self._loader.verified(tag, model_hash, gated=gated, despite_no=despite_no, scorer_of=self._scorer_of)
        model = self._live_model(loaded)
        guard = model.guard
        try:
            check_golden(loaded.predictor)
        except ModelUnavailable:
            if old is not None:
                raise
            guard.unavailable = "model_not_loaded"  # its runner is not there yet: until then its baseline answers
            return model
        self._warm(model)
        logger.info("model.loaded", extra=_facts(model))
        return model

    def _live_model(self, loaded: LoadedModel) -> LiveModel:
        name = f"{loaded.predictor.bundle.manifest.name} v{loaded.version}"
        breaker = model_breaker(name, self._settings)
        guard = GuardedRunner(self._runner_of(loaded), breaker, len(loaded.predictor.classes), self._settings)
        return LiveModel(loaded, guard)

    def _warm(self, model: LiveModel) -> None:
        """Score a few golden records, so that the first request finds the model warm."""
        records = [model.reader.read(entry["record"]) for entry in model.model.predictor.bundle.golden[:_SPEED_ROWS]]
        model.guard.learn_speed(model.transform(model.reader.arrays(records)))


def _obey(state: RolloutState, live: Live) -> None:
    """Tell the circuits of every slot what the operator wants, once for each order."""
    for slot, model in live.models():
        order = state.circuits.get(slot, CircuitOrder())
        if order != model.order:
            _apply(model.guard.breaker, order, model.order)
            model.order = order


def start_anew(model: LiveModel) -> None:
    """Reset the circuit of a model, and keep the mode that an operator gave it."""
    model.guard.breaker.reset()
    _apply(model.guard.breaker, model.order, model.order)


def _apply(breaker: CircuitBreaker, order: CircuitOrder, before: CircuitOrder) -> None:
    if order.resets > before.resets:
        breaker.reset()
    breaker.override(order.mode)


def _may_answer(model: LoadedModel, despite_no: bool) -> bool:  # noqa: FBT001 - private
    return model.gate is not None and (model.gate.passed or despite_no)


def _kept(state: RolloutState, old: Live) -> Live:
    """What was live, with the orders of the new state."""
    kept = replace(old, flags=state.flags)
    _obey(state, kept)
    return kept


def _counts(state: RolloutState, old: Live | None) -> dict[Slot, SlotCounts]:
    """Counts go on while the traffic is divided as before, and start anew where it is not."""
    if old is not None and old.stage == state.stage:
        return old.counts
    return {"champion": SlotCounts(), "challenger": SlotCounts(), "previous": SlotCounts()}


def _facts(model: LiveModel) -> dict[str, str]:
    return {"tag": model.model.tag, "model_hash": model.model.model_hash, "where": model.guard.where}
