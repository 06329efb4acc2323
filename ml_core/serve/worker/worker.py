"""One worker process: its models, the thread that follows the rollout, the prediction log, and the HTTP routes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from ml_core.base.errors import ModelUnavailable
from ml_core.base.settings import Settings
from ml_core.serve.answering.envelope import Responder
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.recording import Recorder
from ml_core.serve.answering.requests import parse_batch, parse_predict
from ml_core.serve.answering.shadow import Shadow
from ml_core.serve.home.homes import open_home
from ml_core.serve.http import json_logs as logs
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.log.key_register import check_outside_keys
from ml_core.serve.log.log_keys import Pseudonyms
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.writer import LogWriter, shipping_of
from ml_core.serve.model.bundle import Bundle
from ml_core.serve.model.loader import LoadedModel, ModelLoader
from ml_core.serve.model.scorer import Scorer
from ml_core.serve.rollout.processes import Identity
from ml_core.serve.running.isolated_runner import Crossing, IsolatedRunner, RemoteScorer
from ml_core.serve.running.runner import AsyncRunner
from ml_core.serve.worker.assembly import Assembler
from ml_core.serve.worker.rollout_follower import RolloutFollower
from ml_core.serve.worker.status import ServiceStatus

__all__ = ["Hop", "Worker"]

_T = TypeVar("_T")
_FINISH_S = 20.0
"""How long running batches may take once the service is told to stop."""
_FLUSH_S = 5.0
"""How long answers that wait for the prediction log may take then."""
_SWITCH_S = 0.001
"""Longest turn of a thread that reads a batch while the event loop waits for its own (Python's default: 0.005)."""
_RUNNER_START_S, _RUNNER_LOOK_S = 10.0, 0.1
_CROSS_S = 10.0


@dataclass(frozen=True, slots=True)
class Hop:
    """The way to a runner in another process.

    Attributes
    ----------
    cross : awaited on the event loop
    here : the same without an event loop, where the runner is in this process after all
    """

    cross: Crossing
    here: Callable[[str, Any], Any] | None = None


class Worker:
    """Everything one serving process holds.

    Parameters
    ----------
    settings, loader : where models come from, and limits
    bento : tag of the bento this code runs in, None outside one
    index : number of this worker, from 1
    hop : the way to the runner's process; None where models run in this one
    """

    def __init__(
        self, settings: Settings, loader: ModelLoader, *, bento: str | None, index: int, hop: Hop | None = None
    ) -> None:
        logs.configure()
        self._settings = settings
        self._hop = hop
        self._loop: asyncio.AbstractEventLoop | None = None
        identity = Identity.of_this_process("api", index, settings.machine_name)
        expected = {"api": settings.workers, **({} if hop is None else {"runner": 1})}
        shadow = Shadow(settings.shadow_log, f"{identity.server}-{index}")
        self._shadow = shadow
        open_home(settings).remember()
        check_outside_keys(settings)
        records = LogRecords(settings)
        self.log = LogWriter(settings.log, self._is_strict, records, shipping_of(settings, records))
        recorder = Recorder(self.log, settings.log, Pseudonyms(settings.subject_key), keep_inputs=settings.log_inputs)
        self.inference = InferenceService(None, shadow=shadow, recorder=recorder)
        self.inference.answer_as(Responder(bento, {"home": "", "machine": settings.machine_name}))
        self.follower = RolloutFollower(
            settings, self._assembler(loader), self.inference, shadow, identity, expected, self._rejected, self.log
        )
        self.api = HttpApi(settings, self.inference, ServiceStatus(settings, self.inference, self.follower))
        self.follower.begin()
        self.log.start()

    async def start(self) -> None:
        """Answer a few golden records, so that the first caller pays for nothing, and follow the rollout."""
        self._loop = asyncio.get_running_loop()
        sys.setswitchinterval(_SWITCH_S)
        if self._hop is not None:
            await self._await_runner()
        self.inference.warm_up()
        self.follower.start()

    def stop(self) -> None:
        """Let batches finish, score what waits in the shadow for a moment, report for the last time."""
        self.api.close(_FINISH_S)
        self._shadow.drain(2.0)
        self.log.close(_FLUSH_S)
        self.follower.stop()

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a body of ``/predict``, for callers inside the process."""
        return _plain(asyncio.run(self.inference.predict(parse_predict(body))))

    def predict_batch(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a body of ``/predict_batch``, for callers inside the process."""
        return _plain(asyncio.run(self.inference.predict_batch(parse_batch(body, self._settings.max_batch_rows))))

    def labels(self, body: dict[str, Any]) -> dict[str, Any]:
        """The counts for a body of ``/labels``, for callers inside the process."""
        return self.api.take_labels(body, "in process").told()

    def _rejected(self) -> int:
        return self.api.admission.rejected

    def _is_strict(self) -> bool:
        live = self.inference.live
        return live is not None and live.flags.log_mode == "strict"

    async def _await_runner(self) -> None:
        """Give the runner a moment to load what is live; where it takes longer, its baseline answers meanwhile."""
        ends = time.monotonic() + _RUNNER_START_S
        while (live := self.inference.live) is not None and time.monotonic() < ends:
            await asyncio.to_thread(self.follower.look)
            if live.champion.guard.unavailable is None:
                return
            await asyncio.sleep(_RUNNER_LOOK_S)

    def _assembler(self, loader: ModelLoader) -> Assembler:
        hop, settings = self._hop, self._settings
        if hop is None:
            return Assembler(settings, loader)

        def runner_of(model: LoadedModel) -> AsyncRunner:
            return IsolatedRunner(hop.cross, model.model_hash, settings.deadline_ms / 1000)

        def scorer_of(bundle: Bundle) -> Scorer:
            return RemoteScorer(hop.here or self._cross_blocking, bundle.model_hash)

        return Assembler(settings, loader, runner_of, scorer_of)

    def _cross_blocking(self, model_hash: str, features: Any) -> Any:
        """Cross from another thread than the event loop's, for golden records and shadow scoring."""
        if self._loop is None or self._hop is None:
            raise ModelUnavailable("the service is still starting")
        crossing = self._hop.cross(model_hash, features)
        return asyncio.run_coroutine_threadsafe(_as_coroutine(crossing), self._loop).result(_CROSS_S)


async def _as_coroutine(crossing: Awaitable[_T]) -> _T:
    return await crossing


def _plain(answer: Any) -> dict[str, Any]:
    """The answer as JSON would carry it."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(answer))
    return plain
