"""Runs a model on arrays: probabilities of every row it can score, how it failed on the others, all within bounds.

A guarded call stands between a request and the runner: circuit, deadline, thread or event loop, and one reason where
the model gave no answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ml_core.base.arrays import FeatureMatrix, Probabilities
from ml_core.base.errors import BadModelOutput, CircuitOpen, ModelUnavailable, Overloaded
from ml_core.base.settings import Settings
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.scorer import PROBABILITY_TOLERANCE
from ml_core.serve.running.circuit_breaker import CircuitBreaker, Permit
from ml_core.serve.running.pool import BoundedPool

__all__ = [
    "AsyncRunner",
    "ConformalRunner",
    "FallbackReason",
    "GuardedCall",
    "GuardedRunner",
    "RowFault",
    "Runner",
    "Scored",
    "checked",
    "is_row_caused",
    "model_breaker",
    "score_rows",
    "without_rows",
]

logger = logging.getLogger(__name__)

RowFault = Literal["model_error", "bad_output"]

_HOPELESS_CALLS, _MOST_CALLS = 32, 4_096
"""Failing calls after which a batch is given up: where none succeeded (the model is broken, not a row), and in all."""


class Runner(Protocol):
    """Turns features into class probabilities."""

    def proba(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities float64 (n, K) for float32 (n, d)."""
        ...


class ConformalRunner:
    """Runs a loaded model inside this process.

    Parameters
    ----------
    model : verified, gated, and shown to reproduce its golden answers
    """

    is_quick = True
    """A row takes microseconds, so the model may run on the event loop."""

    def __init__(self, model: LoadedModel) -> None:
        self._scorer = model.predictor.scorer

    def proba(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities float64 (n, K).

        Raises
        ------
        BadModelOutput
            The model gave something else than probabilities.
        """
        return self._scorer.proba(features)


class Scored(NamedTuple):
    """Result of a model for n rows.

    Attributes
    ----------
    proba : float64 (n, K); NaN in the rows it failed on
    fault : how it failed on those rows, None where it failed on none
    """

    proba: Probabilities
    fault: RowFault | None


def score_rows(runner: Runner, features: FeatureMatrix, n_classes: int) -> Scored:
    """Probabilities of every row that the model can score, also where other rows make it fail.

    A batch that fails is halved until the rows that break it are alone. A row's numbers do not depend on the other
    rows, so a half gives the same numbers as the whole batch.

    Raises
    ------
    ModelUnavailable
        The runner cannot be reached; no row is at fault.
    """
    try:
        scored = checked(runner.proba(features), len(features), n_classes)
        if scored.fault is None or len(features) == 1:
            return scored
        fault: RowFault = "bad_output"
    except BadModelOutput:
        fault = "bad_output"
    except ModelUnavailable:
        raise
    except Exception:  # whatever a model raises; its rows get another answer
        logger.exception("model.failed", extra={"rows": len(features)})
        fault = "model_error"
    found = np.full((len(features), n_classes), np.nan)
    if len(features) > 1:
        _score_halves(runner, features, found)
    return Scored(found, fault)


def checked(proba: Probabilities, rows: int, n_classes: int) -> Scored:
    """The probabilities; NaN in rows that are not in [0, 1] or do not sum to one; all NaN where the shape is wrong."""
    if proba.shape != (rows, n_classes):
        return Scored(np.full((rows, n_classes), np.nan), "bad_output")
    if rows == 1:  # plain Python costs a tenth of numpy's reductions here
        (row,) = proba.tolist()
        fine = min(row) >= 0.0 and max(row) <= 1.0 and abs(sum(row) - 1.0) <= PROBABILITY_TOLERANCE
        return Scored(proba, None) if fine else Scored(np.full((1, n_classes), np.nan), "bad_output")
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinities fail the sum
        inside = (proba.min(axis=1) >= 0.0) & (proba.max(axis=1) <= 1.0)
        good = inside & (np.abs(proba.sum(axis=1) - 1.0) <= PROBABILITY_TOLERANCE)
    if good.all():
        return Scored(proba, None)
    return Scored(np.where(good[:, None], proba, np.nan), "bad_output")


def _score_halves(runner: Runner, features: FeatureMatrix, found: Probabilities) -> None:
    """Fill in the rows that can be scored, by halving the parts that fail."""
    middle = len(features) // 2
    left = [(middle, len(features)), (0, middle)]
    failing, most = 1, _HOPELESS_CALLS
    while left and failing < most:
        start, end = left.pop()
        try:
            scored = checked(runner.proba(features[start:end]), end - start, found.shape[1])
            if scored.fault is None:
                found[start:end] = scored.proba
                most = _MOST_CALLS
                continue
        except Exception as error:  # noqa: BLE001 - the first one was logged; here it only says where to cut
            logger.debug("model.failed_again", extra={"rows": end - start, "exception": type(error).__name__})
        failing += 1
        if end - start > 1:
            middle = (start + end) // 2
            left += [(middle, end), (start, middle)]


FallbackReason = Literal[
    "circuit_open", "model_not_loaded", "runner_lost", "stuck", "deadline", "model_error", "bad_output"
]
"""Why a model did not answer. The first four have nothing to do with the row; the row may have caused the others."""

_ROW_CAUSED = frozenset({"deadline", "model_error", "bad_output"})
_MS_PER_ROW = 1.0
"""Time that each further row adds to the deadline, and to what counts as slow; fifty times what our models take."""
_HICCUP_MS, _HICCUPS = 5.0, 3
_QUICK_MS, _QUICK_CALLS = 2.0, 200
_LOOP_LIMIT_MS = 50.0
_POOL_PATIENCE_S = 0.02
"""How long a call on the pool may wait for quick calls before it. After one slow moment of the machine a quick model
runs on the pool, and a burst of requests must still be answered there."""


def is_row_caused(reason: FallbackReason) -> bool:
    """Whether the row itself may have caused the failure; then it is answered with every label at once.

    Rows that break or slow a model are not exchangeable with the calibration rows of a fallback.
    """
    return reason in _ROW_CAUSED


def without_rows(elapsed_ms: float, rows: int) -> float:
    """The duration (ms) of a call of ``rows`` rows, less the allowance for all rows but one."""
    return max(0.0, elapsed_ms - (rows - 1) * _MS_PER_ROW)


class AsyncRunner(Protocol):
    """A runner in another process."""

    async def ascore(self, features: FeatureMatrix) -> Scored:
        """Class probabilities float64 (n, K) for float32 (n, d); rows it failed on are NaN."""
        ...


@dataclass(slots=True)
class GuardedCall:
    """Result of one guarded call on n rows.

    Attributes
    ----------
    proba : float64 (n, K), NaN in rows without an answer; None where no row has one
    reason : why rows have no answer; None where all have one
    elapsed_ms : duration of the call; 0 where the model was not called
    called : whether the model was called
    """

    proba: Probabilities | None
    reason: FallbackReason | None = None
    elapsed_ms: float = 0.0
    called: bool = True


def model_breaker(name: str, settings: Settings) -> CircuitBreaker:
    """The circuit breaker around one model, as the settings say."""
    return CircuitBreaker(
        name,
        failure_threshold=settings.circuit_failures,
        error_rate_threshold=settings.circuit_error_rate,
        latency_p95_threshold_ms=settings.circuit_p95_ms,
        window=settings.circuit_window,
        minimum_calls=min(settings.circuit_minimum_calls, settings.circuit_window),
        recovery_timeout_s=settings.circuit_wait_s,
        recovery_timeout_max_s=max(settings.circuit_wait_max_s, settings.circuit_wait_s),
        half_open_probes=settings.circuit_probes,
        probe_lease_s=max(30.0, 2 * settings.deadline_ms / 1000),
    )


class GuardedRunner:
    """Calls one model; whatever the model does, the caller gets a result in time.

    A quick model runs on the event loop. After a call above 50 ms, or three in a row above 5 ms, it runs on a bounded
    pool with a deadline, and comes back to the loop after 200 quick calls. Many rows always take the pool.

    Parameters
    ----------
    runner : the model; a quick one of this process, any other one, or an ``AsyncRunner``
    breaker : its circuit
    n_classes : K
    settings : deadline, pool and loop limits
    clock : monotonic seconds
    """

    def __init__(
        self,
        runner: Runner | AsyncRunner,
        breaker: CircuitBreaker,
        n_classes: int,
        settings: Settings,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.breaker = breaker
        self.unavailable: FallbackReason | None = None
        self.pool = BoundedPool(
            settings.pool_threads, settings.pool_queue, f"model-{breaker.name}", patience_s=_POOL_PATIENCE_S
        )
        self._away: Callable[[FeatureMatrix], Awaitable[Scored]] | None = getattr(runner, "ascore", None)
        self._runner: Runner | None = None if self._away else runner  # type: ignore[assignment]  # one of the two it is
        self._n_classes = n_classes
        self.deadline_s = settings.deadline_ms / 1000
        self._inline_rows = settings.inline_rows
        self._clock = clock
        self._on_loop = self._away is None and bool(getattr(runner, "is_quick", False))
        self._hiccups = 0
        self._quick = 0

    @property
    def where(self) -> str:
        """``loop``, ``pool`` or ``runner``."""
        return "runner" if self._away else "loop" if self._on_loop else "pool"

    async def call(self, features: FeatureMatrix) -> GuardedCall:
        """Probabilities of the rows, or the reason why there are none.

        Parameters
        ----------
        features : float32 (n, d)

        Raises
        ------
        Overloaded
            Too many calls wait for this model already.
        asyncio.CancelledError
            The caller has gone; that is no failure of the model.
        """
        if self.unavailable is not None:
            return GuardedCall(None, self.unavailable, called=False)
        here = self._on_loop and len(features) <= self._inline_rows
        if not here and self._away is None and self.pool.is_exhausted:
            return GuardedCall(None, "stuck", called=False)
        try:
            permit = self.breaker.acquire()
        except CircuitOpen:
            return GuardedCall(None, "circuit_open", called=False)
        try:
            if here:
                return self._here(permit, features)
            return await self._elsewhere(permit, features)
        except BaseException:  # cancelled or overloaded: not counted against the model
            self.breaker.release(permit)
            raise

    def learn_speed(self, features: FeatureMatrix) -> None:
        """Time a few calls outside the circuit, so that the model starts on the loop or the pool as its speed asks."""
        if self._runner is None:
            return
        for row in range(len(features)):
            started = self._clock()
            score_rows(self._runner, features[row : row + 1], self._n_classes)
            elapsed_s = self._clock() - started
            self.pool.saw(elapsed_s)
            self._note_speed(elapsed_s * 1000)

    def _here(self, permit: Permit, features: FeatureMatrix) -> GuardedCall:
        assert self._runner is not None
        started = self._clock()
        try:
            scored = score_rows(self._runner, features, self._n_classes)
        except ModelUnavailable:
            return self._failed(permit, "model_error", started)
        elapsed = (self._clock() - started) * 1000
        if elapsed > _HICCUP_MS or self._hiccups:
            self._note_speed(elapsed)
        return self._settled(permit, scored, elapsed, len(features))

    async def _elsewhere(self, permit: Permit, features: FeatureMatrix) -> GuardedCall:
        deadline_s = self.deadline_s + len(features) * _MS_PER_ROW / 1000
        started = self._clock()
        try:
            scored = await (self._in_runner if self._away else self._in_pool)(features, deadline_s)
        except TimeoutError:
            return self._failed(permit, "deadline", started)
        except Overloaded:
            raise
        except Exception as error:  # noqa: BLE001 - the runner was lost or sent nonsense, perhaps because of a row
            logger.warning("runner.failed", extra={"circuit": self.breaker.name, "exception": type(error).__name__})
            return self._failed(permit, "model_error", started)
        elapsed = (self._clock() - started) * 1000
        if not self._away and len(features) == 1:
            self._note_speed(elapsed)
        return self._settled(permit, scored, elapsed, len(features))

    def _failed(self, permit: Permit, reason: FallbackReason, started: float) -> GuardedCall:
        elapsed = (self._clock() - started) * 1000
        self.breaker.fail(permit, elapsed)
        return GuardedCall(None, reason, elapsed)

    async def _in_pool(self, features: FeatureMatrix, deadline_s: float) -> Scored:
        assert self._runner is not None
        runner, n_classes = self._runner, self._n_classes
        future = self.pool.submit(lambda: score_rows(runner, features, n_classes))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), deadline_s)
        finally:
            self.pool.abandon(future)  # does nothing where it is done

    async def _in_runner(self, features: FeatureMatrix, deadline_s: float) -> Scored:
        assert self._away is not None
        found = await asyncio.wait_for(self._away(features), deadline_s)
        scored = checked(found.proba, len(features), self._n_classes)
        return Scored(scored.proba, found.fault or scored.fault) if scored.fault else scored

    def _settled(self, permit: Permit, scored: Scored, elapsed_ms: float, rows: int) -> GuardedCall:
        counted = without_rows(elapsed_ms, rows)
        if scored.fault is None:
            self.breaker.succeed(permit, counted)
            return GuardedCall(scored.proba, None, elapsed_ms)
        self.breaker.fail(permit, counted)
        return GuardedCall(scored.proba, scored.fault, elapsed_ms)

    def _note_speed(self, elapsed_ms: float) -> None:
        """Move the model to the pool when it is slow, and back to the loop when it is quick."""
        self._hiccups = self._hiccups + 1 if elapsed_ms > _HICCUP_MS else 0
        self._quick = self._quick + 1 if elapsed_ms < _QUICK_MS else 0
        if elapsed_ms > _LOOP_LIMIT_MS or self._hiccups >= _HICCUPS:
            self._on_loop, self._quick = False, 0
        elif not self._on_loop and self._quick >= _QUICK_CALLS and getattr(self._runner, "is_quick", False):
            self._on_loop = True
