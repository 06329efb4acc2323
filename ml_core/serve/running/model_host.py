"""The runner process of the isolated service: holds the models that the rollout names and scores arrays with them."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np

from ml_core.base.arrays import FeatureMatrix
from ml_core.base.errors import ArtefactError, SuretyError
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.model.loader import LoadedModel, ModelLoader
from ml_core.serve.rollout.processes import Identity
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import REPORT_EVERY_S, write_worker_report
from ml_core.serve.running.isolated_runner import HopAnswer
from ml_core.serve.running.runner import ConformalRunner, Runner, score_rows

__all__ = ["ModelHost"]

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.25
_RETRY_S = 3.0
_KEEP_S = 15.0
"""How long a model is kept that the rollout no longer names, since API workers may still use it for a moment."""


class ModelHost:
    """The models of one runner process, by hash; it loads and lets go of them as the rollout says.

    Parameters
    ----------
    settings : home, name of the model
    loader : finds, verifies and checks models
    identity : this process
    """

    def __init__(self, settings: Settings, loader: ModelLoader, identity: Identity) -> None:
        self._settings = settings
        self._loader = loader
        self._identity = identity
        self._store = RolloutStore(settings)
        self._reports = open_home(settings).heartbeats(settings.model_name)
        self._models: dict[str, tuple[Runner, LoadedModel]] = {}
        self._state: RolloutState | None = None
        self._problem = ""
        self._reported_at = 0.0
        self._retry_at: dict[str, float] = {}
        self._named_at: dict[str, float] = {}
        self._warned: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="surety-follower", daemon=True)

    def begin(self) -> None:
        """Load what the rollout names now, then follow it."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stopping.set()

    def score(self, model_hash: str, features: FeatureMatrix) -> HopAnswer:
        """Probabilities float64 (n, K), NaN in failed rows, and how those failed; None where the model is not loaded.

        Parameters
        ----------
        features : float32 (n, d)
        """
        held = next((m for m in self._models.values() if m[1].model_hash == model_hash), None)
        if held is None:
            return None
        runner, model = held
        scored = score_rows(runner, np.ascontiguousarray(features, dtype=np.float32), len(model.predictor.classes))
        return scored.proba, scored.fault

    def look(self) -> None:
        """Read the state: load what is new, drop what is no longer named, report once a second or after a change."""
        before = (self._state, self._problem)
        try:
            self._state = self._store.glimpse() or self._state
        except ArtefactError as error:
            self._warn("rollout.unreadable", str(error))
        self._load_missing()
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S or before != (self._state, self._problem):
            self._reported_at = now
            self._report()

    def _load_missing(self) -> None:
        tags = self._tags()
        if all(self._holds(tag) for tag in tags):
            self._problem = ""
        for tag, gated in tags.items():
            if self._holds(tag) or time.monotonic() < self._retry_at.get(tag, 0.0):
                continue
            try:
                despite_no = self._state is not None and tag in self._state.flags.despite_gate
                model = self._loader.load(tag, self._hash_of(tag), gated=gated, despite_no=despite_no)
            except SuretyError as error:
                self._problem = str(error)
                self._retry_at[tag] = time.monotonic() + _RETRY_S
                self._warn("model.not_loaded", f"{tag}: {error}")
                continue
            self._models = {**self._models, tag: (ConformalRunner(model), model)}
            logger.info("model.loaded", extra={"tag": tag, "model_hash": model.model_hash})
        now = time.monotonic()
        self._named_at.update(dict.fromkeys(tags, now))
        self._models = {t: held for t, held in self._models.items() if now - self._named_at.get(t, 0.0) < _KEEP_S}

    def _hash_of(self, tag: str) -> str:
        """The full hash that the state names for a tag; "" where it names none, or does not count."""
        return "" if self._settings.model or self._state is None else self._state.hashes.get(tag, "")

    def _holds(self, tag: str) -> bool:
        held = self._models.get(tag)
        return held is not None and self._hash_of(tag) in ("", held[1].model_hash)

    def _tags(self) -> dict[str, bool]:
        """Tags to hold, and whether they must be gated."""
        state = self._state
        try:
            tags = {self._loader.served_tag() if self._settings.model or state is None else state.champion: True}
        except SuretyError as error:
            self._warn("model.not_loaded", str(error))
            tags = {}
        if state is not None:
            for tag in (state.previous, state.challenger):
                if tag is not None:
                    tags.setdefault(tag, tag != state.challenger or state.mode == "canary")
        return tags

    def _follow(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            try:
                self.look()
            except Exception:  # whatever goes wrong, this thread goes on
                logger.exception("rollout.look_failed")

    def _report(self) -> None:
        state = self._state
        report = self._identity.report(
            generation=0 if state is None else state.generation,
            stage=0 if state is None else state.stage,
            problem=self._problem or None,
        )
        try:
            write_worker_report(self._reports, report)
        except OSError as error:
            self._warn("report.not_written", type(error).__name__)

    def _warn(self, event: str, problem: str) -> None:
        if (key := f"{event} {problem}") not in self._warned:
            self._warned.add(key)
            logger.warning(event, extra={"reason": problem})
