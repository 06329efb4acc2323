"""Models in a SURETY_HOME and workers that follow its rollout, without a server around them."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import orjson
import xgboost

from ml_core.base.documents import write_document
from ml_core.base.settings import Settings
from ml_core.features.columns import table_hash
from ml_core.lab.training.onnx_export import xgboost_to_onnx
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import Live
from ml_core.serve.answering.shadow import Shadow
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.model.bundle import FALLBACK_FILE, ONNX_FILE, read_bundle
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL, ModelLoader
from ml_core.serve.model.manifest import MANIFEST_FILE
from ml_core.serve.model.promotion_record import PromotionRecord, bento_tag
from ml_core.serve.model.vouching import copy_papers, keep_gate, keep_promotion
from ml_core.serve.rollout.changes import Change
from ml_core.serve.rollout.monitor_state import MonitorState, boot_id
from ml_core.serve.rollout.processes import Identity
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.worker.assembly import Assembler
from ml_core.serve.worker.rollout_follower import RolloutFollower
from tests.homes import remade
from tests.serve.answering.builders import packed_other
from tests.toy_models import NAME, passed_gate, toy_model


def _folder() -> Path:
    root = Path(tempfile.mkdtemp(prefix="surety-toy-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root / "bundle"


@cache
def with_other_columns() -> Path:
    """A whole model of feature version v2."""
    version = get_feature_version("v2")
    n = len(version.feature_names)
    rng = np.random.default_rng(1)
    data = xgboost.DMatrix(rng.normal(size=(200, n)).astype(np.float32), rng.integers(0, 2, 200))
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 3)
    folder = _folder()
    remade(
        toy_model().folder, folder, {ONNX_FILE: xgboost_to_onnx(booster, n)}, n_features=n, feature_version="v2",
        feature_module_sha256=version.module_hash, column_table_sha256=table_hash(version.columns),
    )  # fmt: skip
    return folder


@cache
def with_other_labels() -> Path:
    """The toy model, whose labels have other names."""
    fallback = {**toy_model().bundle.fallback, "prior": {"no": 0.8, "yes": 0.2}}
    folder = _folder()
    remade(toy_model().folder, folder, {FALLBACK_FILE: orjson.dumps(fallback)}, classes=("no", "yes"))
    return folder


class Home:
    """A SURETY_HOME with models in it.

    ``v1``, ``v2`` and ``v3`` are tags of three different models with one contract; v1 and v2 have passed their gate.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        patient = {"deadline_ms": 60_000, "circuit_p95_ms": 60_000, **settings}  # no test judges a busy machine
        self.settings = Settings(home=folder, model_name=NAME, **patient)
        self.store = RolloutStore(self.settings)
        self.v1 = self.add("1", toy_model().folder)
        self.v2 = self.add("2", packed_other(23).folder)
        self.v3 = self.add("3", packed_other(29).folder, gate=None)

    def add(self, version: str, bundle: Path, *, gate: bool | None = True) -> str:
        """Bring a model in, with a passed gate, a failed one (False) or none (None); its tag."""
        model_hash = read_bundle(bundle).model_hash
        tag = bento_tag(NAME, version, model_hash)
        shutil.copytree(bundle, self.folder(tag) / BUNDLE_IN_BENTO_MODEL)
        if gate is not None:
            keep_gate(self.settings, passed_gate(model_hash, passed=gate), version)
            copy_papers(self.folder(tag), NAME, model_hash, self.settings)
        return tag

    def folder(self, tag: str) -> Path:
        return self.settings.models.joinpath(*tag.split(":"))

    def file(self, tag: str, name: str = ONNX_FILE) -> Path:
        return self.folder(tag) / BUNDLE_IN_BENTO_MODEL / name

    def hash_of(self, tag: str) -> str:
        return hashlib.sha256(self.file(tag, MANIFEST_FILE).read_bytes()).hexdigest()

    def pass_gate(self, tag: str, *, passed: bool = True) -> None:
        """The gate says yes, or no, later than the model came in."""
        model_hash = self.hash_of(tag)
        keep_gate(self.settings, passed_gate(model_hash, passed=passed), _version(tag))

    def promote(self, tag: str, at: str = "2026-01-01T00:00:00Z") -> None:
        """Write the promotion record."""
        model_hash, version = self.hash_of(tag), _version(tag)
        record = PromotionRecord(
            model_name=NAME, model_version=version, model_hash=model_hash, bento_tag=tag, promoted_at=at,
            gate=passed_gate(model_hash),
        )  # fmt: skip
        keep_gate(self.settings, record.gate, version)
        keep_promotion(self.settings, record)

    def watch(self) -> None:
        """The monitor publishes, and knows of no model."""
        state = MonitorState(
            model_name=NAME, published_at="2026-01-01T00:00:00Z", boot=boot_id(), beat_s=time.monotonic()
        )
        write_document(self.settings.monitor_state, state)

    def change(self, change: Change) -> RolloutState:
        """Change the rollout as an operator would."""
        return self.store.change(change, why="test")[1]


def _version(tag: str) -> str:
    return tag.rpartition(":v")[2].partition("-")[0]


class Worker:
    """One serving process as far as the rollout goes."""

    def __init__(self, home: Home, index: int = 1, *, settings: Settings | None = None, expected=None) -> None:
        settings = settings or home.settings
        self.service = InferenceService(None)
        self.follower = RolloutFollower(
            settings, Assembler(settings, ModelLoader(settings)), self.service, Shadow(),
            Identity("s", "api", index, 1_000 + index, "t"), expected or {"api": 1},
        )  # fmt: skip
        self.follower.begin()

    @property
    def live(self) -> Live:
        return self.service.ready()

    @property
    def problem(self) -> str:
        return self.service.problem

    def look(self, *, retry: bool = False, report: bool = True) -> Worker:
        """Look now; ``retry``: the pause before the next attempt is over."""
        if retry:
            self.follower._retry_at = 0.0
        if report:
            self.follower._reported_at = 0.0
        self.follower.look()
        return self

    def tags(self) -> dict[str, str]:
        """What is live, by slot."""
        return {slot: model.model.tag for slot, model in self.live.models()}
