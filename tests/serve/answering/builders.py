"""Live models around runners that misbehave on purpose, and places where stored models are found."""

from __future__ import annotations

import asyncio
import atexit
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ml_core.base.arrays import FeatureMatrix, Probabilities
from ml_core.base.settings import Settings
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.training.labelled_rows import label_rows
from ml_core.lab.training.learner import train_model
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.answering.envelope import BatchResponse, InferenceResponse
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live, LiveModel, SlotCounts
from ml_core.serve.answering.requests import BatchRequest, PredictRequest
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.promotion_record import bento_tag
from ml_core.serve.rollout.rollout_state import Flags, Slot
from ml_core.serve.rollout.worker_reports import SlotReport, WorkerReport
from ml_core.serve.running.circuit_breaker import CircuitBreaker
from ml_core.serve.running.runner import AsyncRunner, ConformalRunner, GuardedRunner, Runner, model_breaker
from tests.serve.running.fake_clock import FakeClock
from tests.toy_models import NAME, loaded_toy, passed_gate, toy_config, toy_record

WAIT_S = 30.0
"""What a test waits at most for what must happen."""


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    ends, pause = time.monotonic() + WAIT_S, threading.Event()
    while not condition():
        assert time.monotonic() < ends, "it did not happen"
        pause.wait(0.002)


# --- runners ------------------------------------------------------------------------------------------------------


class EchoRunner:
    """The first feature is the probability of label 1: exact, and the same for a row alone and among others."""

    is_quick = True

    def proba(self, features: FeatureMatrix) -> Probabilities:
        ones = features[:, 0].astype(np.float64)
        return np.stack([1.0 - ones, ones], axis=1)


@dataclass
class CountingRunner:
    """Counts the calls of another runner and the rows of each."""

    inner: Runner = field(default_factory=EchoRunner)
    is_quick: bool = True
    calls: list[int] = field(default_factory=list)

    def proba(self, features: FeatureMatrix) -> Probabilities:
        self.calls.append(len(features))
        return self.inner.proba(features)


@dataclass
class RaisesRunner:
    """Raises at every call."""

    error: BaseException = field(default_factory=lambda: ValueError("model"))
    is_quick: bool = True

    def proba(self, features: FeatureMatrix) -> Probabilities:
        raise self.error


class OutputRunner:
    """Gives whatever the function makes of the number of rows."""

    is_quick = True

    def __init__(self, output: Callable[[int], Any]) -> None:
        self._output = output

    def proba(self, features: FeatureMatrix) -> Probabilities:
        return self._output(len(features))


def nan_runner() -> OutputRunner:
    """NaN for every row."""
    return OutputRunner(lambda n: np.full((n, 2), np.nan))


def shape_runner() -> OutputRunner:
    """A class too many for every row."""
    return OutputRunner(lambda n: np.full((n, 3), 1 / 3))


def negative_runner() -> OutputRunner:
    """A sum of one with a negative part."""
    return OutputRunner(lambda n: np.tile([-0.25, 1.25], (n, 1)))


BROKEN: dict[str, Callable[[], Runner]] = {
    "raises": RaisesRunner,
    "nan": nan_runner,
    "shape": shape_runner,
    "negative": negative_runner,
}


@dataclass
class PoisonRunner:
    """Breaks at every call with a row that ``is_poison`` (features of n rows to bool (n,)): raises, or gives NaN there."""

    is_poison: Callable[[FeatureMatrix], np.ndarray]
    how: str = "raise"
    inner: Runner = field(default_factory=EchoRunner)
    is_quick: bool = True

    def proba(self, features: FeatureMatrix) -> Probabilities:
        bad = self.is_poison(features)
        if self.how == "raise" and bad.any():
            raise FloatingPointError("a row broke the model")
        found = self.inner.proba(features)
        return np.where(bad[:, None], np.nan, found)


@dataclass
class SlowRunner:
    """Does not come back before ``go`` is set; ``entered`` counts the calls that have begun."""

    inner: Runner = field(default_factory=EchoRunner)
    is_quick: bool = False
    go: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def proba(self, features: FeatureMatrix) -> Probabilities:
        self.entered.release()
        self.go.wait(WAIT_S)
        return self.inner.proba(features)


class LateRunner:
    """A runner in another process that never answers in time: every deadline passes at once."""

    def __init__(self) -> None:
        self.calls = 0

    async def ascore(self, features: FeatureMatrix) -> Any:
        self.calls += 1
        raise TimeoutError


ROW_CAUSED: dict[str, Callable[[], Any]] = {**BROKEN, "late": LateRunner}
REASON = {
    "raises": "model_error",
    "nan": "bad_output",
    "shape": "bad_output",
    "negative": "bad_output",
    "late": "deadline",
}


class Switch:
    """Another runner for each call, whichever is in place."""

    is_quick = True

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def proba(self, features: FeatureMatrix) -> Probabilities:
        return self.runner.proba(features)


# --- live models --------------------------------------------------------------------------------------------------


@cache
def packed_other(seed: int = 23, n: int = 3_000) -> PackedModel:
    """Another model of other rows; its folder must not be changed (copy it first)."""
    root = Path(tempfile.mkdtemp(prefix="surety-toy-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    rows = label_rows(make_cohort(n, seed)[0], "v1", toy_config().split, "other cohort")
    return train_model(toy_config(), rows, root / "bundle", lambda _: None)


@cache
def other_toy(version: str = "2", seed: int = 23) -> LoadedModel:
    """A second version: other probabilities, another calibration, the same columns and labels."""
    packed = packed_other(seed)
    tag = bento_tag(NAME, version, packed.model_hash)
    return LoadedModel(tag, version, Predictor(packed.bundle), passed_gate(packed.model_hash))


def breaker_of(settings: Settings, clock: FakeClock | None, name: str = "toy") -> CircuitBreaker:
    """A circuit as the settings say, on that clock and without jitter of its own."""
    breaker = model_breaker(name, settings)
    if clock is not None:
        breaker.clock = clock
        breaker._random = random.Random(0).random
    return breaker


def live_model(
    runner: Runner | AsyncRunner | None = None,
    *,
    model: LoadedModel | None = None,
    settings: Settings | None = None,
    clock: FakeClock | None = None,
) -> LiveModel:
    """A model with whatever runner; by default the toy model with its own."""
    model, settings = model or loaded_toy(), settings or Settings()
    guard = GuardedRunner(runner or ConformalRunner(model), breaker_of(settings, clock, model.tag), 2, settings)
    return LiveModel(model, guard)


def as_version(version: str, model: LoadedModel | None = None) -> LoadedModel:
    """The same artefact under another version and tag."""
    model = model or loaded_toy()
    return replace(model, version=version, tag=f"{model.tag.partition(':')[0]}:v{version}-{model.model_hash[:8]}")


def live_of(champion: LiveModel | None = None, *, flags: dict[str, Any] | None = None, **facts: Any) -> Live:
    """One moment of a rollout; counts for every slot."""
    counts = {"champion": SlotCounts(), "challenger": SlotCounts(), "previous": SlotCounts()}
    facts = {"counts": counts, "stage": 1, "generation": 1, **facts}
    return Live(champion or live_model(), flags=Flags(**(flags or {})), **facts)


def opened(model: LiveModel) -> LiveModel:
    """The same with an operator's order that its circuit stay open."""
    model.guard.breaker.override("forced_open")
    return model


def ask(live: Live, record: object | None = None, **request: Any) -> InferenceResponse:
    """The envelope of one record."""
    asked = PredictRequest(toy_record() if record is None else record, **request)
    return asyncio.run(InferenceService(live).predict(asked))


def ask_all(live: Live, records: Sequence[object], **request: Any) -> BatchResponse:
    """The envelopes of a batch."""
    return asyncio.run(InferenceService(live).predict_batch(BatchRequest(list(records), **request)))


def toy_records(n: int, seed: int = 5) -> list[dict[str, Any]]:
    """n records of one simulated cohort, all different, some values missing."""
    frame = make_cohort(n, seed)[0][["age", "glucose", "bmi", "bp_systolic"]].astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


def numbers(envelope: InferenceResponse) -> tuple[Any, ...]:
    """What an answer says of its row, without what differs from one asking to the next."""
    return (
        envelope.prediction, envelope.probability, envelope.confidence, dict(envelope.probabilities),
        envelope.prediction_set, dict(envelope.p_values), envelope.confidence_level,
    )  # fmt: skip


# --- what workers report ----------------------------------------------------------------------------------------------


def slot_report(slot: Slot = "challenger", **counts: Any) -> SlotReport:
    """What a slot of one process has done; nothing, unless told otherwise."""
    circuit = {"state": "closed", "mode": "auto", "reason": None, "calls_in_window": 0, "error_rate": None,
               "p95_ms": None, "retry_after_s": None, "opened": 0}  # fmt: skip
    usual = {"tag": f"toy:{slot}", "model_hash": "0" * 64, "model_version": "1", "where": "loop", "circuit": circuit}
    return SlotReport.model_validate({**usual, "slot": slot, **counts})


def worker_report(pid: int = 1, beat_s: float = 1_000.0, *slots: SlotReport, **facts: Any) -> WorkerReport:
    """The report of an API worker of server ``s`` in stage 1."""
    usual = {"server": "s", "role": "api", "index": 1, "started_at": "t", "generation": 1, "stage": 1}
    return WorkerReport.model_validate({**usual, "pid": pid, "beat_s": beat_s, "slots": slots, **facts})
