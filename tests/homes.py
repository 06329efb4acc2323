"""A small SURETY_HOME with a feature table, a trained model and an MLflow registry, made once and copied per test."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from ml_core.base.settings import Settings
from ml_core.lab.config import DataConfig, ModelConfig, TrainingConfig
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.registry.model_registry import ModelRegistry, RegisteredVersion
from ml_core.lab.registry.tracking import register
from ml_core.lab.training.golden_draws import golden_records
from ml_core.lab.training.labelled_rows import LabelledRows, rows_from_store
from ml_core.lab.training.learner import train_model
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.model.bundle import GOLDEN_FILE, read_bundle, verify_folder, write_bundle
from ml_core.serve.model.predictor import Predictor, golden_entries

MODEL = "readmission_risk"
ROWS = 9_000

os.environ.pop("MLFLOW_TRACKING_URI", None)


def road_config(**changes: Any) -> ModelConfig:
    """A configuration that trains in a second and passes its gate."""
    facts = {
        "model": MODEL,
        "feature_version": "v1",
        "seed": 7,
        "data": DataConfig(source=Path("cohort.parquet")),
        "training": TrainingConfig(rounds=80, early_stopping_rounds=15, params={"learning_rate": 0.1, "max_depth": 3}),
    }
    return ModelConfig.model_validate({**facts, **changes})


def weak_config(**changes: Any) -> ModelConfig:
    """The same model with so little training that the usual one is much better."""
    training = TrainingConfig(rounds=1, early_stopping_rounds=1, params={"max_depth": 1, "learning_rate": 0.3})
    gate = {"min_roc_auc": 0.5}
    return road_config(**{"training": training, "gate": gate, **changes})


@dataclass(frozen=True)
class Home:
    """A separate home for one test."""

    settings: Settings
    config: ModelConfig

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(self.settings)

    @property
    def rows(self) -> LabelledRows:
        return rows_from_store(self.config, self.settings)

    def challenger(self) -> RegisteredVersion:
        return self.registry.by_alias(MODEL, "challenger")

    def register(self, config: ModelConfig, model: PackedModel) -> RegisteredVersion:
        """Register another model as challenger."""
        return register(self.registry, model, config, self.rows, {})[0]


def settings_in(home: Path) -> Settings:
    return Settings(home=home, model_name=MODEL)


@cache
def _master() -> Path:
    root = Path(tempfile.mkdtemp(prefix="surety-master-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    frame, _ = make_cohort(ROWS, seed=3)
    FeatureStore(settings_in(root).feature_store, MODEL).overwrite("v1", frame)
    return root


@cache
def road_rows() -> LabelledRows:
    """The rows of the prepared feature table."""
    return rows_from_store(road_config(), settings_in(_master()))


def trained(config: ModelConfig, rows: LabelledRows | None = None) -> PackedModel:
    """A model of that configuration, trained on the prepared rows, in a folder that stays until the tests end."""
    folder = Path(tempfile.mkdtemp(prefix="surety-model-")) / "bundle"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    return train_model(config, rows or road_rows(), folder, lambda _: None)


@cache
def road_model() -> PackedModel:
    """The usual model."""
    return trained(road_config())


@cache
def weak_model() -> PackedModel:
    """A valid model that is worse than the usual one."""
    return trained(weak_config())


@cache
def _registered_master() -> Path:
    root = _master()
    register(ModelRegistry(settings_in(root)), road_model(), road_config(), road_rows(), {})
    return root


def table_home(to: Path) -> Home:
    """A home with only the feature table."""
    shutil.copytree(_master() / "features", to / "features")
    return Home(settings_in(to), road_config())


def registered_home(to: Path) -> Home:
    """A home whose registry holds the usual model as version 1, challenger."""
    shutil.copytree(_registered_master(), to)
    return Home(settings_in(to), road_config())


@contextmanager
def bento_store(folder: Path) -> Iterator[Path]:
    """Use this folder as BentoML's model store inside the block."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    folder.mkdir(parents=True, exist_ok=True)
    BentoMLContainer.model_store.set(ModelStore(folder))
    try:
        yield folder
    finally:
        BentoMLContainer.model_store.reset()


def remade(source: Path, to: Path, files: Mapping[str, bytes] | None = None, **facts: Any) -> str:
    """Change a bundle so that it stays valid: all hashes fit, golden records have new answers. Returns its ``model_hash``.

    Parameters
    ----------
    files : the files to replace
    facts : the fields of the manifest to replace
    """
    manifest, _, content = verify_folder(source)
    kept = {k: v for k, v in manifest.model_dump().items() if k not in ("files", "format_version")}
    facts, content = {**kept, **facts}, {**content, **(files or {})}
    content = {name: raw for name, raw in content.items() if raw}
    with tempfile.TemporaryDirectory() as draft:
        write_bundle(Path(draft), facts, {**content, GOLDEN_FILE: b"[]"})
        predictor = Predictor(read_bundle(Path(draft)))
    records = golden_records(predictor.bundle.features.features, 12, 1)
    return write_bundle(to, facts, {**content, GOLDEN_FILE: orjson.dumps(golden_entries(predictor, records))})
