"""A runner in a process of its own, seen from the API worker: calls that come together cross the hop together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import numpy as np

from ml_core.base.arrays import FeatureMatrix, Probabilities
from ml_core.base.errors import BadModelOutput, ModelUnavailable, NotLoaded, Overloaded
from ml_core.serve.running.runner import RowFault, Scored

__all__ = ["Crossing", "HopAnswer", "IsolatedRunner", "RemoteScorer", "answer_of"]

HopAnswer = tuple[Probabilities, RowFault | None] | None
"""What the runner sends back: probabilities (NaN where it failed) and how it failed; None where it lacks the model."""

Crossing = Callable[[str, FeatureMatrix], Awaitable[HopAnswer]]

MOST_WAITING = 256
"""Calls that may wait for the hop; more are refused."""
_ROWS_AT_ONCE = 8_192
_GRACE_S = 0.25  # the callers' own deadline comes first, and names the reason
_HOPS = 2  # one under way while the runner works on the other


class _Waiting(NamedTuple):
    features: FeatureMatrix
    found: asyncio.Future[Scored]


class IsolatedRunner:
    """Runs one model in the runner's process.

    Calls that come while others are under way wait a moment and cross in one array, so that a hop is paid for once.

    Parameters
    ----------
    cross : the hop, for a model hash and a matrix
    model_hash : which model
    deadline_s : a hop that takes longer is given up, with all that cross in it
    """

    def __init__(self, cross: Crossing, model_hash: str, deadline_s: float) -> None:
        self._cross = cross
        self._model_hash = model_hash
        self._deadline_s = deadline_s
        self._waiting: deque[_Waiting] = deque()
        self._under_way: set[asyncio.Task[None]] = set()

    async def ascore(self, features: FeatureMatrix) -> Scored:
        """Probabilities float64 (n, K), NaN in the rows the model failed on.

        Raises
        ------
        ModelUnavailable
            The runner cannot be reached, or was lost on the way.
        Overloaded
            Too many calls wait for the hop.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise Overloaded(len(self._waiting), MOST_WAITING)
        loop = asyncio.get_running_loop()
        call = _Waiting(features, loop.create_future())
        self._waiting.append(call)
        if len(self._under_way) < _HOPS:
            task = loop.create_task(self._go())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return await call.found

    async def _go(self) -> None:
        """Cross with whatever waits, until nothing does."""
        while calls := self._take():
            features = calls[0].features if len(calls) == 1 else np.concatenate([c.features for c in calls])
            try:
                deadline = self._deadline_s + _GRACE_S + len(features) / 1000
                scored = answer_of(await asyncio.wait_for(self._cross(self._model_hash, features), deadline))
                if len(scored.proba) != len(features):
                    raise BadModelOutput(f"the runner answered {len(scored.proba)} rows for {len(features)}")  # noqa: TRY301 - as any other failure of the hop
            except Exception as error:  # noqa: BLE001 - whatever a client library raises for a lost runner
                _refuse(calls, error)
                continue
            start = 0
            for call in calls:
                end = start + len(call.features)
                part = scored.proba[start:end]
                fault = scored.fault if scored.fault is not None and bool(np.isnan(part).any()) else None
                if not call.found.done():
                    call.found.set_result(Scored(part, fault))
                start = end

    def _take(self) -> list[_Waiting]:
        calls: list[_Waiting] = []
        rows = 0
        while self._waiting and (not calls or rows + len(self._waiting[0].features) <= _ROWS_AT_ONCE):
            call = self._waiting.popleft()
            if not call.found.done():  # whoever waited for it may have given up
                calls.append(call)
                rows += len(call.features)
        return calls


def answer_of(answer: HopAnswer) -> Scored:
    """The runner's answer.

    Raises
    ------
    NotLoaded
        It lacks the model, as yet.
    """
    if answer is None:
        raise NotLoaded("the runner has not loaded this model yet")
    return Scored(*answer)


class RemoteScorer:
    """The model as a scorer for the loader's golden check, through the very hop that will serve.

    Parameters
    ----------
    cross : a blocking hop
    model_hash : which model
    """

    def __init__(self, cross: Callable[[str, FeatureMatrix], Any], model_hash: str) -> None:
        self._cross = cross
        self._model_hash = model_hash

    def proba(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities float64 (n, K).

        Raises
        ------
        ModelUnavailable
            The runner cannot be reached, or lacks the model, as yet.
        """
        try:
            answer = self._cross(self._model_hash, features)
        except Exception as error:
            raise ModelUnavailable(f"the runner cannot be reached ({type(error).__name__})") from error
        return answer_of(answer).proba


def _refuse(calls: list[_Waiting], error: Exception) -> None:
    problem = ModelUnavailable(f"the runner did not answer ({type(error).__name__})")
    for call in calls:
        if not call.found.done():
            call.found.set_exception(problem)
