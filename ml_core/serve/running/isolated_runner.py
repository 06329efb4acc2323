"""The API worker's side of a model in the runner process: calls that come together cross in one message."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import numpy as np

from ml_core.base.arrays import FeatureMatrix, Probabilities
from ml_core.base.errors import BadModelOutput, ModelUnavailable, NotLoaded, Overloaded
from ml_core.serve.running.runner import RowFault, Scored

__all__ = ["Crossing", "HopAnswer", "IsolatedRunner", "RemoteScorer"]

HopAnswer = tuple[Probabilities, RowFault | None] | None
"""What the runner sends back: probabilities (NaN where it failed) and how it failed; None where it lacks the model."""

Crossing = Callable[[str, FeatureMatrix], Awaitable[HopAnswer]]

MOST_WAITING = 256
"""Calls that may wait to cross; more are refused."""
_ROWS_AT_ONCE = 8_192
_GRACE_S = 0.25  # the callers' own deadline comes first, and names the reason
_HOPS = 2  # one under way while the runner works on the other


class _Waiting(NamedTuple):
    features: FeatureMatrix
    found: asyncio.Future[Scored]


class IsolatedRunner:
    """Runs one model in the runner's process.

    Calls that come while others are under way wait and then cross together in one array.

    Parameters
    ----------
    cross : the hop, for a model hash and a matrix
    model_hash : which model
    deadline_s : a crossing that takes longer fails, with all calls in it
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
        """Cross with all calls that wait, until none does."""
        while calls := self._take():
            features = calls[0].features if len(calls) == 1 else np.concatenate([c.features for c in calls])
            try:
                deadline = self._deadline_s + _GRACE_S + len(features) / 1000
                scored = _scored(await asyncio.wait_for(self._cross(self._model_hash, features), deadline))
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


def _scored(answer: HopAnswer) -> Scored:
    """The runner's answer, or ``NotLoaded`` where it has not loaded the model yet."""
    if answer is None:
        raise NotLoaded("the runner has not loaded this model yet")
    return Scored(*answer)


class RemoteScorer:
    """Scores in the runner process, for the golden check of the loader.

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
            The runner cannot be reached, or has not loaded the model yet.
        """
        try:
            answer = self._cross(self._model_hash, features)
        except Exception as error:
            raise ModelUnavailable(f"the runner cannot be reached ({type(error).__name__})") from error
        return _scored(answer).proba


def _refuse(calls: list[_Waiting], error: Exception) -> None:
    problem = ModelUnavailable(f"the runner did not answer ({type(error).__name__})")
    for call in calls:
        if not call.found.done():
            call.found.set_exception(problem)
